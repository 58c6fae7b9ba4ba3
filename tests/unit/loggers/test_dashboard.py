"""What all dashboards share."""

import csv
import itertools

import numpy as np

from i0t.loggers.dashboard import BIN_EDGES, Histograms, Table, flat


def test_a_table_keeps_its_cells():
    table = Table(("name", "value"), [("a, b", 0.1), ("c", None), ('"d"', 3)])
    assert list(csv.reader(table.to_csv().splitlines())) == [
        ["name", "value"], ["a, b", "0.1"], ["c", ""], ['"d"', "3"]
    ]  # fmt: skip


def test_what_would_be_markup_is_shown_as_text():
    table = Table(("caption",), [("<script>a|b</script>\n`x` & y",), (0.123456,)])
    assert table.to_markdown().splitlines() == [
        "| caption |", "| --- |", "| &lt;script&gt;a&#124;b&lt;/script&gt; &#96;x&#96; &amp; y |", "| 0.1235 |"
    ]  # fmt: skip


def test_counts_are_those_of_a_loop_and_none_is_lost():
    values = np.random.default_rng(0).uniform(-1.01, 1.01, size=200)
    histograms = Histograms({"some": values, "none": np.empty(0)}, draw=bytes)
    counts = histograms.counts()
    assert set(counts) == {"some"}
    assert counts["some"].sum() == 200
    inside = [sum(low <= value < high for value in values) for low, high in itertools.pairwise(BIN_EDGES)]
    assert counts["some"][1:-1].tolist() == inside[1:-1]
    lines = histograms.table().lines
    assert len(lines) == 80
    assert lines[0] == ("some", -1.0, -0.975, int(counts["some"][0]))
    assert lines[-1][:3] == ("some", 0.975, 1.0)


def test_nested_names_are_joined():
    assert flat({"a": {"b": {"c": 1}, "d": None}, "e": [1]}) == {"a/b/c": 1, "a/d": None, "e": [1]}
