"""The tiled sums against their plain formulas, over shapes, tilings, scales and dtypes."""

import contextlib
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss as OpenClipLoss

from i0t.losses import tiles
from i0t.losses.operators import affinity_rows, contrastive_pairs, contrastive_rows, loob_rows, sigmoid_rows
from i0t.losses.symmetric import SymmetricContrastive

settings.register_profile("operators", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("operators")


@contextlib.contextmanager
def tiling(side, num_bytes, panel_rows):
    """Cuts matrices as an administrator never would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "CPU_SIDE", side)
        patch.setattr(tiles, "CPU_BYTES", num_bytes)
        patch.setattr(tiles, "MIN_PANEL_ROWS", panel_rows)
        yield


def plain_contrastive(rows, columns, own, scale, smoothing):
    return F.cross_entropy(scale * rows @ columns.T, own, label_smoothing=smoothing, reduction="sum")


def plain_pairs(image, text, scale, smoothing):
    own = torch.arange(len(image))
    both = (plain_contrastive(a, b, own, scale, smoothing) for a, b in ((image, text), (text, image)))
    return sum(both)


def plain_sigmoid(rows, columns, own, scale, bias):
    signs = -torch.ones(len(rows), len(columns), dtype=rows.dtype)
    signs[torch.arange(len(rows)), own] = 1.0
    return -F.logsigmoid(signs * (scale * rows @ columns.T + bias)).sum()


def others(matrix, own):
    keep = torch.ones(matrix.shape, dtype=torch.bool)
    keep[torch.arange(len(matrix)), own] = False
    return keep


def plain_loob(rows, columns, own, scale):
    logits = scale * rows @ columns.T
    rest = logits.masked_fill(~others(logits, own), -math.inf).logsumexp(1)
    return (rest - logits[torch.arange(len(rows)), own]).sum()


def plain_affinity(rows, columns, own):
    distances = (rows[:, None] - columns[None]).square().sum(2)
    return (-2 * distances).exp()[others(distances, own)].sum()


CASES = {
    "contrastive": (contrastive_rows, plain_contrastive, ["scale", "smoothing"]),
    "sigmoid": (sigmoid_rows, plain_sigmoid, ["scale", "bias"]),
    "loob": (loob_rows, plain_loob, ["scale"]),
    "affinity": (affinity_rows, plain_affinity, []),
}


def is_float(each):
    return isinstance(each, torch.Tensor) and each.is_floating_point()


def value_and_gradients(function, *arguments, dtype=torch.float64):
    """Of fresh leaves of every floating-point tensor."""
    fresh = [each.detach().to(dtype).clone().requires_grad_() if is_float(each) else each for each in arguments]
    value = function(*fresh)
    (3 * value).backward()  # an incoming gradient other than 1
    return [value.detach(), *(leaf.grad for leaf in fresh if is_float(leaf))]


def assert_near(actual, expected, tolerance):
    for mine, theirs in zip(actual, expected, strict=True):
        bound = tolerance * max(theirs.double().norm().item(), 1.0)
        assert (mine.double() - theirs.double()).norm().item() <= bound


SIZES = st.integers(1, 23)
TILINGS = st.tuples(st.sampled_from([1, 2, 3, 5, 8, 64]), st.sampled_from([8, 64, 500, 4000, 10**6]), st.integers(1, 9))
SCALES = st.sampled_from([0.0, 1.0, 14.3, 100.0])


@given(st.data(), TILINGS, SCALES, st.sampled_from([0.0, 0.1, 0.7]), st.sampled_from([1, 3, 16]))
@pytest.mark.parametrize("name", CASES)
def test_rows_equal_the_plain_formula(name, unit_rows, data, tiling_, scale, smoothing, width):
    num_columns = data.draw(st.integers(2, 23))
    num_rows = data.draw(SIZES)
    own = torch.tensor(data.draw(st.lists(st.integers(0, num_columns - 1), min_size=num_rows, max_size=num_rows)))
    tiled, plain, more = CASES[name]
    given_ = {"scale": torch.tensor(scale), "bias": torch.tensor(-3.0), "smoothing": smoothing}
    arguments = [unit_rows(num_rows, width), unit_rows(num_columns, width, seed=1), own, *(given_[key] for key in more)]
    expected = value_and_gradients(plain, *arguments)
    with tiling(*tiling_):
        assert_near(value_and_gradients(tiled, *arguments), expected, 1e-11)
        assert_near(value_and_gradients(tiled, *arguments, dtype=torch.float32), expected, 1e-4)
        doubles = [each.double() if is_float(each) else each for each in arguments]
        assert tiled(*doubles).item() == pytest.approx(expected[0].item(), rel=1e-11, abs=1e-12)


@given(TILINGS, SIZES, SCALES, st.sampled_from([0.0, 0.1, 0.7]), st.sampled_from([1, 3, 16]))
def test_pairs_equal_the_plain_formula(unit_rows, tiling_, num_pairs, scale, smoothing, width):
    arguments = [unit_rows(num_pairs, width), unit_rows(num_pairs, width, seed=1), torch.tensor(scale), smoothing]
    expected = value_and_gradients(plain_pairs, *arguments)
    with tiling(*tiling_):
        assert_near(value_and_gradients(contrastive_pairs, *arguments), expected, 1e-11)
        assert_near(value_and_gradients(contrastive_pairs, *arguments, dtype=torch.float32), expected, 1e-4)
        doubles = [each.double() if isinstance(each, torch.Tensor) else each for each in arguments]
        assert contrastive_pairs(*doubles).item() == pytest.approx(expected[0].item(), rel=1e-11, abs=1e-12)


@pytest.mark.parametrize("name", [*CASES, "pairs"])
def test_gradcheck_in_ragged_tiles(name, unit_rows):
    x, y = unit_rows(5, 3).requires_grad_(), unit_rows(5, 3, seed=1).requires_grad_()
    scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (5.0, -1.0))
    own = torch.tensor([2, 0, 1, 4, 3])
    calls = {
        "contrastive": lambda x, y, scale, bias: contrastive_rows(x, y, own, scale, 0.1),
        "pairs": lambda x, y, scale, bias: contrastive_pairs(x, y, scale, 0.1),
        "sigmoid": lambda x, y, scale, bias: sigmoid_rows(x, y, own, scale, bias),
        "loob": lambda x, y, scale, bias: loob_rows(x, y, own, scale),
        "affinity": lambda x, y, scale, bias: affinity_rows(x, y, own),
    }
    with tiling(2, 8, 2):
        assert torch.autograd.gradcheck(lambda *a: calls[name](*a) + 0 * (a[2] + a[3]), (x, y, scale, bias))


def test_running_maxima_survive_what_a_constant_shift_does_not(unit_rows):
    """Columns 150 below their rows' maxima at scale 100: exp(-150) is zero in float32, their own maxima are not."""
    x = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [-1.0, 0.1], [0.3, 1.0]]), dim=1)
    y = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.5, 1.0], [-1.0, -0.3]]), dim=1)
    expected = value_and_gradients(plain_pairs, x, y, torch.tensor(100.0), 0.0)
    for side in (1, 2, 3, 4):
        with tiling(side, 8, 1):
            found = value_and_gradients(contrastive_pairs, x, y, torch.tensor(100.0), 0.0, dtype=torch.float32)
        assert_near(found, expected, 1e-5)


def test_matched_rows_at_scale_100_lose_no_digits():
    """Losses of 3e-6 beside logits of 77, where float32's next number is 8e-6 away."""
    x = torch.eye(4)
    y = F.normalize(x + 0.835 * x.roll(1, 0), dim=1)
    own, scale = torch.arange(4), torch.tensor(100.0)
    expected = plain_contrastive(x.double(), y.double(), own, scale, 0.0).item() / 4
    assert 2e-6 < expected < 4e-6
    assert contrastive_pairs(x, y, scale).item() / 8 == pytest.approx(expected, rel=0.05)
    assert contrastive_rows(x, y, own, scale).item() / 4 == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_has_no_gradient_and_changes_nothing(unit_rows, frozen):
    rows = [unit_rows(6, 3, seed=seed) for seed in (0, 1)]
    expected = value_and_gradients(plain_pairs, *rows, torch.tensor(9.0), 0.0)
    rows[1 - frozen].requires_grad_()
    (3 * contrastive_pairs(*rows, torch.tensor(9.0, dtype=torch.float64))).backward()
    assert rows[frozen].grad is None
    assert_near([rows[1 - frozen].grad], [expected[2 - frozen]], 1e-12)


@pytest.mark.parametrize("name", [*CASES, "pairs"])
def test_forward_mode_is_refused_not_zero(name, unit_rows):
    """torch.func and dual numbers mark no tensor as requiring a gradient; without grad mode too."""
    x, own, number = unit_rows(4, 3), torch.arange(4), torch.tensor(2.0, dtype=torch.float64)
    more = {"contrastive": [own, number], "sigmoid": [own, number, number], "loob": [own, number], "affinity": [own]}
    function = contrastive_pairs if name == "pairs" else CASES[name][0]
    for mode in (torch.enable_grad, torch.no_grad):
        with mode(), pytest.raises(RuntimeError, match="setup_context"):
            torch.func.jvp(lambda y: function(y, x, *more.get(name, [number])), (x,), (x,))


def spy(monkeypatch):
    """Records, for each run, whether it had gradients and how many tiles it kept for its second pass."""
    runs = []

    class Spy(SymmetricContrastive):
        def run(self, *, with_gradients):
            runs.append([with_gradients, None])
            return super().run(with_gradients=with_gradients)

        def _weights(self, number, rows, columns):
            if number == 0:
                runs[-1][1] = len(self.kept)
            return super()._weights(number, rows, columns)

    monkeypatch.setattr("i0t.losses.operators.SymmetricContrastive", Spy)
    return runs


def test_only_as_many_tiles_are_kept_as_the_budget_has_room_for(unit_rows, monkeypatch):
    runs = spy(monkeypatch)
    x, y, scale = unit_rows(40, 3).requires_grad_(), unit_rows(40, 3, seed=1), torch.tensor(9.0, dtype=torch.float64)
    for side, num_bytes in ((8, 8 * 64 * 3), (8, 10**6), (64, 8 * 64**2), (8, 1)):  # 3 of 25, all 25, one, none
        with tiling(side, num_bytes, 4):
            contrastive_pairs(x, y, scale)
    assert runs == [[True, 3], [True, 25], [True, 1], [True, 0]]


def test_gradients_that_nobody_wants_are_not_computed(unit_rows, monkeypatch):
    runs = spy(monkeypatch)
    x, y, scale = unit_rows(40, 3).requires_grad_(), unit_rows(40, 3, seed=1), torch.tensor(9.0, dtype=torch.float64)
    with torch.no_grad():
        plain = contrastive_pairs(x, y, scale)
    assert plain.item() == pytest.approx(plain_pairs(x, y, scale, 0.0).item(), rel=1e-12)
    contrastive_pairs(x.detach(), y, scale)
    assert runs == [[False, None], [False, None]]
    empty = torch.ops.i0t.contrastive_pairs(x.detach(), y, scale, 0.0, torch.float64, False)
    assert [each.numel() for each in empty] == [1, 0, 0, 1]


def emulate_cuda(patch):
    """Halves multiplied into float32, as torch.mm(out_dtype=) does on CUDA only; counts the halves seen."""
    seen = set()
    mm = torch.mm

    def multiply(left, right, *, out_dtype=None, out=None):
        if out_dtype is None:
            return mm(left, right, out=out)
        seen.add((left.dtype, right.dtype, out_dtype))
        with torch.autocast("cpu", enabled=False):  # which would round the result
            return mm(left.float(), right.float())

    patch.setattr(tiles, "operand_dtype", lambda rows, products: products)
    patch.setattr("i0t.losses.symmetric.operand_dtype", lambda rows, products: products)
    patch.setattr(torch, "mm", multiply)
    return seen


def relative_errors(found, expected):
    return [((a.double() - b.double()).norm() / b.double().norm()).item() for a, b in zip(found, expected, strict=True)]


# Errors relative to open_clip's under the same autocast; at scale 100 the logits' operands are what is rounded.
@pytest.mark.parametrize(
    ("scale", "noise", "share"), [(14.3, None, 0.25), (14.3, 3.0, 0.25), (100.0, None, 0.8), (100.0, 3.0, 0.6)]
)
@pytest.mark.parametrize("name", ["pairs", "contrastive"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_operands_give_gradients_nearer_than_open_clips(name, unit_rows, monkeypatch, dtype, scale, noise, share):
    """CUDA's way, emulated: float32 sums and results, and the pair's own part of the gradient not rounded at all."""
    num, width = 768, 256
    x, y = unit_rows(num, width), unit_rows(num, width, seed=1)
    if noise:
        y = F.normalize(x + noise * y, dim=1)
    own, at = torch.arange(num), torch.tensor(scale)

    def ours(x, y, scale):
        if name == "pairs":
            return contrastive_pairs(x, y, scale) / (2 * num)
        return (contrastive_rows(x, y, own, scale) + contrastive_rows(y, x, own, scale)) / (2 * num)

    expected = value_and_gradients(lambda x, y, scale: plain_pairs(x, y, scale, 0.0) / (2 * num), x, y, at)
    with torch.autocast("cpu", dtype):
        theirs = relative_errors(value_and_gradients(OpenClipLoss(), x, y, at, dtype=torch.float32), expected)
        seen = emulate_cuda(monkeypatch)
        found = value_and_gradients(ours, x, y, at, dtype=torch.float32)
    assert seen == {(dtype, dtype, torch.float32)}
    assert all(each.dtype == torch.float32 for each in found)
    mine = relative_errors(found, expected)
    assert all(a < share * b for a, b in zip(mine[1:3], theirs[1:3], strict=True))


@pytest.mark.parametrize(("dtype", "digit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("name", ["pairs", "contrastive"])
def test_half_operands_keep_small_weights_and_smoothing(name, unit_rows, monkeypatch, dtype, digit):
    """At 2,000 columns, where weights are near the smallest normal float16."""
    num, scale = 2000, torch.tensor(10.0)
    x, y = unit_rows(num, 16), F.normalize(unit_rows(num, 16) + unit_rows(num, 16, seed=1), dim=1)
    rest = [torch.arange(num), scale, 0.1] if name == "contrastive" else [scale, 0.1]
    tiled, plain = (contrastive_rows, plain_contrastive) if name == "contrastive" else (contrastive_pairs, plain_pairs)
    expected = value_and_gradients(plain, x, y, *rest)
    emulate_cuda(monkeypatch)
    with torch.autocast("cpu", dtype):
        found = value_and_gradients(tiled, x, y, *rest, dtype=torch.float32)
    assert max(relative_errors(found, expected)) < digit


def test_double_stays_double_under_autocast(unit_rows):
    x, y, scale = unit_rows(6, 4), unit_rows(6, 4, seed=1), torch.tensor(50.0, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = contrastive_pairs(x, y, scale)
    assert inside.dtype == torch.float64
    assert inside.item() == contrastive_pairs(x, y, scale).item()


@pytest.mark.parametrize("num_gradients", [True, False])
def test_operators_pass_torchs_own_checks(unit_rows, num_gradients):
    """Schema, aliasing, and the shapes that torch.compile is told beforehand."""
    x, y = (unit_rows(5, 3, seed=seed, dtype=torch.float32) for seed in (0, 1))
    own, scale, end = torch.arange(5), torch.tensor(9.0), (torch.float32, num_gradients)
    tests = ("test_schema", "test_faketensor")
    operators = torch.ops.i0t
    torch.library.opcheck(operators.contrastive_pairs.default, (x, y, scale, 0.1, *end), test_utils=tests)
    torch.library.opcheck(operators.contrastive_rows.default, (x, y, scale, own, 0.1, *end), test_utils=tests)
    torch.library.opcheck(operators.sigmoid_rows.default, (x, y, scale, -scale, own, *end), test_utils=tests)
    torch.library.opcheck(operators.loob_rows.default, (x, y, scale, own, *end), test_utils=tests)
    torch.library.opcheck(operators.affinity_rows.default, (x, y, own, *end), test_utils=tests)
