"""What a checkpoint on the command line makes of a command, in training and in evaluation."""

import copy
import os
import re

import pytest
import torch

from i0t import preparation, runs
from i0t.config import Command, ConfigError, check_command, compose, conf_dir, to_container, to_yaml

KEPT = ("name", "seed", "data", "model", "gap_reducer", "compare", "loss", "evaluation")


@pytest.fixture(scope="module")
def saved_config():
    plain = to_container(compose("train", ["paths.output_dir=o"]))
    return {key: plain[key] for key in KEPT} | {"row": "none"}


@pytest.fixture
def checkpoint(tmp_path, saved_config):
    """Writes a checkpoint without weights, of a model that differs as asked."""

    def write(name="one.ckpt", *, target=None, **model):
        config = copy.deepcopy(saved_config)
        config["model"].update(model)
        config["data"]["limit"] = 77  # told apart from the shipped data by this
        if target is not None:
            config["model"]["_target_"] = target
        torch.save({"state_dict": {}, "i0t": {"config": config, "encoder_weights": None}}, tmp_path / name)
        return tmp_path / name

    return write


def train_jobs(*overrides, multirun=False):
    return check_command(preparation.prepare_training(Command("train", list(overrides), None, multirun)))


def eval_jobs(*overrides, multirun=False, config_dir=None):
    return check_command(preparation.prepare_evaluation(Command("eval", list(overrides), config_dir, multirun)))


@pytest.mark.parametrize("others", [[], ["experiment=i0t_async"]])
def test_training_takes_the_model_of_the_checkpoint_and_nothing_else(checkpoint, others):
    path = checkpoint(embed_dim=24, text_layers=3)
    (cfg,) = train_jobs(f"ckpt_path={path}", *others)
    assert cfg.model._target_ == "i0t.models.mad_tiny.MadTiny"
    assert (cfg.model.embed_dim, cfg.model.text_layers) == (24, 3)
    assert cfg.ckpt_path == str(path)
    assert cfg.data.limit is None, "the data are the run's"
    assert cfg.name == ("i0t_async" if others else "mad")


def test_a_path_with_spaces_and_quotes_is_one_path(checkpoint):
    path = checkpoint("my own, first.ckpt", embed_dim=24)
    for prepared in (train_jobs, eval_jobs):
        (cfg,) = prepared(f"ckpt_path='{path}'")
        assert (cfg.ckpt_path, cfg.model.embed_dim) == (str(path), 24)


@pytest.mark.parametrize(
    "overrides", [["model.embed_dim=96"], ["model=clip_vit_b_32"], ["+model.image_widths=[8,8]"], ["model=mad_tiny"]]
)
def test_a_model_on_the_command_line_leaves_the_command_as_it_is(checkpoint, overrides):
    command = Command("train", [f"ckpt_path={checkpoint(embed_dim=24)}", *overrides])
    assert preparation.prepare_training(command) is command


@pytest.mark.parametrize("path", [[], ["ckpt_path=null"], ["ckpt_path="]])
def test_without_a_checkpoint_a_training_is_as_it_was_typed(path):
    command = Command("train", [*path, "seed=3"])
    assert preparation.prepare_training(command) is command


def test_several_checkpoints_of_one_model_are_several_jobs(checkpoint):
    paths = [checkpoint(f"{name}.ckpt", embed_dim=24) for name in "ab"]
    both = f"ckpt_path={paths[0]},{paths[1]}"
    jobs = train_jobs(both, "seed=0,1", multirun=True)
    assert [(job.ckpt_path, job.seed) for job in jobs] == [(str(p), seed) for p in paths for seed in (0, 1)]
    assert {job.model.embed_dim for job in jobs} == {24}
    jobs = eval_jobs(both, multirun=True)
    assert [(job.ckpt_path, job.model.embed_dim, job.data.limit) for job in jobs] == [(str(p), 24, 77) for p in paths]


@pytest.mark.parametrize("prepare", [preparation.prepare_training, preparation.prepare_evaluation])
def test_checkpoints_of_different_models_are_refused_by_name(checkpoint, prepare):
    paths = f"{checkpoint('a.ckpt')},{checkpoint('b.ckpt')},{checkpoint('c.ckpt', embed_dim=24)}"
    config_name = "train" if prepare is preparation.prepare_training else "eval"
    message = r"a\.ckpt and .*c\.ckpt hold different models; sweep each for itself"
    with pytest.raises(ConfigError, match=message) as error:
        prepare(Command(config_name, [f"ckpt_path={paths}"], None, multirun=True))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prepare", [train_jobs, eval_jobs])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"ckpt_path=.*x.ckpt: there is no file"),
        (b"PK\x03\x04 torn", "is truncated or not a checkpoint"),
        ({"state_dict": {}}, "is not the checkpoint of an i0t run"),
    ],
)
def test_what_is_no_checkpoint_is_said_before_anything_runs(tmp_path, prepare, content, message):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=message):
        prepare(f"ckpt_path={path}")


@pytest.mark.parametrize("prepare", [train_jobs, eval_jobs])
def test_a_model_that_nobody_vouches_for_is_not_built(checkpoint, prepare, monkeypatch):
    path = checkpoint(target="collections.OrderedDict")
    with pytest.raises(ConfigError, match=r"asks to build collections.OrderedDict.*I0T_TRUSTED=collections"):
        prepare(f"ckpt_path={path}")
    monkeypatch.setenv("I0T_TRUSTED", "collections")
    assert prepare(f"ckpt_path={path}")[0].model._target_ == "collections.OrderedDict"


def test_an_evaluation_takes_data_model_and_rows_of_the_checkpoint(checkpoint):
    (cfg,) = eval_jobs(f"ckpt_path={checkpoint(embed_dim=24)}")
    assert (cfg.data.limit, cfg.model.embed_dim) == (77, 24)
    assert list(cfg.compare) == ["none", "posthoc", "posthoc_test", "async_bn"]
    assert cfg.gap_reducer is None
    assert cfg.inherited_rows is True


def test_what_an_evaluation_names_itself_goes_before_the_checkpoint_s(checkpoint):
    path = checkpoint(embed_dim=24)
    (cfg,) = eval_jobs(f"ckpt_path={path}", "data=embeddings", "data.path=x.npz", "compare=i0t_paper")
    assert cfg.data._target_.endswith("EmbeddingFile") or "embeddings" in cfg.data._target_
    assert "mean_shift_375" in cfg.compare
    assert cfg.inherited_rows is False, "rows that are asked for are not dropped"
    (cfg,) = eval_jobs(f"ckpt_path={path}", "gap_reducer=posthoc", "gap_reducer.fit_split=val")
    assert (list(cfg.compare), cfg.data.limit) == (["none"], 77)


@pytest.mark.parametrize("override", ["model=mad_tiny", "model.embed_dim=3", "+model.x=3"])
def test_an_evaluation_refuses_another_model_beside_a_checkpoint(checkpoint, override):
    with pytest.raises(ConfigError, match=rf"take away {re.escape(override)} or ckpt_path"):
        eval_jobs(f"ckpt_path={checkpoint()}", override)


HINT = r"name what to evaluate: ckpt_path=…, or data=… with model=…, or data=embeddings data.path=…"


@pytest.mark.parametrize("overrides", [[], ["ckpt_path=null"], ["evaluation=gap"], ["model=mad_tiny"], ["seed=3"]])
def test_an_evaluation_of_nothing_says_what_to_name(overrides):
    with pytest.raises(ConfigError, match=HINT) as error:
        preparation.prepare_evaluation(Command("eval", overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides", [["data=mad"], ["sweep=other_modalities"], ["experiment=x"], ["evaluation=caption_score"]]
)
def test_an_evaluation_that_names_its_data_is_as_it_was_typed(overrides):
    command = Command("eval", overrides)
    assert preparation.prepare_evaluation(command) is command


CAPTIONS = "i0t.data.captions.CaptionsDataModule"
CAPTION_SCORE = ["evaluation=caption_score", "evaluation=[gap,caption_score]"]


@pytest.mark.parametrize("evaluation", CAPTION_SCORE)
def test_caption_score_brings_its_data_and_model(evaluation):
    (cfg,) = eval_jobs(evaluation, "data.path=mine.jsonl")
    assert (cfg.data._target_, cfg.data.path) == (CAPTIONS, "mine.jsonl")
    assert cfg.model._target_ == "i0t.models.open_clip.OpenClip"
    with pytest.raises(ConfigError, match=r"data\.path must be given"):
        eval_jobs(evaluation)


@pytest.mark.parametrize("evaluation", CAPTION_SCORE)
def test_caption_score_of_a_checkpoint_has_its_own_data_and_the_checkpoint_s_model(checkpoint, evaluation):
    (cfg,) = eval_jobs(evaluation, "data.path=mine.jsonl", f"ckpt_path={checkpoint(embed_dim=24)}")
    assert (cfg.data._target_, cfg.data.path) == (CAPTIONS, "mine.jsonl")
    assert cfg.model.embed_dim == 24
    assert "posthoc" in cfg.compare


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_named_data_go_before_those_of_caption_score(checkpoint, with_checkpoint):
    ckpt = [f"ckpt_path={checkpoint(embed_dim=24)}"] if with_checkpoint else []
    (cfg,) = eval_jobs("evaluation=caption_score", "data=mad", "data.limit=3", *ckpt)
    assert (cfg.data._target_, cfg.data.limit) == ("i0t.data.mad.MadDataModule", 3)
    assert (cfg.model.get("embed_dim") == 24) is with_checkpoint


def test_an_evaluation_of_the_user_s_own_may_bring_data(checkpoint, tmp_path):
    (tmp_path / "evaluation").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /data: cifar100\n  - _self_\n"
    (tmp_path / "evaluation" / "my-own.yaml").write_text(text + "evaluation:\n  mine: {_target_: mine.Mine}\n")
    overrides = ["evaluation=my-own", "data.root=x", f"ckpt_path={checkpoint(embed_dim=24)}"]
    (cfg,) = eval_jobs(*overrides, config_dir=str(tmp_path))
    assert cfg.data._target_ == "i0t.data.cifar100.Cifar100DataModule"
    assert cfg.model.embed_dim == 24


def sweeps_of_checkpoints():
    """Sweeps whose head evaluates a checkpoint, with what that line says beside it."""
    for file in sorted((conf_dir() / "sweep").glob("*.yaml")):
        for line in file.read_text().splitlines():
            if line.startswith("# python eval.py") and "ckpt_path=" in line:
                words = line.replace("…", "x").split()[3:]
                yield pytest.param(file, [w for w in words if "=" in w and "ckpt_path" not in w], id=file.stem)


@pytest.mark.parametrize(("file", "overrides"), list(sweeps_of_checkpoints()))
def test_a_sweep_over_a_checkpoint_keeps_its_own_data_and_rows(checkpoint, file, overrides):
    typed = [*overrides, f"ckpt_path={checkpoint()}"]
    prepared = preparation.prepare_evaluation(Command("eval", typed, None, multirun=True))
    assert prepared.overrides == [*typed, "model=from_checkpoint"]


def test_the_jobs_of_such_a_sweep_are_those_of_any_model(checkpoint):
    sweep = "sweep=i0t_evaluation_one_caption"
    jobs = eval_jobs(sweep, f"ckpt_path={checkpoint(embed_dim=24)}", multirun=True)
    plain = eval_jobs(sweep, "model=mad_tiny", multirun=True)
    assert [job.data._target_.split(".")[2] for job in jobs] == ["flickr30k", "coco"]
    for job, other in zip(jobs, plain, strict=True):
        assert (job.data, job.compare, job.gap_reducer) == (other.data, other.compare, other.gap_reducer)
        assert (job.model.embed_dim, other.model.embed_dim) == (24, 128)


def test_a_sweep_over_models_does_not_go_with_a_checkpoint(checkpoint):
    message = r"take away model.architecture=… model.pretrained=… or ckpt_path"
    with pytest.raises(ConfigError, match=message):
        eval_jobs("sweep=i0t_architectures", f"ckpt_path={checkpoint()}", multirun=True)


def test_an_experiment_builds_on_what_another_one_names(checkpoint, tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    head = "# @package _global_\n"
    (folder / "parent.yaml").write_text(f"{head}defaults:\n  - override /compare: i0t_paper\n  - _self_\n")
    (folder / "child.yaml").write_text(f"{head}defaults:\n  - parent\n  - _self_\nseed: 5\n")
    (cfg,) = eval_jobs("experiment=child", f"ckpt_path={checkpoint()}", config_dir=str(tmp_path))
    assert "mean_shift_375" in cfg.compare, "the parent's rows"
    assert (cfg.data.limit, cfg.seed) == (77, 5), "the checkpoint's data"


def test_checkpoints_that_differ_in_their_training_alone_are_swept_together(checkpoint):
    paths = f"{checkpoint('a.ckpt', max_logit_scale=None)},{checkpoint('b.ckpt', max_logit_scale=50.0)}"
    assert len(eval_jobs(f"ckpt_path={paths}", multirun=True)) == 2


@pytest.fixture
def unfinished(tmp_path, monkeypatch, checkpoint):
    """Makes run folders with a config and a checkpoint of a given age in seconds, as interrupted runs leave them."""
    monkeypatch.chdir(tmp_path)

    def make(name, age):
        folder = tmp_path / "outputs" / "mad" / name
        cfg = compose("train", [f"paths.output_dir={folder}", f"trainer.max_steps={age}"])
        (folder / runs.CHECKPOINT).parent.mkdir(parents=True)
        checkpoint().rename(folder / runs.CHECKPOINT)
        (folder / runs.CONFIG_FILE).write_text(to_yaml(cfg))
        os.utime(folder / runs.CHECKPOINT, (1e9 - age, 1e9 - age))
        return folder

    return make


def test_the_last_run_is_the_one_whose_checkpoint_is_newest(unfinished):
    unfinished("2026-01-02_00-00-00", age=20)
    newest = unfinished("2026-01-01_00-00-00", age=10)
    unfinished("slurm_4711_0a1b2c3d", age=30)
    (cfg,) = train_jobs("resume=last")
    assert (cfg.resume, cfg.trainer.max_steps, cfg.hydra.run.dir) == (str(newest), 10, str(newest))
