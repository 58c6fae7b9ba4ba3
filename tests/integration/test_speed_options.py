"""Options of precision and speed through the engine, on MAD at its smallest and on a small open_clip model."""

import json

import pytest
import pytorch_lightning as pl
import torch

from i0t import engine, preparation, runs
from i0t.config import Command, ConfigError, compose

TINY = ("debug=tiny", "logger=[csv]", "report=false", "compare=baseline", "evaluation=[gap]",
        "trainer.enable_progress_bar=false")  # fmt: skip


def train(folder, *overrides):
    """Runs the smallest training; returns its numbers and its checkpoint."""
    numbers = engine.train(compose("train", [*TINY, f"paths.output_dir={folder}", *overrides]))
    return numbers, torch.load(folder / runs.CHECKPOINT, weights_only=True)


def weights(checkpoint):
    return {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}


@pytest.mark.parametrize(
    "precision",
    ["bf16-mixed", *(pytest.param(other, marks=pytest.mark.slow) for other in ("64-true", "bf16-true", "16-mixed"))],
)
def test_every_precision_trains_with_clipping_and_a_fused_optimizer(precision, tmp_path, capsys):
    numbers, checkpoint = train(tmp_path / "a", f"trainer.precision={precision}")
    plain, _ = train(tmp_path / "b")
    gap = "test/none/gap/centroid_distance"
    assert numbers[gap] == pytest.approx(plain[gap], rel=0.05)
    expected = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert weights(checkpoint)["model.clip.visual.projection.weight"].dtype == expected
    note = "trainer.precision=16-mixed needs a GPU; on this CPU it is bf16-mixed"
    assert (note in capsys.readouterr().out) == (precision == "16-mixed")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.precision=16-true"], "trainer.precision=16-true is for evaluation"),
        (
            ["trainer.precision=16-mixed", "trainer.accelerator=gpu"],
            "choose optimizer.fused=false, trainer.gradient_clip",
        ),
        (["callbacks=[default,ema]", "trainer.precision=bf16-true"], "a step of the average is below"),
        (["layer_decay=1.5"], "layer_decay=1.5 must be above 0 and at most 1"),
        (["layer_decay=0.8", "encoders=frozen", "gap_reducer=async_bn"], "layer_decay=0.8 needs encoders=trained"),
        (
            ["trainer.accumulate_grad_batches=2", "data.batch_size=30"],  # 24 batches an epoch
            "trainer.val_check_interval=3 counts batches, .*trainer.val_check_interval=2 or 4",
        ),
        (["trainer.precision=fp16"], "Precision 'fp16' is invalid. Allowed"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        train(tmp_path, *overrides)
    assert "\n" not in str(error.value)


def test_accumulated_batches_are_counted_and_are_said_to_be_no_larger_batch(tmp_path, capsys):
    options = ("trainer.accumulate_grad_batches=2", "trainer.val_check_interval=4")
    _, checkpoint = train(tmp_path, *options, "data.batch_size=32", "data.limit=60")
    note = (
        "trainer.accumulate_grad_batches=2 averages gradients of batches whose negatives are the 32 pairs of their own"
    )
    out = capsys.readouterr().out
    assert note in out
    assert "trainer.grad_cache_chunk=32 with data.batch_size=64 is" in out
    assert checkpoint["global_step"] == 6
    seen = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"]
    assert seen > 6
    assert checkpoint[runs.CHECKPOINT_KEY]["samples_seen"] == 32 * seen
    rates = [group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]]
    assert max(rates) == pytest.approx(0, abs=1e-9), "the schedule ends with the last step, not with the last batch"


def test_accumulated_steps_take_the_mean_gradient(tmp_path):
    """Two batches that are equal give the step of one, so that the number of steps decides, not of batches."""
    rates = {}
    for batches in (1, 2):
        options = (f"trainer.accumulate_grad_batches={batches}", "trainer.val_check_interval=4")
        _, checkpoint = train(tmp_path / str(batches), *options, "trainer.max_steps=4")
        rates[batches] = checkpoint["lr_schedulers"][0]["last_epoch"]
    assert rates == {1: 4, 2: 4}


def test_averaged_weights_are_validated_refitted_to_saved_and_said(tmp_path, capsys):
    fitted = ("gap_reducer=posthoc", "gap_reducer.fit_split=val")
    numbers, checkpoint = train(tmp_path / "ema", "callbacks=[default,ema]", *fitted)
    plain, _ = train(tmp_path / "plain", *fitted)
    gap = "test/none/gap/centroid_distance"
    assert numbers[gap] != pytest.approx(plain[gap], rel=1e-4)
    assert "weights: exponential moving average of those in training, decay 0.999" in capsys.readouterr().out
    for name, expected in (("ema", {"decay": 0.999, "warmup": True}), ("plain", None)):
        about = json.loads((tmp_path / name / runs.METRICS_FILE).read_text())
        assert about["model"]["averaged_weights"] == expected
    history = json.loads((tmp_path / "ema" / runs.HISTORY_FILE).read_text())
    assert history["val/centroid_distance"][-1][1] < 0.3, "refitted to the weights that it looks at"
    folder = tmp_path / "eval"
    overrides = [f"ckpt_path={tmp_path / 'ema' / runs.CHECKPOINT}", f"paths.output_dir={folder}", "report=false",
                 f"paths.cache_dir={tmp_path}", "evaluation=[gap]", "trainer.enable_progress_bar=false"]  # fmt: skip
    again = engine.evaluate(compose("eval", preparation.prepare_evaluation(Command("eval", overrides)).overrides))
    assert again[gap] == pytest.approx(numbers[gap], rel=1e-5)
    about = json.loads((folder / runs.METRICS_FILE).read_text())
    assert about["model"]["averaged_weights"] == {"decay": 0.999, "warmup": True}
    assert bool(checkpoint["state_dict"]["gap_reducer.fitted"])


class CutShortError(Exception):
    """What a run is left with."""


class Interrupt(pl.Callback):
    """Leaves a checkpoint after a step, and the run."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise CutShortError


def test_a_resumed_run_goes_on_with_both_sets_of_weights(tmp_path, monkeypatch):
    options = ("callbacks=[default,ema]", "layer_decay=0.8", "trainer.accumulate_grad_batches=2")
    _, whole = train(tmp_path / "whole", *options)
    own = engine.training._callbacks
    path = tmp_path / "cut" / runs.CHECKPOINT
    monkeypatch.setattr(engine.training, "_callbacks", lambda cfg: [*own(cfg), Interrupt(4, path)])
    with pytest.raises(CutShortError):
        train(tmp_path / "cut", *options)
    monkeypatch.undo()
    command = preparation.prepare_training(Command("train", [f"resume={tmp_path / 'cut'}"]))
    engine.train(compose(command.config_name, command.overrides))
    resumed = torch.load(path, weights_only=True)
    for name, value in weights(whole).items():
        torch.testing.assert_close(resumed["state_dict"][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_layer_decay_reaches_the_optimizer_and_its_schedule(tmp_path):
    _, checkpoint = train(tmp_path, "layer_decay=0.5", "trainer.max_steps=3", "trainer.val_check_interval=3")
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert {group["name"]: group["lr_scale"] for group in groups} == {
        f"depth_{depth}{kind}": 0.5**depth for depth in range(7) for kind in ("", "_no_decay")
    }  # fmt: skip
    for group in groups:
        assert group["initial_lr"] == pytest.approx(4e-3 * group["lr_scale"])


@pytest.fixture
def small(recipe):
    """Overrides of a model of two layers on photos."""
    root = recipe.folder / "data" / "flickr30k"
    return ["model=open_clip", f"model.architecture={recipe.folder / 'small.json'}", "data=flickr30k",
            f"data.root={root}", "data.batch_size=8", "data.num_workers=0", "model.pretrained=null",
            "trainer.max_steps=3", "trainer.val_check_interval=2", "scheduler.warmup_steps=1", "logger=[csv]",
            "report=false", "compare=baseline", "evaluation=[gap]", "evaluation.gap.num_resamples=10",
            "model.crop_scale=null", "trainer.enable_progress_bar=false",
            f"paths.cache_dir={recipe.folder / 'cache_speed'}"]  # fmt: skip


def test_adapters_through_training_checkpoint_evaluation_and_export(small, tmp_path, capsys):
    pytest.importorskip("peft")
    folder = tmp_path / "run"
    numbers = engine.train(
        compose("train", [*small, "model.lora={rank:2}", "layer_decay=0.9", f"paths.output_dir={folder}"])
    )
    saved = torch.load(folder / runs.CHECKPOINT, weights_only=True)
    trained = sum(value.numel() for name, value in saved["state_dict"].items() if ".lora_" in name) + 1
    assert f"training {trained:,} of " in capsys.readouterr().out
    path = folder / runs.CHECKPOINT
    common = [
        "report=false",
        "evaluation=[gap]",
        "evaluation.gap.num_resamples=10",
        "trainer.enable_progress_bar=false",
    ]
    data = [part for part in small if part.startswith(("data", "paths.cache_dir"))]
    export = ["model=open_clip", f"model.pretrained={path}", *[part for part in small if "architecture" in part]]
    for name, model in (("again", [f"ckpt_path={path}"]), ("export", [*export, *data])):
        overrides = [*model, *common, f"paths.cache_dir={tmp_path / name}_cache", f"paths.output_dir={tmp_path / name}"]
        command = preparation.prepare_evaluation(Command("eval", overrides))
        found = engine.evaluate(compose("eval", command.overrides))
        assert found["test/none/gap/centroid_distance"] == pytest.approx(
            numbers["test/none/gap/centroid_distance"], abs=1e-5
        )


def test_channels_last_and_checkpointing_change_no_number(small, tmp_path):
    found = {}
    for option in ("model.channels_last=false", "model.channels_last=true", "model.grad_checkpointing=true"):
        folder = tmp_path / option.replace("=", "_")
        found[option] = engine.train(compose("train", [*small, option, f"paths.output_dir={folder}"]))
    first, *others = found.values()
    for other in others:
        assert other["test/none/gap/centroid_distance"] == pytest.approx(
            first["test/none/gap/centroid_distance"], rel=1e-4
        )


def test_an_unknown_option_of_adapters_is_named(small, tmp_path):
    with pytest.raises((ConfigError, ValueError), match=r"unknown key 'model\.lora\.ranks'; did you mean 'rank'"):
        engine.train(compose("train", [*small, "model.lora={ranks:2}", f"paths.output_dir={tmp_path}"]))
