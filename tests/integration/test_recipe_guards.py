"""What the recipe refuses, drops and says: combinations that would end in silent nonsense."""

import numpy as np
import pytest
import torch

from i0t import engine, preparation, runs
from i0t.config import Command, ConfigError, compose


def start(folder, *overrides):
    command = preparation.prepare_training(Command("train", [*overrides, f"paths.output_dir={folder}"]))
    return engine.train(compose("train", command.overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.precision=bf16-true"], "trainer.precision=bf16-true converts the weights"),
        (["encoders=trained", "views=2", "model.dropout=0.0"], "without dropout are all equal: set model.dropout"),
        (["data=imagefolder", "data.root=x"], "encoders=cached has nothing to cache"),
        (["data=mad"], "cannot read the images of MadDataModule"),
    ],
)
def test_what_cannot_work_is_said_before_any_training(recipe, tmp_path, overrides, message):
    given = recipe.arguments("i0t_async", *recipe.model)
    if overrides[0].startswith("data="):
        given = [override for override in given if not override.startswith("data.")]
    with pytest.raises(ConfigError, match=message):
        start(tmp_path / "run", *given, *overrides)
    assert not (tmp_path / "run" / runs.CHECKPOINT).exists()


def test_a_model_of_tensors_is_refused_for_photos(recipe, tmp_path):
    overrides = ["data=flickr8k", f"data.root={recipe.folder / 'data' / 'flickr8k'}", "model=mad_tiny"]
    with pytest.raises(ConfigError, match="cannot read the images of Flickr8kDataModule"):
        recipe.evaluate(tmp_path / "run", *overrides)


def test_the_logit_scale_of_a_checkpoint_stays_unless_another_is_asked_for(recipe, stage_one, tmp_path):
    from i0t.engine.weights import build_model

    trained = torch.load(stage_one / runs.CHECKPOINT, weights_only=True)["state_dict"]["model.clip.logit_scale"]
    path = f"ckpt_path={stage_one / runs.CHECKPOINT}"
    for asked, expected in (([], trained.exp().item()), (["model.logit_scale=10"], 10.0)):
        model = [*recipe.model, *asked] if asked else []
        command = preparation.prepare_training(
            Command("train", [*recipe.arguments("i0t_async", *model), path, f"paths.output_dir={tmp_path}"])
        )
        built = build_model(compose("train", command.overrides))
        assert built.logit_values()[0] == pytest.approx(expected, rel=1e-6), asked


def test_rows_of_the_checkpoint_that_other_data_cannot_fit_are_dropped_with_a_note(recipe, stage_two, tmp_path, capsys):
    data = ["data=flickr8k_expert", f"data.root={recipe.folder / 'data' / 'flickr8k'}", "data.num_workers=0"]
    overrides = [f"ckpt_path={stage_two / runs.CHECKPOINT}", "evaluation=caption_correlation", *data]
    found = recipe.evaluate(tmp_path / "run", *overrides, *recipe.few_resamples("caption_correlation"))
    assert set(found["rows"]) == {"none", "posthoc_test", "async_bn"}  # not posthoc, which is fitted on train
    assert "note: no row posthoc: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="only a test split"):  # asked for by name, it is an error
        recipe.evaluate(tmp_path / "asked", *overrides, "gap_reducer=posthoc", "gap_reducer.fit_split=train")


def test_a_sweep_keeps_its_data_and_rows_with_a_checkpoint(stage_one):
    command = Command("eval", ["sweep=i0t_evaluation", f"ckpt_path={stage_one / runs.CHECKPOINT}"], multirun=True)
    added = preparation.prepare_evaluation(command).overrides
    assert "model=from_checkpoint" in added
    assert not any(override.startswith(("data=", "compare=")) for override in added)


def test_an_evaluation_with_nothing_to_measure_says_so_and_names_no_model(recipe, tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    np.savez(tmp_path / "pairs.npz", image=rows, text=rows, text_image_index=np.arange(6))
    found = recipe.evaluate(
        tmp_path / "run", "evaluation=caption_score", "data=embeddings", f"data.path={tmp_path / 'pairs.npz'}"
    )
    assert "nothing on these data can be measured by caption_score" in capsys.readouterr().out
    keys = ("trained_as", "seed", "component", "architecture", "pretrained", "averaged_weights")
    assert found["model"] == dict.fromkeys(keys)
