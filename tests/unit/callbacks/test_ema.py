"""The averaged weights against a loop by hand, through training, validation, checkpoints and resuming."""

import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from i0t.callbacks.ema import AveragedWeights
from i0t.data.base import Batch
from i0t.gap_reducers.async_bn import AsyncBatchNorm
from i0t.gap_reducers.none import NoReducer
from i0t.losses.clip import ClipLoss
from i0t.models.base import ClipModel
from i0t.module import ClipModule

DIM, PIXELS, WORDS, PAIRS = 4, 5, 3, 6


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(PIXELS, DIM), nn.Linear(WORDS, DIM)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(99.0)))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1), persistent=False)  # as open_clip's

    def encode_image(self, images):
        return self.image(images)

    def encode_text(self, tokens):
        return self.text(tokens.float()) + self.mask.softmax(1)[0, 1]  # nothing, but for a mask that is not one


def make_module(*, frozen=False, reducer=None):
    torch.manual_seed(0)
    model = ClipModel(Towers(), transform=None, tokenizer=None, embed_dim=DIM, max_logit_scale=100.0)
    if frozen:
        model.freeze(model.clip.text)
    optimizer = lambda groups: torch.optim.AdamW(groups, lr=0.05)  # noqa: E731
    return ClipModule(model, reducer or NoReducer(DIM), ClipLoss(), optimizer=optimizer, config={"name": "x"})


def batches(num=6):
    generator = torch.Generator().manual_seed(3)
    rows = torch.arange(PAIRS)
    return [
        Batch(
            images=torch.randn(PAIRS, PIXELS, generator=generator),
            tokens=torch.randint(0, 9, (PAIRS, WORDS), generator=generator),
            text_image_index=rows,
            sample_id=rows,
            text_id=rows,
        )
        for _ in range(num)
    ]


class Recorder(pl.Callback):
    """The weights after every step, and what validation sees."""

    def __init__(self):
        self.steps, self.validated, self.temperatures = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not self.steps or trainer.global_step > len(self.steps):
            self.steps.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    def on_validation_end(self, trainer, pl_module):
        self.temperatures.append(float(trainer.callback_metrics["val/temperature"]))


def fit(module, *callbacks, steps=6, **options):
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=list(callbacks),
        **{"limit_val_batches": 0, **options},
    )  # fmt: skip
    loaders = [DataLoader(batches(), batch_size=None) for _ in range(2)]
    trainer.fit(module, *loaders)
    return trainer


def averaged_by_hand(start, steps, decay, warmup):
    average = {name: value.double() for name, value in start.items()}
    for n, weights in enumerate(steps):
        own = min(decay, (1 + n) / (10 + n)) if warmup else decay
        for name, value in weights.items():
            average[name] = own * average[name] + (1 - own) * value.double()
    return average


@pytest.mark.parametrize(("decay", "warmup"), [(0.9, False), (0.9, True), (0.2, True), (0.0, False)])
def test_the_model_ends_with_the_average_of_its_steps(decay, warmup):
    module, recorder = make_module(), Recorder()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    fit(module, AveragedWeights(decay, warmup, None), recorder)
    expected = averaged_by_hand(start, recorder.steps, decay, warmup)
    assert len(recorder.steps) == 6
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_steps_are_averaged_not_batches():
    module, recorder = make_module(), Recorder()
    start = {name: value.clone() for name, value in module.state_dict().items()}

    class Steps(Recorder):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step > len(self.steps):
                super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    recorder = Steps()
    fit(module, AveragedWeights(0.5, False, None), recorder, steps=3, accumulate_grad_batches=2)
    assert len(recorder.steps) == 3
    expected = averaged_by_hand(start, recorder.steps, 0.5, False)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_validation_sees_the_average_and_training_goes_on_with_its_own():
    plain, alone = make_module(), Recorder()
    fit(plain, alone)
    module, recorder = make_module(), Recorder()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    fit(module, AveragedWeights(0.8, False, None), recorder, val_check_interval=2, limit_val_batches=1)
    for one, other in zip(alone.steps, recorder.steps, strict=True):
        for name, value in one.items():
            assert torch.equal(value, other[name]), "averaging changes no step"
    assert len(recorder.validated) == 3
    for at, seen in enumerate(recorder.validated):
        expected = averaged_by_hand(start, recorder.steps[: 2 * at + 2], 0.8, False)
        for name, value in seen.items():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
        scale = expected["model.clip.logit_scale"].exp().item()
        assert recorder.temperatures[at] == pytest.approx(1 / scale, rel=1e-5), (
            "the module logs it in the same validation"
        )


def test_the_average_of_the_temperature_stays_within_its_bound():
    class Push(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with torch.no_grad():
                pl_module.model.clip.logit_scale.fill_(math.log(300.0))

    module = make_module()
    fit(module, Push(), AveragedWeights(0.0, False, None))
    assert module.model.logit_values()[0] == pytest.approx(100.0, rel=1e-5)


def test_what_is_frozen_is_shared_and_exact():
    module = make_module(frozen=True)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    callback = AveragedWeights(0.9, True, None)
    seen = {}

    class Look(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            average = callback._average_model.module
            seen["shared"] = average.model.clip.text.weight.data_ptr() == pl_module.model.clip.text.weight.data_ptr()
            seen["own"] = average.model.clip.image.weight.data_ptr() != pl_module.model.clip.image.weight.data_ptr()

    fit(module, callback, Look())
    assert seen == {"shared": True, "own": True}
    assert torch.equal(module.model.clip.text.weight, before["model.clip.text.weight"])
    assert not torch.equal(module.model.clip.image.weight, before["model.clip.image.weight"])


def test_running_statistics_are_averaged_and_counts_copied():
    reducer = AsyncBatchNorm(DIM, loss=ClipLoss(), fit_split="train")
    module, recorder = make_module(reducer=reducer), Recorder()

    class Count(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            pl_module.model.clip.count += 1

    start = {name: value.clone() for name, value in module.state_dict().items()}
    fit(module, Count(), AveragedWeights(0.7, False, None), recorder)
    expected, compared = averaged_by_hand(start, recorder.steps, 0.7, False), 0
    for name, value in module.state_dict().items():
        if name.startswith("gap_reducer.") and value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
            compared += not torch.equal(value, start[name])
    assert compared >= 4, "means, variances, weights and biases moved"
    assert module.model.clip.count == 6, "a number of things is no average"


def test_a_checkpoint_holds_the_average_and_a_resumed_run_goes_on_exactly(tmp_path):
    whole = make_module()
    fit(whole, AveragedWeights(0.8, True, None))

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "x.ckpt")

    recorder, module = Recorder(), make_module()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    fit(module, AveragedWeights(0.8, True, None), recorder, Save(), steps=4)
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    expected = averaged_by_hand(start, recorder.steps[:3], 0.8, True)
    for name, value in saved["state_dict"].items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(saved["current_model_state"][name], recorder.steps[2][name])
    resumed = make_module()
    trainer = pl.Trainer(
        max_steps=6, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        callbacks=[AveragedWeights(0.8, True, None)],
    )  # fmt: skip
    trainer.fit(resumed, DataLoader(batches()[3:] + batches()[:3], batch_size=None), ckpt_path=tmp_path / "x.ckpt",
                weights_only=True)  # fmt: skip
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_unit_rows_of_the_averaged_model_are_not_those_of_the_last_step():
    module, recorder = make_module(), Recorder()
    fit(module, AveragedWeights(0.9, False, None), recorder)
    image = batches()[0].images
    with torch.no_grad():
        own = F.normalize(module.model.encode_image(image), dim=1)
        module.load_state_dict(recorder.steps[-1])
        last = F.normalize(module.model.encode_image(image), dim=1)
    assert (own - last).abs().max() > 1e-2


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match=rf"callbacks.ema.decay must be at least 0 and below 1, got {decay}"):
        AveragedWeights(decay, True, None)


def test_sharded_weights_are_refused(monkeypatch):
    trainer = pl.Trainer(accelerator="cpu", barebones=True)
    monkeypatch.setattr(trainer.strategy, "__class__", FSDPStrategy)
    with pytest.raises(
        ValueError, match=r"callbacks.ema keeps whole weights, FSDPStrategy shards them: take trainer=ddp"
    ):
        AveragedWeights(0.9, True, None).setup(trainer, make_module(), "fit")
