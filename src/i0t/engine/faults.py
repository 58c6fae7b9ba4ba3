"""What goes wrong in a run: says it in words that help, once for all ranks, and leaves no signal handler behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig

from i0t.callbacks import rank_watch
from i0t.callbacks.exit_codes import USER_ERROR, is_out_of_memory
from i0t.callbacks.graceful_stop import GracefulStop
from i0t.config import instantiate


class OutOfMemory(Exception):  # noqa: N818 - the name of what happened
    """Memory ran out; the message says what would take less."""

    exit_code = USER_ERROR


@contextlib.contextmanager
def told(cfg: DictConfig) -> Iterator[None]:
    """Around a whole run: tells the other ranks how this one ends, and explains where memory ran out.

    From here on, before the trainer is built, the signals of ``callbacks.graceful_stop`` stop or requeue the run.

    Args:
        cfg: Of the run.

    Raises:
        OutOfMemory: In place of the error of whoever asked for the memory.
    """
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        _take_signals(cfg)
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


def _take_signals(cfg: DictConfig) -> None:
    node = (cfg.get("callbacks") or {}).get("graceful_stop")
    stop = instantiate(node) if node is not None else None
    if isinstance(stop, GracefulStop):
        stop.take()


def _give_back(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


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
