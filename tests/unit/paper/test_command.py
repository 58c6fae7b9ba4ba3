"""The command as it is started."""

import subprocess
import sys

import pytest

from i0t.paper.command import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def start(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as left:
            code = left.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return start


def test_prints_what_it_finds_below_outputs_and_multirun(run, write_run, tmp_path):
    write_run("outputs/a", {"test/none/gap/centroid_distance": 0.7})
    write_run("multirun/b", {"test/none/gap/centroid_distance": 0.6})
    write_run("elsewhere/c", {"test/none/gap/centroid_distance": 0.5})
    code, out, err = run("--table", 2, "--format", "md")
    assert code == 0
    assert "| CLIP | CD | 0.7642 | 0.6000 (1) | -0.1642 |" in out
    assert err == "i0t-tables: 2 finished runs, 1 of them in the tables, 0 left out\n"
    assert "| CLIP | CD | 0.7642 | 0.5000 (1) | -0.2642 |" in run("--table", 2, "--format", "md", "elsewhere")[1]


def test_all_tables_by_default_in_order(run):
    code, out, err = run()
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("Table ")] == [
        f"Table {number}" for number in (1, 2, 3, 4, 5, 7, 8, 9)
    ]
    assert "0 finished runs" in err


def test_tables_are_chosen(run):
    _, out, _ = run("--table", 8, "--table", "3", "--table", 8)
    assert [line[:8] for line in out.splitlines() if line.startswith("Table ")] == ["Table 3:", "Table 8:"]


def test_torn_and_unfinished_runs_are_named_and_the_rest_goes_on(run, write_run, tmp_path):
    write_run("outputs/good", {"test/none/gap/centroid_distance": 0.7})
    for name, file, text in (("torn", "metrics.json", '{"rows": '), ("unfinished", "config.yaml", "name: x")):
        (tmp_path / "outputs" / name).mkdir()
        (tmp_path / "outputs" / name / file).write_text(text)
    code, out, err = run("--table", 2)
    assert code == 0
    assert "0.7000 (1)" in out
    assert "left out outputs/torn: metrics.json is torn" in err
    assert "left out outputs/unfinished: not finished: no metrics.json" in err
    assert err.splitlines()[-1] == "i0t-tables: 1 finished runs, 1 of them in the tables, 2 left out"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["--table", "6"], "invalid choice: 6"),
        (["--format", "html"], "invalid choice: 'html'"),
    ],
)
def test_bad_input_is_one_line_and_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("i0t-tables: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("form", "ending"), [("text", "txt"), ("md", "md"), ("csv", "csv"), ("tex", "tex")])
def test_files_are_written_whole(run, tmp_path, form, ending):
    code, out, err = run("--table", 8, "--table", 9, "--format", form, "--output", tmp_path / "new" / "tables")
    assert (code, out) == (0, "")
    folder = tmp_path / "new" / "tables"
    assert {path.name for path in folder.iterdir()} == {f"table_8.{ending}", f"table_9.{ending}"}
    assert "BN*" in (folder / f"table_8.{ending}").read_text()
    assert f"wrote {folder / f'table_9.{ending}'}" in err


def test_an_output_that_is_a_file(run, tmp_path):
    (tmp_path / "taken").write_text("x")
    code, _, err = run("--output", "taken")
    assert code == 2
    assert "--output taken is a file; name a folder" in err


def test_csv_on_the_screen_is_one_table(run):
    _, out, _ = run("--format", "csv")
    assert out.count("table,row,column") == 1
    assert len(out.splitlines()) == 1 + 44 + 72 + 18 + 32 + 6 + 12 + 4 + 8


def test_experiment_names(run):
    _, out, _ = run("--experiment-names", "--table", 2)
    assert out.splitlines()[0].startswith("Table 2, measured on flickr30k test, cifar100 test, birdsnap test")
    assert "  MG 0.5           ViT-B-32 pretrained=openai, row mean_shift fit_split=test direction=unit" in out
    assert "  I0T_async        name=i0t_async, row async_bn as trained\n" in out


def test_starts_without_torch():
    code = "import sys; import i0t.paper.command as c; c.main(['--table', '8', '--experiment-names']);"
    code += "print([m for m in ('torch', 'hydra', 'omegaconf', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_module_can_be_started():
    arguments = [sys.executable, "-m", "i0t.paper", "--table", "8", "--experiment-names"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "name=i0t_lcco_bn" in done.stdout
