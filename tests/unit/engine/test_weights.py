"""Weights of a checkpoint in a model, and one line where they do not fit it."""

import math

import pytest
import torch

from i0t import runs
from i0t.config import ConfigError, to_container
from i0t.engine.weights import build_from_checkpoint, build_model, check_encoder_weights


@pytest.fixture
def node(training_config):
    return to_container(training_config().model)


@pytest.fixture
def checkpoint(node, build):
    """What a run of the small model leaves, with weights of a seed."""

    def make(seed=5, *, encoder_weights=None, **model):
        state = {f"model.{name}": value for name, value in build(seed).state_dict().items()}
        state["gap_reducer.fitted"] = torch.tensor(True)
        config = {"model": {**node, **model}}
        return {"state_dict": state, "i0t": {"config": config, "encoder_weights": encoder_weights}}

    return make


def assert_same_weights(model, other):
    state, expected = model.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_the_model_has_the_checkpoint_s_weights_and_reads_no_others(node, checkpoint, build):
    absent = {**node, "pretrained": "not/there.pt"}
    assert_same_weights(build_from_checkpoint(absent, checkpoint(), "x.ckpt"), build(5))


def rename(state):
    state["model.clip.other_projection"] = state.pop("model.clip.text_projection")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.clip.text_projection"), r"1 missing, 0 unexpected, first clip.text_projection"),
        (
            lambda s: s.update({"model.clip.extra": torch.ones(1)}),
            r"0 missing, 1 unexpected, first clip.extra",
        ),
        (rename, r"1 missing, 1 unexpected, first clip.text_projection"),
        (
            lambda s: s.update({"model.clip.text_projection": torch.ones(3, 2)}),
            r"do not fit the model \(size mismatch for clip.text_projection: .*\[3, 2\]",
        ),
        (lambda s: s.clear(), r"[1-9]\d* missing, 0 unexpected"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(node, checkpoint, change, message):
    saved = checkpoint()
    change(saved["state_dict"])
    with pytest.raises(ConfigError, match=rf"ckpt_path=x.ckpt: its weights .*{message}") as error:
        build_from_checkpoint(node, saved, "x.ckpt")
    assert "\n" not in str(error.value)


def test_the_hash_tells_a_reducer_s_encoders_from_others(build):
    model, weights = build(5), build(5).identity()["weights"]
    check_encoder_weights(model, weights, "x.ckpt")
    check_encoder_weights(model, None, "x.ckpt")  # trained together: nothing to compare
    with torch.no_grad():
        model.clip.text_projection[0, 0] += 1e-3
    check_encoder_weights(model, None, "x.ckpt")
    with pytest.raises(ConfigError, match=r"x.ckpt: its encoders are not the ones that its gap reducer was trained on"):
        check_encoder_weights(model, weights, "x.ckpt")


def test_a_checkpoint_with_other_encoders_than_it_says_is_refused(node, checkpoint, build):
    weights = build(5).identity()["weights"]
    assert_same_weights(build_from_checkpoint(node, checkpoint(5, encoder_weights=weights), "x.ckpt"), build(5))
    with pytest.raises(ConfigError, match="not the ones that its gap reducer was trained on"):
        build_from_checkpoint(node, checkpoint(6, encoder_weights=weights), "x.ckpt")


def test_a_run_begins_with_the_model_of_its_checkpoint(training_config, checkpoint, build, tmp_path):
    torch.manual_seed(9)
    assert_same_weights(build_model(training_config()), build(9))
    path = tmp_path / "one.ckpt"
    torch.save(checkpoint(5), path)
    assert_same_weights(build_model(training_config(f"ckpt_path={path}")), build(5))


def test_a_resumed_run_has_its_own_weights_not_those_it_began_with(training_config, checkpoint, build, tmp_path):
    torch.save(checkpoint(5), tmp_path / "began_with.ckpt")
    own = tmp_path / "run" / runs.CHECKPOINT
    own.parent.mkdir(parents=True)
    torch.save(checkpoint(6), own)
    cfg = training_config(f"ckpt_path={tmp_path / 'began_with.ckpt'}", f"resume={tmp_path / 'run'}")
    assert_same_weights(build_model(cfg), build(6))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"architecture": "RN50"}, r"made with RN50 \(OpenClip\), but model is .*engine-tiny.json \(OpenClip\)"),
        (
            {"_target_": "i0t.models.long_clip.LongClip"},
            r"made with .*engine-tiny.json \(LongClip\), but model is .*engine-tiny.json \(OpenClip\)",
        ),
        (
            {"_target_": "i0t.models.mad_tiny.MadTiny", "architecture": None},
            r"made with MadTiny, but model is .*engine-tiny.json \(OpenClip\): take model=… away",
        ),
    ],
)
def test_another_architecture_is_refused_by_both_names(training_config, checkpoint, tmp_path, saved, message):
    path = tmp_path / "one.ckpt"
    torch.save(checkpoint(**saved), path)
    with pytest.raises(ConfigError, match=message) as error:
        build_model(training_config(f"ckpt_path={path}"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "saved", "expected"),
    [
        ({}, {}, "trained"),
        ({"logit_scale": 50.0}, {}, 50.0),
        ({"logit_scale": 50.0}, {"logit_scale": 20.0}, 50.0),
        ({"logit_scale": 50.0}, {"logit_scale": 50.0}, "trained"),  # set when that run began, and learnt since
    ],
)
def test_a_logit_scale_of_the_run_s_own_is_set_and_an_inherited_one_stays_as_trained(
    training_config, checkpoint, tmp_path, asked, saved, expected
):
    content = checkpoint(**saved)
    content["state_dict"]["model.clip.logit_scale"].fill_(math.log(33.0))
    torch.save(content, tmp_path / "one.ckpt")
    options = [f"model.{name}={value}" for name, value in asked.items()]
    cfg = training_config(f"ckpt_path={tmp_path / 'one.ckpt'}", *options)
    scale, bias = build_model(cfg).logit_values()
    assert scale == pytest.approx(33.0 if expected == "trained" else expected, rel=1e-6)
    assert bias is None
