"""The files of a sweep over captions: every figure in a page that needs nothing else, and tables of the numbers."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from i0t.report.imbalance_figures import Picture, draw_lines, draw_training
from i0t.report.imbalance_page import render_page, study_of, write_information_imbalance
from i0t.report.imbalance_points import RMG, imbalance_jobs, imbalance_points
from i0t.report.imbalance_tables import to_csv, to_json, to_markdown
from i0t.report.style import SERIES_COLORS

FIGURES = ["gap_by_k", "gap_by_bits", "object_bias_by_k", "object_bias_by_bits", "accuracy_by_k", "accuracy_by_bits",
           "contrast_by_k", "gap_by_step"]  # fmt: skip
TABLES = {f"information_imbalance.{ending}" for ending in ("json", "csv", "md")}


class Page(HTMLParser):
    """Elements with their attributes, and the visible text."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def page_of(folder):
    return Page((folder / "report.html").read_text())


def test_every_file_is_written_and_the_page_holds_every_figure(make_sweep, tmp_path):
    jobs = make_sweep(mains=("digit", "color"), seeds=(0, 1))
    files = write_information_imbalance(jobs[:-1], tmp_path, unfinished=["job 23 left no numbers (<seed>=1)"])
    assert {path.name for path in tmp_path.iterdir()} == {*TABLES, "figures", "report.html"}
    assert {path.name for path in files} == {*TABLES, "report.html", *(f"{name}.png" for name in FIGURES)}
    page = page_of(tmp_path)
    shown = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    embedded = [base64.b64decode(uri.removeprefix("data:image/png;base64,")) for uri in shown]
    assert embedded == [(tmp_path / "figures" / f"{name}.png").read_bytes() for name in FIGURES]
    for content in embedded:
        picture = Image.open(io.BytesIO(content))
        assert picture.size[0] > 800
        assert len(picture.getcolors(2**24)) > 20, "something is drawn"
    html = (tmp_path / "report.html").read_text()
    assert not re.findall(r"https?://", html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object"})
    assert "default-src 'none'" in html
    assert "job 23 left no numbers (<seed>=1)" in page.text, "escaped"
    assert "color k=5 seed 1" in page.text
    assert "95 % intervals: t distribution over 2 seeds; bootstrap over the test images of the one job" in page.text
    content = json.loads((tmp_path / "information_imbalance.json").read_text())
    for claim in content["claims"]:
        assert claim["statement"] in page.text
        for test in claim["tests"]:
            assert test["measure"] in page.text
    assert len([1 for _, attributes in page.elements if "verdict" in (attributes.get("class") or "")]) == sum(
        1 + len(claim["tests"]) for claim in content["claims"]
    )


def test_tables_hold_the_numbers(make_sweep):
    study = study_of(make_sweep(mains=("digit", "color"), ks=(1, 5)))
    points = {(p.main_object, p.k): p for p in study.points}
    lines = list(csv.DictReader(to_csv(study.points).splitlines()))
    assert len(lines) == sum(len(point.values) for point in points.values())
    for line in lines:
        value = points[line["main_object"], int(line["k"])].values[line["number"]]
        assert [float(line[end]) for end in ("mean", "low", "high")] == pytest.approx(value[:3])
        assert line["jobs"] == "3"
    content = json.loads(to_json(study))
    assert {(p["main_object"], p["k"]): p["values"][RMG]["mean"] for p in content["points"]} == pytest.approx(
        {place: point.values[RMG].mean for place, point in points.items()}
    )
    assert {claim["verdict"] for claim in content["claims"]} == {"holds", "not tested"}
    text, value = to_markdown(study), points["color", 5].values[RMG]
    assert f"| color | 5 | 10.71 | {value.mean:.3f} [{value.low:.3f}, {value.high:.3f}] |" in text
    for claim in content["claims"]:
        assert f"- **{claim['verdict']}**: {claim['statement']}" in text


def test_one_k_gives_one_sentence_and_no_trend(make_sweep):
    study = study_of(make_sweep(ks=(5,)))
    page = Page(render_page(study, []))
    assert "All runs have k = 5, so nothing can be said of how numbers change with k." in page.text
    claims = {claim.name: claim for claim in study.claims}
    for name in ("gap_falls", "accuracy_rises", "bias_falls"):
        assert claims[name].verdict == "not tested"
        assert all(test.result is None for test in claims[name].tests)
    assert claims["gap_closes"].verdict == "holds"


def test_without_bits_or_history_those_figures_are_left_out(make_sweep, tmp_path):
    jobs = make_sweep(seeds=(0,), start=None, contrast=None)
    for job in jobs:
        job["metrics"]["data"] = {}
    write_information_imbalance(jobs, tmp_path)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"gap_by_k", "object_bias_by_k", "accuracy_by_k"}


def test_nothing_is_written_where_nothing_can_be_said(tmp_path):
    with pytest.raises(ValueError, match="none of 0 jobs"):
        write_information_imbalance([], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by_bits", [False, True])
def test_lines_and_bands_are_the_points(make_sweep, by_bits):
    jobs, _ = imbalance_jobs(make_sweep(mains=("digit", "color"), rmg=lambda k, main: 0.3 + (main == "color") + k))
    points = imbalance_points(jobs)
    axes = draw_lines(points, [Picture("RMG", "gap", [(RMG, "-")])], by_bits=by_bits).axes[0]
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    for index, main in enumerate(("digit", "color")):
        own = [point for point in points if point.main_object == main]
        line = lines[main]
        assert to_hex(line.get_color()).upper() == SERIES_COLORS[index]
        places = [point.caption_bits if by_bits else point.k for point in own]
        np.testing.assert_allclose(line.get_xdata(), places)
        np.testing.assert_allclose(line.get_ydata(), [point.values[RMG].mean for point in own])
        corners = axes.collections[index].get_paths()[0].vertices
        assert corners[:, 1].min() == pytest.approx(min(point.values[RMG].low for point in own))
        assert corners[:, 1].max() == pytest.approx(max(point.values[RMG].high for point in own))
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 2, "k = 0 of either main object"


def test_training_is_drawn_for_the_least_and_the_most_k(make_sweep):
    jobs, _ = imbalance_jobs(make_sweep(start=lambda k, main: 1.0 + k))
    lines = {line.get_label(): line for line in draw_training(jobs).axes[0].lines}
    assert set(lines) == {"digit, k = 1", "digit, k = 5"}
    assert lines["digit, k = 5"].get_xdata().tolist() == [0, 200, 400]
    np.testing.assert_allclose(lines["digit, k = 5"].get_ydata(), [6.0, 0.5, 0.1], atol=1e-3)
