"""The exit code of an error, as the command line has it."""

import pytest
import torch

from i0t.callbacks.agreed_stop import AgreedStop, LeavingNow
from i0t.callbacks.exit_codes import exit_code
from i0t.config_errors import ConfigError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (AgreedStop("stopped", exit_code=143), 143),
        (LeavingNow("requeued", 0), 0),
        (KeyboardInterrupt(), 130),
        (ConfigError("no such key"), 2),
        (FileNotFoundError("no such file"), 2),
        (torch.OutOfMemoryError("CUDA out of memory."), 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2),
        (RuntimeError("sizes differ"), 1),
        (LookupError("a bug"), 1),
    ],
)
def test_exit_code(error, code):
    assert exit_code(error) == code
