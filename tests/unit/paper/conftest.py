"""Synthetic run folders, as the engine leaves them."""

import json
import os

import pytest

ARCHITECTURE = "ViT-B-32-quickgelu"
FLICKR30K = {
    "data": "flickr30k",
    "split": "test",
    "num_images": 1000,
    "known_num_images": 1000,
    "limit": None,
    "prompt_prefix": "",
    "lowercase_first": False,
    "captions_per_image": 1,
    "warnings": [],
}
CLASSES = {
    "NoReducer": "none",
    "Posthoc": "posthoc",
    "MeanShift": "mean_shift",
    "AsyncBatchNorm": "async_bn",
    "LayerNorm": "layer_norm",
}


def _row(kind="NoReducer", *, fit_split=None, protocol="none", notes=(), fit_data=None, **settings):
    return {
        "reducer": f"i0t.gap_reducers.{CLASSES[kind]}.{kind}",
        "fit_split": fit_split,
        "fit_data": fit_data,
        "fit_samples": 0,
        "protocol": protocol,
        "settings": settings,
        "notes": list(notes),
    }


@pytest.fixture
def row_of():
    """What ``metrics.json`` says of a row: class of the reducer, what it was fitted on, its settings."""
    return _row


@pytest.fixture
def posthoc():
    """The row of I0T_post, as the paper fits it."""

    def row(**settings):
        about = {"fit_split": "test", "protocol": "transductive", "strength": 1.0}
        return _row("Posthoc", **{**about, **settings})

    return row


@pytest.fixture
def write_run(tmp_path):
    """Writes a run folder; later ones are newer."""
    clock = [1_700_000_000]

    def write(folder, numbers, *, rows=None, data=(), model=(), path=None):
        run = (path or tmp_path) / folder
        run.mkdir(parents=True)
        clock[0] += 60
        content = {
            **numbers,
            "rows": {"none": _row()} if rows is None else rows,
            "data": {**FLICKR30K, **dict(data)},
            "model": {
                "trained_as": None,
                "seed": None,
                "architecture": ARCHITECTURE,
                "pretrained": "openai",
                **dict(model),
            },
            "environment": {"i0t": "0.1.0"},
        }
        file = run / "metrics.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        os.utime(file, (clock[0], clock[0]))
        return run

    return write
