"""Which run folders count as finished, and of which config."""

import json
import multiprocessing

import pytest
import yaml

from i0t.runs import (
    CHECKPOINT,
    CONFIG_FILE,
    METRICS_FILE,
    discarded_if_not_started,
    finished_numbers,
    first_difference,
    forget_run,
    is_run_of,
    make_folder,
    make_free_folder,
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
    (folder / CHECKPOINT).parent.mkdir()
    for name in (CHECKPOINT, "notes.txt"):
        (folder / name).touch()
    forget_run(folder)
    forget_run(folder)
    assert sorted(path.name for path in folder.rglob("*")) == ["checkpoints", "notes.txt"]


def test_a_run_that_was_moved_is_known_again(folder):
    moved = {**CONFIG, "paths": {"output_dir": "/elsewhere"}}
    assert finished_numbers(folder, yaml.safe_dump(moved)) is not None


def test_the_difference_of_two_configs_is_named(folder):
    assert is_run_of(folder, yaml.safe_dump(CONFIG))
    assert first_difference(CONFIG, {**CONFIG, "data": {"rate": 1e-2, "splits": ["a", "b"]}}) == (
        "data.rate is 0.001 there, 0.01 here"
    )
    assert first_difference({**CONFIG, "old": 1}, CONFIG) == "old is not in both configs"


@pytest.mark.parametrize("kind", [None, METRICS_FILE, CHECKPOINT])
@pytest.mark.parametrize("made_here", [True, False])
def test_a_run_that_fails_at_its_start_leaves_no_folder_of_its_own(tmp_path, kind, made_here):
    folder = tmp_path / "run"
    assert make_folder(folder)
    (folder / "i0t.log").touch()
    if kind is not None:
        (folder / kind).parent.mkdir(exist_ok=True)
        (folder / kind).touch()
    with pytest.raises(KeyError), discarded_if_not_started(folder if made_here else None):
        raise KeyError
    assert folder.exists() is (kind is not None or not made_here)


@pytest.mark.parametrize(
    ("files", "shared", "own"),
    [
        ([], False, False),
        ([], True, True),
        (["i0t_rank12.log", "i0t_node1_rank0.log"], True, True),  # of ranks that were faster
        (["i0t_rank12.log"], False, False),
        (["i0t_rank12.log", "i0t.log"], True, False),  # of another run, or an earlier attempt
    ],
)
def test_a_folder_that_is_there_is_a_run_s_own_if_its_other_ranks_alone_have_been_there(tmp_path, files, shared, own):
    for name in files:
        (tmp_path / name).touch()
    assert make_folder(tmp_path, shared=shared) is own


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(make_free_folder, [tmp_path / "outputs" / "now"] * 12, chunksize=1)
    assert len(set(found)) == 12
    assert {path.name for path in found} == {"now", *(f"now_{number}" for number in range(2, 13))}
