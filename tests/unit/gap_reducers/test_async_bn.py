import logging
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from i0t.data.base import Batch
from i0t.data.embedding_formats import read_embeddings
from i0t.gap_reducers.async_bn import AsyncBatchNorm, draw_captions
from i0t.losses.clip import ClipLoss
from i0t.losses.cyclip import CyClipLoss
from i0t.models.base import ClipModel
from i0t.module import ClipModule


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


class CachedFeatures(ClipModel):
    """A frozen model whose "images" and "tokens" are features already."""

    def __init__(self, dim, logit_scale):
        clip = nn.Module()
        clip.logit_scale = nn.Parameter(torch.tensor(logit_scale).log())
        super().__init__(clip, transform=None, tokenizer=None, embed_dim=dim, max_logit_scale=None)
        self.freeze(self.log_logit_scale)

    def encode_image(self, images):
        return images

    def encode_text(self, tokens):
        return tokens


def train_in_a_module(reducer, embeddings, orders, batch_size, learning_rate):
    """Through Lightning, as train.py does, on the given order of the pairs in each epoch."""
    index = torch.cat([order[: len(order) // batch_size * batch_size] for order in orders])
    batches = [
        Batch(embeddings.image_features[i], embeddings.text_features[i], torch.arange(batch_size), i, i)
        for i in index.split(batch_size)
    ]
    module = ClipModule(
        CachedFeatures(reducer.dim, embeddings.logit_scale),
        reducer,
        reducer.loss,
        optimizer=partial(torch.optim.AdamW, lr=learning_rate),
        config={},
    )
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return module


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_training_inside_a_model_equals_a_plain_loop_and_recalibrated_equals_fit(make, strength):
    """Scale, shift and running statistics, in plain arithmetic on the same batches; then the statistics of fit."""
    embeddings = make(40, 6, logit_scale=10.0)
    orders = [torch.randperm(40, generator=torch.Generator().manual_seed(epoch)) for epoch in range(3)]
    reducer = reducer_for(embeddings, loss=ClipLoss(), momentum=0.1, strength=strength)
    train_in_a_module(reducer, embeddings, orders, 16, 0.02)

    weight, bias = (torch.full((2, 6), v, dtype=torch.float64, requires_grad=True) for v in (1.0, 0.0))
    mean, variance = torch.zeros(2, 6, dtype=torch.float64), torch.ones(2, 6, dtype=torch.float64)
    optimizer = torch.optim.AdamW([weight, bias], lr=0.02, weight_decay=0.0)
    for batch in torch.cat([order[:32] for order in orders]).split(16):
        reduced = []
        for k, features in enumerate((embeddings.image_features, embeddings.text_features)):
            unit = features[batch].double() / features[batch].double().norm(dim=1, keepdim=True)
            m, v = unit.sum(0) / 16, (unit - unit.sum(0) / 16).square().sum(0)
            rows = (unit - strength * m) / (v / 16 + 1e-5).sqrt() * weight[k] + bias[k]
            reduced.append(rows / rows.norm(dim=1, keepdim=True))
            mean[k], variance[k] = 0.9 * mean[k] + 0.1 * m, 0.9 * variance[k] + 0.1 * v / 15
        logits = 10 * reduced[0] @ reduced[1].T
        loss = -(logits.log_softmax(1).diagonal().mean() + logits.log_softmax(0).diagonal().mean()) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for k, norm in enumerate((reducer.image_norm, reducer.text_norm)):
        assert (norm.bias.abs() > 0.02).any()  # it did train
        for found, expected in (
            (norm.weight, weight[k]),
            (norm.bias, bias[k]),
            (norm.running_mean, mean[k]),
            (norm.running_var, variance[k]),
        ):
            torch.testing.assert_close(found.detach().double(), expected.detach(), rtol=0, atol=1e-5)
    assert (bool(reducer.fitted), int(reducer.num_fit_images), int(reducer.num_fit_texts)) == (True, 0, 0)

    trained, exact = affine(reducer), fitted(embeddings, epochs=1, learning_rate=0.5)
    reducer.recalibrate(embeddings)
    for name, value in exact.named_buffers():
        assert torch.equal(reducer.get_buffer(name), value), name
    for name, value in trained.items():
        assert torch.equal(affine(reducer)[name], value), name
    assert (int(reducer.num_fit_images), int(reducer.num_fit_texts)) == (40, 40)
    assert (reducer.calibration_means is None) == (strength != 1)


def test_recalibrating_is_on_the_chosen_rows_and_training_on_forgets_them(make):
    embeddings = make(40, 6, captions=2)
    reducer = reducer_for(embeddings, fit_samples=10, seed=4, epochs=0)
    expected = fitted(embeddings, fit_samples=10, seed=4, epochs=0)
    with pytest.raises(ValueError, match=r"text features have shape \(80, 5\)"):
        reducer.recalibrate(SimpleNamespace(**{**vars(embeddings), "text_features": torch.ones(80, 5)}))
    with torch.inference_mode():  # as the engine encodes
        reducer.recalibrate(embeddings)
    for name, value in expected.named_buffers():
        assert torch.equal(reducer.get_buffer(name), value), name
    assert (int(reducer.num_fit_images), int(reducer.num_fit_texts)) == (10, 20)
    reducer.train()(embeddings.image_features, embeddings.text_features)
    assert (bool(reducer.fitted), int(reducer.num_fit_images), int(reducer.num_fit_texts)) == (True, 0, 0)


def test_rows_that_cannot_be_used_leave_the_statistics_alone(make):
    embeddings = make(20, 6)
    reducer = reducer_for(embeddings, momentum=0.5).train()
    reducer(embeddings.image_features, embeddings.text_features)
    before = {name: value.clone() for name, value in reducer.state_dict().items()}
    embeddings.text_features[3] = 0
    with pytest.raises(ValueError, match="1 of 20 text features are zero"):
        reducer.recalibrate(embeddings)
    for name, value in reducer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_without_exact_statistics_the_running_averages_stay(make):
    """As published: after the fit, what momentum left of batches of one caption per image, by hand."""
    embeddings = make(16, 6)
    reducer = fitted(embeddings, epochs=2, batch_size=16, momentum=0.3, exact_statistics=False, learning_rate=0.1)
    rows = embeddings.text_features.double() / embeddings.text_features.double().norm(dim=1, keepdim=True)
    mean, variance = rows.mean(0), rows.var(0)  # every batch is the whole set, in another order
    torch.testing.assert_close(reducer.text_norm.running_mean.double(), (1 - 0.7**2) * mean, rtol=0, atol=1e-6)
    expected = 0.7**2 + (1 - 0.7**2) * variance
    torch.testing.assert_close(reducer.text_norm.running_var.double(), expected, rtol=0, atol=1e-6)
    assert (int(reducer.num_fit_images), reducer.recalibrates, reducer.calibration_means) == (16, False, None)
    before = {name: value.clone() for name, value in reducer.state_dict().items()}
    reducer.recalibrate(make(9, 6, seed=3))
    for name, value in reducer.state_dict().items():
        assert torch.equal(value, before[name]), name
    reducer.fit(embeddings)  # from scratch, not on top
    for name, value in reducer.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_features_of_any_type_train_alike(make, dtype):
    embeddings, other = make(24, 6), make(24, 6)
    embeddings.image_features, embeddings.text_features = (
        rows.half().float() for rows in (embeddings.image_features, embeddings.text_features)
    )
    other.image_features, other.text_features = (
        rows.to(dtype) for rows in (embeddings.image_features, embeddings.text_features)
    )
    expected = fitted(embeddings, learning_rate=0.05)
    for name, value in affine(fitted(other, learning_rate=0.05)).items():
        torch.testing.assert_close(value, affine(expected)[name], rtol=0, atol=1e-5)


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
        {"strength": -0.1},
        {"strength": float("inf")},
        {"exact_statistics": False, "epochs": 0},
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
