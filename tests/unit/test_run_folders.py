"""Which run folders count as finished, and of which config."""

import json

import pytest
import yaml

from i0t.runs import (
    CHECKPOINT,
    CONFIG_FILE,
    METRICS_FILE,
    discarded_if_not_started,
    finished_numbers,
    forget_numbers,
)

CONFIG = {"name": "x", "seed": 1, "data": {"rate": 1e-3, "splits": ["a", "b"]}, "skip_finished": True}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / CONFIG_FILE).write_text(yaml.safe_dump({**CONFIG, "row": "none", "skip_finished": False}))
    (tmp_path / METRICS_FILE).write_text(json.dumps({"test/none/gap/rmg": 0.5}))
    return tmp_path


def test_a_finished_run_of_the_same_config_is_known_again(folder):
    assert finished_numbers(folder, yaml.safe_dump(CONFIG)) == {"test/none/gap/rmg": 0.5}


@pytest.mark.parametrize("change", [{"seed": 2}, {"data": {"rate": 1e-3, "splits": ["b", "a"]}}, {"more": None}])
def test_numbers_of_another_config_do_not_count(folder, change):
    assert finished_numbers(folder, yaml.safe_dump({**CONFIG, **change})) is None


@pytest.mark.parametrize("file", [CONFIG_FILE, METRICS_FILE])
@pytest.mark.parametrize("content", [None, "", '{"torn": '])
def test_a_torn_or_unfinished_run_does_not_count(folder, file, content):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    assert finished_numbers(folder, yaml.safe_dump(CONFIG)) is None


def test_what_is_forgotten_is_unfinished_and_nothing_else_is_lost(folder):
    (folder / "checkpoint").touch()
    forget_numbers(folder)
    forget_numbers(folder)
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]


def test_a_run_that_was_moved_is_known_again(folder):
    moved = {**CONFIG, "paths": {"output_dir": "/elsewhere"}}
    assert finished_numbers(folder, yaml.safe_dump(moved)) is not None


@pytest.mark.parametrize(
    ("files", "owned", "stays"),
    [
        (["i0t.log", ".hydra", "i0t_rank12.log"], True, False),
        (["i0t.log"], False, True),  # of another rank, on any node
        (["i0t.log", "notes.txt"], True, True),  # somebody's
        ([f"{CHECKPOINT}"], True, True),
    ],
)
def test_a_run_that_fails_at_its_start_leaves_no_folder(tmp_path, files, owned, stays):
    folder = tmp_path / "run"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    with pytest.raises(KeyError), discarded_if_not_started(folder, owned=owned):
        raise KeyError
    assert folder.exists() is stays
