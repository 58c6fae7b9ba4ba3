"""The page on evaluation names every number, and its example runs."""

import re
from pathlib import Path

import pytest
import torch

import i0t
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.gap import Gap
from i0t.evaluation.retrieval import Retrieval
from i0t.gap_reducers.posthoc import Posthoc

PAGE = Path(i0t.__file__).parents[2] / "docs" / "evaluation.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="not a checkout")


def test_every_number_of_gap_and_inside_a_modality_is_explained():
    image = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    index = torch.arange(12).repeat_interleave(2)
    embeddings = EmbeddingSet.from_index(image, image[index] + 1, index, labels={"<label>": torch.arange(12) % 2})
    reducer = Posthoc(4, fit_split="train")
    reducer.fit(embeddings)
    evaluations = {
        "gap": Gap(separability_seed=0, num_resamples=5),
        "retrieval": Retrieval(k=(1,), num_neighbors=3, num_within_queries=9, num_resamples=5),
    }
    row = evaluate_row("x", reducer, embeddings, evaluations, split="test")
    page = PAGE.read_text(encoding="utf-8")
    names = [name.partition("/")[2] for name in row.metrics if not re.search("(i2t|t2i)_", name)]
    assert len(names) > 15
    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    results, differences = capsys.readouterr().out.split("| gap reducer")[1:]
    assert "inductive: train, 100 images" in results
    assert "* [-1." in differences
