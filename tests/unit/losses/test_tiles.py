from itertools import accumulate

import pytest
import torch

from i0t.losses import operators, symmetric, tiles


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_spans_cover_everything_once(length, size):
    found = list(tiles.spans(length, size))
    assert [i for span in found for i in range(length)[span]] == list(range(length))
    assert all(span.stop - span.start <= size for span in found)


def test_a_cpu_keeps_the_tiles_that_its_budget_has_room_for():
    rows, single, double = torch.zeros(1), torch.float32, torch.float64
    # 64 MiB: 64 tiles of 1 MiB, 2,048 rows of 32 KiB
    assert tiles.tile_sizes(8192, 8192, rows, single) == (512, 64, 2048)
    assert tiles.tile_sizes(4096, 4096, rows, single).num_kept == 64  # all
    assert tiles.tile_sizes(300, 4096, rows, single).panel_rows == 300
    assert tiles.tile_sizes(32768, 262144, rows, single).panel_rows == tiles.MIN_PANEL_ROWS
    assert tiles.tile_sizes(8192, 8192, rows.double(), double) == (512, 32, 1024)


def test_an_accelerator_takes_one_tile_where_it_fits_beside_its_weights():
    rows = torch.zeros(1, device="meta")  # 512 MiB: 2^27 floats
    assert tiles.tile_sizes(8192, 8192, rows, torch.float32) == (8192, 1, 8192)
    assert tiles.tile_sizes(8193, 8193, rows, torch.float32) == (4096, 6, 8193)
    assert tiles.tile_sizes(16384, 16384, rows, torch.float32) == (4096, 6, 8192)
    assert tiles.tile_sizes(7327, 7327, rows, torch.bfloat16).side == 7327
    assert tiles.tile_sizes(8192, 8192, rows, torch.bfloat16) == (4096, 5, 8192)
    assert tiles.tile_sizes(16384, 16384, rows, torch.bfloat16) == (4096, 5, 5461)


def most_bytes(call):
    """The most that was allocated at a time, beyond what there was before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = call()
    del kept
    events = [each for each in profile.profiler.kineto_results.events() if each.name() == "[memory]"]
    return max(accumulate(each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["pairs", "contrastive", "sigmoid", "loob", "affinity"])
@pytest.mark.parametrize("num", [600, 700, 1100])  # one tile, for halves several; several; most of them not kept
def test_an_accelerators_tiles_are_within_its_budget(name, half, num, monkeypatch):
    monkeypatch.setattr(tiles, "ACCELERATOR_BYTES", 3 * tiles.MIB)
    monkeypatch.setattr(tiles, "MIN_PANEL_ROWS", 1)
    sizes = tiles.tile_sizes

    def as_an_accelerator(num_rows, num_columns, rows, operand):
        return sizes(num_rows, num_columns, rows.new_empty(0, device="meta"), operand)

    mm = torch.mm
    for module in (tiles, symmetric):
        monkeypatch.setattr(module, "tile_sizes", as_an_accelerator)
        monkeypatch.setattr(module, "operand_dtype", lambda rows, products: products)
    # Stands in for torch.mm(out_dtype=): allocates the result alone.
    monkeypatch.setattr(
        torch,
        "mm",
        lambda a, b, out_dtype=None, out=None: (
            mm(a, b, out=out) if not out_dtype else a.new_zeros(len(a), b.shape[1], dtype=out_dtype)
        ),
    )
    x, y = torch.randn(2, num, 4).unbind()
    own, scale, end = torch.arange(num), torch.tensor(9.0), (torch.bfloat16 if half else torch.float32, True)
    bodies = {
        "pairs": lambda: operators._contrastive_pairs(x, y, scale, 0.1, *end),
        "contrastive": lambda: operators._contrastive_rows(x, y, scale, own, 0.1, *end),
        "sigmoid": lambda: operators._sigmoid_rows(x, y, scale, -scale, own, *end),
        "loob": lambda: operators._loob_rows(x, y, scale, own, *end),
        "affinity": lambda: operators._affinity_rows(x, y, own, *end),
    }
    assert most_bytes(bodies[name]) <= 3 * tiles.MIB * 1.03 + 40 * x.nbytes  # rows, sums and products of width 4


def test_products_take_autocasts_dtype_for_float32_alone():
    single, double = torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.float64)
    assert tiles.product_dtype(single) == torch.float32
    for half in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", half):
            assert tiles.product_dtype(single) == half
            assert tiles.product_dtype(double) == torch.float64
            with torch.autocast("cpu", enabled=False):
                assert tiles.product_dtype(single) == torch.float32


def test_only_bfloat16_on_a_cpu_allows_reduced_products_and_only_inside():
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    for products, allowed in ((torch.bfloat16, "bf16"), (torch.float16, before), (torch.float32, before)):
        with tiles.reduced_products(torch.zeros(1), products):
            assert matmul.fp32_precision == allowed
        assert matmul.fp32_precision == before
    with pytest.raises(KeyError), tiles.reduced_products(torch.zeros(1), torch.bfloat16):
        raise KeyError
    assert matmul.fp32_precision == before
    assert torch.get_float32_matmul_precision() == "highest"


def test_exponents_far_below_the_maximum_are_no_subnormals():
    logits = torch.tensor([[0.0, -79.0, -95.0, -1e9, float("nan")]])
    out = tiles.shifted_exp(logits, torch.zeros(1), torch.empty_like(logits))
    smallest = torch.finfo(torch.float32).tiny
    assert out[0, 0] == 1
    assert all(smallest < value < 1e-34 for value in out[0, 1:4].tolist())
    assert out[0, 4].isnan()
    exact = tiles.shifted_exp(logits.double(), torch.zeros(1).double(), torch.empty(1, 5).double())
    assert exact[0, 2].item() == pytest.approx(torch.tensor(-95.0).double().exp().item())
