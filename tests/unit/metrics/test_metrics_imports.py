"""The functions are light: classes and their library are loaded when they are asked for."""

import subprocess
import sys

import pytest

import i0t.metrics


def test_functions_and_evaluations_come_without_torchmetrics_lightning_and_scikit_learn():
    heavy = ("torchmetrics", "pytorch_lightning", "sklearn", "scipy", "torchvision")
    code = f"import sys, i0t.evaluation.gap, i0t.evaluation.compare; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_class_is_found_and_nothing_else():
    for name in i0t.metrics.__all__:
        assert getattr(i0t.metrics, name).__name__ == name
    assert set(i0t.metrics.__all__) <= set(dir(i0t.metrics))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = i0t.metrics.Nothing
