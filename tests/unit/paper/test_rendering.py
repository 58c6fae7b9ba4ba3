"""The printed tables, as they must stand on the screen and in files."""

import csv
import io

import pytest

from i0t.paper.finished_runs import collect
from i0t.paper.published import load_table
from i0t.paper.rendering import as_csv, as_latex, as_markdown, as_text
from i0t.paper.results import fill

GAP, I2T, T2I = "gap/centroid_distance", "retrieval/i2t_r1", "retrieval/t2i_r1"
RN50 = {"architecture": "RN50", "pretrained": "openai"}


@pytest.fixture
def collection(write_run, posthoc, row_of, tmp_path):
    """Runs for Tables 8 and 9: two weights' rows, one of them on few images, and batch norm over seeds, both ways."""
    rows = {"none": row_of(), "mine": posthoc()}
    numbers = {
        f"test/none/{GAP}": 0.7600,
        f"test/none/{I2T}": 0.7131,
        f"test/mine/{GAP}": 0.0097,
        f"test/mine/{I2T}": 0.685,
    }
    write_run("rn50", numbers, rows=rows, model=RN50)
    write_run("rn50_few", {f"test/none/{T2I}": 0.5}, model=RN50, data={"limit": 50, "num_images": 50})
    own = {"async_bn": row_of("AsyncBatchNorm", strength=1.0)}
    for seed, share in ((7, 0.70), (42, 0.71), (71, 0.73)):
        facts = {"trained_as": "i0t_lcco_bn", "seed": seed}
        write_run(f"bn{seed}", {f"test/async_bn/{I2T}": share, f"test/async_bn/{GAP}": 0.44}, rows=own, model=facts)
    theirs = {"trained_as": "i0t_lcco_bn_published", "seed": 7}
    write_run("theirs", {f"test/async_bn/{I2T}": 0.709}, rows=own, model=theirs)
    return collect([tmp_path])[0]


TABLE_9 = """\
Table 9: ResNet-50

row       column published     measured difference notes
────────────────────────────────────────────────────────
CLIP      CD        0.7647   0.7600 (1)    -0.0047
          LS         -1.85 not measured            a b
          I2T         71.3     71.3 (1)       +0.0
          T2I         67.2    50.0* (1)      -17.2 c
CLIP_post CD        0.0097   0.0097 (1)    +0.0000
          LS         -1.41 not measured            a d
          I2T         68.0     68.5 (1)       +0.5
          T2I         70.3 not measured            d

"""


def test_text(collection):
    text = as_text(fill(load_table(9), collection))
    assert text.startswith(TABLE_9), text
    notes = " ".join(text[len(TABLE_9) :].split())
    assert "*: not quite the paper's protocol" in notes
    assert "c: flickr30k: num_images is 50, under the paper's protocol 1,000" in notes
    assert "rn50_few has no number for this column c: " in notes
    assert notes.endswith("/rn50 has no number for this column")
    assert max(map(len, text.splitlines())) <= 100


def test_markdown_with_the_variant_as_published(collection):
    text = as_markdown(fill(load_table(8), collection))
    head, table, notes = text.split("\n\n")
    assert head == "## Table 8: Batch norm trained jointly, without multi-view encoding"
    assert table.splitlines() == [
        "| row | column | published | measured | difference | as published | difference | notes |",
        "| :-- | --: | --: | --: | --: | --: | --: | :-- |",
        "| BN* | CD | 0.442 | 0.440 ± 0.000 (3) | -0.002 | not measured |  | a |",
        "| BN* | LS | 0.999 | not measured |  | not measured |  | b c a |",
        "| BN* | I2T | 70.9 | 71.3 ± 1.5 (3) | +0.4 | 70.9 (1) | +0.0 |  |",
        "| BN* | T2I | 72.3 | not measured |  | not measured |  | c a |",
    ]
    assert all(line.startswith("- ") for line in notes.splitlines())


def test_without_any_run(tmp_path):
    for number in (1, 2, 3, 4, 5, 7, 8, 9):
        filled = fill(load_table(number), [])
        lines = as_markdown(filled).split("\n\n")[1].splitlines()[2:]
        assert len(lines) == len(filled.lines)
        assert all(line.split(" | ")[3] == "not run" for line in lines)
        assert all(line.split(" | ")[2] == "not known" for line in lines) == (number == 4)


def test_published_nan_is_printed_as_nan():
    lines = [line for line in as_markdown(fill(load_table(2), [])).splitlines() if line.startswith("| MG -0.5")]
    assert lines[6].startswith("| MG -0.5 | Expert | NaN | not run |")
    assert lines[0].startswith("| MG -0.5 | CD | 1.3799 | not run |")


def test_csv_has_full_precision_and_every_line(collection):
    tables = [fill(load_table(number), collection) for number in (8, 9)]
    rows = list(csv.DictReader(io.StringIO(as_csv(tables))))
    assert len(rows) == 12
    i2t = rows[2]
    assert (i2t["table"], i2t["row"], i2t["column"], i2t["published"]) == ("8", "BN*", "I2T", "70.9")
    assert float(i2t["measured"]) == pytest.approx(100 * (0.70 + 0.71 + 0.73) / 3, abs=1e-12)
    assert float(i2t["sd"]) == pytest.approx(
        (((0.7 - 2.14 / 3) ** 2 + (0.71 - 2.14 / 3) ** 2 + (0.73 - 2.14 / 3) ** 2) / 2) ** 0.5 * 100
    )
    assert (i2t["num_seeds"], i2t["status"], i2t["on_protocol"]) == ("3", "measured", "yes")
    assert i2t["runs"].count("bn") == 3
    assert (i2t["as_published_measured"], i2t["as_published_sd"]) == ("70.89999999999999", "")
    assert rows[1]["status"] == "not measured"
    few = rows[7]
    assert (few["column"], few["on_protocol"], few["as_published_status"]) == ("T2I", "no", "")
    assert "num_images is 50" in few["notes"]


def test_latex(collection):
    text = as_latex(fill(load_table(9), collection))
    assert r"CLIP\_post & CD & 0.0097 & 0.0097 (1) & +0.0000 &  \\" in text
    assert r"\begin{tabular}{lrrrrl}" in text
    notes = text.partition(r"\end{tabular}")[2]
    assert r"num\_images is 50" in notes
    assert "_" not in notes.replace(r"\_", "")


def test_numbers_are_whole_at_100_columns(write_run, row_of, tmp_path):
    rows = {"async_bn": row_of("AsyncBatchNorm", strength=1.0)}
    for suffix in ("", "_published"):
        for seed in (7, 42, 71):
            model = {"trained_as": f"i0t_async{suffix}", "seed": seed}
            numbers = {f"test/async_bn/{GAP}": 0.47951 + seed / 1e5}
            write_run(f"{seed}{suffix}", numbers, rows=rows, model=model, data={"limit": 9, "num_images": 9})
    text = as_text(fill(load_table(2), collect([tmp_path])[0]))
    line = next(line for line in text.splitlines() if line.startswith("I0T_async"))
    assert line.split() == [
        *["I0T_async", "CD", "0.4795"],
        *["0.4799", "±", "0.0003*", "(3)", "+0.0004"] * 2,
        "h",
    ]
    assert max(map(len, text.splitlines())) <= 100


def test_narrow_terminals_wrap(collection):
    text = as_text(fill(load_table(8), collection), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "71.3" in text
