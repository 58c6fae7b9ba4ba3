"""torch.compile takes every loss in one graph, whatever its number of tiles is."""

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

from i0t.losses.clip import ClipLoss
from i0t.losses.cloob import CloobLoss
from i0t.losses.cyclip import CyClipLoss
from i0t.losses.long_clip import LongClipLoss
from i0t.losses.siglip import SigLipLoss
from i0t.losses.uniformity_alignment import UniformityAlignmentLoss

LOSSES = [
    ClipLoss(label_smoothing=0.1),
    CloobLoss(),
    CyClipLoss(),
    LongClipLoss(2),
    SigLipLoss(),
    UniformityAlignmentLoss(cross_uniformity_weight=0.5),
]
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


@pytest.mark.parametrize(
    ("loss", "width"),
    [*((loss, 4) for loss in LOSSES), (CyClipLoss(), 24)],  # both forms of the cyclic terms
    ids=lambda each: type(each).__name__,
)
def test_gradients_under_autocast_equal_the_eager_ones_at_two_batch_sizes(loss, width, unit_rows):
    """A compiled backward pass is traced under the autocast around the call, whatever the loss switched off inside."""
    rows = [unit_rows(20, width, seed=seed, dtype=torch.float32) for seed in range(3)]

    def step(image, text, short, scale, bias):
        more = {"short_text_features": short} if isinstance(loss, LongClipLoss) else {}
        return loss(image, text, scale, bias, **more)["loss"]

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for size in (20, 14):
        results = []
        for run in (compiled, step):
            leaves = [each.clone().requires_grad_() for each in (*rows, torch.tensor(9.0), torch.tensor(-2.0))]
            with torch.autocast("cpu", torch.bfloat16):
                value = run(*(each[:size] for each in leaves[:3]), *leaves[3:])
            value.backward()
            results.append([value.detach(), *(torch.zeros(()) if x.grad is None else x.grad for x in leaves)])
        for mine, eager in zip(*results, strict=True):
            torch.testing.assert_close(mine, eager, rtol=1e-5, atol=1e-7)


def test_a_compiled_loss_refuses_a_second_derivative_too(unit_rows):
    rows, weights = unit_rows(6, 4, dtype=torch.float32), torch.eye(4, requires_grad=True)
    step = torch.compile(lambda x: ClipLoss()(x, rows, torch.tensor(9.0))["loss"], backend="aot_eager")
    (gradient,) = torch.autograd.grad(step(F.normalize(rows @ weights, dim=1)), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        gradient.square().sum().backward()
