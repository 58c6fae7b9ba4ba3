"""The sweep over models from the shell: tiny random models, a killed command that goes on, and one that fails."""

import csv
import json

import open_clip
import pytest
import torch
from scipy.stats import kendalltau

from .compositions import LEATHERS, SHOES, STATES, THINGS, make_compositional
from .conftest import SMALL

pytestmark = pytest.mark.slow
WIDTHS = {"tiny-a": 32, "tiny-b": 32, "tiny-c": 48, "tiny-d": 64, "tiny-e": 64}
EVALUATIONS = ("gap", "retrieval", "zeroshot", "object_bias", "dimensions")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Architectures of several widths, and damaged weights for one of them."""
    folder = tmp_path_factory.mktemp("models")
    for at, (name, width) in enumerate(WIDTHS.items()):
        config = json.loads(json.dumps(SMALL)) | {"embed_dim": width}
        config["vision_cfg"]["layers"] = 1 + at % 2
        (folder / f"{name}.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    clip = open_clip.model.CLIP(**{**SMALL, "output_dict": False})
    torch.save(clip.state_dict(), folder / "whole.pt")
    (folder / "damaged.pt").write_bytes((folder / "whole.pt").read_bytes()[:5000])
    return folder


def arguments(models, names, *more, data="coco"):
    tags = ",".join(f"{models / name}.json/{weights}" for name, weights in names)
    resamples = [f"evaluation.{name}.num_resamples=10" for name in EVALUATIONS]
    return ["-m", "sweep=gap_vs_performance", f"model_tag={tags}", f"data={data}", "data.num_workers=0",
            "hydra.callbacks.gap_vs_performance.min_recall=0", *resamples, *more]  # fmt: skip


def test_a_sweep_over_models_goes_on_where_it_stopped_and_survives_a_failing_model(recipe, models, tmp_path):
    names = [(name, "null") for name in WIDTHS]
    first = recipe.shell("eval.py", *arguments(models, names[:2]), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "outputs" / "gap_vs_performance"
    jobs = sorted(path.parent for path in folder.glob("*/metrics.json"))
    assert [job.name.endswith(f"{name}.json_null_coco") for job, name in zip(jobs, WIDTHS, strict=False)] == [True] * 2
    page = json.loads((folder / "gap_vs_performance.json").read_text())
    assert {c["tau"]["value"] for c in page["correlations"]} == {None}  # two models are too few

    (jobs[1] / "metrics.json").unlink()  # as if it had been killed before it was done
    kept = (jobs[0] / "metrics.json").stat().st_mtime_ns
    again = [(names[0][0], str(models / "damaged.pt")), *reversed(names)]  # another order, and one that fails
    second = recipe.shell("eval.py", *arguments(models, again), cwd=tmp_path)
    assert second.returncode == 2
    assert "damaged.pt" in second.stderr
    assert "Traceback" not in second.stderr
    assert second.stdout.count("finished before:") == 1
    assert (jobs[0] / "metrics.json").stat().st_mtime_ns == kept
    check_results(folder)


def check_results(folder):
    page = json.loads((folder / "gap_vs_performance.json").read_text())
    assert [model["name"] for model in page["models"]] == [f"{name}/random" for name in WIDTHS]
    assert [model["shape"]["width"] for model in page["models"]] == list(WIDTHS.values())
    assert all(model["shape"]["num_parameters"] > 1e6 for model in page["models"])
    (broken,) = page["jobs_without_numbers"]
    assert "damaged" in broken
    with (folder / "gap_vs_performance.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        (job,) = folder.glob(f"*{line['architecture']}.json_null_coco")
        numbers = json.loads((job / "metrics.json").read_text())
        for key in ("gap/rmg", "retrieval/t2i_r1", "dimensions/dims_90"):
            assert float(line[key]) == pytest.approx(numbers[f"test/none/{key}"])
    overall = [c for c in page["correlations"] if c["family"] == "gap" and c["kind"] == "all models"]
    assert {c["tau"]["num_models"] for c in overall} == {len(WIDTHS)}
    html = (folder / "report.html").read_text()
    assert "damaged" in html
    assert 'src="data:image/png;base64,' in html
    assert "http" not in html.replace("http-equiv", "")


def test_objects_attributes_and_bias_are_asked_about_where_images_have_both(recipe, models, tmp_path):
    make_compositional(recipe.folder / "data" / "mit_states", STATES, THINGS, " ", ("ripe", "car"))
    make_compositional(recipe.folder / "data" / "ut_zappos", LEATHERS, SHOES, "_", None)
    names = [(name, "null") for name in WIDTHS]
    done = recipe.shell("eval.py", *arguments(models, names, data="mit_states,ut_zappos"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "gap_vs_performance"
    correlations = json.loads((folder / "gap_vs_performance.json").read_text())["correlations"]
    taus = {(c["x"], c["y"]): c["tau"] for c in correlations if c["kind"] == "all models"}
    for data in ("mit_states", "ut_zappos"):
        jobs = [next(folder.glob(f"*_{name}.json_null_{data}")) / "metrics.json" for name in WIDTHS]
        numbers = [json.loads(job.read_text()) for job in jobs]
        attribute = [job["test/none/zeroshot/attribute"] for job in numbers]
        for what, key in (("object accuracy", "zeroshot/object"), ("MOAD of images", "object_bias/image")):
            found = taus[f"{data}: {what}", f"{data}: attribute accuracy"]
            assert found["num_models"] == len(WIDTHS)
            expected = kendalltau([job[f"test/none/{key}"] for job in numbers], attribute).statistic
            assert found["value"] == (None if expected != expected else pytest.approx(expected))
    assert any(tau["value"] is not None for tau in taus.values())
    assert {"object_and_attribute.png", "object_bias_vs_attribute.png"} <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("ViT-B-32/laion2b_s34b_b79", "did you mean 'laion2b_s34b_b79k'"),
        ("ViT-B-33/openai", "did you mean 'ViT-B-32'"),
        ("ViT-B-32", "model_tag=ViT-B-32 must be <architecture>/<weights>"),
    ],
)
def test_a_model_that_does_not_exist_is_said_before_anything_runs(recipe, models, tmp_path, tag, message):
    done = recipe.shell("eval.py", *arguments(models, [("tiny-a", "null")]), f"model_tag={tag}", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "outputs").exists()
