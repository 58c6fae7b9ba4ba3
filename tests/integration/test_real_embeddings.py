"""Real CLIP embeddings through the engine give the numbers known for them."""

import pytest

from i0t import engine
from i0t.config import compose


@pytest.mark.data
def test_known_numbers_of_clip_vit_b_32_on_flickr8k(shared_data, tmp_path):
    path = shared_data / "clip_vitb32_flickr8k" / "embeddings.npz"
    overrides = [
        f"data.path={path}",
        "gap_reducer=posthoc",
        "gap_reducer.fit_split=test",
        f"paths.output_dir={tmp_path}",
    ]
    numbers = engine.evaluate(compose("eval", ["data=embeddings", "report=false", *overrides]))
    known = {
        "none/gap/centroid_distance": 0.8430,
        "none/gap/rmg": 0.5890,
        "none/gap/linear_separability": 1.0,
        "none/retrieval/i2t_r1": 0.930,
        "none/retrieval/t2i_r1": 0.832,
        "posthoc/gap/centroid_distance": 0.0309,
        "posthoc/gap/rmg": 0.4026,
        "posthoc/retrieval/i2t_r1": 0.940,
        "posthoc/retrieval/t2i_r1": 0.840,
    }
    assert {name: numbers[f"test/{name}"] for name in known} == pytest.approx(known, abs=5e-5)
