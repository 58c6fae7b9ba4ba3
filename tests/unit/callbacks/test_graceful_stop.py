"""A signal stops a training after its step, requeues it in SLURM, and stops at once where no step is running."""

import multiprocessing
import os
import signal
import time

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from i0t.callbacks import graceful_stop
from i0t.callbacks.agreed_stop import LeavingNow
from i0t.callbacks.graceful_stop import GracefulStop, StoppedBySignal, signal_by_name

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Module(pl.LightningModule):
    """Sends itself a signal in one of its batches."""

    def __init__(self, number, at_batch, times=1):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.number, self.at_batch, self.times = number, at_batch, times

    def training_step(self, batch, index):
        if index == self.at_batch:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        return (self.weight * batch).sum()

    def predict_step(self, batch, index):
        return self.training_step(batch, index)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def handlers():
    """Puts back what the engine would."""
    kept = {number: signal.getsignal(number) for number in ALL}
    yield kept
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def train(tmp_path):
    """Trains ten batches with a module that gets a signal; returns step and checkpoint."""

    def run(module, *, requeue_signals=("SIGUSR1", "SIGUSR2"), accumulate=1, predict=False, validate_every=None):
        stop = GracefulStop(str(tmp_path / "run" / "checkpoints" / "last.ckpt"), requeue_signals=requeue_signals)
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, callbacks=[stop], logger=False, enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False, accumulate_grad_batches=accumulate,
            default_root_dir=tmp_path, num_sanity_val_steps=0, val_check_interval=validate_every,
        )  # fmt: skip
        loader = DataLoader([torch.ones(1)] * 10, batch_size=None)
        if validate_every is not None:
            return trainer.fit(module, loader, DataLoader([torch.ones(1)], batch_size=None))
        return trainer.predict(module, loader) if predict else trainer.fit(module, loader)

    run.ckpt_path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    return run


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A job of SLURM whose scontrol writes down what it is asked for."""

    def make(exit_code=0, first="", **variables):
        (tmp_path / "bin").mkdir()
        script = tmp_path / "bin" / "scontrol"
        script.write_text(f'#!/bin/sh\n{first}echo "$@" >> {tmp_path}/asked\necho "not now" >&2\nexit {exit_code}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"SLURM_JOB_ID": "77", **variables}.items():
            monkeypatch.setenv(name, value)
        return tmp_path / "asked"

    return make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_running_step_is_finished_and_saved(train, monkeypatch, number):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    module = Module(number, at_batch=3)
    with pytest.raises(
        StoppedBySignal, match=f"stopped by {number.name} after step 4; go on with resume=.*run$"
    ) as left:
        train(module)
    assert left.value.exit_code == 128 + number
    saved = torch.load(train.ckpt_path, weights_only=True)
    assert saved["global_step"] == 4
    torch.testing.assert_close(saved["state_dict"]["weight"], torch.tensor([1 - 4 * 0.1]))


def test_it_stops_between_optimizer_steps_not_between_their_batches(train):
    with pytest.raises(StoppedBySignal, match="after step 2;"):
        train(Module(signal.SIGTERM, at_batch=3), accumulate=3)  # the fourth batch is the first of step 2
    assert torch.load(train.ckpt_path, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"][
        "completed"
    ] == 5  # fmt: skip


class Validated(Module):
    """Notes after which steps it was validated."""

    def validation_step(self, batch, index):
        self.validated_at = [*getattr(self, "validated_at", []), self.trainer.global_step]


@pytest.mark.parametrize(("at_batch", "validated"), [(3, [2, 4]), (4, [2, 4])])
def test_a_validation_that_is_due_is_not_lost(train, at_batch, validated):
    module = Validated(signal.SIGTERM, at_batch=at_batch)
    with pytest.raises(StoppedBySignal, match=f"after step {at_batch + 1};"):
        train(module, validate_every=2)
    assert module.validated_at == validated
    assert torch.load(train.ckpt_path, weights_only=True)["global_step"] == at_batch + 1


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])  # what scripts name, and submitit
def test_a_job_of_slurm_is_requeued_and_not_counted_as_failed(train, slurm, number):
    asked = slurm()
    with pytest.raises(StoppedBySignal, match=r"after step 4; the job is requeued and goes on by itself$") as left:
        train(Module(number, at_batch=3))
    assert left.value.exit_code == 0
    assert asked.read_text() == "requeue 77\n"
    assert train.ckpt_path.is_file()


def test_a_task_of_an_array_is_requeued_alone(train, slurm):
    asked = slurm(SLURM_ARRAY_JOB_ID="70", SLURM_ARRAY_TASK_ID="5")
    with pytest.raises(StoppedBySignal):
        train(Module(signal.SIGUSR1, at_batch=0))
    assert asked.read_text() == "requeue 70_5\n"


def test_another_signal_may_be_the_one_that_slurm_sends(train, slurm):
    asked = slurm()
    with pytest.raises(StoppedBySignal, match="requeued") as left:
        train(Module(signal.SIGUSR2, at_batch=1), requeue_signals=["USR2"])
    assert left.value.exit_code == 0
    assert asked.read_text() == "requeue 77\n"


def test_sigterm_in_slurm_is_a_cancelled_job_and_not_requeued(train, slurm):
    asked = slurm()
    with pytest.raises(StoppedBySignal, match="go on with resume=") as left:
        train(Module(signal.SIGTERM, at_batch=1))
    assert left.value.exit_code == 143
    assert not asked.exists()


def test_a_job_that_slurm_will_not_requeue_says_why(train, slurm):
    slurm(exit_code=1)
    with pytest.raises(
        StoppedBySignal, match=r"could not be requeued \(scontrol requeue 77: not now\); go on with resume="
    ) as left:
        train(Module(signal.SIGUSR1, at_batch=1))
    assert left.value.exit_code == 128 + signal.SIGUSR1


def test_without_scontrol_the_message_says_so(train, slurm, monkeypatch):
    slurm()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StoppedBySignal, match=r"scontrol requeue 77: .*No such file"):
        train(Module(signal.SIGUSR1, at_batch=1))


def test_a_second_ctrl_c_waits_for_no_step(train):
    with pytest.raises(SystemExit):  # Lightning's answer to KeyboardInterrupt
        train(Module(signal.SIGINT, at_batch=3, times=2))
    assert not train.ckpt_path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_outside_training_it_leaves_at_once(train, monkeypatch, number):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(LeavingNow) as left:
        train(Module(number, at_batch=3), predict=True)
    assert left.value.code == 128 + number
    assert f"stopped by {number.name} outside training: the run has no checkpoint yet" in left.value.message


def test_outside_training_a_job_of_slurm_is_requeued_too(train, slurm):
    asked = slurm()
    train.ckpt_path.parent.mkdir(parents=True)
    train.ckpt_path.touch()
    with pytest.raises(LeavingNow) as left:
        train(Module(signal.SIGUSR1, at_batch=3), predict=True)
    assert left.value.code == 0
    assert "goes on from its last checkpoint; the job is requeued" in left.value.message
    assert asked.read_text() == "requeue 77\n"


def test_ctrl_c_is_given_back_after_training(train, handlers):
    train(Module(signal.SIGTERM, at_batch=99))
    assert signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]


def read_data():
    """What a data worker does: nothing for a second, whatever comes."""
    time.sleep(1.0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_forked_process_ends_when_told_and_stops_no_run(tmp_path, number, code):
    stop = GracefulStop(str(tmp_path / "checkpoints" / "last.ckpt"))
    stop._take(ALL)
    child = multiprocessing.get_context("fork").Process(target=read_data)
    child.start()
    time.sleep(0.1)
    os.kill(child.pid, number)
    child.join(timeout=10)
    assert child.exitcode == code
    assert stop._received == 0


def test_what_a_launcher_hands_on_is_no_second_signal(train):
    with pytest.raises(StoppedBySignal, match="after step 4;") as left:
        train(Module(signal.SIGTERM, at_batch=3, times=2))
    assert left.value.exit_code == 143
    assert train.ckpt_path.is_file()


def test_a_second_one_later_waits_for_no_step(tmp_path, monkeypatch):
    monkeypatch.setattr(graceful_stop, "_ECHO_SECONDS", 0.0)
    died = []
    monkeypatch.setattr(graceful_stop, "_die_of", died.append)
    stop = GracefulStop(str(tmp_path / "checkpoints" / "last.ckpt"))
    stop._training = True
    stop._receive(signal.SIGTERM, None)
    assert died == []
    time.sleep(0.01)
    stop._receive(signal.SIGTERM, None)
    assert died == [signal.SIGTERM]


# Once a job is requeued, SLURM ends it: this process, and what it started, before the answer is read.
ENDS_ALL = """kill -TERM $PPID
kill -TERM $$
sleep 0.3
"""


@pytest.mark.parametrize("predict", [False, True])
def test_slurms_sigterm_during_requeueing_changes_nothing(train, slurm, predict):
    asked = slurm(first=ENDS_ALL)
    with pytest.raises((StoppedBySignal, LeavingNow)) as left:
        train(Module(signal.SIGUSR1, at_batch=3), predict=predict)
    assert left.value.exit_code == 0
    assert "the job is requeued" in getattr(left.value, "message", str(left.value))
    assert asked.read_text() == "requeue 77\n"


@pytest.mark.parametrize("predict", [False, True])
def test_nor_does_one_right_after_it(train, slurm, monkeypatch, predict):
    slurm()
    monkeypatch.setattr(graceful_stop, "_ECHO_SECONDS", 0.0)
    monkeypatch.setattr(graceful_stop, "requeue", lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises((StoppedBySignal, LeavingNow)) as left:
        train(Module(signal.SIGUSR1, at_batch=3), predict=predict)
    assert left.value.exit_code == 0


class Swallowing(Module):
    """Gets its signal where Python cannot raise: while an object is cleaned up."""

    seen = 0

    def predict_step(self, batch, index):
        self.seen += 1
        if index == self.at_batch:
            loud = type("Loud", (), {"__del__": lambda _: signal.raise_signal(self.number)})()
            del loud
        return (self.weight * batch).sum()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_lost_stops_at_the_next_batch(train):
    module = Swallowing(signal.SIGTERM, at_batch=3)
    with pytest.raises(LeavingNow) as left:
        train(module, predict=True)
    assert left.value.exit_code == 143
    assert module.seen == 4


def test_names_of_signals():
    assert signal_by_name("sigusr2") == signal_by_name("USR2") == signal.SIGUSR2
    with pytest.raises(ValueError, match=r"requeue_signals: there is no signal SIGNOPE; give names such as SIGUSR1"):
        GracefulStop("a/b/c", requeue_signals=["SIGNOPE"])
