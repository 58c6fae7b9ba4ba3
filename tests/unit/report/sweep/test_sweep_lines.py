import pytest
import yaml

from i0t.report.sweep_data import script_data, sweep_of
from i0t.report.sweep_jobs import find_runs, read_runs
from i0t.report.sweep_lines import by_value, sweep_lines, value_of, varied_keys
from i0t.report.table import MISSING

from ....run_folders import write_run


def jobs_of(folder):
    return read_runs(find_runs(folder))


def test_keys_by_which_jobs_differ_the_seed_last(tmp_path):
    fixed = ["trainer.max_steps=5", "paths.cache_dir={}", "hydra.verbose={}", "report={}", "logger=[{}]", "resume={}"]
    for i, (seed, loss) in enumerate([(0, "clip"), (1, "clip"), (0, "siglip")]):
        more = [override.format(i) for override in fixed]
        write_run(tmp_path / str(i), [f"seed={seed}", f"+loss={loss}", *more], {})
    assert varied_keys(jobs_of(tmp_path)) == ["loss", "seed"]


def test_who_does_not_override_a_key_has_the_value_of_its_config(tmp_path):
    for name, overrides in (("a", ["optimizer.lr=1e-3", "loss=clip"]), ("b", []), ("c", ["optimizer.lr=.002"])):
        folder = write_run(tmp_path / name, overrides, {}, data=f"set_{name}")
        (folder / "config.yaml").write_text("optimizer: {lr: 0.001}\nname: same\nloss: {_target_: i0t.losses.x}")
    a, b, c = jobs = jobs_of(tmp_path)
    assert [value_of(job, "optimizer.lr") for job in jobs] == ["0.001", "0.001", "0.002"]
    assert [value_of(job, "loss") for job in jobs] == ["clip", None, None]
    assert value_of(b, "data") == "set_b"
    assert varied_keys(jobs) == ["optimizer.lr", "loss"], "data is overridden by none of them"
    assert varied_keys([a, b]) == ["loss"]
    assert varied_keys([c]) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1e-3", "0.001", True), ("True", "true", True), ("01", "1", True), ("a", "A", False), ("null", "0", False)],
)
def test_values_are_compared_as_what_they_mean(tmp_path, one, other, same):
    for name, value in (("a", one), ("b", other)):
        write_run(tmp_path / name, [f"key={value}"], {})
    assert (varied_keys(jobs_of(tmp_path)) == []) is same


def test_folders_of_several_sweeps_differ_in_task_and_name(tmp_path):
    for name, task in (("a", "train"), ("b", "eval")):
        folder = write_run(tmp_path / name, ["x=1"], {}, task=task)
        (folder / "config.yaml").write_text(f"name: sweep_{name}")
    assert varied_keys(jobs_of(tmp_path)) == ["task", "name"]


def test_a_line_for_every_row_and_what_it_may_be_compared_with(tmp_path):
    rows = {row: {"gap/rmg": 0.5, "bad": float("nan")} for row in ("none", "posthoc", "posthoc_test", "mine")}
    write_run(tmp_path / "0", ["seed=0"], rows, split="val", data="coco")
    write_run(tmp_path / "1", ["seed=1"], {row: rows[row] for row in ("none", "posthoc_test")})
    write_run(tmp_path / "2", ["seed=2"], error="why")
    lines = sweep_lines(jobs_of(tmp_path), ["seed"])
    assert [(line.job.name, line.row, line.protocol, line.group) for line in lines] == [
        ("0", "none", "none", "coco val"),
        ("0", "posthoc", "inductive", "coco val"),
        ("0", "posthoc_test", "transductive", "coco val, transductive"),
        ("0", "mine", "", "coco val"),
        ("1", "none", "none", "mad test"),
        ("1", "posthoc_test", "transductive", "mad test"),  # no inductive row there, which it would be held against
        ("2", "", "", ""),
    ]
    assert [line.fitted_on for line in lines] == [
        f"{MISSING} (nothing fitted)",
        "inductive: train, 12,000 images",
        "transductive: test, 2,000 images",
        "not said",
        f"{MISSING} (nothing fitted)",
        "transductive: test, 2,000 images",
        "",
    ]
    assert all(line.numbers == {"gap/rmg": 0.5} for line in lines[:-1]), "NaN is no number of a table"
    assert [line.given["seed"] for line in lines] == ["0", "0", "0", "0", "1", "1", "2"]


def test_values_are_in_order_of_their_size():
    assert by_value(["10", "9", "1e-05", "clip", "b10", "b9", "", "9"]) == ["1e-05", "9", "10", "", "b9", "b10", "clip"]


def test_what_is_drawn_first(tmp_path):
    numbers = {"gap/alignment": 1.0, "gap/centroid_distance": 0.5, "retrieval/i2t_medr": 2.0, "retrieval/t2i_r1": 0.3}
    for seed, loss in ((0, "clip"), (1, "siglip")):
        write_run(tmp_path / str(seed), [f"seed={seed}", f"loss={loss}"], {"none": numbers})
    sweep = sweep_of(jobs_of(tmp_path))
    names = [number.name for number in sweep.numbers]
    assert names == ["gap/centroid_distance", "retrieval/t2i_r1", "gap/alignment", "retrieval/i2t_medr"]
    assert (names[sweep.x], names[sweep.y], sweep.color) == ("gap/centroid_distance", "retrieval/t2i_r1", "loss")
    assert [number.header for number in sweep.numbers][:2] == ["CD", "T→I R@1"]
    assert (sweep.shown_keys(), sweep.shown_numbers()) == ([0, 1], [0, 1])


def test_what_the_sweep_searched_by_is_drawn_first(tmp_path):
    names = ("gap/centroid_distance", "gap/rmg", "retrieval/i2t_r1", "retrieval/t2i_r5", "zeroshot/digit")
    folder = write_run(tmp_path / "0", [], {"none": dict.fromkeys(names, 0.5)})
    node = yaml.safe_load((folder / ".hydra" / "hydra.yaml").read_text())
    node["hydra"]["sweeper"] = {"minimize": ["val/none/gap/rmg"], "maximize": ["val/none/retrieval/t2i_r5"], "n": 3}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(node))
    sweep = sweep_of(jobs_of(tmp_path))
    assert [sweep.numbers[i].name for i in (sweep.x, sweep.y)] == ["gap/rmg", "retrieval/t2i_r5"]


@pytest.mark.parametrize("names", [[], ["gap/rmg"], ["a/x", "b/y"], ["retrieval/i2t_r1", "retrieval/t2i_r1"]])
def test_axes_of_whatever_numbers_there_are(tmp_path, names):
    write_run(tmp_path / "0", [], {"none": {name: 0.5 for name in names}})
    sweep = sweep_of(jobs_of(tmp_path))
    assert {sweep.x, sweep.y} == ({None} if len(names) < 2 else {0, 1})


def test_the_script_reads_every_number_of_every_line(tmp_path):
    write_run(tmp_path / "out" / "0", ["seed=0"], {"none": {"gap/rmg": 1 / 3}, "posthoc": {"other/n": 2}})
    (tmp_path / "out" / "0" / "report.html").touch()
    write_run(tmp_path / "out" / "1", ["seed=1"], error="<b>")
    data = script_data(sweep_of(jobs_of(tmp_path / "out")), tmp_path / "page of it")
    assert [number["name"] for number in data["numbers"]] == ["gap/rmg", "other/n"]
    assert [line["numbers"] for line in data["lines"]] == [[0.333333333, None], [None, 2], [None, None]]
    assert [line["job"] for line in data["lines"]] == [0, 0, 1]
    assert [(job["status"], job["link"]) for job in data["jobs"]] == [
        ("finished", "../out/0/report.html"),
        ("failed", ""),
    ]
    assert data["keys"] == [{"name": "seed", "values": ["0", "1"]}]
