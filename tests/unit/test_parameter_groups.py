"""Groups of parameters against a rule by hand, and the rates that an optimizer and its schedule make of them."""

import logging

import pytest
import torch
from torch import nn

from i0t.parameter_groups import LayerDecay, parameter_groups, scale_learning_rates
from i0t.schedulers.cosine import cosine

DEPTHS = {"a.weight": 3, "a.bias": 3, "b.weight": 1, "b.bias": 1, "top": 0, "frozen": 2}


def parameters():
    shapes = {"a.weight": (2, 2), "a.bias": (2,), "b.weight": (2, 2), "b.bias": (2,), "top": (3, 3), "frozen": (2, 2)}
    named = {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    named["frozen"].requires_grad_(False)
    return named | {"reducer.weight": nn.Parameter(torch.ones(2))}


def names_in(group, named):
    return {name for name, parameter in named.items() if any(parameter is p for p in group["params"])}


@pytest.mark.parametrize("decay_all", [False, True])
def test_every_trained_parameter_is_in_one_group_with_its_own_factor(decay_all):
    named = parameters()
    groups = parameter_groups(named.items(), decay_all=decay_all, layer_decay=LayerDecay(0.5, DEPTHS))
    counted = [name for group in groups for name in names_in(group, named)]
    assert sorted(counted) == sorted(set(named) - {"frozen"})
    for group in groups:
        for name in names_in(group, named):
            factor = 1.0
            for _ in range(DEPTHS.get(name, 0)):
                factor *= 0.5
            assert group["lr_scale"] == factor
            assert ("weight_decay" in group) == (named[name].ndim < 2 and not decay_all)
    assert len({group["name"] for group in groups}) == len(groups)
    assert [group["lr_scale"] for group in groups] == sorted(group["lr_scale"] for group in groups)


def test_the_schedule_keeps_the_ratios():
    named = parameters()
    groups = parameter_groups(named.items(), decay_all=True, layer_decay=LayerDecay(0.5, DEPTHS))
    optimizer = torch.optim.SGD(groups, lr=0.8)
    scale_learning_rates(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.4, 0.8])
    schedule = cosine(optimizer, num_steps=6, warmup_steps=2)
    for _ in range(5):
        low, middle, high = (group["lr"] for group in optimizer.param_groups)
        assert (middle / low, high / low) == pytest.approx((4, 8))
        optimizer.step()
        schedule.step()
    assert low < 0.1


def test_a_step_moves_a_deep_weight_less():
    named = parameters()
    optimizer = torch.optim.SGD(
        parameter_groups(named.items(), decay_all=True, layer_decay=LayerDecay(0.5, DEPTHS)), lr=0.8
    )
    scale_learning_rates(optimizer)
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    moved = {name: 1 - parameter.detach().flatten()[0].item() for name, parameter in named.items()}
    assert moved == pytest.approx(
        {"a.weight": 0.1, "a.bias": 0.1, "b.weight": 0.4, "b.bias": 0.4, "top": 0.8, "frozen": 0, "reducer.weight": 0.8}
    )


def test_without_layer_decay_nothing_is_scaled():
    named = parameters()
    optimizer = torch.optim.SGD(parameter_groups(named.items(), decay_all=False), lr=0.8)
    scale_learning_rates(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.8, 0.8]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.0]
    assert names_in(optimizer.param_groups[0], named) == {"a.weight", "b.weight", "top"}


def test_the_groups_are_written_to_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="i0t"):
        parameter_groups(parameters().items(), decay_all=False, layer_decay=LayerDecay(0.5, DEPTHS))
    lines = caplog.text.splitlines()
    assert "layer_decay=0.5" in lines[0]
    assert [line.split() for line in lines[2:]] == [
        ["3", "0.125", "yes", "1", "a.weight"],
        ["3", "0.125", "no", "1", "a.bias"],
        ["1", "0.5", "yes", "1", "b.weight"],
        ["1", "0.5", "no", "1", "b.bias"],
        ["0", "1", "yes", "1", "top"],
        ["0", "1", "no", "1", "reducer.weight"],
    ]


@pytest.mark.parametrize("factor", [0.0, -0.5, 1.5])
def test_a_factor_that_is_none_is_refused(factor):
    with pytest.raises(ValueError, match=rf"layer_decay={factor} must be above 0 and at most 1"):
        parameter_groups(parameters().items(), decay_all=False, layer_decay=LayerDecay(factor, DEPTHS))
