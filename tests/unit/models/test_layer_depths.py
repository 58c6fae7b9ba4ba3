"""Depths against rules written by hand for every kind of tower."""

import pytest
import torch

from i0t.config import compose, instantiate
from i0t.models.base import ClipModel
from i0t.models.layer_depths import depths, transformer_level


def below(names, *parts):
    """The depths of all parameters whose name has one of the parts."""
    return {depth for name, depth in names.items() if any(part in name for part in parts)}


@pytest.mark.parametrize("architecture", ["tiny-vit", "tiny-bias", "tiny-custom"])
def test_transformers_have_embeddings_blocks_and_a_top(architecture, build):
    model = build(architecture)
    found = model.layer_depths()
    assert set(found) == {name for name, _ in model.named_parameters()}
    image = {name: depth for name, depth in found.items() if name.startswith("clip.visual.")}
    text = {name: depth for name, depth in found.items() if name not in image}
    for tower in (image, text):  # of two blocks each: 0 the top, 1 and 2 the blocks, 3 the embeddings
        assert below(tower, "resblocks.1.") == {1}
        assert below(tower, "resblocks.0.") == {2}
    assert below(image, "conv1", "class_embedding", "visual.positional_embedding", "ln_pre") == {3}
    assert below(image, "ln_post", "visual.proj", "attn_pool") == {0}
    assert below(text, "token_embedding", "positional_embedding") == {3}
    assert below(text, "ln_final", "text_projection", "logit_scale", "logit_bias") == {0}


def test_long_clip_s_second_positions_are_embeddings(build_long):
    found = build_long("tiny-vit").layer_depths()
    assert found["clip.positional_embedding_res"] == found["clip.token_embedding.weight"] == 3


def test_a_resnet_has_a_stem_four_stages_and_a_pool(build):
    found = build("tiny-resnet").layer_depths()
    for stage in (1, 2, 3, 4):
        assert below(found, f"visual.layer{stage}.") == {5 - stage}
    assert below(found, "visual.conv", "visual.bn") == {5}
    assert below(found, "visual.attnpool") == {0}


def test_a_tower_of_timm_has_timm_s_layers(build):
    found = build("tiny-timm").layer_depths()  # convnext_atto: 2, 2, 6 and 2 blocks behind a stem
    counted = [(stage, block) for stage, blocks in enumerate((2, 2, 6, 2)) for block in range(blocks)]
    for at, (stage, block) in enumerate(counted):
        assert below(found, f"trunk.stages.{stage}.blocks.{block}.") == {len(counted) - at}
        assert block or stage == 0 or below(found, f"trunk.stages.{stage}.downsample") == {len(counted) - at}
    assert below(found, "trunk.stem") == {len(counted) + 1}
    assert below(found, "trunk.head", "visual.head") == {0}


def test_adapters_are_as_deep_as_what_they_adapt(build):
    found = build("tiny-vit", lora={"rank": 2}).layer_depths()
    assert below(found, "resblocks.0.attn.in_proj.lora_A", "resblocks.0.mlp.c_fc.lora_B") == {2}
    assert below(found, "resblocks.1.attn.in_proj.lora_A") == {1}


def test_mad_tiny_has_a_layer_for_every_convolution():
    found = instantiate(compose("train", ["paths.output_dir=out"]).model).layer_depths()
    for layer in range(6):  # convolution, norm and activation stand in a row
        assert below(found, f"visual.layers.{3 * layer}.", f"visual.layers.{3 * layer + 1}.") == {6 - layer}
    assert below(found, "visual.projection", "ln_final", "text_projection", "logit_scale") == {0}
    assert below(found, "resblocks.0.") == {1}
    assert below(found, "token_embedding", "clip.positional_embedding") == {2}


def test_a_model_of_one_s_own_must_say_its_depths():
    model = ClipModel(torch.nn.Linear(2, 2), transform=None, tokenizer=None, embed_dim=2, max_logit_scale=None)
    with pytest.raises(
        ValueError, match="layer_decay: ClipModel does not say how deep its parameters lie; set layer_dec"
    ):
        model.layer_depths()


def test_a_tower_without_blocks_is_refused():
    with pytest.raises(ValueError, match="layer_decay: the image tower has no blocks"):
        depths(["conv1.weight", "fc.weight"], transformer_level, tower="image tower")
