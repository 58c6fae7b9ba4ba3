"""Gradients of open_clip's towers encoded in chunks against those of the batch at once, with training's options."""

import pytest
import torch
from torch.nn import functional as F

from i0t.grad_cache import check_chunk, encode_in_chunks
from i0t.losses.clip import clip_loss

BATCH, CHUNK = 7, 3
OPTIONS = {
    "plain": {},
    "checkpointed": {"grad_checkpointing": True},
    "locked image tower": {"lock_image": True},
    "locked text tower": {"lock_text": True},
    "channels last": {"channels_last": True},
    "adapters": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.0}},
    "adapters, checkpointed": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.0}, "grad_checkpointing": True},
}


def gradients(model, images, tokens, chunk):
    model.zero_grad()
    weights = list(model.parameters())
    image, text = (
        F.normalize(encode_in_chunks(encode, rows, weights, chunk=chunk), dim=1)
        for encode, rows in ((model.encode_image, images), (model.encode_text, tokens))
    )
    clip_loss(image, text, model.logits()[0])["loss"].backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def check(model):
    """In double precision: sums over chunks are in another order."""
    check_chunk(CHUNK, model.double())
    generator = torch.Generator().manual_seed(3)
    size = model.clip.visual.image_size
    side = size if isinstance(size, int) else size[0]
    images = torch.randn(BATCH, 3, side, side, generator=generator, dtype=torch.float64)
    tokens = model.tokenizer([f"a photo of {number} things" for number in range(BATCH)])
    whole = gradients(model, images, tokens, BATCH)
    cut = gradients(model, images, tokens, CHUNK)
    assert whole.keys() == cut.keys() == {name for name, w in model.named_parameters() if w.requires_grad}
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3


@pytest.mark.parametrize("option", OPTIONS)
def test_chunks_of_a_vit_give_the_gradient_of_the_batch(build, option):
    if "lora" in OPTIONS[option]:
        pytest.importorskip("peft")
    check(build("tiny-vit", **OPTIONS[option]).train())


def test_a_locked_resnet_may_be_cut_and_a_trained_one_not(build):
    check(build("tiny-resnet", lock_image=True).train())
    with pytest.raises(ValueError, match="is a batch norm, whose statistics of a chunk are not those of the batch"):
        check_chunk(CHUNK, build("tiny-resnet").train())


@pytest.mark.slow
def test_compiled_towers_may_be_cut(build):
    model = build("tiny-vit").train()
    for tower in (model.clip.visual, model.clip.transformer):
        tower.compile(backend="aot_eager")  # Inductor, which model.compile takes, needs minutes and changes no gradient
    check(model)
