"""What every loss does with ``negatives``; several processes are in tests/distributed."""

import pytest
import torch

from i0t.losses.clip import ClipLoss, clip_loss
from i0t.losses.cloob import CloobLoss, cloob_loss
from i0t.losses.cyclip import CyClipLoss, cyclip_loss
from i0t.losses.long_clip import LongClipLoss, long_clip_loss
from i0t.losses.negatives import gather_columns, own_column, sum_over_batch
from i0t.losses.siglip import SigLipLoss, siglip_loss
from i0t.losses.uniformity_alignment import UniformityAlignmentLoss, uniformity_alignment_loss

LOSSES = [
    (ClipLoss, clip_loss),
    (CyClipLoss, cyclip_loss),
    (CloobLoss, cloob_loss),
    (UniformityAlignmentLoss, uniformity_alignment_loss),
    (LongClipLoss, long_clip_loss),
    (SigLipLoss, siglip_loss),
]
SIGLIP = (siglip_loss, SigLipLoss)


def call(loss, unit_rows, num_rows=8, **more):
    x, y, short = (unit_rows(num_rows, 5, seed=seed) for seed in range(3))
    if loss in (long_clip_loss, LongClipLoss) or isinstance(loss, LongClipLoss):
        more["short_text_features"] = short
    if loss in SIGLIP or isinstance(loss, SigLipLoss):
        more["logit_bias"] = torch.tensor(-3.0)
    return loss(x, y, torch.tensor(9.0), **more)


@pytest.mark.parametrize(("loss_class", "function"), LOSSES)
def test_anything_but_global_and_local_is_one_clear_line(loss_class, function, unit_rows):
    message = r"^negatives must be 'global' \(all devices' rows\) or 'local' \(each its own\), got 'all'$"
    with pytest.raises(ValueError, match=message):
        loss_class(negatives="all")
    with pytest.raises(ValueError, match=message):
        call(function, unit_rows, negatives="all")


@pytest.mark.parametrize(("loss_class", "function"), LOSSES)
def test_one_process_has_the_same_rows_either_way(loss_class, function, unit_rows):
    default = call(loss_class(), unit_rows)
    for negatives in ("global", "local"):
        parts = call(loss_class(negatives=negatives), unit_rows)
        assert {k: v.item() for k, v in parts.items()} == {k: v.item() for k, v in default.items()}
        assert call(function, unit_rows, negatives=negatives)["loss"].item() == default["loss"].item()
    assert default["loss"].item() == pytest.approx(sum(v.item() for k, v in default.items() if k != "loss"), rel=1e-12)


@pytest.mark.parametrize(("loss_class", "_"), LOSSES)
def test_local_negatives_do_not_communicate(loss_class, _, unit_rows, monkeypatch):
    """A world of two without a second process: any collective would raise."""
    monkeypatch.setattr("i0t.distributed.world_size", lambda: 2)
    monkeypatch.setattr("i0t.losses.cyclic.world_size", lambda: 2)
    monkeypatch.setattr("i0t.losses.negatives.rank", lambda: 1)
    with pytest.raises(ValueError, match="process group"):
        call(loss_class(), unit_rows)
    local = call(loss_class(negatives="local"), unit_rows)
    monkeypatch.undo()
    assert local["loss"].item() == call(loss_class(), unit_rows)["loss"].item()


@pytest.mark.parametrize(("loss_class", "_"), LOSSES)
def test_every_input_has_a_gradient_even_where_the_loss_ignores_it(loss_class, _, unit_rows):
    """DDP stops at a parameter without gradient; one of zero is what the fixed temperature needs."""
    scale, bias = (torch.tensor(v, requires_grad=True) for v in (9.0, -3.0))
    rows = [unit_rows(8, 5, seed=seed, dtype=torch.float32).requires_grad_() for seed in range(3)]
    more = {"short_text_features": rows.pop()} if loss_class is LongClipLoss else {}
    loss = loss_class()(*rows[:2], scale, bias, **more)["loss"]
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(row.grad.abs().max() > 1e-3 for row in [*rows[:2], *more.values()])
    assert (abs(bias.grad.item()) > 1e-3) if loss_class is SigLipLoss else (bias.grad.item() == 0)
    if loss_class is CloobLoss:
        assert scale.grad.item() == 0
    else:
        assert abs(scale.grad.item()) > 1e-3


def test_rows_of_one_process():
    x, y = torch.randn(3, 2), torch.randn(3, 2)
    for negatives in ("global", "local"):
        assert [rows.tolist() for rows in gather_columns(x, y, negatives=negatives)] == [x.tolist(), y.tolist()]
        assert own_column(x, negatives).tolist() == [0, 1, 2]
        assert sum_over_batch(x, negatives).tolist() == x.tolist()


@pytest.mark.parametrize(("loss_class", "_"), LOSSES)
def test_no_rows_are_one_clear_line(loss_class, _, unit_rows):
    with pytest.raises(ValueError, match=r"the loss of no pairs is not defined, .* shape \(0, 5\)"):
        call(loss_class(), unit_rows, num_rows=0)
