import shlex

import pytest

from i0t.report.sweep_command import command_of

TRAIN = {"job": {"config_name": "train"}}


def test_the_shell_gives_the_program_the_very_overrides_of_the_job():
    overrides = [
        "loss=clip",
        "+note='a b'",
        "data.path=a b.npz",
        "logger=[csv]",
        "~callbacks.ema",
        'x="$HOME; rm"',
        "é=1",
    ]
    words = shlex.split(command_of(TRAIN, overrides))
    assert words == ["python", "train.py", *overrides]


@pytest.mark.parametrize(
    ("name", "started_by", "program"),
    [
        ("eval", None, "python eval.py"),
        ("eval", "eval.py -m data=coco", "python eval.py"),
        ("eval", "i0t-eval data=coco", "i0t-eval"),
        ("eval", "i0t-train data=coco", "python eval.py"),
        ("train", "i0t-train -m seed=0,1", "i0t-train"),
        ("train", "rm -r x", "python train.py"),
    ],
)
def test_the_program_is_named_as_the_user_named_it(name, started_by, program):
    assert command_of({"job": {"config_name": name}}, ["seed=1"], started_by) == f"{program} seed=1"


def test_what_the_command_adds_for_a_checkpoint_is_left_out():
    added = ["data=from_checkpoint", "model=from_checkpoint", "compare=from_checkpoint", "inherited_rows=true"]
    assert command_of(TRAIN, ["ckpt_path=a.ckpt", *added]) == "python train.py ckpt_path=a.ckpt"
    assert command_of(TRAIN, ["inherited_rows=true"]) == "python train.py inherited_rows=true"


def test_configs_of_ones_own_are_named():
    sources = [{"path": "my conf", "provider": "command-line"}, {"path": "conf", "provider": "main"}]
    node = {**TRAIN, "runtime": {"config_sources": sources}}
    assert shlex.split(command_of(node, [])) == ["python", "train.py", "--config-dir", "my conf"]


@pytest.mark.parametrize(
    ("hydra", "overrides"),
    [({}, ["seed=1"]), ({"job": None}, []), ({"job": {"config_name": "resumed_train"}}, []), (TRAIN, None)],
)
def test_no_command_where_the_folder_does_not_say_what_ran(hydra, overrides):
    assert command_of(hydra, overrides) == ""
