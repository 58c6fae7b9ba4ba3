import math

import pytest
import torch

from i0t.schedulers.cosine import cosine


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (10, 3), (7, 7), (450, 20)])
def test_learning_rates_equal_the_formula_step_by_step(steps, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = cosine(optimizer, num_steps=steps, warmup_steps=warmup)
    for step in range(steps):
        if step < warmup:
            expected = 2.0 * (step + 1) / warmup
        else:
            expected = 1.0 + math.cos(math.pi * (step - warmup) / (steps - warmup))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        optimizer.step()
        schedule.step()


def test_a_warmup_longer_than_the_run_is_refused():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    with pytest.raises(ValueError, match="warmup_steps=8 is longer than the run of 7 steps"):
        cosine(optimizer, num_steps=7, warmup_steps=8)
