"""Gradients of gradients are refused: they are constants to autograd, and would be wrong without a word."""

import pytest
import torch
import torch.nn.functional as F

from i0t.losses.clip import ClipLoss
from i0t.losses.cloob import CloobLoss
from i0t.losses.cyclic import cyclic_terms_gram, cyclic_terms_tiled
from i0t.losses.cyclip import CyClipLoss
from i0t.losses.long_clip import LongClipLoss, principal_reconstruction
from i0t.losses.siglip import SigLipLoss
from i0t.losses.uniformity_alignment import UniformityAlignmentLoss

LOSSES = [ClipLoss(), CloobLoss(), CyClipLoss(), LongClipLoss(2), SigLipLoss(), UniformityAlignmentLoss()]


def weights_and_features(unit_rows, num_rows, width):
    """Three kinds of features through one normalised linear layer."""
    weights = torch.randn(5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return weights, [F.normalize(unit_rows(num_rows, 5, seed=seed) @ weights, dim=1) for seed in range(3)]


@pytest.mark.parametrize("shape", [(6, 8), (5, 3)])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_gradient_that_keeps_its_graph_is_refused(loss, shape, unit_rows):
    weights, (image, text, short) = weights_and_features(unit_rows, *shape)
    more = {"short_text_features": short} if isinstance(loss, LongClipLoss) else {}
    value = loss(image, text, torch.tensor(9.0), torch.tensor(-2.0), **more)["loss"]
    with pytest.raises(RuntimeError, match=r"this loss has no second derivative.*leave create_graph=True away"):
        torch.autograd.grad(value, weights, create_graph=True, retain_graph=True)
    with pytest.raises(RuntimeError, match="this loss has no second derivative"):
        torch.autograd.grad(value.square(), weights, create_graph=True, retain_graph=True)
    torch.autograd.grad(value, weights)


def test_cyclic_terms_and_components_alone(unit_rows):
    weights, (image, text, _) = weights_and_features(unit_rows, 6, 4)
    for value in (cyclic_terms_gram(image, text).total, principal_reconstruction(image, 2).square().sum()):
        with pytest.raises(RuntimeError, match="this loss has no second derivative"):
            torch.autograd.grad(value, weights, create_graph=True)


def test_cyclic_terms_in_tiles_have_theirs(unit_rows):
    def found(product):
        weights, (image, text, _) = weights_and_features(unit_rows, 4, 6)
        (gradient,) = torch.autograd.grad(product(image, text), weights, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weights)[0]

    def plain(x, y):
        return ((x @ y.T - y @ x.T).square().sum() + (x @ x.T - y @ y.T).square().sum()) / len(x)

    torch.testing.assert_close(found(lambda x, y: cyclic_terms_tiled(x, y, x, y).total), found(plain))
