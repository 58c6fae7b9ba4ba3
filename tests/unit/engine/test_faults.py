"""Memory that ran out is explained with this run's own numbers, and signal handlers are given back."""

import signal

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from i0t.callbacks.agreed_stop import LeavingNow
from i0t.engine.faults import OutOfMemory, is_out_of_memory, told

CONFIG = {
    "data": {"batch_size": 256, "eval_batch_size": 512, "num_workers": 3},
    "model": {"grad_checkpointing": False},
    "trainer": {"grad_cache_chunk": None, "precision": "32-true"},
}


def config(**changes):
    return OmegaConf.merge(OmegaConf.create(CONFIG), OmegaConf.create(changes))


def too_large_for_torch():
    torch.empty(2**59)


def too_large_for_numpy():
    np.empty(2**59)


def explained(error, cfg, stage="train"):
    """The message in place of an error that came from a stage of the trainer."""
    vars(error)["stage"] = stage
    with pytest.raises(OutOfMemory) as out, told(cfg):
        raise error
    assert out.value.exit_code == 2
    assert out.value.__cause__ is error
    assert "\n" not in str(out.value)
    return str(out.value)


@pytest.mark.parametrize("allocate", [too_large_for_torch, too_large_for_numpy])
def test_memory_that_really_ran_out_is_recognised(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as error:
        allocate()
    assert is_out_of_memory(error.value)
    message = explained(error.value, config())
    assert message.startswith("out of memory with 256 pairs per device: ")
    assert "try trainer.grad_cache_chunk=128 (the same gradient, in less memory)" in message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("cuBLAS: out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("sizes differ"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_advice_is_that_of_this_config():
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the notes.")
    assert explained(error, config()) == (
        "out of memory with 256 pairs per device: CUDA out of memory. Tried to allocate 2.00 GiB. See the "
        "notes.; try trainer.grad_cache_chunk=128 (the same gradient, in less memory), or a smaller data.batch_size, "
        "or model.grad_checkpointing=true, or trainer.precision=bf16-mixed"
    )
    chunked = explained(
        error, config(trainer={"grad_cache_chunk": 1, "precision": "bf16-mixed"}, model={"grad_checkpointing": True})
    )
    assert "256 pairs per device in chunks of 1: " in chunked
    assert chunked.endswith(
        "try trainer.grad_cache_chunk=1 (the same gradient, in less memory), or a smaller data.batch_size"
    )
    assert "trainer.grad_cache_chunk=16 " in explained(error, config(trainer={"grad_cache_chunk": 32}))


def test_outside_training_steps_it_is_the_batch_of_the_evaluation():
    message = explained(MemoryError(), config(), stage="predict")
    assert message == (
        "out of memory outside training steps: no memory left; lower data.eval_batch_size=512, or take more devices"
    )


def test_the_rank_is_named():
    error = MemoryError()
    vars(error)["rank"] = 3
    assert explained(error, config()).startswith("rank 3: out of memory with")


def test_in_a_data_worker_it_is_the_number_of_workers():
    message = explained(MemoryError("Caught MemoryError in DataLoader worker process 0."), config())
    assert message.endswith("lower data.num_workers=3")


def test_other_errors_pass_unchanged():
    error = ValueError("a marked value")
    with pytest.raises(ValueError, match="a marked value") as found, told(config()):
        raise error
    assert found.value is error


@pytest.mark.parametrize("fails", [False, True])
def test_signal_handlers_are_given_back(fails):
    before = signal.getsignal(signal.SIGUSR1)
    try:
        with told(config()):
            signal.signal(signal.SIGUSR1, lambda *_: None)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_before_there_is_a_trainer_signals_end_the_run_in_words(tmp_path, monkeypatch, number):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    node = {
        "_target_": "i0t.callbacks.graceful_stop.GracefulStop",
        "ckpt_path": str(tmp_path / "checkpoints" / "last.ckpt"),
        "requeue_signals": ["SIGUSR1"],
    }
    before = signal.getsignal(number)
    with pytest.raises(LeavingNow) as left, told(config(callbacks={"graceful_stop": node})):
        signal.raise_signal(number)
    assert left.value.exit_code == 128 + number
    assert "the run has no checkpoint yet" in left.value.message
    assert signal.getsignal(number) == before
