"""Every sweep from the shell, small: all jobs have their numbers, and the figure shows them."""

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

from i0t import runs
from i0t.config import conf_dir

pytestmark = pytest.mark.slow

FEW = ("evaluation.gap.num_resamples=10", "evaluation.retrieval.num_resamples=10")
PHOTOS = "data.num_workers=0"


def save_pairs(path, *, gap, num_pairs=400, dim=24, seed=0):
    """Embeddings of a known gap: directions that two modalities share, and an offset along one axis."""
    generator = np.random.default_rng(seed)
    shared, noise = generator.normal(size=(num_pairs, dim)), generator.normal(size=(2, num_pairs, dim))
    offset = np.eye(dim)[3] * gap
    image, text = shared + noise[0] + offset, shared + noise[1] - offset
    np.savez(path, image=image.astype("f4"), text=text.astype("f4"), text_image_index=np.arange(num_pairs))
    return path


def points_of(folder, name="tradeoff"):
    """The lines of the figure's table; the picture must be one."""
    with Image.open(folder / f"{name}.png") as picture:
        picture.verify()
        assert min(picture.size) > 400
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def rows_of(job):
    return json.loads((job / "metrics.json").read_text())["rows"]


def test_no_sweep_is_left_out():
    tested = {name.removeprefix("test_sweep_") for name in globals() if name.startswith("test_sweep_")}
    tested |= {"gap_vs_performance", "mad_grid"}  # in files of their own
    assert tested == {file.stem for file in (conf_dir() / "sweep").glob("*.yaml")}


def test_sweep_i0t_calibration_size(recipe, tmp_path):
    path = save_pairs(tmp_path / "pairs.npz", gap=2.0)
    sizes, seeds = (16, 64), (0, 1, 2, 3)
    folder, lines = recipe.sweep(
        "i0t_calibration_size",
        "data=embeddings",
        f"data.path={path}",
        f"gap_reducer.fit_samples={','.join(map(str, sizes))}",
        f"seed={','.join(map(str, seeds))}",
        *FEW,
        cwd=tmp_path,
    )
    assert len(lines) == len(sizes) * len(seeds)
    points = points_of(folder, "calibration_curve")
    assert [int(point["n"]) for point in points] == list(sizes)
    for point in points:
        drawn = [
            float(line["test/posthoc/gap/centroid_distance"])
            for line in lines
            if line["gap_reducer.fit_samples"] == point["n"]
        ]
        assert float(point["CD"]) == pytest.approx(np.mean(drawn))
        n, cosine = int(point["n"]), float(point["matched cosine"])
        expected = math.sqrt(2 * (1 - cosine) * (1 / n - 1 / 400))  # the n are among the 400
        assert float(point["CD theory"]) == pytest.approx(expected, rel=1e-6)
        assert float(point["CD"]) == pytest.approx(expected, rel=0.25)
    assert (folder / "seeds.csv").exists()


def test_sweep_other_modalities(recipe, tmp_path):
    paths = [save_pairs(tmp_path / f"{name}.npz", gap=gap) for name, gap in (("audio", 1.0), ("video", 4.0))]
    folder, lines = recipe.sweep("other_modalities", f"data.path={','.join(map(str, paths))}", *FEW, cwd=tmp_path)
    assert [line["data.path"] for line in lines] == list(map(str, paths))
    distance = {
        (point["data.path"], point["row"]): float(point["gap/centroid_distance"]) for point in points_of(folder)
    }
    assert set(distance) == {(str(path), row) for path in paths for row in ("none", "posthoc", "posthoc_test")}
    before, after = (
        [distance[str(path), row] for path in paths]
        for row in ("none", "posthoc")  # before and after
    )
    assert 0.25 < before[0] < before[1]
    assert max(after) < 0.2


def test_sweep_i0t_architectures(recipe, tmp_path):
    other = json.loads((recipe.folder / "small.json").read_text())
    other["vision_cfg"]["layers"] = 1
    (tmp_path / "other.json").write_text(json.dumps(other))
    architectures = [str(recipe.folder / "small.json"), str(tmp_path / "other.json")]
    folder, lines = recipe.sweep(
        "i0t_architectures",
        f"model.architecture={','.join(architectures)}",
        "model.pretrained=null",
        PHOTOS,
        *FEW,
        cwd=tmp_path,
    )
    assert [line["model.architecture"] for line in lines] == architectures
    points = points_of(folder)
    assert {(point["model.architecture"], point["row"]) for point in points} == {
        (architecture, row) for architecture in architectures for row in ("none", "posthoc", "posthoc_test")
    }
    for line in lines:
        assert float(line["test/posthoc_test/gap/centroid_distance"]) < 0.2
        assert float(line["test/none/gap/centroid_distance"]) > 0.5


def test_sweep_i0t_batch_size(recipe, stage_one, tmp_path):
    sizes, seeds = (4, 12), (7, 42)
    small = [o for o in recipe.arguments("x") if not o.startswith(("experiment=", "data.batch_size=", "evaluation=["))]
    folder, lines = recipe.sweep(
        "i0t_batch_size",
        f"ckpt_path={stage_one / runs.CHECKPOINT}",
        *small,
        f"data.batch_size={','.join(map(str, sizes))}",
        f"seed={','.join(map(str, seeds))}",
        "optimizer.lr=1e-2",
        cwd=tmp_path,
        script="train.py",
    )
    assert [(int(line["data.batch_size"]), int(line["seed"])) for line in lines] == [
        (size, seed) for size in sizes for seed in seeds
    ]
    points = points_of(folder)
    assert [(point["row"], point["data.batch_size"], point["jobs"]) for point in points] == [
        ("async_bn", str(size), "2") for size in sizes
    ]
    for point in points:
        of_size = [line for line in lines if line["data.batch_size"] == point["data.batch_size"]]
        values = [float(line["test/async_bn/gap/centroid_distance"]) for line in of_size]
        assert float(point["gap/centroid_distance"]) == pytest.approx(np.mean(values))
    assert len({line["test/async_bn/gap/centroid_distance"] for line in lines}) == 4, "batch and seed matter"


def test_sweep_i0t_fit_elsewhere(recipe, tmp_path):
    folder, lines = recipe.sweep(
        "i0t_fit_elsewhere",
        "model=open_clip",
        *recipe.model,
        "data@gap_reducer.fit_data=coco,sharegpt4v",
        "gap_reducer.fit_data.only_present=true",
        PHOTOS,
        *FEW,
        cwd=tmp_path,
    )
    told = [rows_of(folder / line["job"]) for line in lines]
    fitted = [[row["fit_data"] for row in rows.values() if row["fit_data"]] for rows in told]
    assert fitted == [["coco"], ["sharegpt4v"]]


def test_sweep_i0t_semantic_preservation(recipe, tmp_path):
    folder, lines = recipe.sweep(
        "i0t_semantic_preservation",
        "model=open_clip",
        *recipe.model,
        "data=imagefolder",
        f"data.root={recipe.folder / 'data' / 'birdsnap'}",
        "gap_reducer.strength=0.0,1.0",
        "evaluation.zeroshot.num_resamples=10",
        PHOTOS,
        *FEW,
        cwd=tmp_path,
    )
    first, last = points_of(folder)
    assert (float(first["strength"]), float(last["strength"])) == (0, 1)
    assert float(first["gap/centroid_distance"]) > 0.5 > float(last["gap/centroid_distance"])
    assert [float(point["zeroshot/class"]) for point in (first, last)] == [
        float(line["test/posthoc/zeroshot/class"]) for line in lines
    ]
    assert float(lines[0]["test/none/zeroshot/class"]) == float(first["zeroshot/class"]), "strength 0 changes nothing"


def test_sweep_gap_x_semantics(recipe, stage_one, tmp_path):
    other = recipe.folder / "runs" / "stage1_seed_7"
    recipe.train("i0t_stage1", other, *recipe.model, "seed=7", "optimizer.lr=1e-3")
    checkpoints = [str(folder / runs.CHECKPOINT) for folder in (stage_one, other)]
    folder, lines = recipe.sweep(
        "gap_x_semantics",
        f"ckpt_path={','.join(checkpoints)}",
        "data=flickr30k,birdsnap,flickr8k_expert",
        "gap_reducer.strength=0.0,1.0",
        *recipe.few_resamples("gap", "retrieval", "zeroshot", "caption_correlation"),
        PHOTOS,
        cwd=tmp_path,
    )
    assert len(lines) == 2 * 3 * 2
    points = points_of(folder)
    having = {
        name: {point["setting"].removeprefix("data=") for point in points if point[name]}
        for name in ("retrieval/i2t_r1", "zeroshot/class", "caption_correlation/tau_c_clipped")
    }
    assert having == {
        "retrieval/i2t_r1": {"flickr30k", "birdsnap", "flickr8k_expert"},
        "zeroshot/class": {"birdsnap"},
        "caption_correlation/tau_c_clipped": {"flickr8k_expert"},
    }
    for checkpoint in checkpoints:
        for data in having["retrieval/i2t_r1"]:
            distances = [
                float(point["gap/centroid_distance"])
                for point in points
                if point["ckpt_path"] == checkpoint and point["setting"] == f"data={data}"
            ]
            assert len(distances) == 2, "one line per data set"
            assert distances[0] > 2 * distances[1], "strength 0, then 1"
    assert all(set(rows_of(folder / line["job"])) == {"none", "posthoc"} for line in lines)


def test_sweep_i0t_evaluation(recipe, stage_two, tmp_path):
    data = ["flickr30k", "coco", "birdsnap", "flickr8k_expert", "flickr8k_cf"]  # the others cannot be made up
    folder, lines = recipe.sweep(
        "i0t_evaluation",
        f"ckpt_path={stage_two / runs.CHECKPOINT}",
        f"data={','.join(data)}",
        *recipe.few_resamples("gap", "retrieval", "zeroshot", "caption_correlation"),
        PHOTOS,
        cwd=tmp_path,
    )
    said = [json.loads((folder / line["job"] / "metrics.json").read_text()) for line in lines]
    assert [numbers["data"]["data"] for numbers in said] == data
    shifted = {"mean_shift_375", "mean_shift_500", "mean_shift_minus_500"}
    assert all(set(numbers["rows"]) == {"none", "posthoc_test", "async_bn", *shifted} for numbers in said)
    done = recipe.shell("i0t.paper", "--table", "2", "--format", "csv", "outputs", cwd=tmp_path)
    cells = {
        line["column"]: line["measured"]
        for line in csv.DictReader(done.stdout.splitlines())
        if line["row"] == "I0T_async" and line["status"] == "measured"
    }
    assert set(cells) == {"CD", "LS", "I2T", "T2I", "Bird", "Expert", "CF"}
    assert float(cells["Bird"]) == pytest.approx(100 * float(lines[2]["test/async_bn/zeroshot/balanced/class"]))
    taus = [float(lines[3][f"test/async_bn/caption_correlation/tau_{kind}_clipped"]) for kind in "cb"]
    assert float(cells["Expert"]) == pytest.approx(100 * taus[0])
    assert taus[0] != taus[1]
    assert float(cells["CF"]) == pytest.approx(100 * float(lines[4]["test/async_bn/caption_correlation/tau_b_clipped"]))


def test_sweep_i0t_evaluation_one_caption(recipe, stage_two, tmp_path):
    folder, lines = recipe.sweep(
        "i0t_evaluation_one_caption", f"ckpt_path={stage_two / runs.CHECKPOINT}", *FEW, PHOTOS, cwd=tmp_path
    )
    said = [json.loads((folder / line["job"] / "metrics.json").read_text()) for line in lines]
    assert [numbers["data"]["data"] for numbers in said] == ["flickr30k", "coco"]
    assert [numbers["data"]["num_texts"] for numbers in said] == [16, 16]
    assert {"posthoc_test", "async_bn", "mean_shift_375"} <= set(said[0]["rows"])
