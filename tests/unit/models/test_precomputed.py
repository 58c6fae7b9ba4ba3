"""Cached features in place of the towers; everything of the model frozen."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from i0t.models.precomputed import Precomputed


@pytest.fixture(params=["tiny-vit", "tiny-resnet", "tiny-bias", "long"])
def model(request, build, build_long):
    torch.manual_seed(0)
    return build_long("tiny-vit") if request.param == "long" else build(request.param, crop_scale=[0.5, 1.0])


def test_features_pass_and_the_rest_is_the_model_s(model):
    identity = model.identity()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    precomputed = Precomputed(model)
    images, texts = torch.randn(5, 24), torch.randn(5, 24)
    output = precomputed(images, texts)
    assert output.image_features is images
    assert output.text_features is texts
    assert output.logit_scale.item() == pytest.approx(model.logit_values()[0])
    assert precomputed.logit_values() == model.logit_values()
    state = precomputed.state_dict()
    assert list(state) == list(before)
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert {p.data_ptr() for p in precomputed.parameters()} == {p.data_ptr() for p in model.parameters()}, "shared"
    assert precomputed.identity() == identity == model.identity()
    for name in ("transform", "train_transform", "tokenizer", "embed_dim", "weights_files"):
        assert getattr(precomputed, name) is getattr(model, name), name


def test_its_state_loads_into_the_model(build, tmp_path):
    torch.manual_seed(0)
    precomputed = Precomputed(build("tiny-bias"))
    torch.save({"state_dict": {f"model.{k}": v for k, v in precomputed.state_dict().items()}}, tmp_path / "run.ckpt")
    assert build("tiny-bias", str(tmp_path / "run.ckpt")).identity() == precomputed.identity()


def test_a_copy_stands_for_itself(build):
    precomputed = copy.deepcopy(Precomputed(build("tiny-vit")))
    with torch.no_grad():
        precomputed.clip.logit_scale += 1
    assert precomputed.identity()["weights"] == precomputed._made_with[0].identity()["weights"], (
        "shared in the copy too"
    )


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 32, 32), torch.zeros(2, 77, dtype=torch.int64), torch.zeros(2, 24, dtype=torch.int64)]
)
def test_what_is_not_features_is_refused(wrong, build):
    model = Precomputed(build("tiny-vit"))
    with pytest.raises(ValueError, match=r"takes cached image features, \(B, 24\) of floats, got \(2,"):
        model.encode_image(wrong)
    with pytest.raises(ValueError, match=r"takes cached text features"):
        model.encode_text(wrong)


def test_all_of_a_model_is_frozen_for_good(model):
    model.train()
    model.freeze_all()
    assert not any(p.requires_grad for p in model.parameters())
    model.train()
    assert not any(m.training for m in model.clip.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    side = 64 if "bn1.weight" in model.clip.visual.state_dict() else 32
    output = model(torch.randn(3, 3, side, side) * 3 + 2, model.tokenizer(["a cat", "a dog", "two"]))
    assert not output.image_features.requires_grad
    assert not output.text_features.requires_grad
    assert not output.logit_scale.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "batch statistics too"


def test_no_clamp_moves_a_frozen_logit_scale(build):
    # OpenAI's scales are stored in half precision, a little above 100.
    model = build("tiny-vit", logit_scale=100.05, max_logit_scale=100.0)
    model.freeze_all()
    assert model.max_logit_scale is None
    precomputed = Precomputed(build("tiny-vit", logit_scale=100.05, max_logit_scale=100.0))
    assert precomputed.max_logit_scale is None
    assert precomputed.log_logit_scale.item() == pytest.approx(math.log(100.05), rel=1e-6)


class Stage2(nn.Module):
    """A model and a batch norm for each modality, as I0T_async."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.image_norm, self.text_norm = nn.BatchNorm1d(24), nn.BatchNorm1d(24)

    def forward(self, images, texts):
        output = self.model(images, texts)
        image, text = self.image_norm(output.image_features), self.text_norm(output.text_features)
        logits = output.logit_scale * image @ text.T
        own = torch.arange(len(logits))
        return nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("cached", [True, False])
def test_ddp_trains_a_reducer_alone(cached, build, captions, one_process):
    torch.manual_seed(0)
    model = build("tiny-vit")
    model.freeze_all()
    stage2 = Stage2(Precomputed(model) if cached else model).train()
    images, tokens = torch.randn(3, 3, 32, 32), model.tokenizer(captions)
    batch = (model.encode_image(images), model.encode_text(tokens)) if cached else (images, tokens)
    before = {name: value.clone() for name, value in stage2.state_dict().items()}
    wrapped = DistributedDataParallel(stage2)
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):  # DDP complains of parameters without gradients at the step after
        optimizer.zero_grad()
        wrapped(*batch).backward()
        optimizer.step()
    moved = {name for name, value in stage2.state_dict().items() if not torch.equal(value, before[name])}
    values = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert moved == {f"{norm}.{value}" for norm in ("image_norm", "text_norm") for value in values}
