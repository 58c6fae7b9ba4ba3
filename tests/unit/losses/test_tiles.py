import pytest
import torch

from i0t.losses import tiles


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_spans_cover_everything_once(length, size):
    found = list(tiles.spans(length, size))
    assert [i for span in found for i in range(length)[span]] == list(range(length))
    assert all(span.stop - span.start <= size for span in found)


def test_a_cpu_keeps_the_tiles_that_its_budget_has_room_for():
    rows = torch.zeros(1)
    assert tiles.tile_sizes(8192, 8192, rows) == (512, 64, 2048)  # 64 MiB: 64 tiles of 1 MiB, 2,048 rows of 32 KiB
    assert tiles.tile_sizes(4096, 4096, rows).num_kept == 64  # all
    assert tiles.tile_sizes(300, 4096, rows).panel_rows == 300
    assert tiles.tile_sizes(32768, 262144, rows).panel_rows == tiles.MIN_PANEL_ROWS
    assert tiles.tile_sizes(8192, 8192, rows.double()) == (512, 32, 1024)


def test_an_accelerator_takes_one_tile_where_the_matrix_fits():
    rows = torch.zeros(1, device="meta")  # 512 MiB: 2^27 floats
    assert tiles.tile_sizes(8192, 8192, rows) == (8192, 2, 8192)
    assert tiles.tile_sizes(11585, 11585, rows).side == 11585
    assert tiles.tile_sizes(16384, 16384, rows) == (4096, 8, 8192)


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
