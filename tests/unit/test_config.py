"""Strict composition: every wrong key, group, value and experiment file is one line that names the mend."""

import inspect
import re
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.utils import get_object
from omegaconf import OmegaConf

from i0t.config import Command, ConfigError, check_command, compose, conf_dir, instantiate
from i0t.config_help import help_text
from i0t.config_targets import check_targets
from i0t.engine.trainer import OURS

ALL_FILES = sorted(conf_dir().rglob("*.yaml"))


def nodes_with_target(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from nodes_with_target(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes_with_target(value)


def test_the_default_job_composes_with_the_rows_of_the_final_table():
    cfg = compose("train", ["paths.output_dir=out"])
    assert list(cfg.compare) == ["none", "posthoc", "posthoc_test", "async_bn"]
    assert cfg.compare.posthoc.fit_split == "train"
    assert cfg.compare.posthoc_test.fit_split == "test"
    assert cfg.seed == 0
    assert cfg.data.train_seed == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.batchsize=3"], "unknown key 'data.batchsize'; did you mean 'data.batch_size'?"),
        (["dat=mad"], "unknown key or group 'dat'|unknown key 'dat'; did you mean 'data'?"),
        (["data=madd"], "data=madd: there is no such choice; did you mean 'mad'?"),
        (["modle.embed_dim=3"], "unknown key 'modle'; did you mean 'model'?"),
        (["seed=abc"], "seed: .*'abc'.*[Ii]nteger"),
        (["data.batch_size=abc"], "data.batch_size must be a whole number, got 'abc'"),
        (["data.batch_size=1.5"], "data.batch_size must be a whole number, got 1.5"),
        (["data.download=7"], "data.download must be true or false, got 7"),
        (["gap_reducer=posthoc"], r"gap_reducer.fit_split must be given: gap_reducer.fit_split=… \(train, val or test"),
        (["experiment=nonsense"], "experiment=nonsense: there is no such choice"),
        (["trainer.max_step=3"], "unknown key 'trainer.max_step'; did you mean 'trainer.max_steps'?"),
        (["callbacks.checkpoint.file=x"], "did you mean 'callbacks.checkpoint.filename'?"),
        (["not an override"], "cannot read 'not an override'"),
        (["logger=[csv,wandbb]"], "wandbb"),
    ],
)
def test_a_wrong_override_is_one_line_that_says_what_to_do(overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        compose("train", overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.devices=auto"],
        ["trainer.max_steps=7", "optimizer.lr=1", "data.limit=3", "data.limit=null"],
        ["+gap_reducer@compare.mine=posthoc", "compare.mine.fit_split=val"],
        ["logger=[]"],
        ["logger=[csv,wandb]"],
        ["callbacks.graceful_stop=null"],
        ["trainer=ddp"],
        ["compare.posthoc.strength=0.5"],
        ["gap_reducer=async_bn", "loss=cyclip"],
    ],
)
def test_what_is_right_composes(overrides):
    assert compose("train", ["paths.output_dir=out", *overrides]).name == "mad"


def test_fit_data_names_a_data_set_like_a_group():
    row = ["gap_reducer=posthoc", "gap_reducer.fit_split=train"]
    cfg = compose("eval", ["data=mad", "paths.output_dir=o", *row, "gap_reducer.fit_data=embeddings",
                           "gap_reducer.fit_data.path=b.npz", "compare=default",
                           "compare.posthoc.fit_data=mad", "compare.posthoc.fit_data.limit=3"])  # fmt: skip
    assert cfg.gap_reducer.fit_data.path == "b.npz"
    assert cfg.compare.posthoc.fit_data.limit == 3
    assert "fit_data" not in compose("eval", ["data=mad", "paths.output_dir=o", *row]).gap_reducer
    with pytest.raises(ConfigError, match="data=nonsense: there is no such choice"):
        compose("eval", ["data=mad", "paths.output_dir=o", *row, "gap_reducer.fit_data=nonsense"])


def write_experiment(folder, text):
    (folder / "experiment").mkdir(exist_ok=True)
    (folder / "experiment" / "mine.yaml").write_text("# @package _global_\n" + text)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optimizer:\n  weigth_decay: 0.2\n",
            "unknown key 'optimizer.weigth_decay'.*did you mean 'optimizer.weight_decay'",
        ),
        ("data:\n  batch_size: many\n", "data.batch_size must be a whole number, got 'many'"),
        ("sede: 3\n", "unknown key 'sede' in 'experiment/mine'; did you mean 'seed'"),
        ("compare:\n  posthoc:\n    fitsplit: train\n", "did you mean 'compare.posthoc.fit_split'"),
        ("defaults:\n  - override /data: madd\n", "data=madd"),
    ],
)
def test_a_typo_in_an_experiment_file_is_found(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        compose("train", ["experiment=mine"], config_dir=write_experiment(tmp_path, text))


PARENT = "defaults:\n  - override /loss: cyclip\n  - _self_\n"
TYPO = "optimizer:\n  weigth_decay: 0.2\n"
RIGHT = "optimizer:\n  weight_decay: 0.2\nloss:\n  label_smoothing: 0.3\n"


@pytest.fixture
def family(tmp_path):
    """Writes a parent experiment, a child, a grandchild, and sweeps over them."""

    def write(of_parent, name="parent"):
        head = "# @package _global_\n"
        files = {
            "experiment/parent": PARENT + of_parent,
            "experiment/child": f"defaults:\n  - {name}\n  - _self_\nseed: 3\n",
            "experiment/grandchild": "defaults:\n  - child\n  - _self_\nreport: false\n",
            "sweep/mine": "defaults:\n  - override /experiment: grandchild\n  - _self_\n"
            "hydra:\n  sweeper:\n    params:\n      data.limit: 3,4\n",
            "sweep/more": "defaults:\n  - mine\n  - _self_\nname: more\n",
        }
        for file, text in files.items():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / f"{file}.yaml").write_text(head + text)
        return str(tmp_path)

    return write


OF_FAMILY = [
    ("experiment=parent", "parent"),
    ("experiment=child", "/experiment/parent"),
    ("experiment=grandchild", "parent"),
    ("sweep=mine", "/experiment/parent"),
    ("sweep=more", "parent"),
]


@pytest.mark.parametrize(("choice", "name"), OF_FAMILY)
def test_a_typo_that_an_experiment_inherits_is_found(family, choice, name):
    command = Command("train", [choice], family(TYPO, name), multirun=choice.startswith("sweep"))
    with pytest.raises(
        ConfigError, match=r"unknown key 'optimizer.weigth_decay'.*did you mean 'optimizer.weight_decay'"
    ):
        check_command(command)


@pytest.mark.parametrize(("choice", "name"), OF_FAMILY)
def test_what_an_experiment_inherits_is_taken(family, choice, name):
    jobs = check_command(Command("train", [choice], family(RIGHT, name), multirun=choice.startswith("sweep")))
    assert [job.data.limit for job in jobs] == ([3, 4] if choice.startswith("sweep") else [None])
    for job in jobs:
        assert (job.optimizer.weight_decay, job.loss.label_smoothing) == (0.2, 0.3)
        assert job.seed == (0 if choice == "experiment=parent" else 3)
        assert job.loss._target_ == "i0t.losses.cyclip.CyClipLoss"


@pytest.mark.parametrize("choice", ["experiment=grandchild", "sweep=mine"])
def test_a_wrong_type_that_an_experiment_inherits_is_found(family, choice):
    config_dir = family("data:\n  batch_size: many\n")
    with pytest.raises(ConfigError, match=r"data\.batch_size must be a whole number, got 'many'"):
        check_command(Command("train", [choice], config_dir, multirun=choice.startswith("sweep")))


def test_jobs_of_the_same_choices_share_what_they_are_compared_with(family, monkeypatch):
    loaded = []
    plain = ConfigLoaderImpl.load_configuration

    def count(self, config_name, overrides, **options):
        loaded.append(tuple(overrides))
        return plain(self, config_name, overrides, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", count)
    overrides = ["experiment=child", "loss=clip,cyclip", "data.limit=1,2,3"]
    assert len(check_command(Command("train", overrides, family(RIGHT), multirun=True))) == 6
    baselines = [choices for choices in loaded if any("__defaults_only" in choice for choice in choices)]
    assert baselines == [("experiment=child__defaults_only", f"loss={loss}") for loss in ("clip", "cyclip")]
    assert len(loaded) == 1 + 2 + 2, "the command, and for each loss what its jobs share and a baseline"


def test_a_job_that_is_wrong_is_found_behind_right_ones_of_the_same_choices(family):
    config_dir = family(RIGHT)
    with pytest.raises(ConfigError, match="whole number, got 'x'"):
        check_command(Command("train", ["experiment=child", "data.batch_size=8,x"], config_dir, multirun=True))
    with pytest.raises(ConfigError, match="unknown key"):
        check_command(Command("train", ["experiment=child,parent", "optimizer.lrr=1,2"], config_dir, multirun=True))


def test_names_that_the_checks_use_are_not_offered(family):
    with pytest.raises(ConfigError, match=r"experiment=childd: there is no such choice; did you mean 'child'") as error:
        check_command(Command("train", ["experiment=child,childd"], family(RIGHT), multirun=True))
    assert "defaults_only" not in str(error.value)


def test_an_experiment_of_training_given_to_an_evaluation_is_one_line():
    message = r"eval.yaml has no 'loss' that could be overridden \(in 'experiment/i0t_async'\)"
    with pytest.raises(ConfigError, match=message):
        check_command(Command("eval", ["experiment=i0t_async", "data=mad"]))
    with pytest.raises(ConfigError, match=r"unknown key or group 'dta'|unknown key 'dta'.*did you mean 'data'"):
        check_command(Command("eval", ["dta=mad", "data=mad"]))


def test_an_experiment_may_add_rows_and_is_last(tmp_path):
    text = """defaults:
  - /gap_reducer@compare.val_means: posthoc
  - override /loss: cyclip
  - _self_
seed: 7
compare:
  val_means:
    fit_split: val
"""
    cfg = compose("train", ["experiment=mine"], config_dir=write_experiment(tmp_path, text))
    assert cfg.seed == 7
    assert cfg.compare.val_means.fit_split == "val"
    assert cfg.loss._target_.endswith("CyClipLoss")


def test_every_job_of_a_multirun_is_checked_before_the_first_runs():
    command = Command("train", ["seed=0,1", "data.captions=object_only,object_attribute_1"], multirun=True)
    assert len(check_command(command)) == 4
    with pytest.raises(ConfigError, match="whole number, got 'x'"):
        check_command(Command("train", ["data.batch_size=1,2,x"], multirun=True))


def test_a_multirun_is_for_one_device_each():
    with pytest.raises(ConfigError, match="one device each"):
        check_command(Command("train", ["seed=0,1", "trainer=ddp_cpu"], multirun=True))


def test_a_multirun_checks_the_sweep_in_its_experiment_file(tmp_path):
    text = "hydra:\n  sweeper:\n    params:\n      data.batchsize: 1,2\n"
    with pytest.raises(ConfigError, match=r"did you mean 'data\.batch_size'"):
        check_command(Command("train", ["experiment=mine"], write_experiment(tmp_path, text), multirun=True))


def commands_in_header(file):
    """What the head of an experiment or sweep file says to type; a model stands in for what the user has."""
    for line in file.read_text().splitlines():
        if not line.startswith("# python "):
            continue
        script, *words = line.replace("…", "x").removeprefix("# python ").split()
        given = [word for word in words if word != "-m"]
        if any(word.startswith("ckpt_path=") for word in words):  # the checkpoint brings the model
            given += ["model=vit_b_32", "model.pretrained=null"]
        yield Command(Path(script).stem, given, multirun="-m" in words)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=[pytest.mark.slow] if "sweeper:" in file.read_text() else [])  # composes every job
        for group in ("experiment", "hparams_search", "sweep")
        for file in sorted((conf_dir() / group).glob("*.yaml"))
    ],
    ids=lambda f: f"{f.parent.name}-{f.stem}",
)
def test_the_commands_of_every_experiment_and_sweep_compose(file):
    commands = list(commands_in_header(file))
    assert commands, "the header gives the command"
    for command in commands:
        assert f"{file.parent.name}={file.stem}" in command.overrides
        jobs = check_command(command)
        assert jobs[0].name == file.stem
        assert len(jobs) > 1 or not command.multirun


@pytest.mark.parametrize("file", ALL_FILES, ids=lambda f: f.relative_to(conf_dir()).as_posix())
def test_every_node_fits_the_signature_of_its_target(file):
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    for node in nodes_with_target(content):
        target = get_object(node["_target_"])
        signature = inspect.signature(target)
        ours = OURS if node["_target_"] == "pytorch_lightning.Trainer" else ()
        own = [key for key in node if key not in ("_target_", "_partial_", "defaults", *ours)]
        unknown = [key for key in own if key not in signature.parameters]
        assert not unknown, f"{node['_target_']} takes no {unknown}"
        if node["_target_"].startswith("i0t."):
            by_engine = {"dim", "optimizer", "num_steps"}
            by_defaults = {"loss"}
            missing = [
                name
                for name, parameter in signature.parameters.items()
                if name not in own and name not in by_engine | by_defaults and parameter.kind != parameter.VAR_KEYWORD
            ]
            assert not missing, f"{file.name} leaves {missing} of {node['_target_']} unsaid"


@pytest.mark.parametrize("group", ["gap_reducer", "loss", "model", "scheduler", "evaluation"])
def test_a_config_file_has_the_stem_of_its_module(group):
    for file in (conf_dir() / group).glob("*.yaml"):
        targets = re.findall(r"_target_: (i0t\.\S+)", file.read_text())
        assert all(target.split(".")[-2] == file.stem for target in targets)


def test_every_config_file_has_a_module_and_a_unit_test():
    tests = {path.name for path in Path(__file__).parent.rglob("test_*.py")}
    for group in ("gap_reducer", "loss"):
        for file in (conf_dir() / group).glob("*.yaml"):
            assert f"test_{file.stem}.py" in tests, f"no unit test for {group}={file.stem}"


def test_targets_from_a_file_need_to_be_shipped_or_trusted(monkeypatch):
    check_targets({"a": [{"_target_": "i0t.gap_reducers.none.NoReducer"}]}, "x.ckpt")
    stranger = {"_target_": "os.system", "command": "true"}
    with pytest.raises(ConfigError, match=r"x.ckpt asks to build os.system.*I0T_TRUSTED=os"):
        check_targets(stranger, "x.ckpt")
    monkeypatch.setenv("I0T_TRUSTED", "mine, os")
    check_targets(stranger, "x.ckpt")
    with pytest.raises(ConfigError, match="osx"):
        check_targets({"_target_": "osx.system"}, "x.ckpt")


def test_instantiate_says_in_one_line_what_a_target_refuses():
    with pytest.raises(ConfigError, match=r"cannot build i0t.losses.clip.ClipLoss: .*smothing"):
        instantiate({"_target_": "i0t.losses.clip.ClipLoss", "smothing": 1})
    with pytest.raises(ConfigError, match=r"nothing\.at\.all"):
        instantiate({"_target_": "nothing.at.all"})
    with pytest.raises(ValueError, match="fit_split must be one of"):
        instantiate({"_target_": "i0t.gap_reducers.posthoc.Posthoc", "fit_split": "x"}, dim=3)


def test_help_lists_groups_of_the_project_and_of_the_user(tmp_path):
    (tmp_path / "gap_reducer").mkdir()
    (tmp_path / "gap_reducer" / "whiten.yaml").write_text("_target_: mine.Whiten\n")
    text = help_text("train", str(tmp_path))
    line = next(line for line in text.splitlines() if line.strip().startswith("gap_reducer "))
    assert {"async_bn", "none", "posthoc", "whiten"} <= set(re.findall(r"\w+", line))
    assert "resume: null" in text


def test_jobs_that_would_share_a_folder_are_refused():
    same = ["sweep=gap_vs_performance", "model_tag=RN50/null", "data=coco", "seed=0,1"]
    with pytest.raises(ConfigError, match=r"two jobs would share the folder RN50_null_coco and lose .*seed=0.*seed=1"):
        check_command(Command("eval", same, multirun=True))
    apart = ["sweep=gap_vs_performance", "model_tag=RN50/null,ViT-B-32/null", "data=coco,imagenet"]
    assert len(check_command(Command("eval", apart, multirun=True))) == 4
