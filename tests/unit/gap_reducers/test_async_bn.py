import logging

import numpy as np
import pytest
import torch
from torch import nn

from i0t.data.embedding_formats import read_embeddings
from i0t.gap_reducers.async_bn import AsyncBatchNorm, GlobalBatchNorm, draw_captions
from i0t.losses.clip import ClipLoss
from i0t.losses.cyclip import CyClipLoss


def reducer_for(embeddings, **arguments):
    defaults = {"loss": CyClipLoss(), "batch_size": 8}
    return AsyncBatchNorm(embeddings.image_features.shape[1], **{**defaults, **arguments})


def fitted(embeddings, **arguments):
    reducer = reducer_for(embeddings, **arguments)
    reducer.fit(embeddings)
    return reducer


def affine(reducer):
    return {name: p.detach().clone() for name, p in reducer.named_parameters()}


def standardise(rows, fit_rows, eps=1e-5):
    rows, fit_rows = (r.double().numpy() for r in (rows, fit_rows))
    rows, fit_rows = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in (rows, fit_rows))
    out = (rows - fit_rows.mean(0)) / np.sqrt(fit_rows.var(0, ddof=1) + eps)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


# --- the map ---


def test_without_training_it_is_z_scoring(make):
    calibration, other = make(30, 6, captions=3), make(9, 6, captions=2, seed=1)
    image, text = fitted(calibration, epochs=0)(other.image_features, other.text_features)
    np.testing.assert_allclose(image.detach(), standardise(other.image_features, calibration.image_features), atol=1e-6)
    np.testing.assert_allclose(text.detach(), standardise(other.text_features, calibration.text_features), atol=1e-6)


def test_at_the_papers_learning_rate_it_is_nearly_z_scoring(make):
    calibration = make(40, 6, captions=2)
    reducer = fitted(calibration)  # 3 epochs of 5 steps at 1e-6
    for name, value in affine(reducer).items():
        distance = (value - (1.0 if "weight" in name else 0.0)).abs()
        assert 0 < distance.max() < 2e-5
    expected = standardise(calibration.image_features, calibration.image_features)
    np.testing.assert_allclose(reducer.reduce_image(calibration.image_features).detach(), expected, atol=5e-5)


def test_eval_mode_equals_batchnorm1d_with_these_statistics(make):
    embeddings = make(30, 6, captions=2)
    reducer = fitted(embeddings, learning_rate=0.1, eps=1e-3)
    oracle = nn.BatchNorm1d(6, eps=1e-3)
    oracle.load_state_dict(reducer.text_norm.state_dict(), strict=False)
    oracle.eval()
    expected = nn.functional.normalize(oracle(nn.functional.normalize(embeddings.text_features)))
    torch.testing.assert_close(reducer.reduce_text(embeddings.text_features), expected)


def test_variance_of_unit_vectors_is_near_one_over_the_width(make):
    reducer = fitted(make(500, 64, offset=0.0), epochs=0)
    assert reducer.image_norm.running_var.mean().item() * 64 == pytest.approx(1, abs=0.02)


# --- stage 2 ---


def test_statistics_do_not_depend_on_epochs_order_or_batches(make):
    embeddings = make(40, 6, captions=3)
    shuffled = make(40, 6, captions=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled.image_features = embeddings.image_features[order]
    shuffled.pairs = torch.stack([order.argsort()[embeddings.pairs[:, 0]], embeddings.pairs[:, 1]], dim=1)
    expected = fitted(embeddings, epochs=0)
    others = [fitted(embeddings, epochs=n, seed=n, batch_size=b, learning_rate=0.1) for n, b in ((1, 40), (4, 7))]
    for other in [*others, fitted(shuffled, learning_rate=0.1)]:
        for name, value in expected.named_buffers():
            torch.testing.assert_close(other.get_buffer(name), value, rtol=0, atol=1e-6)
        assert (other.image_norm.weight - 1).abs().max() > 0.01  # it did train


def test_training_lowers_the_loss_and_repeats_from_its_seed(make, caplog):
    embeddings = make(64, 8, captions=2)
    with caplog.at_level(logging.INFO, logger="i0t.gap_reducers.async_bn"):
        first = fitted(embeddings, epochs=20, learning_rate=3e-2, batch_size=16)
    losses = [record.args[2] for record in caplog.records]
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    again = fitted(embeddings, epochs=20, learning_rate=3e-2, batch_size=16)
    other_seed = fitted(embeddings, epochs=20, learning_rate=3e-2, batch_size=16, seed=1)
    for name, value in affine(first).items():
        assert torch.equal(affine(again)[name], value)
        assert not torch.equal(affine(other_seed)[name], value)


def test_one_step_equals_adamw_by_hand(make):
    """One batch of all rows, one caption each: order does not matter, so the step can be computed apart."""
    embeddings = make(8, 5)
    reducer = fitted(embeddings, epochs=1, learning_rate=1e-3, weight_decay=0.5, loss=ClipLoss())
    oracle = [nn.BatchNorm1d(5), nn.BatchNorm1d(5)]
    parameters = [p for norm in oracle for p in norm.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.5)
    image, text = (
        nn.functional.normalize(norm(nn.functional.normalize(rows)))
        for norm, rows in zip(oracle, (embeddings.image_features, embeddings.text_features), strict=True)
    )
    logits = embeddings.logit_scale * image @ text.T
    target = torch.arange(8)
    (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)).div(2).backward()
    optimizer.step()
    for ours, theirs in zip((reducer.image_norm, reducer.text_norm), oracle, strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.bias, theirs.bias, rtol=0, atol=1e-5)


def test_captions_are_drawn_uniformly_one_per_image():
    pairs = torch.tensor([[4, 0], [2, 1], [4, 2], [9, 3], [4, 5], [2, 3]])
    generator = torch.Generator().manual_seed(0)
    draws = [draw_captions(pairs, generator=generator) for _ in range(1200)]
    assert all(sorted(draw[:, 0].tolist()) == [2, 4, 9] for draw in draws)
    counts = {}
    for draw in draws:
        for image, text in draw.tolist():
            counts[image, text] = counts.get((image, text), 0) + 1
    assert counts.keys() == {tuple(pair) for pair in pairs.tolist()}
    assert counts[9, 3] == 1200
    for text in (0, 2, 5):
        assert counts[4, text] == pytest.approx(400, abs=70)  # four standard deviations
    assert len({tuple(draw[:, 0].tolist()) for draw in draws}) == 6  # every order comes up


def test_logit_scale_and_bias_are_passed_frozen(make):
    seen = []

    class Recorder(nn.Module):
        def forward(self, image, text, logit_scale, logit_bias=None):
            seen.append((logit_scale, logit_bias, len(image), len(text)))
            return {"loss": (image - text).square().sum()}

    embeddings = make(21, 5, captions=2, logit_scale=37.5)
    embeddings.logit_bias = -10.0
    fitted(embeddings, loss=Recorder(), epochs=2)
    assert len(seen) == 4  # the last 5 of 21 are dropped
    for scale, bias, images, texts in seen:
        assert (scale.item(), bias.item(), images, texts) == (37.5, -10.0, 8, 8)
        assert not scale.requires_grad


def test_images_without_caption_count_in_the_statistics_only(make):
    embeddings = make(20, 5)
    whole = fitted(embeddings, epochs=0)
    embeddings.pairs = embeddings.pairs[:8]
    part = fitted(embeddings, epochs=1)
    torch.testing.assert_close(part.image_norm.running_mean, whole.image_norm.running_mean)
    embeddings.pairs = embeddings.pairs[:7]
    with pytest.raises(ValueError, match=r"batch_size is 8, but there are only 7 captioned images.*lower"):
        fitted(embeddings, epochs=1)


def test_pairs_are_needed_only_to_train(make):
    embeddings = make(20, 5)
    embeddings.pairs = embeddings.pairs[:0]
    with pytest.raises(ValueError, match="needs image-text pairs"):
        fitted(embeddings)
    assert bool(fitted(embeddings, epochs=0).fitted)


def test_divergence_is_an_error(make):
    class Diverges(nn.Module):
        def forward(self, image, text, logit_scale, logit_bias=None):
            return {"loss": (image * text).sum() * float("nan")}

    with pytest.raises(ValueError, match="loss of epoch 1 is nan: lower learning_rate"):
        fitted(make(20, 5), loss=Diverges())


# --- inside a model ---


def test_train_mode_equals_batchnorm1d_over_steps():
    """Outputs, gradients and running statistics of several float64 batches."""
    torch.manual_seed(0)
    norm, oracle = GlobalBatchNorm(4, momentum=0.3, eps=1e-4).double(), nn.BatchNorm1d(4, momentum=0.3, eps=1e-4)
    oracle.double()
    for size in (2, 5, 9):
        rows = torch.randn(size, 4, dtype=torch.float64) * 2 + 3
        ours, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        upstream = torch.randn(size, 4, dtype=torch.float64)
        torch.testing.assert_close(norm(ours), oracle(theirs))
        (norm(ours) * upstream).sum().backward()
        (oracle(theirs) * upstream).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(norm.running_mean, oracle.running_mean)
    torch.testing.assert_close(norm.running_var, oracle.running_var)
    torch.testing.assert_close(norm.weight.grad, oracle.weight.grad)
    assert torch.autograd.gradcheck(norm, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_training_inside_a_model_makes_it_fitted(make):
    embeddings = make(16, 6)
    reducer = reducer_for(embeddings, momentum=1.0).train()
    assert reducer.trainable
    before = reducer(embeddings.image_features, embeddings.text_features)[0]
    assert bool(reducer.fitted)
    reducer.eval()
    after = reducer(embeddings.image_features, embeddings.text_features)[0]
    # momentum 1: the running statistics are the last batch's, but for the unbiased variance
    torch.testing.assert_close(after, before, rtol=0, atol=2e-3)


def test_one_row_in_train_mode_is_an_error(make):
    reducer = reducer_for(make(8, 6)).train()
    with pytest.raises(ValueError, match="at least 2 rows over all devices in train mode, got 1"):
        reducer.reduce_image(torch.ones(1, 6))


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 1},
        {"epochs": -1},
        {"learning_rate": -1.0},
        {"weight_decay": float("nan")},
        {"momentum": 0.0},
        {"eps": 0.0},
        {"fit_split": None},
    ],
)
def test_bad_arguments_are_errors_that_name_them(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AsyncBatchNorm(4, **{"loss": ClipLoss(), **bad})


@pytest.mark.data
def test_real_clip_features(shared_data):
    """OpenAI ViT-B/32 on 100 photos: with its own statistics the gap closes, and a mean over captions is not unit."""
    embeddings = read_embeddings(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz").embeddings
    reducer = fitted(embeddings, batch_size=32, fit_split="test")
    image, text = reducer(embeddings.image_features, embeddings.text_features)
    assert (image.mean(0) - text.mean(0)).norm().item() == pytest.approx(0.0221, abs=1e-4)
