"""What a notebook gets from ``import i0t``."""

import importlib
import inspect
import subprocess
import sys

import pytest

import i0t
from i0t.library import measure

PACKAGES = ("i0t", "i0t.gap_reducers", "i0t.losses", "i0t.metrics", "i0t.metrics.functional", "i0t.plots")
# What a class is for stands at its subclasses, and what a function returns at the function.
WITHOUT_EXAMPLE = {"PairedEmbeddingMetric", "PairedEmbeddings", "Embeddings", "NotFittedError"}


def public_objects():
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            found = getattr(module, name)
            is_result = inspect.isclass(found) and (issubclass(found, tuple) or package.endswith("functional"))
            if not inspect.ismodule(found) and name not in WITHOUT_EXAMPLE and not is_result:
                yield pytest.param(found, id=f"{package}.{name}")


@pytest.mark.parametrize("found", list(public_objects()))
def test_every_public_object_has_an_example_that_runs(found):
    """That it runs and gives what it says is pytest's --doctest-modules."""
    assert ">>> " in inspect.getdoc(found)


def test_every_name_is_there_and_listed():
    for name in i0t.__all__:
        assert getattr(i0t, name) is not None
    assert set(i0t.__all__) <= set(dir(i0t))
    with pytest.raises(AttributeError, match="no attribute 'Postoc'"):
        i0t.Postoc  # noqa: B018


def test_a_name_imports_what_it_needs_and_no_more():
    program = "import sys, i0t; assert 'torch' not in sys.modules; i0t.SavedReducer; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_table_shows_itself_in_a_notebook():
    table = measure.__globals__["ResultTable"]([])
    assert table._repr_markdown_() == table.to_markdown()
