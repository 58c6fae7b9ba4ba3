"""What goes wrong in a run: says it in words that help, once for all ranks, and leaves no signal handler behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from omegaconf import DictConfig

from i0t.callbacks import rank_watch

EXIT_CODE = 2


class OutOfMemory(Exception):  # noqa: N818 - the name of what happened
    """Memory ran out; the message says what would take less."""

    exit_code = EXIT_CODE


@contextlib.contextmanager
def told(cfg: DictConfig) -> Iterator[None]:
    """Around a whole run: tells the other ranks how this one ends, and explains where memory ran out.

    Args:
        cfg: Of the run.

    Raises:
        OutOfMemory: In place of the error of whoever asked for the memory.
    """
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    except BaseException as error:
        rank_watch.announce(error)
        if not is_out_of_memory(error):
            raise
        rank = vars(error).get("rank")
        of_rank = "" if rank is None else f"rank {rank}: "
        explained = OutOfMemory(f"{of_rank}{_advice(error, cfg)}")
        raise explained from error
    else:
        rank_watch.leave()
    finally:
        _give_back(handlers)


def _give_back(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU, in torch on the processor, or in Python.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)


def _advice(error: BaseException, cfg: DictConfig) -> str:
    """Which numbers of this config to lower, in one line."""
    stage = vars(error).get("stage")
    first = " ".join(str(error).split())[:200] or "no memory left"
    if "DataLoader worker" in str(error):
        return f"out of memory in a process that reads data: {first}; lower data.num_workers={cfg.data.num_workers}"
    if stage != "train":
        size = cfg.data.get("eval_batch_size")
        return f"out of memory outside training steps: {first}; lower data.eval_batch_size={size}, or take more devices"
    batch, chunk = cfg.data.get("batch_size"), cfg.trainer.get("grad_cache_chunk")
    rows = min(batch, chunk or batch)
    chunked = f" in chunks of {chunk}" if chunk else ""
    ways = [
        f"trainer.grad_cache_chunk={max(1, rows // 2)} (the same gradient, in less memory)",
        "a smaller data.batch_size",
    ]
    if cfg.model.get("grad_checkpointing") is False:
        ways.append("model.grad_checkpointing=true")
    if str(cfg.trainer.get("precision")).startswith("32"):
        ways.append("trainer.precision=bf16-mixed")
    return f"out of memory with {batch} pairs per device{chunked}: {first}; try {', or '.join(ways)}"
