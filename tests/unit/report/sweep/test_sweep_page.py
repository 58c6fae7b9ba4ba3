import csv
import html
import json
import math
import re
import statistics
from html.parser import HTMLParser

import pytest

from i0t.report.sweep_files import page_path, told, write_sweep
from i0t.report.sweep_jobs import find_runs, read_runs
from i0t.report.table import MISSING

from ....run_folders import write_run, write_sweep_of_thirty


class Page(HTMLParser):
    """Texts of the tables by their place, and every element that is not text."""

    def __init__(self, source):
        super().__init__()
        self.tables, self.tags, self.attributes, self.texts = [], [], [], []
        self._inside = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ("meta", "input", "br"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        self._inside.pop()

    def handle_data(self, data):
        if {"script", "style"} & set(self._inside):
            return
        self.texts.append(data)
        if {"td", "th"} & set(self._inside):
            self.tables[-1][-1][-1] += data.strip()

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.texts))

    def table(self, *headers):
        return next(table for table in self.tables if table[0][: len(headers)] == list(headers))


def written(folder, output=None):
    return write_sweep(read_runs(find_runs(folder)), output or folder, title="my sweep")


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    folder = write_sweep_of_thirty(tmp_path_factory.mktemp("sweep") / "thirty")
    return folder, written(folder)


@pytest.fixture(scope="module")
def page(thirty):
    return Page(thirty[1].page.read_text(encoding="utf-8"))


def metrics_of(folder):
    return {f.parent.name: json.loads(f.read_text()) for f in folder.glob("*/metrics.json")}


def test_a_line_for_every_row_of_every_job(thirty, page):
    header, *lines = page.table("job", "status")
    assert header == ["job", "status", "loss", "optimizer.lr", "seed", "row", "CD", "LS", "RMG", "I→T R@1", "T→I R@1",
                      "0-shot digit", "fitted on", "measured on"]  # fmt: skip
    assert len(lines) == 28 * 3 + 2
    found = metrics_of(thirty[0])
    for job, status, *given, row, distance, _, _, recall, _, _, fitted, measured in lines:
        if job in ("7", "19"):
            assert (status, row, distance, fitted) == ("failed", MISSING, MISSING, "")
            continue
        numbers = found[job]
        assert distance == f"{numbers[f'test/{row}/gap/centroid_distance']:.4f}"
        assert recall == f"{numbers[f'test/{row}/retrieval/i2t_r1']:.3f}"
        protocol = numbers["rows"][row]["protocol"]
        assert fitted.startswith(MISSING if protocol == "none" else protocol)
        assert (status, measured, len(given)) == ("finished", "mad test", 3)


def test_the_front_is_that_of_its_definition_among_what_may_be_compared(thirty, page):
    points = {
        (job, row): (numbers[f"test/{row}/gap/centroid_distance"], numbers[f"test/{row}/retrieval/i2t_r1"])
        for job, numbers in metrics_of(thirty[0]).items()
        for row in numbers["rows"]
    }

    def beaten(key):
        x, y = points[key]
        same = [p for other, p in points.items() if (other[1] == "posthoc_test") == (key[1] == "posthoc_test")]
        return any(a <= x and b >= y and (a < x or b > y) for a, b in same)

    front = {(line[0], line[1]) for line in page.table("job", "row", "CD", "I→T R@1")[1:]}
    assert front == {key for key in points if not beaten(key)}
    assert {row for _, row in front} == {"none", "posthoc", "posthoc_test"}


def test_means_over_seeds(thirty, page):
    header, *lines = page.table("row", "loss", "optimizer.lr", "seeds")
    assert len(lines) == 5 * 2 * 3
    found = metrics_of(thirty[0])
    # Jobs 6 to 8 are the seeds of one setting, of which 7 failed.
    for loss, rate, jobs in (("clip", "0.003", "345"), ("cyclip", "0.001", "68")):
        (line,) = [line for line in lines if line[:3] == ["posthoc", loss, rate]]
        values = [found[job]["test/posthoc/gap/centroid_distance"] for job in jobs]
        shown = f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"
        assert (line[3], line[header.index("CD")]) == (str(len(values)), shown)
        assert line[header.index("fitted on")] == "inductive: train, 12,000 images"


def test_the_best_job_and_its_command(thirty, page):
    found = metrics_of(thirty[0])
    comparable = {
        (numbers[f"test/{row}/retrieval/i2t_r1"], job, row)
        for job, numbers in found.items()
        for row in ("none", "posthoc")
    }
    value, job, row = max(comparable)
    assert f"Job {job} , row {row}: I→T R@1 {value:.3f} (higher is better)".replace(" ,", ",") in page.text
    overrides = (thirty[0] / job / ".hydra" / "overrides.yaml").read_text()
    loss = re.search(r"loss=(\w+)", overrides)[1]
    assert f"python train.py loss={loss} optimizer.lr=" in page.text


def test_failed_jobs_with_their_reason_as_text(page):
    assert page.table("job", "status", "why")[1:] == [
        ["7", "failed", page.table("job", "status", "why")[1][2]],
        ["19", "failed", page.table("job", "status", "why")[2][2]],
    ]
    first, second = (line[2] for line in page.table("job", "status", "why")[1:])
    assert first.startswith("the loss is NaN: <script>alert(1)</script>python train.py loss=cyclip")
    assert "+note='\"'\"'<b>5 > 4</b>'\"'\"'" in first
    assert second.startswith("OutOfMemoryError: 16 GiB")
    assert "30 jobs: 28 finished, 2 failed." in page.text


def test_the_page_is_one_small_file_that_asks_for_nothing(thirty, page):
    source = thirty[1].page.read_text(encoding="utf-8")
    assert "b" not in page.tags
    assert page.tags.count("script") == 9, (
        "data, two figures, dark colours; Bokeh, what all pages share, three of this page"
    )
    (policy,) = [value for name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert {"src", "srcset"}.isdisjoint(name for name, _ in page.attributes)
    assert [value for name, value in page.attributes if name == "href"] == ["#failed"]
    assert len(source.encode()) < 1_700_000
    assert not re.search(r"<(b|script)>(5|alert)", source)


def test_the_same_jobs_give_the_same_bytes(thirty, tmp_path):
    folder, files = thirty
    assert written(folder, tmp_path).page.read_bytes() == files.page.read_bytes()


def test_a_job_links_to_its_own_page(tmp_path):
    write_run(tmp_path / "a#1 b", ["seed=0"], {"none": {"gap/rmg": 0.5}})
    (tmp_path / "a#1 b" / "report.html").touch()
    page = Page(written(tmp_path).page.read_text())
    assert ("href", "a%231%20b/report.html") in page.attributes


def test_summary_has_status_numbers_protocols_and_reasons(thirty):
    with thirty[1].summary.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["job"] for line in lines] == [str(i) for i in range(30)]
    found = metrics_of(thirty[0])
    for line in lines:
        number = line["test/posthoc/gap/centroid_distance"]
        if line["job"] in found:
            assert float(number) == found[line["job"]]["test/posthoc/gap/centroid_distance"]
            assert (line["status"], line["protocol of posthoc"], line["reason"]) == ("finished", "inductive", "")
        else:
            assert (line["status"], number, line["protocol of posthoc"]) == ("failed", "", "")
    assert lines[7]["reason"] == "the loss is NaN: <script>alert(1)</script>"
    assert lines[0]["note"] == "'<b>5 > 4</b>'"


def test_what_is_said_ends_with_the_page_and_is_not_longer_than_a_screen(thirty):
    said = told(thirty[1]).splitlines()
    assert said[0] == f"summary of 30 jobs: {thirty[0] / 'summary.csv'}"
    assert said[-1] == f"report over the jobs: {thirty[0] / 'report.html'}"
    assert len(said) == 3, "the means of ten settings are in the file"


def test_a_page_of_another_kind_stays_and_is_linked_to(tmp_path):
    write_run(tmp_path / "0", ["seed=0"], {"none": {"gap/rmg": 0.5}})
    assert written(tmp_path).page.name == "report.html"
    assert written(tmp_path).page.name == "report.html", "its own page is written anew"
    study = '<!doctype html><html><head><meta name="generator" content="other"></head>a study</html>'
    (tmp_path / "report.html").write_text(study)
    files = written(tmp_path)
    assert files.page == tmp_path / "jobs.html"
    assert ("href", "report.html") in Page(files.page.read_text()).attributes
    assert (tmp_path / "report.html").read_text() == study
    assert written(tmp_path).page == tmp_path / "jobs.html"
    (tmp_path / "report.html").unlink()
    assert page_path(tmp_path) == tmp_path / "report.html"


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ([({}, None)], "1 job: 1 finished."),
        ([(None, "why")], "1 job: 1 failed."),
        ([({"none": {"gap/rmg": math.nan}}, None)], "1 job: 1 finished."),
        ([({"none": {"gap/rmg": 0.5}}, None), (None, None)], "2 jobs: 1 finished, 1 unfinished."),
        ([({"none": {"a/x": math.inf, "a/y": 1.0}}, None)] * 2, "2 jobs: 2 finished."),
    ],
)
def test_pages_of_few_numbers_or_none(tmp_path, runs, sentence):
    for i, (numbers, error) in enumerate(runs):
        write_run(tmp_path / str(i), [f"seed={i}"], numbers, error=error)
    source = written(tmp_path).page.read_text()
    assert sentence in html.unescape(Page(source).text)


def test_nothing_is_written_where_the_page_cannot_be_made(tmp_path, monkeypatch):
    write_run(tmp_path / "0", ["seed=0"], {"none": {"gap/rmg": 0.5}})

    def fails(*arguments, **options):
        raise RuntimeError("no page")

    monkeypatch.setattr("i0t.report.sweep_files.render_sweep_page", fails)
    with pytest.raises(RuntimeError, match="no page"):
        written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
