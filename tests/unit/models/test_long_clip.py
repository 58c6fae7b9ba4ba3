"""Long-CLIP's stretch, its two embeddings and its files."""

import open_clip
import pytest
import torch

from i0t.models.long_clip import POSITIONS, stretch_positions

TEXT = "a long story about a red house. " * 20


def naive_stretch(p):
    """SCIENCE: copied to 20; (1 - k/4) p[20 + i] + (k/4) p[21 + i]; the last four go on."""
    new = torch.empty(248, p.shape[1], dtype=p.dtype)
    for i in range(20):
        new[i] = p[i]
    for i in range(56):
        for k in range(4):
            new[20 + 4 * i + k] = (1 - k / 4) * p[20 + i] + (k / 4) * p[21 + i]
    for k in range(4):
        new[244 + k] = p[76] + (k / 4) * (p[76] - p[75])
    return new


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stretch_equals_the_loop(dtype):
    p = torch.randn(77, 5, dtype=dtype)
    assert stretch_positions(p).shape == (POSITIONS, 5) == (248, 5)
    assert torch.allclose(stretch_positions(p), naive_stretch(p), atol=1e-6)
    assert torch.equal(stretch_positions(p)[20::4], p[20:])


def reference_text_features(clip, state, tokens):
    """Long-CLIP's forward with its masks, on the modules of a plain open_clip model."""
    mask1, mask2 = torch.zeros(248, 1), torch.zeros(248, 1)
    mask1[:20], mask2[20:] = 1, 1
    x = clip.token_embedding(tokens)
    x = x + state["positional_embedding"].float() * mask1 + state["positional_embedding_res"].float() * mask2
    causal = torch.full((248, 248), float("-inf")).triu(1)
    x = clip.ln_final(clip.transformer(x, attn_mask=causal))
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ clip.text_projection


@pytest.fixture
def release(plain):
    """The state dict of a file that Long-CLIP's own code writes: half-precision matrices, two embeddings."""
    model = plain("tiny-vit-quickgelu")
    open_clip.model.convert_weights_to_lp(model, torch.float16)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    state["positional_embedding"], state["positional_embedding_res"] = torch.randn(2, 248, 64)
    return state


def test_its_own_file_loads_as_it_is(release, build_long, plain, captions, tmp_path):
    torch.save(release, tmp_path / "longclip.pt")
    model = build_long("tiny-vit-quickgelu", str(tmp_path / "longclip.pt")).eval()
    clip = plain("tiny-vit-quickgelu")
    clip.load_state_dict({k: v.float() for k, v in release.items() if "positional" not in k or "visual" in k}, False)
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=248)([*captions, TEXT])
    assert torch.equal(model.tokenizer([*captions, TEXT]), tokens)
    assert (tokens[-1] != 0).sum() > 77
    with torch.no_grad():
        ours, expected = model.encode_text(tokens), reference_text_features(clip, release, tokens)
    assert (ours - expected).abs().max() <= 1e-5
    assert model.clip.visual.conv1.weight.dtype == torch.float32


def test_its_own_file_needs_quick_gelu(release, build_long, tmp_path):
    torch.save(release, tmp_path / "longclip.pt")
    with pytest.raises(ValueError, match=r"QuickGELU, tiny-vit has GELU: set model.architecture=tiny-vit-quickgelu"):
        build_long("tiny-vit", str(tmp_path / "longclip.pt"))


def test_a_file_of_77_tokens_is_stretched_and_short_texts_keep_their_features(build_long, plain, tmp_path):
    clip = plain("tiny-vit")
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    model = build_long("tiny-vit", str(tmp_path / "clip.pt")).eval()
    expected = naive_stretch(clip.positional_embedding.detach())
    assert torch.allclose(model.clip.positional_embedding, expected, atol=1e-6)
    assert torch.allclose(model.clip.positional_embedding_res, expected, atol=1e-6)
    assert torch.allclose(model.positions(), expected, atol=1e-6)
    short, long = ["a cat", "two dogs on a red sofa"], [TEXT]
    tokens = open_clip.get_tokenizer("ViT-B-32")(short)
    with torch.no_grad():
        # Up to 20 tokens the positions are CLIP's own, and causal attention does not see the rest.
        assert (model.encode_text(model.tokenizer(short)) - clip.encode_text(tokens)).abs().max() <= 1e-5
        cut = torch.cat([model.tokenizer(long)[:, :76], torch.full((1, 1), 49407)], dim=1)
        cut = torch.nn.functional.pad(cut, (0, 248 - 77))
        assert not torch.allclose(model.encode_text(model.tokenizer(long)), model.encode_text(cut), atol=1e-3)


def test_twenty_positions_are_fixed_and_the_others_learn(build_long):
    torch.manual_seed(0)
    model = build_long("tiny-vit").train()
    model.encode_text(model.tokenizer([TEXT])).square().sum().backward()
    assert not model.clip.positional_embedding.requires_grad
    gradient = model.clip.positional_embedding_res.grad
    assert gradient[:20].abs().max() == 0
    used = int((model.tokenizer([TEXT]) != 0).sum())
    assert (gradient[20:used].abs().sum(1) > 0).all()


def test_locked_text_includes_the_second_embedding(build_long):
    model = build_long("tiny-vit", lock_text=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "clip.positional_embedding_res" not in trained
    assert "clip.logit_scale" in trained
    assert all(name.startswith(("clip.visual.", "clip.logit_scale")) for name in trained)


def test_a_model_whose_state_follows_has_248_positions(build_long, tmp_path):
    torch.manual_seed(3)
    trained, rebuilt = build_long("tiny-vit"), build_long("tiny-vit", str(tmp_path / "gone.pt"), load_weights=False)
    rebuilt.load_state_dict(trained.state_dict())
    assert rebuilt.clip.positional_embedding_res.shape == (248, 64)
    assert rebuilt.identity() == trained.identity()


def test_its_checkpoint_goes_on_from_a_file(build_long, tmp_path):
    trained = build_long("tiny-vit")
    with torch.no_grad():
        trained.clip.positional_embedding_res += 1
    state = {f"model.{k}": v for k, v in trained.state_dict().items()} | {"gap_reducer.mean": torch.ones(3)}
    torch.save({"state_dict": state, "i0t": {"config": {}}}, tmp_path / "run.ckpt")
    again = build_long("tiny-vit", str(tmp_path / "run.ckpt"))
    assert again.identity() == trained.identity()


def test_a_long_file_in_a_short_model_is_refused(build, build_long, tmp_path):
    torch.save(build_long("tiny-vit").clip.state_dict(), tmp_path / "long.pt")
    with pytest.raises(ValueError, match=r"has 248 text positions, tiny-vit has 77; .*model=longclip_vit_b_32"):
        build("tiny-vit", str(tmp_path / "long.pt"))


def test_only_clip_s_own_text_tower_is_stretched(build_long):
    with pytest.raises(ValueError, match="CLIP's own text tower"):
        build_long("tiny-bias")


def test_stage_one_starts_at_100_and_may_go_beyond(build_long, plain, tmp_path):
    # I0T: the logarithm of the scale is set to 4.6052 over what the weights say, learnt, and never clamped.
    clip = plain("tiny-vit")
    with torch.no_grad():
        clip.logit_scale.fill_(3.0)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    model = build_long("tiny-vit", str(tmp_path / "clip.pt"), logit_scale=100.0, max_logit_scale=None).train()
    assert model.log_logit_scale.item() == pytest.approx(4.6052, abs=1e-4)
    assert model.max_logit_scale is None
    assert model.log_logit_scale.requires_grad
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    (-model.logits()[0]).backward()
    optimizer.step()
    assert model.log_logit_scale.item() == pytest.approx(4.60517 + 1e-3 * 100, abs=1e-3)
    # A checkpoint brings its own, whatever the config says.
    again = build_long("tiny-vit", "gone.pt", load_weights=False, logit_scale=100.0, max_logit_scale=None)
    again.load_state_dict(model.state_dict())
    assert again.log_logit_scale.item() == model.log_logit_scale.item()
