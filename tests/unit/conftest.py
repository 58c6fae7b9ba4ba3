"""What several unit tests start from."""

import os

import pytest


@pytest.fixture
def environ(monkeypatch):
    """Sets variables in an environment that no launcher has made."""

    def use(variables):
        known = ("SLURM_", "TORCHELASTIC_", "I0T_NUM", "OMP_")
        for name in list(os.environ):
            if name.startswith(known) or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "LOCAL_WORLD_SIZE"):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    use({})
    return use
