import io

import numpy as np
import pytest
import torch
from torch import nn

from i0t.data.embedding_formats import read_embeddings
from i0t.gap_reducers.layer_norm import LayerNorm
from i0t.losses.clip import ClipLoss


def centroid_distance(image, text):
    return (image.double().mean(0) - text.double().mean(0)).norm().item()


def trained(dim=6, **arguments):
    """With parameters as if it were trained."""
    reducer, generator = LayerNorm(dim, **arguments), torch.Generator().manual_seed(3)
    for parameter in reducer.parameters():
        parameter.data += 0.5 * torch.randn(dim, generator=generator)
    return reducer


def test_equals_torch_between_two_normalisations(make):
    embeddings = make(9, 6, captions=2)
    reducer = trained(eps=1e-3)
    modalities = (
        (reducer.reduce_image, reducer.image_norm, embeddings.image_features),
        (reducer.reduce_text, reducer.text_norm, embeddings.text_features),
    )
    for reduce, norm, rows in modalities:
        oracle = nn.LayerNorm(6, eps=1e-3)
        oracle.load_state_dict(norm.state_dict())
        theirs, ours = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        expected = nn.functional.normalize(oracle(nn.functional.normalize(theirs)))
        found = reduce(ours)
        torch.testing.assert_close(found, expected)
        upstream = torch.randn(rows.shape)
        (found * upstream).sum().backward()
        (expected * upstream).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
        torch.testing.assert_close(norm.weight.grad, oracle.weight.grad)
        torch.testing.assert_close(norm.bias.grad, oracle.bias.grad)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 1.4])
def test_strength_by_loops(strength):
    rng = np.random.default_rng(0)
    rows = rng.normal(1, 1, size=(5, 6))
    reducer = trained(strength=strength).double()
    weight, bias = reducer.image_norm.weight.tolist(), reducer.image_norm.bias.tolist()
    found = reducer.reduce_image(torch.from_numpy(rows)).tolist()
    for row, reduced in zip(rows.tolist(), found, strict=True):
        length = sum(value**2 for value in row) ** 0.5
        unit = [value / length for value in row]
        mean = sum(unit) / 6
        deviation = (sum((value - mean) ** 2 for value in unit) / 6 + 1e-5) ** 0.5
        out = [(u - strength * mean) / deviation * w + b for u, w, b in zip(unit, weight, bias, strict=True)]
        length = sum(value**2 for value in out) ** 0.5
        assert reduced == pytest.approx([value / length for value in out], rel=1e-9)


def test_untrained_it_removes_the_rows_own_mean_and_hardly_moves_the_gap(make):
    embeddings = make(200, 64)
    unit = [nn.functional.normalize(rows) for rows in (embeddings.image_features, embeddings.text_features)]
    reduced = LayerNorm(64)(embeddings.image_features, embeddings.text_features)
    for before, after in zip(unit, reduced, strict=True):
        torch.testing.assert_close(after, nn.functional.normalize(before - before.mean(1, keepdim=True)))
    assert centroid_distance(*reduced) == pytest.approx(centroid_distance(*unit), rel=0.05)


def test_it_is_trained_in_the_graph_and_needs_no_fit(make):
    """Steps of AdamW on its eight vectors equal those on two layer norms of torch; the state is in a checkpoint."""
    embeddings = make(16, 6)
    reducer, loss = LayerNorm(6).train(), ClipLoss()
    assert (reducer.trainable, reducer.needs_fit, reducer.fit_split) == (True, False, None)
    assert reducer.fitted_modalities == ("image", "text")
    assert reducer.protocol("test") == "none"
    oracle = [nn.LayerNorm(6), nn.LayerNorm(6)]
    ours = torch.optim.AdamW(reducer.parameters(), lr=0.02)
    theirs = torch.optim.AdamW([p for norm in oracle for p in norm.parameters()], lr=0.02)
    features = (embeddings.image_features, embeddings.text_features)
    for _ in range(5):
        expected = [
            nn.functional.normalize(norm(nn.functional.normalize(rows)))
            for norm, rows in zip(oracle, features, strict=True)
        ]
        for optimizer, rows in ((ours, reducer(*features)), (theirs, expected)):
            optimizer.zero_grad()
            loss(*rows, torch.tensor(10.0))["loss"].backward()
            optimizer.step()
    for norm, reference in zip((reducer.image_norm, reducer.text_norm), oracle, strict=True):
        assert (norm.bias.abs() > 0.01).any()
        torch.testing.assert_close(norm.weight, reference.weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(norm.bias, reference.bias, rtol=0, atol=1e-5)
    file = io.BytesIO()
    torch.save(reducer.state_dict(), file)
    file.seek(0)
    again = LayerNorm(6)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again.reduce_image(features[0]), reducer.eval().reduce_image(features[0]))


def test_a_row_of_equal_values_has_no_direction_left():
    rows = torch.randn(4, 6)
    rows[2] = 0.25
    with pytest.raises(ValueError, match=r"1 of 4 reduced image features are zero.*first at row 2"):
        LayerNorm(6).reduce_image(rows)


@pytest.mark.parametrize("bad", [{"eps": 0.0}, {"eps": float("inf")}, {"strength": -1.0}, {"strength": float("nan")}])
def test_bad_arguments_are_errors_that_name_them(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        LayerNorm(4, **bad)


@pytest.mark.data
def test_real_clip_features(shared_data):
    """OpenAI ViT-B/32, gap .8430: a layer norm hardly moves it, as in the paper's "+LN" rows."""
    embeddings = read_embeddings(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz").embeddings
    reduced = LayerNorm(512)(embeddings.image_features, embeddings.text_features)
    rows = [f.double().numpy() for f in (embeddings.image_features, embeddings.text_features)]
    means = []
    for features in rows:
        centred = features / np.linalg.norm(features, axis=1, keepdims=True)
        centred -= centred.mean(1, keepdims=True)
        means.append((centred / np.linalg.norm(centred, axis=1, keepdims=True)).mean(0))
    expected = np.linalg.norm(means[0] - means[1])
    assert centroid_distance(*reduced) == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(0.8418, abs=5e-5)
