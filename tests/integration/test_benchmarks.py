"""The benchmarks: what they share, the page of results, and every script at small sizes."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
sys.path.insert(0, str(FOLDER))  # the scripts import each other by bare names, as `python benchmarks/….py` has it

import measure  # noqa: E402
import results  # noqa: E402
import run  # noqa: E402

sys.path.remove(str(FOLDER))

GOOD = """
import json, sys
from pathlib import Path
entry = {"name": "time, N = 10", "unit": "s", "ours": [1.0, 3.0], "peers": {"peer": [2.0, 2.0]}, "target": "<= 1"}
Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps([entry]))
"""
FAILING = "import sys; print('a reason', file=sys.stderr); sys.exit(3)"
EMPTY = "pass"
HANGING = "import time; time.sleep(600)"


def entry(**changes):
    return measure.Entry(
        **{"name": "time", "unit": "s", "ours": [1.0, 4.0, 3.0], "peers": {"a": [2.0, 4.0, 12.0]}, **changes}
    )


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A folder of scripts in place of the real ones; call it with names and sources."""
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "describe_machine", lambda: "a machine")

    def make(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        known = {name: run.Script(f"{name}.py", name.title(), minutes=1) for name in sources}
        monkeypatch.setattr(run, "SCRIPTS", known)
        return tmp_path

    return make


class TestEntry:
    def test_ratios_are_taken_round_by_round(self):
        assert entry().ratios("a") == [0.5, 1.0, 0.25]

    def test_one_number_of_a_peer_stands_for_all_rounds(self):
        assert entry(peers={"a": [2.0]}).ratios("a") == [0.5, 2.0, 1.5]

    @pytest.mark.parametrize(
        ("target", "measured", "met"),
        [
            ("<= .6", 0.5, True),
            ("<= .4", 0.5, False),
            (">= .4", 0.5, True),
            (">= 20 of b c", 30.0, True),
            ("<= 3 s", 3.0, True),
            ("<= 2.9 s", 3.0, False),
        ],
    )
    def test_target(self, target, measured, met):
        found = entry(target=target, peers={"a": [2.0, 4.0, 12.0], "b c": [0.1, 0.1, 0.1]})
        (read,) = found.targets()
        assert found.measured(read) == pytest.approx(measured)
        assert read.is_met(found.measured(read)) is met

    def test_several_targets(self):
        assert [t.bound for t in entry(target="<= .25 of a; <= 5 s").targets()] == [0.25, 5.0]

    @pytest.mark.parametrize(
        "changes",
        [
            {"ours": []},
            {"ours": [1.0, 0.0, 1.0]},
            {"ours": [1.0, math.nan, 1.0]},
            {"peers": {"a": [1.0, 2.0]}},
            {"peers": {"a": [1.0, math.inf, 1.0]}},
            {"target": "half"},
            {"target": "<= 3 MiB"},
            {"target": "<= .5 of b"},
            {"target": "<= .5", "peers": {}},
        ],
    )
    def test_what_is_no_measurement_is_refused(self, changes):
        with pytest.raises(ValueError, match="time"):
            entry(**changes)


class TestMeasure:
    def test_rounds_alternate_and_turn_round(self):
        calls = []
        methods = {name: lambda name=name: calls.append(name) for name in "ab"}
        times = measure.alternate(methods, rounds=3, warm_up=1)
        assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
        assert [len(times[name]) for name in "ab"] == [3, 3]
        assert min(times["a"] + times["b"]) > 0

    def test_calls_may_return_their_own_numbers(self):
        values = iter([7.0, 8.0])
        assert measure.alternate({"a": lambda: next(values)}, rounds=2, warm_up=0, timed=False) == {"a": [7.0, 8.0]}

    def test_peak_memory_of_a_process_that_allocates(self):
        command = "import time; x = bytearray(b'1') * (150 * 2**20); del x; time.sleep(0.3)"
        process = subprocess.Popen([sys.executable, "-c", command])
        with measure.PeakMemory(process.pid) as peak:
            process.wait()
        assert 150 < peak.by_pid[process.pid] < 200

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (12345.6, "12,346"),
            (123.4, "123"),
            (1.234, "1.23"),
            (0.01234, "0.0123"),
            (0.0, "0.0"),
            (1.234e-7, "1.23e-07"),
        ],
    )
    def test_number(self, value, text):
        assert measure.number(value) == text

    def test_spread_is_median_and_range(self):
        assert measure.spread([3.0, 1.0, 2.5]) == "2.50 (1.00 to 3.00)"

    def test_what_is_written_is_read_again(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["x", "--quick", "--json", str(tmp_path / "x.json"), "--size", "9"])
        parser = measure.parser("words", rounds=5)
        parser.add_argument("--size", type=int, default=100)
        options = measure.parse(parser, quick={"rounds": 1, "size": 3})
        assert (options.rounds, options.size) == (1, 9)  # what is given wins over what is quick
        measure.finish([entry(target="<= .6")], options)
        assert measure.load(tmp_path / "x.json") == [entry(target="<= .6")]
        assert "target <= .6: met" in capsys.readouterr().out
        assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


class TestPage:
    def section(self, **changes):
        given = {"title": "Loss", "command": "python x", "date": "2026-01-01", "machine": "m", "entries": [entry()]}
        return results.Section(**{**given, **changes})

    def test_rows_and_targets(self):
        page = results.page({"loss": self.section(entries=[entry(target="<= .4; <= 5 s")])})
        assert "| time | s | 3.00 (1.00 to 4.00) | a | 4.00 (2.00 to 12.0) | 0.500 (0.250 to 1.00) |" in page
        assert "| [Loss](#loss) | time | <= .4 | 0.500 of a | **no** |" in page
        assert "| [Loss](#loss) | time | <= 5 s | 3.00 s | yes |" in page
        assert "1 of 2 met" in page

    def test_growth_with_n(self):
        points = [
            entry(name=f"fp32, N = {n:,}", ours=[n**2 / 1e6], peers={"a": [n**3 / 1e6], "b": [1.0]})
            for n in (500, 1000, 4000)
        ]
        page = results.page({"loss": self.section(entries=[*points[:2], entry(), points[2]])})
        assert "| [Loss](#loss): fp32, N [s] | this project | 500: 0.250, 1,000: 1.00, 4,000: 16.0 | 2.00 |" in page
        assert "| a | 500: 125, 1,000: 1,000, 4,000: 64,000 | 3.00 |" in page
        assert "| b | 500: 1.00, 1,000: 1.00, 4,000: 1.00 | 0.00 |" in page
        assert "Growth" not in results.page({"loss": self.section(entries=points[:1])})

    def test_sections_from_two_machines_say_which(self):
        sections = {"a": self.section(), "b": self.section(machine="other\nversions")}
        page = results.page(sections)
        assert "**Machine 1:** m." in page
        assert "**Machine 2:** other.\nversions." in page
        assert page.count(", machine 1;") == page.count(", machine 2;") == 1

    def test_saved_sections_are_read_again(self, tmp_path):
        sections = {"loss": self.section(), "other": self.section(entries=[], failure="a reason")}
        results.save(sections, tmp_path)
        assert results.load_sections(tmp_path) == sections
        assert sorted(path.name for path in tmp_path.iterdir()) == ["RESULTS.md", "results.json"]

    def test_machine_names_cores_threads_and_versions(self):
        import torch

        described = results.describe_machine()
        assert f"{torch.get_num_threads()} threads" in described
        assert f"torch {torch.__version__.split('+')[0]}" in described


class TestRun:
    def test_a_rerun_replaces_its_own_section_only(self, scripts):
        folder = scripts(first=GOOD, second=GOOD)
        assert run.run_all(["first", "second"], folder, quick=False) == 0
        before = results.load_sections(folder)
        (folder / "second.py").write_text(GOOD.replace("[1.0, 3.0]", "[5.0, 7.0]"))
        assert run.run_all(["second"], folder, quick=False) == 0
        after = results.load_sections(folder)
        assert after["first"] == before["first"]
        assert after["second"].entries[0].ours == [5.0, 7.0]

    def test_a_failing_benchmark_leaves_all_rows_standing_and_says_so(self, scripts, capfd):
        folder = scripts(first=GOOD, second=GOOD)
        run.run_all(["first", "second"], folder, quick=False)
        (folder / "first.py").write_text(FAILING)
        assert run.run_all(["first", "second"], folder, quick=False) == 1
        sections, page = results.load_sections(folder), (folder / "RESULTS.md").read_text()
        assert "exit code 3: a reason" in sections["first"].failure
        assert sections["first"].entries[0].ours == [1.0, 3.0]
        assert sections["second"].failure is None
        assert "The rows are of an earlier run" in page
        assert "**[First](#first) did not run:**" in page
        (folder / "first.py").write_text(GOOD)
        assert run.run_all(["first"], folder, quick=False) == 0
        assert results.load_sections(folder)["first"].failure is None

    def test_one_that_writes_nothing_or_nonsense_failed(self, scripts, capfd):
        folder = scripts(empty=EMPTY, nonsense=GOOD.replace("[1.0, 3.0]", "[-1.0, 3.0]"))
        assert run.run_all(["empty", "nonsense"], folder, quick=False) == 1
        sections = results.load_sections(folder)
        assert "no usable numbers" in sections["empty"].failure
        assert "positive" in sections["nonsense"].failure
        assert "No numbers yet." in (folder / "RESULTS.md").read_text()

    def test_one_that_hangs_is_stopped(self, scripts, monkeypatch, capfd):
        folder = scripts(hanging=HANGING)
        monkeypatch.setitem(run.SCRIPTS, "hanging", run.Script("hanging.py", "Hanging", minutes=0.02))
        start = time.monotonic()
        assert run.run_all(["hanging"], folder, quick=False) == 1
        assert time.monotonic() - start < 30
        assert "not finished after" in results.load_sections(folder)["hanging"].failure

    def test_an_interrupt_keeps_what_is_done_and_ends_the_benchmark(self, scripts, monkeypatch, capfd):
        folder = scripts(first=GOOD, hanging=HANGING, last=GOOD)
        started = []
        popen = subprocess.Popen

        class Interrupted(popen):
            def wait(self, timeout=None):
                if "hanging" in self.args[1] and len(started) == 0:
                    started.append(self)
                    raise KeyboardInterrupt
                return super().wait(timeout)

        monkeypatch.setattr(run.subprocess, "Popen", Interrupted)
        assert run.run_all(["first", "hanging", "last"], folder, quick=False) == 130
        sections = results.load_sections(folder)
        assert list(sections) == ["first", "hanging"]
        assert sections["first"].failure is None
        assert "interrupted" in sections["hanging"].failure
        assert started[0].returncode == -signal.SIGTERM

    def test_unknown_names_and_quick_figures_are_refused(self, monkeypatch, capsys):
        for arguments, words in ((["nosuch"], "no benchmark is called nosuch"), (["--quick"], "no figures")):
            monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
            with pytest.raises(SystemExit) as left:
                run.main()
            assert left.value.code == 2
            assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", run.SCRIPTS)
def test_every_benchmark_runs_small(name, tmp_path):
    if name == "retrieval":
        pytest.importorskip("clip_benchmark", reason="pip install --no-deps clip-benchmark==1.6.2")
    command = [sys.executable, str(FOLDER / "run.py"), name, "--quick", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    section = json.loads((tmp_path / "results.json").read_text())[name]
    assert section["failure"] is None
    assert section["command"].startswith(f"python benchmarks/{run.SCRIPTS[name].file}")
    entries = [
        measure.Entry(**content) for content in section["entries"]
    ]  # which checks that all is finite and positive
    assert len({found.name + found.unit for found in entries}) == len(entries) > 0
    page = (tmp_path / "RESULTS.md").read_text()
    for found in entries:
        assert f"| {found.name} | {found.unit} | {measure.spread(found.ours)} |" in page
        for peer in found.peers:
            assert f"| {peer} | " in page
            assert 1e-6 < min(found.ratios(peer)) <= max(found.ratios(peer)) < 1e6


def test_every_script_of_the_list_is_there():
    assert [script.file for script in run.SCRIPTS.values() if not (FOLDER / script.file).is_file()] == []
