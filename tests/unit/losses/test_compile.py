"""torch.compile takes every loss in one graph, whatever its number of tiles is."""

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from i0t.losses.clip import ClipLoss
from i0t.losses.cyclip import CyClipLoss
from i0t.losses.siglip import SigLipLoss

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def train(loss, rows, batches, compiler):
    """Losses and parameters of a few SGD steps through a compiled tower and loss."""
    torch.manual_seed(0)
    tower = torch.nn.Linear(6, 4)
    scale, bias = torch.nn.Parameter(torch.tensor(9.0)), torch.nn.Parameter(torch.tensor(-2.0))
    parameters = [*tower.parameters(), scale, bias]
    optimizer = torch.optim.SGD(parameters, lr=0.1)

    def step(images, texts):
        unit = (F.normalize(tower(each), dim=-1) for each in (images, texts))
        return loss(*unit, scale, bias)["loss"]

    run = step if compiler is None else torch.compile(step, backend=compiler, fullgraph=True, dynamic=False)
    losses = []
    for size in batches:
        optimizer.zero_grad()
        value = run(rows[:size], rows[size : 2 * size])
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses, [each.detach().clone() for each in parameters]


@pytest.mark.parametrize("loss", [ClipLoss(label_smoothing=0.1), CyClipLoss(), SigLipLoss()])
def test_one_graph_with_the_same_numbers(loss):
    rows = torch.randn(1400, 6, generator=torch.Generator().manual_seed(1))
    batches = [700, 700, 700]  # several tiles
    compiled_times = CompileCounterWithBackend("aot_eager")
    losses, parameters = train(loss, rows, batches, compiled_times)
    plain_losses, plain_parameters = train(loss, rows, batches, None)
    assert compiled_times.frame_count == 1  # no recompilation from step to step, and fullgraph: no break
    assert losses == pytest.approx(plain_losses, rel=1e-6)
    for mine, plain in zip(parameters, plain_parameters, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-6)
