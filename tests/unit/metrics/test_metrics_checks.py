import math
import re

import pytest
import torch

from i0t.metrics import functional as F

EYE = torch.eye(3)
PAIRED = [
    F.unbiased_centroid_distance,
    F.instance_distance,
    F.relative_modality_gap,
    F.alignment,
    F.linear_separability,
    F.retrieval_recall,
    F.retrieval_ranks,
]
BOTH = [*PAIRED, F.centroid_distance, F.activation_peaks]
LABELS = torch.tensor([0, 0, 1])
SINGLE = [
    F.uniformity,
    F.mean_activations,
    lambda rows: F.object_bias(rows, LABELS, LABELS),
    lambda rows: F.dunn_index(rows, LABELS),
    lambda rows: F.zero_shot_predictions(rows, EYE[:, None]),
    lambda rows: F.neighborhood_distance(rows, EYE, torch.arange(3)),
    lambda rows: F.logit_entropy(rows, EYE, 10.0),
]


def broken(row):
    rows = EYE.clone()
    rows[1] = torch.tensor(row)
    return rows


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize("place", [0, 1])
def test_rows_that_are_not_unit_vectors_are_named(function, place):
    arguments = [EYE, EYE]
    name = ("image_features", "text_features")[place]
    arguments[place] = broken([0.0, 1.02, 0.0])
    with pytest.raises(ValueError, match=rf"{name}: row 1 has norm 1.02, not 1; normalise"):
        function(*arguments)
    for value in (math.nan, math.inf):
        arguments[place] = broken([0.0, value, 0.0])
        with pytest.raises(ValueError, match=f"{name}: row 1 contains NaN or infinity"):
            function(*arguments)


@pytest.mark.parametrize("function", SINGLE)
def test_single_modality_functions_check_their_rows(function):
    function(EYE)
    function(broken([0.0, 1.009, 0.0]))  # within the tolerance
    with pytest.raises(ValueError, match=r"row 1 has norm 0\.98"):
        function(broken([0.0, 0.98, 0.0]))


@pytest.mark.parametrize("function", BOTH)
def test_shapes_are_checked(function):
    with pytest.raises(ValueError, match="width 3 and text_features 2"):
        function(EYE, torch.eye(2))
    with pytest.raises(ValueError, match=re.escape("got shape (3,)")):
        function(EYE[0], EYE)
    with pytest.raises(ValueError, match=re.escape("got shape (0, 3)")):
        function(EYE, EYE[:0])
    with pytest.raises(ValueError, match=r"floating point, got torch\.int64"):
        function(EYE.long(), EYE)


@pytest.mark.parametrize("function", PAIRED)
def test_the_index_is_checked(function):
    with pytest.raises(ValueError, match="3 image rows and 2 text rows cannot be matched row by row"):
        function(EYE, EYE[:2])
    with pytest.raises(ValueError, match=re.escape("text_image_index[1] is 3, outside the rows 0 … 2")):
        function(EYE, EYE, torch.tensor([0, 3, 1]))
    with pytest.raises(ValueError, match=re.escape("text_image_index[0] is -1")):
        function(EYE, EYE, torch.tensor([-1, 2, 1]))
    with pytest.raises(ValueError, match="one entry per text row"):
        function(EYE, EYE, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"must hold integers, got torch\.float32"):
        function(EYE, EYE, torch.tensor([0.0, 1.0, 2.0]))


def test_int32_indices_are_fine():
    assert float(F.instance_distance(EYE, EYE, torch.arange(3, dtype=torch.int32))) == 0
