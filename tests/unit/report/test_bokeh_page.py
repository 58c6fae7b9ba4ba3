import base64
import hashlib
import json
import re

import pytest
from bokeh.models import ColumnDataSource
from jinja2 import Environment
from markupsafe import Markup

from i0t.analysis.colors import IMAGE_COLOR, MATCHED_COLOR, SERIES_COLORS, TEXT_COLOR, UNMATCHED_COLOR
from i0t.report.bokeh_page import DARK_COLORS, embed_figures, new_figure, script_json, style_legend

EVIL = "</script><script>alert(1)</script><!-- <script> -->\u2028 & \"'"


def make_figure(label="a curve"):
    figure = new_figure(height=200, label=label, x_axis_label="step")
    source = ColumnDataSource({"x": [0, 1], "y": [2.0, 3.0], "caption": [EVIL, "plain"]}, name="points")
    figure.scatter("x", "y", source=source, color=IMAGE_COLOR, legend_label=EVIL)
    style_legend(figure)
    return figure


def blocks(scripts):
    """Id to JSON of the data blocks, and the sources of the scripts, as a browser splits them."""
    found = re.findall(r"<script([^>]*)>(.*?)</script>", scripts, flags=re.DOTALL | re.IGNORECASE)
    data = {
        re.search(r'id="([^"]+)"', attributes).group(1): json.loads(text) for attributes, text in found if attributes
    }
    return data, [text for attributes, text in found if not attributes]


def ids_of(node):
    if isinstance(node, dict):
        yield from ([node["id"]] if "id" in node else [])
        for value in node.values():
            yield from ids_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from ids_of(value)


def columns_of(node, name):
    """The columns of a named source in a document."""
    if isinstance(node, dict):
        if node.get("name") == "ColumnDataSource" and node["attributes"].get("name") == name:
            return dict(node["attributes"]["data"]["entries"])
        node = list(node.values())
    if isinstance(node, list):
        return next((found for value in node if (found := columns_of(value, name)) is not None), None)
    return None


def test_captions_with_scripts_cannot_end_an_element_and_arrive_whole():
    data, sources = blocks(embed_figures({"one": make_figure()}, data={"captions": [EVIL]}).scripts)
    assert data["data-captions"] == [EVIL]
    assert columns_of(data["bokeh-one"]["doc"], "points")["caption"] == [EVIL, "plain"]
    assert len(sources) == 2  # BokehJS and our own: nothing of a caption became one
    assert not any("alert(1)" in source for source in sources)


def test_the_policy_allows_the_pages_scripts_alone_and_no_address():
    embedded = embed_figures({"one": make_figure()}, scripts=["i0t.ready(() => {});"])
    _, sources = blocks(embedded.scripts)
    assert sources[-1] == "i0t.ready(() => {});"
    hashes = [base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in sources]
    directives = dict(part.split(" ", 1) for part in embedded.policy.split("; "))
    assert directives["script-src"].split(" ") == [f"'sha256-{value}'" for value in hashes]
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data: blob:"
    assert set(directives) == {"default-src", "img-src", "style-src", "script-src"}
    assert "eval" not in embedded.policy


def test_the_same_figure_gives_the_same_bytes_however_many_bokeh_has_made():
    first = embed_figures({"one": make_figure(), "two": make_figure("another")})
    for _ in range(3):
        make_figure()
    second = embed_figures({"one": make_figure(), "two": make_figure("another")})
    assert first == second
    data, _ = blocks(first.scripts)
    ids = [set(ids_of(data[f"bokeh-{name}"])) for name in ("one", "two")]
    assert ids[0] & ids[1] == set()
    assert all(re.fullmatch(r"one-\d+", found) for found in ids[0])
    assert data["bokeh-one"]["root_id"] in ids[0]
    assert data["bokeh-one"]["target_id"] == "figure-one"


def test_a_figure_stands_where_the_template_puts_it_and_is_described():
    embedded = embed_figures({"one": make_figure('gap <b> & "rmg"')})
    html = Environment(autoescape=True).from_string("{{ e.figures.one }}").render(e=embedded)
    assert html == (
        '<div class="bokeh-figure" id="figure-one" role="img" aria-label="gap &lt;b&gt; &amp; &#34;rmg&#34;"></div>'
    )
    assert isinstance(embedded.scripts, Markup)


def test_figures_are_named_by_plain_words():
    with pytest.raises(ValueError, match="letters, digits, hyphens and underscores, got 'a b'"):
        embed_figures({"a b": make_figure()})


def test_a_page_without_figures_does_not_carry_bokeh():
    assert len(embed_figures({}, data={"x": 1}).scripts) < 20_000
    assert len(embed_figures({"one": make_figure()}).scripts) > 1_000_000


def test_json_for_scripts_keeps_values_and_refuses_what_json_has_not():
    assert json.loads(script_json({"a": EVIL, "b": [1.5, None, True]})) == {"a": EVIL, "b": [1.5, None, True]}
    assert "<" not in script_json(EVIL)
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def luminance(color):
    channels = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_the_figures_has_a_dark_counterpart_that_can_be_seen():
    for color in (*SERIES_COLORS, IMAGE_COLOR, TEXT_COLOR, MATCHED_COLOR, UNMATCHED_COLOR):
        assert contrast(DARK_COLORS[color.lower()], DARK_COLORS["#ffffff"]) >= 4  # on the dark card
    assert contrast(DARK_COLORS["#1f2328"], DARK_COLORS["#ffffff"]) >= 7
    assert len(set(DARK_COLORS.values())) == len(DARK_COLORS)  # the way back to light is unique
