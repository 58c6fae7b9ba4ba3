"""Gradients of a batch encoded in chunks against those of the batch encoded at once, and what is kept in memory."""

# B rows of a batch, C rows of a chunk, D embedding width.
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from i0t.grad_cache import check_chunk, encode_in_chunks

WIDTH, DIM = 6, 4


class Tower(nn.Module):
    """Two layers with dropout between; notes how many rows it was given, with and without a graph."""

    def __init__(self, dropout=0.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(WIDTH, 9), nn.Linear(9, DIM)
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.ones(DIM))  # its gradient is a sum over rows alone
        self.with_graph, self.without_graph = [], []

    def forward(self, rows):
        (self.with_graph if torch.is_grad_enabled() else self.without_graph).append(len(rows))
        return self.second(self.dropout(torch.tanh(self.first(rows)))) * self.scale


def in_chunks(tower, rows, chunk):
    return encode_in_chunks(tower, rows, list(tower.parameters()), chunk=chunk)


def contrastive(features, others):
    """A loss in which every row meets every other."""
    logits = 3 * F.normalize(features, dim=1) @ F.normalize(others, dim=1).T
    return F.cross_entropy(logits, torch.arange(len(features)))


def gradients(module):
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


@settings(max_examples=40, deadline=None)
@given(num_rows=st.integers(2, 13), chunk=st.integers(1, 14), seed=st.integers(0, 99))
def test_chunks_give_the_gradient_of_the_whole_batch(num_rows, chunk, seed):
    tower = Tower(seed=seed).double()
    rows, others = torch.randn(num_rows, WIDTH).double(), torch.randn(num_rows, DIM).double()
    whole = tower(rows)
    contrastive(whole, others).backward()
    expected = gradients(tower)
    tower.zero_grad()
    features = in_chunks(tower, rows, chunk)
    contrastive(features, others).backward()
    torch.testing.assert_close(features, whole, rtol=1e-12, atol=1e-14)
    for name, gradient in gradients(tower).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_second_pass_repeats_dropout_and_precision_of_the_first(autocast):
    tower = Tower(dropout=0.5)
    rows, others = torch.randn(7, WIDTH), torch.randn(7, DIM)
    found = []
    for encode in (lambda: torch.cat([tower(part) for part in rows.split(3)]), lambda: in_chunks(tower, rows, 3)):
        tower.zero_grad()
        torch.manual_seed(5)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            features = encode()
        torch.rand(3)  # whatever the loss draws
        contrastive(features.float(), others).backward()
        found.append((features.detach(), gradients(tower), torch.rand(2)))
    assert torch.equal(features, features.bfloat16().float()) == autocast
    assert torch.equal(found[0][0], found[1][0])
    # Sums over chunks in another order; where weights are converted once for all chunks, that sum is of bfloat16.
    tolerance = {"rtol": 0.02, "atol": 1e-3} if autocast else {"rtol": 2e-6, "atol": 1e-7}
    torch.testing.assert_close(found[0][1], found[1][1], **tolerance)
    assert torch.equal(found[0][2], found[1][2]), "what is drawn after the backward pass is what would have been drawn"


def test_weights_converted_without_a_graph_are_not_found_again_under_the_same_autocast():
    tower = Tower()
    rows, others = torch.randn(6, WIDTH), torch.randn(6, DIM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = in_chunks(tower, rows, 2)
        second = tower(rows)
    contrastive((first + second).float(), others).backward()
    both = gradients(tower)
    tower.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        twice = tower(rows) + tower(rows)
    contrastive(twice.float(), others).backward()
    for name, gradient in gradients(tower).items():
        torch.testing.assert_close(both[name], gradient, rtol=0.05, atol=2e-3)


def test_a_gradient_that_keeps_its_graph_is_refused():
    """Its own derivative would be wrong without a word, since the incoming gradient is a constant."""
    tower = Tower()
    value = in_chunks(tower, torch.randn(5, WIDTH), 2).sum()
    with pytest.raises(RuntimeError, match=r"no second derivative.*trainer.grad_cache_chunk=null"):
        torch.autograd.grad(value, tower.first.weight, create_graph=True)


def test_no_more_than_a_chunk_has_a_graph():
    tower = Tower()
    features = in_chunks(tower, torch.randn(8, WIDTH), 3)
    assert (tower.without_graph, tower.with_graph) == ([3, 3, 2], [])
    features.sum().backward()
    assert (tower.without_graph, tower.with_graph) == ([3, 3, 2], [3, 3, 2])


def test_activations_in_memory_are_those_of_a_chunk():
    def most_bytes(chunk):
        tower, held, most = Tower(), [0], [0]

        class Kept:
            def __init__(self, tensor):
                self.tensor, self.bytes = tensor, tensor.nbytes
                held[0] += self.bytes
                most[0] = max(most[0], held[0])

            def __del__(self):
                held[0] -= self.bytes

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            # The rows are the data's, whoever encodes them.
            features = in_chunks(tower, torch.randn(512, WIDTH), chunk)
            features.square().sum().backward()
        return most[0]

    # Of a chunk of 16 rows little more than the batch's rows and features themselves is left.
    rows_and_features = 512 * (WIDTH + 2 * DIM) * 4
    assert most_bytes(16) < 1.1 * rows_and_features + 16 * 200
    assert most_bytes(512) > 1.5 * most_bytes(16)


def test_a_frozen_tower_is_not_encoded_again():
    frozen, trained = Tower().requires_grad_(False), Tower(seed=1)
    weights = [*frozen.parameters(), *trained.parameters()]
    rows = torch.randn(6, WIDTH)
    fixed = encode_in_chunks(frozen, rows, weights, chunk=2)
    moving = encode_in_chunks(trained, rows, weights, chunk=2)
    contrastive(moving, fixed).backward()
    expected = gradients(trained)
    assert len(frozen.with_graph) <= 1
    assert all(parameter.grad is None for parameter in frozen.parameters())
    trained.zero_grad()
    contrastive(trained(rows), frozen(rows)).backward()
    torch.testing.assert_close(expected, gradients(trained), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chunk", [5, 6])
def test_what_fits_one_chunk_is_encoded_once(chunk):
    tower = Tower()
    in_chunks(tower, torch.randn(5, WIDTH), chunk).sum().backward()
    assert (tower.without_graph, tower.with_graph) == ([], [5])


def test_without_gradients_nothing_is_cut():
    tower = Tower()
    with torch.no_grad():
        in_chunks(tower, torch.randn(5, WIDTH), 2)
    assert tower.without_graph == [5]


def test_a_parameter_that_is_not_used_has_no_gradient_and_accumulation_adds_up():
    tower, unused = Tower(), nn.Parameter(torch.ones(2))
    rows = torch.randn(5, WIDTH)
    for _ in range(2):
        encode_in_chunks(tower, rows, [unused, *tower.parameters()], chunk=2).sum().backward()
    assert unused.grad is None
    twice = gradients(tower)
    tower.zero_grad()
    tower(rows).sum().backward()
    for name, gradient in gradients(tower).items():
        torch.testing.assert_close(twice[name], 2 * gradient)


def test_a_gradient_that_is_a_view_of_the_features_gradient_is_not_added_into():
    shift, rows = nn.Parameter(torch.zeros(1, DIM)), torch.randn(5, DIM)
    encode_in_chunks(lambda part: part + shift, rows, [shift], chunk=1).sum().backward()
    assert torch.equal(shift.grad, torch.full((1, DIM), 5.0))


@pytest.mark.parametrize("chunk", [0, -3, 1.5, "8"])
def test_a_chunk_of_no_rows_is_refused(chunk):
    with pytest.raises(ValueError, match=r"trainer.grad_cache_chunk=.* must be a whole number of at least 1"):
        check_chunk(chunk, nn.Linear(2, 2))


def test_batch_norm_is_refused_while_it_is_trained():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4)))
    with pytest.raises(ValueError, match=r"1.0 is a batch norm, whose statistics of a chunk are not those"):
        check_chunk(2, model)
    check_chunk(2, model.eval())
    check_chunk(2, nn.LayerNorm(3))
