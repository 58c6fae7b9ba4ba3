import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from i0t.evaluation.results import Detail, RowResult
from i0t.report import detail_files
from i0t.report.detail_figures import draw_details
from i0t.report.detail_files import write_details


class Lines:
    """A detail of given lines, whose picture is a line up to a height."""

    title = "Lines"

    def __init__(self, *lines: tuple[Any, ...], height: float = 1.0, labels: tuple[str, ...] = ()) -> None:
        self._lines, self.height, self.labels = lines, height, labels

    def as_json(self) -> dict[str, Any]:
        return {"nan": float("nan"), "list": [1, float("inf"), 0.1], "text": "é"}

    def header(self) -> tuple[str, ...]:
        return ("caption", "score")

    def lines(self) -> list[tuple[Any, ...]]:
        return list(self._lines)

    def draw(self, axes: Axes) -> None:
        axes.plot([0, 1], [0, self.height])
        if self.labels:
            axes.set_yticks(np.linspace(0, 1, len(self.labels)), self.labels)


def row(name: str, details: Mapping[str, Detail]) -> RowResult:
    return RowResult(
        name=name,
        reducer="i0t.X",
        fit_split=None,
        fit_samples=0,
        protocol="none",
        metrics={},
        intervals={},
        image_features=torch.eye(2),
        text_features=torch.eye(2),
        details=details,
    )


def test_every_row_stands_in_json_csv_markdown_and_picture(tmp_path: Path) -> None:
    first = Lines(('a, "b" | c', 0.123456789), ("line\nbreak", None))
    rows = [row("none", {"scores": first}), row("x", {}), row("post", {"scores": Lines(("d", 2.0)), "more": Lines()})]
    files = write_details(tmp_path / "run", rows)
    names = [file.relative_to(tmp_path / "run").as_posix() for file in files]
    assert names == [
        f"{folder}{name}.{ending}"
        for name in ("scores", "more")
        for folder, ending in (("", "json"), ("", "csv"), ("", "md"), ("figures/", "png"))
    ]
    assert sorted(files) == sorted(file for file in (tmp_path / "run").rglob("*") if file.is_file())
    content = json.loads((tmp_path / "run" / "scores.json").read_text(encoding="utf-8"))
    assert content == {name: {"nan": None, "list": [1, None, 0.1], "text": "é"} for name in ("none", "post")}
    parsed = list(csv.reader(io.StringIO((tmp_path / "run" / "scores.csv").read_text(encoding="utf-8"))))
    assert parsed == [
        ["row", "caption", "score"],
        ["none", 'a, "b" | c', "0.123456789"],
        ["none", "line\nbreak", ""],
        ["post", "d", "2.0"],
    ]
    assert (tmp_path / "run" / "scores.md").read_text(encoding="utf-8").splitlines() == [
        "| row | caption | score |",
        "| :-- | --: | :-- |",
        '| none | a, "b" \\| c | 0.1235 |',
        "| none | line break |  |",
        "| post | d | 2 |",
    ]
    assert Image.open(tmp_path / "run" / "figures" / "scores.png").size == (1680, 525)


def test_markdown_of_many_lines_is_cut_and_says_where_the_rest_is(tmp_path: Path) -> None:
    many = [(str(number), float(number)) for number in range(101)]
    write_details(tmp_path, [row("a", {"x": Lines(*many)}), row("b", {"x": Lines(*many[:100])})], figures=False)
    text = (tmp_path / "x.md").read_text()
    assert text.endswith("\n\nThe first 100 lines of each row; all 201 lines stand in x.csv.\n")
    assert "| a | 99 | 99 |" in text
    assert "| a | 100 |" not in text
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 202
    assert not (tmp_path / "figures").exists()
    write_details(tmp_path, [row("b", {"x": Lines(*many[:100])})], figures=False)
    assert "stand in" not in (tmp_path / "x.md").read_text()


def test_a_failure_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Lines):
        def as_json(self) -> dict[str, Any]:
            raise RuntimeError("no content")

    with pytest.raises(RuntimeError, match="no content"):
        write_details(tmp_path, [row("a", {"fine": Lines(), "broken": Broken()})], figures=False)
    assert list(tmp_path.iterdir()) == []

    def full(self: Path, target: Path) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk is full"):
        write_details(tmp_path, [row("a", {"fine": Lines()})], figures=False)
    assert list(tmp_path.iterdir()) == []


def test_other_columns_and_names_with_folders_are_refused(tmp_path: Path) -> None:
    class Other(Lines):
        def header(self) -> tuple[str, ...]:
            return ("caption",)

    with pytest.raises(ValueError, match="different columns for the detail 'x'"):
        write_details(tmp_path, [row("a", {"x": Lines()}), row("b", {"x": Other()})])
    for name in ("../x", "a/b", ""):
        with pytest.raises(ValueError, match="a detail is named by its files, without folder: got"):
            write_details(tmp_path, [row("a", {name: Lines()})])
    assert write_details(tmp_path, [row("a", {})]) == []


def test_pictures_stand_side_by_side_on_one_scale_under_the_names_of_the_rows() -> None:
    figure = draw_details({"none": Lines(height=1), "$post": Lines(height=5), "third": Lines(height=2)})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["none", "$post", "third"]
    assert {axes.get_ylim() for axes in shown} == {(-0.25, 5.25)}
    boxes = [axes.get_position() for axes in shown]
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y1
    assert boxes[0].x0 == boxes[2].x0 < boxes[0].x1 < boxes[1].x0


@pytest.mark.parametrize("labels", [("short", "x"), ("a name that needs much more room than a number", "x")])
def test_long_names_of_heights_are_not_cut(labels: tuple[str, ...]) -> None:
    figure = draw_details({"a": Lines(labels=labels), "b": Lines(labels=labels)})
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    left, right = (axes.yaxis.get_tightbbox(renderer) for axes in figure.axes)
    assert left is not None
    assert right is not None
    assert left.x0 >= 0
    assert right.x0 >= figure.axes[0].get_window_extent().x1


def test_numbers_and_tables_do_not_wait_for_the_library_of_figures() -> None:
    top = [line for line in Path(detail_files.__file__).read_text().splitlines() if line.startswith(("import", "from"))]
    assert not any("matplotlib" in line or "figures" in line or "style" in line for line in top)
