"""The training step against hand-written ones: views, short captions, what decays, what is clamped."""

# B pairs, V views, D embedding width.
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from i0t.data.base import Batch
from i0t.encode import encode_loader
from i0t.gap_reducers.async_bn import AsyncBatchNorm
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc
from i0t.losses.clip import ClipLoss
from i0t.models.base import ClipModel
from i0t.module import CHECKPOINT_KEY, ClipModule, mean_of_parts

DIM, PIXELS, WORDS, PAIRS = 5, 7, 6, 4


class Towers(nn.Module):
    """Two linear towers with dropout in front."""

    def __init__(self, dropout):
        super().__init__()
        self.image, self.text = nn.Linear(PIXELS, DIM), nn.Linear(WORDS, DIM)
        self.dropout = nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(7.0)))

    def encode_image(self, images):
        return self.image(self.dropout(images))

    def encode_text(self, tokens):
        return self.text(self.dropout(tokens.float()))


class ShortLoss(nn.Module):
    """Keeps what it is given, and returns two parts that depend on all of it."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, image, text, logit_scale, logit_bias=None, *, short_text_features):
        self.given.append((image, text, short_text_features))
        short = (image * short_text_features).sum() * logit_scale
        return {"loss": short + (image * text).sum(), "short": short}


def towers_model(dropout=0.0, max_logit_scale=100.0):
    torch.manual_seed(0)
    clip = Towers(dropout)
    return ClipModel(clip, transform=None, tokenizer=None, embed_dim=DIM, max_logit_scale=max_logit_scale)


def make_batch(seed=0, short=False):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 9, (PAIRS, WORDS), generator=generator)
    return Batch(
        images=torch.randn(PAIRS, PIXELS, generator=generator),
        tokens=tokens,
        text_image_index=torch.arange(PAIRS),
        sample_id=torch.arange(PAIRS),
        text_id=torch.arange(PAIRS),
        short_tokens=torch.randint(1, 9, (PAIRS, WORDS), generator=generator) if short else None,
    )


def make_module(model, *, reducer=None, loss=None, **options):
    options.setdefault("optimizer", torch.optim.AdamW)
    return ClipModule(model, reducer or NoReducer(DIM), loss or ClipLoss(), config={"name": "x"}, **options)


@pytest.fixture
def step(monkeypatch):
    """Runs one training step outside a trainer; returns the loss and what was logged."""

    def run(module, batch, seed=11):
        logged = {}
        module.trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", barebones=True)
        monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
        monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
        torch.manual_seed(seed)
        return module.training_step(batch, 0), logged

    return run


def naive_clip_loss(image, text, scale):
    """Both directions of the cross entropy, a row at a time."""
    image, text = np.asarray(image, dtype=np.float64), np.asarray(text, dtype=np.float64)
    total = 0.0
    for i in range(len(image)):
        for row in ([scale * image[i] @ t for t in text], [scale * text[i] @ x for x in image]):
            total += math.log(sum(math.exp(v - max(row)) for v in row)) + max(row) - row[i]
    return total / (2 * len(image))


def drawn_views(model, batch, views, seed=11):
    """Unit image and text rows of every view, by the towers' own layers, images before texts."""
    torch.manual_seed(seed)
    clip, found = model.clip, []
    for _ in range(views):
        rows = []
        for layer, values in ((clip.image, batch.images), (clip.text, batch.tokens.float())):
            kept = F.dropout(values, clip.dropout.p, training=True)
            raw = kept @ layer.weight.T + layer.bias
            rows.append(raw / raw.norm(dim=1, keepdim=True))
        found.append(rows)
    return found


@pytest.mark.parametrize("views", [1, 2, 3])
def test_the_loss_is_the_mean_over_all_pairings_of_the_views(step, views):
    model, batch = towers_model(dropout=0.5), make_batch()
    loss, logged = step(make_module(model, num_views=views), batch)
    drawn = [[rows.detach() for rows in view] for view in drawn_views(model, batch, views)]
    pairings = [naive_clip_loss(image, text, 7.0) for image, _ in drawn for _, text in drawn]
    assert len(pairings) == views**2
    assert len({round(value, 5) for value in pairings}) == views**2, "every pairing has dropout of its own"
    assert loss.item() == pytest.approx(np.mean(pairings), rel=1e-5)
    assert {logged["train/loss"].item(), logged["train/contrastive"].item()} == {loss.item()}
    assert logged["train/temperature"].item() == pytest.approx(1 / 7)
    assert logged["progress/samples_seen"] == PAIRS


def test_gradients_are_those_of_the_mean_over_the_pairings(step):
    model, batch = towers_model(dropout=0.5), make_batch()
    loss, _ = step(make_module(model, num_views=2), batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    drawn, own = drawn_views(model, batch, 2), torch.arange(PAIRS)
    total = 0.0
    for image, _ in drawn:
        for _, text in drawn:
            logits = model.clip.logit_scale.exp() * image @ text.T
            total = total + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    (total / 4).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("reducer", [NoReducer(DIM), Posthoc(DIM, fit_split="train")])
def test_one_view_without_dropout_is_the_loss_of_the_model_s_features(step, reducer):
    model, batch = towers_model(), make_batch()
    output = model(batch.images, batch.tokens)
    image, text = F.normalize(output.image_features, dim=1), F.normalize(output.text_features, dim=1)
    plain = ClipLoss()(image, text, output.logit_scale, output.logit_bias)["loss"]
    one, _ = step(make_module(model, reducer=reducer), batch)
    assert one.item() == pytest.approx(plain.item(), rel=1e-6)
    two, _ = step(make_module(model, reducer=reducer, num_views=2), batch)
    assert two.item() == pytest.approx(plain.item(), rel=1e-6), "four equal pairings"


def test_short_captions_are_encoded_reduced_and_given_with_their_view_s_texts(step):
    model, batch, loss = towers_model(dropout=0.5), make_batch(short=True), ShortLoss()
    value, logged = step(make_module(model, loss=loss, num_views=2), batch)
    torch.manual_seed(11)
    views = []
    for _ in range(2):
        raw = [
            model.encode_image(batch.images),
            model.encode_text(batch.tokens),
            model.encode_text(batch.short_tokens),
        ]
        views.append([rows / rows.norm(dim=1, keepdim=True) for rows in raw])
    expected = [(image, text, short) for image, _, _ in views for _, text, short in views]
    assert len(loss.given) == 4
    for given, wanted in zip(loss.given, expected, strict=True):
        for one, other in zip(given, wanted, strict=True):
            torch.testing.assert_close(one, other)
    shorts = [7.0 * (image * short).sum().item() for image, _, short in expected]
    longs = [(image * text).sum().item() for image, text, _ in expected]
    assert logged["train/short"].item() == pytest.approx(np.mean(shorts), rel=1e-4)
    assert value.item() == pytest.approx(np.mean(shorts) + np.mean(longs), rel=1e-4)


@pytest.mark.parametrize("short", [False, True])
def test_encoding_in_chunks_changes_neither_loss_nor_gradient(step, short):
    found = []
    for chunk in (None, 3):
        model = towers_model()
        options = {"reducer": AsyncBatchNorm(DIM, loss=ClipLoss(), fit_split="train"), "num_views": 2}
        module = make_module(model, loss=ShortLoss() if short else None, grad_cache_chunk=chunk, **options)
        loss, logged = step(module, make_batch(short=short))
        loss.backward()
        found.append((loss.detach(), logged, {name: p.grad for name, p in module.named_parameters()}))
    assert found[0][2]["model.clip.image.weight"].abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_the_encoders_of_a_training_step_see_no_more_than_a_chunk(step):
    model = towers_model()
    seen = []
    model.clip.dropout.register_forward_hook(lambda module, args, out: seen.append((len(out), torch.is_grad_enabled())))
    loss, _ = step(make_module(model, grad_cache_chunk=3), make_batch())
    assert seen == [(3, False), (1, False)] * 2
    loss.backward()
    assert sorted(seen[4:]) == sorted([(3, True), (1, True)] * 2)


def test_short_captions_go_through_a_trained_reducer(step):
    loss, reducer = ShortLoss(), AsyncBatchNorm(DIM, loss=ClipLoss(), fit_split="train")
    model, batch = towers_model(), make_batch(short=True)
    step(make_module(model, reducer=reducer, loss=loss), batch)
    ((_, _, given),) = loss.given
    unit = F.normalize(model.encode_text(batch.short_tokens), dim=1).double()
    centred = unit - unit.mean(0)
    normed = centred / (centred.square().mean(0) + reducer.eps).sqrt()
    torch.testing.assert_close(given.double(), F.normalize(normed, dim=1), rtol=1e-4, atol=1e-5)


def test_a_loss_that_takes_no_short_captions_gets_none(step):
    with pytest.raises(TypeError, match="short_text_features"):
        step(make_module(towers_model()), make_batch(short=True))


def test_parts_are_averaged_one_by_one():
    parts = [{"loss": torch.tensor(v), "a": torch.tensor(2 * v)} for v in (1.0, 2.0, 6.0)]
    mean = mean_of_parts(parts)
    assert {name: value.item() for name, value in mean.items()} == {"loss": 3.0, "a": 6.0}
    assert parts[0]["loss"].item() == 1.0, "the first stays what it was"


def groups_of(module):
    found = module.configure_optimizers()["optimizer"].param_groups
    names = {id(p): name for name, p in module.named_parameters()}
    return [({names[id(p)] for p in group["params"]}, group["weight_decay"]) for group in found]


def test_matrices_decay_or_everything_does():
    def optimizer(groups):
        return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.2)

    matrices = {"model.clip.image.weight", "model.clip.text.weight"}
    vectors = {"model.clip.image.bias", "model.clip.text.bias", "model.clip.logit_scale"}
    module = make_module(towers_model(), optimizer=optimizer)
    assert groups_of(module) == [(matrices, 0.2), (vectors, 0.0)]
    module = make_module(towers_model(), optimizer=optimizer, decay_all=True)
    assert groups_of(module) == [(matrices | vectors, 0.2), (set(), 0.0)]


@pytest.mark.parametrize("decay_all", [False, True])
def test_of_frozen_encoders_the_reducer_alone_is_trained(decay_all):
    model = towers_model()
    model.freeze_all()
    module = make_module(model, reducer=AsyncBatchNorm(DIM, loss=ClipLoss(), fit_split="train"), decay_all=decay_all)
    own = {f"gap_reducer.{kind}_norm.{name}" for kind in ("image", "text") for name in ("weight", "bias")}
    (decayed, share), (others, none) = groups_of(module)
    assert (decayed, others) == ((own, set()) if decay_all else (set(), own))
    assert (share, none) == (0.01, 0.0)  # AdamW's own default


def test_all_parameters_decay_in_a_real_step():
    """With no gradient AdamW multiplies by 1 - lr * decay, so that what decays is seen in the weights."""
    for decay_all in (False, True):
        module = make_module(
            towers_model(), optimizer=lambda g: torch.optim.AdamW(g, lr=0.5, weight_decay=0.2), decay_all=decay_all
        )
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        module.configure_optimizers()["optimizer"].step()
        for name, parameter in module.named_parameters():
            factor = 0.9 if decay_all or parameter.ndim == 2 else 1.0
            torch.testing.assert_close(parameter.detach(), factor * before[name], msg=name)


def test_the_temperature_is_clamped_where_it_is_trained():
    def after(scale, bound, *, frozen=False):
        model = towers_model(max_logit_scale=bound)
        with torch.no_grad():
            model.clip.logit_scale.fill_(math.log(scale))
        if frozen:
            model.clip.logit_scale.requires_grad_(False)
        make_module(model).on_train_batch_end(None, make_batch(), 0)
        return model.logit_values()[0]

    assert after(150.0, 100.0) == pytest.approx(100.0, rel=1e-6)
    assert after(50.0, 100.0) == pytest.approx(50.0, rel=1e-6)
    assert after(150.0, None) == pytest.approx(150.0, rel=1e-6), "I0T has no bound"
    assert after(150.0, 100.0, frozen=True) == pytest.approx(150.0, rel=1e-6), "a frozen one stays as it was loaded"


def test_a_frozen_scale_above_the_bound_survives_a_training():
    model = towers_model(dropout=0.5)
    with torch.no_grad():
        model.clip.logit_scale.fill_(math.log(100.05))  # OpenAI's, stored in half precision
    model.clip.logit_scale.requires_grad_(False)
    before, moved = model.clip.logit_scale.item(), model.clip.image.weight.detach().clone()
    module = make_module(model, optimizer=lambda g: torch.optim.SGD(g, lr=0.1), num_views=2)
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", barebones=True)
    trainer.fit(module, DataLoader([make_batch(0), make_batch(1)], batch_size=None))
    assert model.clip.logit_scale.item() == before
    assert not torch.equal(model.clip.image.weight, moved)


def validated(module, batches):
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    (numbers,) = trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)
    return numbers


def test_validation_looks_once_and_without_dropout():
    second = make_batch(1)
    batches = [make_batch(0), second._replace(sample_id=second.sample_id + PAIRS, text_id=second.text_id + PAIRS)]
    plain, several = towers_model(), towers_model(dropout=0.5)
    expected = validated(make_module(plain), batches)
    found = validated(make_module(several, num_views=3, decay_all=True, encoder_weights="abc"), batches)
    assert found == expected
    with torch.no_grad():
        image = F.normalize(torch.cat([plain.encode_image(b.images) for b in batches]), dim=1).double()
        text = F.normalize(torch.cat([plain.encode_text(b.tokens) for b in batches]), dim=1).double()
    assert found["val/centroid_distance"] == pytest.approx((image.mean(0) - text.mean(0)).norm().item(), rel=1e-5)
    assert found["val/alignment"] == pytest.approx((image - text).square().sum(1).mean().item(), rel=1e-5)
    assert found["val/temperature"] == pytest.approx(1 / 7)


def test_batches_with_and_without_short_captions_are_encoded_alike():
    model = towers_model(dropout=0.5).train()
    with_short, without = (encode_loader(model, DataLoader([make_batch(short=s)], batch_size=None),
                                         torch.device("cpu")) for s in (True, False))  # fmt: skip
    batch = make_batch()
    expected = batch.images @ model.clip.image.weight.T + model.clip.image.bias
    for features in (with_short, without):
        torch.testing.assert_close(features.image_features, expected.detach())
    assert model.training, "the mode is put back"


@pytest.mark.parametrize("weights", [None, "abc"])
def test_a_checkpoint_says_whose_encoders_its_reducer_belongs_to(weights):
    checkpoint = {}
    make_module(towers_model(), encoder_weights=weights).on_save_checkpoint(checkpoint)
    assert checkpoint == {CHECKPOINT_KEY: {"config": {"name": "x"}, "encoder_weights": weights, "samples_seen": 0}}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_is_clipped_in_every_precision_without_a_scaler(precision):
    """With SGD of rate 1 a clipped step is as long as the bound."""

    def moved(bound):
        model = towers_model(max_logit_scale=None)
        before = {name: p.detach().double().clone() for name, p in model.named_parameters()}
        module = make_module(model, optimizer=lambda groups: torch.optim.SGD(groups, lr=1.0, fused=True))
        trainer = pl.Trainer(
            max_steps=1, accelerator="cpu", precision=precision, gradient_clip_val=bound, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader([make_batch()], batch_size=None))
        steps = [(p.detach().double() - before[name]).square().sum() for name, p in model.named_parameters()]
        return sum(steps).sqrt().item()

    assert moved(0.2) == pytest.approx(0.2, rel=1e-3)
    assert moved(None) > 0.3
