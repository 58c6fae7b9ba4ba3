import base64
import dataclasses
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch.nn import functional as F

from i0t.analysis.activation_change import ActivationChange
from i0t.analysis.activations import activation_profile
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import RowResult
from i0t.report import page
from i0t.report.figure_groups import embedding_states
from i0t.report.page import write_report
from i0t.report.thumbnails import picture_uri, read_image, thumbnail_uri

EVIL = '<script>alert("x")</script><img src=http://evil.example/a.png> & $x$'
VOID = {"meta", "img", "br", "link", "input", "hr"}


class PlainDetail:
    """A detail of an evaluation that the report knows nothing of."""

    title = "A plain <detail>"

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count = name, count

    def as_json(self) -> dict[str, Any]:
        return {"count": self.count}

    def header(self) -> tuple[str, ...]:
        return ("word", "number")

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        return [(f"{self.name} {number} <b>", 1.5 * number) for number in range(self.count)]

    def draw(self, axes: Axes) -> None:
        axes.plot(range(self.count))


class Page(HTMLParser):
    """Reads a page, checks that elements nest, and keeps elements and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script") and data.strip():
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def image_of(row: int) -> np.ndarray:
    return np.full((16, 16, 3), (row, 255 - row, 40), np.uint8)


def make_embeddings(num_images: int = 24, dim: int = 16) -> EmbeddingSet:
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(num_images, dim, generator=generator)
    return EmbeddingSet.from_index(
        common + 0.3 * torch.randn(num_images, dim, generator=generator) + 2,
        common + 0.3 * torch.randn(num_images, dim, generator=generator) - 2,
        torch.arange(num_images),
        captions=(EVIL,) * num_images,
        provenance={"model": "tiny <b>"},
    )


def make_row(embeddings: EmbeddingSet, name: str, *, centred: bool) -> RowResult:
    image, text = F.normalize(embeddings.image_features, dim=1), F.normalize(embeddings.text_features, dim=1)
    if centred:
        image, text = F.normalize(image - image.mean(0), dim=1), F.normalize(text - text.mean(0), dim=1)
    return RowResult(
        name=name,
        reducer="i0t.X",
        fit_split="test" if centred else None,
        fit_samples=8616 if centred else 0,
        protocol="transductive" if centred else "none",
        metrics={
            "gap/centroid_distance": 0.0102 if centred else 0.7642,
            "retrieval/i2t_r1": 0.696,
            "gap/extra": 0.12345,
        },
        intervals={"gap/centroid_distance": (0.0051, 0.0199)} if centred else {},
        image_features=image,
        text_features=text,
    )


def write_small(path: Path, embeddings: EmbeddingSet, **changes: Any) -> str:
    """A page of one row and no training, which takes a fraction of the time."""
    return write(path, embeddings, **{"rows": [make_row(embeddings, "none", centred=False)], "history": {}, **changes})


def write(path: Path, embeddings: EmbeddingSet, **changes: Any) -> str:
    rows = [make_row(embeddings, "none", centred=False), make_row(embeddings, "post<hoc>", centred=True)]
    arguments: dict[str, Any] = {
        "title": "A <run>",
        "rows": rows,
        "embeddings": embeddings,
        "images": image_of,
        "history": {"train/loss": [(0, 2.0), (1, 1.0)], "val/rmg": [(0, 0.5), (1, 0.4)]},
        "config_yaml": "gap_reducer: {_target_: i0t.X}  # <script>",
        "notes": ["Calibration and test data differ: 1.7 > 1.5."],
        "environment": {"torch": "2.14"},
    }
    write_report(path, **{**arguments, **changes})
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("run") / "deep" / "report.html"
    return path, write(path, make_embeddings())


def test_the_table_shows_numbers_intervals_and_protocol(report: tuple[Path, str]) -> None:
    text = Page(report[1]).text
    none, posthoc = (
        text.index("none \N{EN DASH} (nothing fitted) 0.7642 0.696"),
        text.index("post<hoc> transductive: test, 8,616 images 0.0102 [0.0051, 0.0199] 0.696"),
    )
    assert (
        none
        < posthoc
        < text.index("Training Values")
        < text.index("The modality gap, seen")
        < text.index("Configuration")
    )
    assert "gap/extra 0.1235 0.1235" in text  # metrics outside the headline stand in the full list
    assert "fitted on the very data it is measured on" in text


def test_the_page_is_self_contained_and_runs_its_own_scripts_alone(report: tuple[Path, str]) -> None:
    parsed = Page(report[1])
    assert {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in parsed.elements} == set()
    assert not any("src" in script for script in parsed.all("script"))
    running = re.findall(r"<script>(.*?)</script>", report[1], flags=re.DOTALL)
    assert len(running) == 3  # BokehJS, the figures' and the page's
    (policy,) = [m["content"] for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    hashes = [base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in running]
    assert policy == (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src "
        + " ".join(f"'sha256-{value}'" for value in hashes)
    )
    assert all(image["src"].startswith("data:image/") for image in parsed.all("img"))
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert not any({"href", "srcset", "action", "background"} & attributes.keys() for _, attributes in parsed.elements)
    style = report[1].split("<style>")[1].split("</style>")[0]
    assert not re.search(r"url\((?!data:image/webp;base64,)|@import|https?:", style)
    assert len(report[1]) < 3_000_000


def test_captions_names_and_configuration_are_shown_as_text(report: tuple[Path, str]) -> None:
    parsed = Page(report[1])
    assert "<script>alert" not in report[1]
    assert EVIL in parsed.text
    assert "A <run>" in parsed.text
    assert "# <script>" in parsed.text
    assert "tiny <b>" in parsed.text
    assert "1.7 > 1.5" in parsed.text


def test_every_figure_is_in_the_page_and_in_the_folder(report: tuple[Path, str]) -> None:
    path, html = report
    files = {file.name: file.read_bytes() for file in (path.parent / "figures").iterdir()}
    assert set(files) == {
        "training_loss.png",
        "training_modality-gap-on-validation-data.png",
        "examples.png",
        "mean_activations.png",
        *(f"{kind}_{row}.png" for kind in ("projection", "cosines") for row in ("1_none", "2_post-hoc")),
    }
    for name, png in files.items():
        assert min(Image.open(io.BytesIO(png)).size) > 300
        if name != "examples.png":  # the page shows the examples as cards
            assert picture_uri(png) in html
    assert sorted(file.name for file in path.parent.iterdir()) == ["figures", "report.html"]


def test_retrieval_thumbnails_are_the_right_images() -> None:
    uri = thumbnail_uri(image_of(7))
    assert uri.startswith("data:image/png;base64,")
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    np.testing.assert_array_equal(decoded, image_of(7))
    photo = thumbnail_uri(np.zeros((300, 600, 3), np.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(photo.split(",")[1]))).size == (144, 72)


def test_answers_are_marked_right_and_wrong(report: tuple[Path, str]) -> None:
    parsed = Page(report[1])
    # Captions all read the same here, so each of 4 image queries has one answer, a right one, under both rows.
    right = [li for li in parsed.all("li") if li.get("class") == "right"]
    assert len(right) >= 8
    assert parsed.text.count("✗") > 8
    assert thumbnail_uri(image_of(0))[:20] in report[1]


def test_a_failure_midway_leaves_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Path, target: Path) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk is full"):
        write_small(tmp_path / "report.html", make_embeddings(4))
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_a_failure_while_drawing_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no retrieval")

    monkeypatch.setattr(page, "image_queries", broken)
    with pytest.raises(RuntimeError, match="no retrieval"):
        write_small(path, make_embeddings(4))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unpaired_sets_without_images_or_captions_say_what_is_missing(tmp_path: Path) -> None:
    embeddings = dataclasses.replace(
        make_embeddings(2, 2), pairs=torch.empty(0, 2, dtype=torch.int64), captions=None, relevant_pairs=None
    )
    parsed = Page(write_small(tmp_path / "report.html", embeddings, images=None))
    assert "no pairs are known, so no lines join them" in parsed.text
    assert "it is not known which text belongs to which image" in parsed.text
    assert "Training" not in parsed.text
    assert "The data" not in parsed.text
    assert not (tmp_path / "figures" / "examples.png").exists()


def test_pairs_without_images_or_captions_are_named_by_row(tmp_path: Path) -> None:
    embeddings = make_embeddings(5)
    parsed = Page(write_small(tmp_path / "report.html", embeddings, images=None))
    assert "image 3" in parsed.text
    bare = dataclasses.replace(embeddings, captions=None)
    assert (
        "There are neither images nor captions to show."
        in Page(write_small(tmp_path / "bare.html", bare, images=None)).text
    )


def test_no_rows_still_make_a_page_of_the_encoders_output(tmp_path: Path) -> None:
    parsed = Page(write_small(tmp_path / "report.html", make_embeddings(3), rows=[]))
    assert "compared no reducers" in parsed.text
    assert (tmp_path / "figures" / "projection_1_encoder-output.png").exists()


def test_the_encoders_output_is_drawn_unless_a_row_is_just_that() -> None:
    embeddings = make_embeddings()
    none, posthoc = make_row(embeddings, "none", centred=False), make_row(embeddings, "posthoc", centred=True)
    assert [state.name for state in embedding_states(embeddings, [posthoc])] == ["encoder output", "posthoc"]
    assert [state.name for state in embedding_states(embeddings, [posthoc, none])] == ["posthoc", "none"]
    with pytest.raises(ValueError, match="'none' has 24 images and 24 texts, the embeddings have 4 and 4"):
        embedding_states(make_embeddings(4), [none])


def test_images_of_another_kind_are_refused(tmp_path: Path) -> None:
    assert read_image([image_of(0), image_of(1)], 1)[0, 0].tolist() == [1, 254, 40]
    with pytest.raises(ValueError, match=r"image 0 must be \(height, width, 3\) uint8, got \(3, 8, 8\) uint8"):
        read_image(np.zeros((1, 3, 8, 8), np.uint8), 0)
    with pytest.raises(ValueError, match="float32"):
        read_image(lambda row: np.zeros((8, 8, 3), np.float32), 0)


def test_differences_warnings_and_protocols_stand_beside_the_table(tmp_path: Path) -> None:
    embeddings = make_embeddings()
    none, centred = (make_row(embeddings, name, centred=name == "post") for name in ("none", "post"))
    spread = torch.linspace(-0.01, 0.01, 101)
    sentence = "24 images, 24 texts <b>"
    rows = [
        dataclasses.replace(
            none, replicates={"gap/centroid_distance": 0.7642 + spread}, protocols={"gap": sentence}, notes=()
        ),
        dataclasses.replace(
            centred,
            replicates={"gap/centroid_distance": 0.0102 + spread.flip(0)},
            notes=("the images it was fitted on differ",),
        ),
    ]
    text = Page(write(tmp_path / "report.html", embeddings, rows=rows, history={})).text
    assert "Differences from none" in text
    # 95 % of evenly spread replicates: .95 * .02 to either side of the difference of the numbers.
    assert "post -0.7540* [-0.7730, -0.7350]" in text
    assert "gap/centroid_distance -0.7540* [-0.7730, -0.7350]" in text
    assert "post: the images it was fitted on differ." in text
    assert f"gap {sentence}" in text


def test_one_row_has_no_differences(tmp_path: Path) -> None:
    assert "Differences" not in Page(write_small(tmp_path / "report.html", make_embeddings())).text


def test_details_of_any_evaluation_are_shown_with_their_first_lines(tmp_path: Path) -> None:
    embeddings = make_embeddings()
    names = ("none", "post")
    rows = [
        dataclasses.replace(
            make_row(embeddings, name, centred=name == "post"),
            details={"scores": PlainDetail(name, 12)},
            protocols={"scores": "scores of 24 images"},
        )
        for name in names
    ]
    html = write(tmp_path / "report.html", embeddings, rows=rows, history={})
    parsed = Page(html)
    assert "A plain <detail> Scores of 24 images." in parsed.text
    assert "The first 10 lines of each row; all 24 lines stand in scores.csv." in parsed.text
    assert "row word number none none 0 <b> 0 none none 1 <b> 1.5 none none 2 <b> 3" in parsed.text
    assert "post 9 <b> 13.5" in parsed.text
    assert "post 10 <b>" not in parsed.text
    png = (tmp_path / "figures" / "scores.png").read_bytes()
    assert picture_uri(png) in html
    assert "Which dimensions carry the gap" in parsed.text  # not measured, so the report finds them itself


def test_measured_activations_are_not_shown_twice(tmp_path: Path) -> None:
    embeddings = make_embeddings(dim=64)
    row = make_row(embeddings, "none", centred=False)
    profile = activation_profile(row.image_features, row.text_features)
    measured = dataclasses.replace(row, details={"mean_activations": ActivationChange(profile, profile)})
    without = write_small(tmp_path / "a" / "report.html", embeddings)
    found = write_small(tmp_path / "b" / "report.html", embeddings, rows=[measured])
    for html in (without, found):
        assert Page(html).text.count("Which dimensions carry the gap") == 1
    assert "all 128 lines stand in mean_activations.csv" in Page(found).text
    assert "mean_activations.csv" not in without
    pngs = [(tmp_path / run / "figures" / "mean_activations.png").read_bytes() for run in "ab"]
    assert pngs[0] == pngs[1]
