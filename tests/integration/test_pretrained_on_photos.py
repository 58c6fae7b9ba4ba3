"""A pretrained model on a folder of photos: encoded once, cached, measured with any reducer."""

import json

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from i0t import embedding_store, engine, preparation, runs
from i0t.callbacks.shard_writer import ShardWriter
from i0t.config import ConfigError, compose
from i0t.embedding_store import load_set

from .flickr8k import make_flickr8k

NUM_PHOTOS = 20  # per split; of 5 captions each
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


SHORT_TRAINING = (
    "data.batch_size=8",
    "data.eval_batch_size=20",
    "trainer.max_steps=3",
    "trainer.val_check_interval=3",
    "scheduler.warmup_steps=1",
    "compare.async_bn.batch_size=8",
    "trainer.enable_progress_bar=false",
    "logger=[csv]",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a small model, its weights in a file, and photos."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "small.json").write_text(json.dumps(SMALL))
    torch.manual_seed(3)
    clip = open_clip.model.CLIP(**{**SMALL, "output_dict": False})
    torch.save(clip.state_dict(), folder / "small.pt")
    make_flickr8k(folder / "flickr8k", num_photos=NUM_PHOTOS)
    make_flickr8k(folder / "elsewhere", num_photos=12, seed=1)
    return folder


def arguments(world, *more):
    return [
        "model=open_clip",
        f"model.architecture={world / 'small.json'}",
        f"model.pretrained={world / 'small.pt'}",
        "data=flickr8k",
        f"data.root={world / 'flickr8k'}",
        "data.num_workers=0",
        "data.eval_batch_size=4",
        "report=false",
        *more,
    ]


def evaluate(world, folder, *more):
    return engine.evaluate(compose("eval", [*arguments(world, *more), f"paths.output_dir={folder}"]))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("I0T_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def encoded_images(monkeypatch):
    """Rows of the images that were encoded, in order."""
    rows = []
    keep = ShardWriter.on_predict_batch_end

    def count(self, trainer, module, outputs, *others):
        rows.extend(outputs.sample_id.tolist())
        keep(self, trainer, module, outputs, *others)

    monkeypatch.setattr(ShardWriter, "on_predict_batch_end", count)
    return rows


def plain_features(world, split):
    """What open_clip alone makes of the photos."""
    clip = open_clip.model.CLIP(**SMALL)
    clip.load_state_dict(torch.load(world / "small.pt", weights_only=True))
    clip.eval()
    transform = open_clip.image_transform(32, is_train=False)
    names = (world / "flickr8k" / f"Flickr_8k.{split}Images.txt").read_text().split()
    images = torch.stack([transform(Image.open(world / "flickr8k" / "images" / name)) for name in names])
    captions = [line.split("\t") for line in (world / "flickr8k" / "Flickr8k.token.txt").read_text().splitlines()]
    texts = [text for name in names for key, text in captions if key.startswith(name)]
    with torch.no_grad():
        return clip.encode_image(images), clip.encode_text(open_clip.tokenize(texts))


def test_features_and_numbers_are_those_of_plain_open_clip(world, tmp_path, own_cache):
    numbers = evaluate(world, tmp_path / "run")
    image, text = plain_features(world, "test")
    (folder,) = (own_cache / "embeddings").glob("*/")
    cached = load_set(folder)
    torch.testing.assert_close(cached.image_features, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(cached.text_features, text, rtol=0, atol=1e-5)
    cosines = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    hits = cosines.argmax(1) // 5 == torch.arange(NUM_PHOTOS)
    assert numbers["test/none/retrieval/i2t_r1"] == pytest.approx(hits.double().mean().item())
    gap = (F.normalize(image, dim=-1).mean(0) - F.normalize(text, dim=-1).mean(0)).norm()
    assert numbers["test/none/gap/centroid_distance"] == pytest.approx(gap.item(), abs=1e-5)
    about = json.loads((tmp_path / "run" / runs.METRICS_FILE).read_text())
    assert about["rows"]["none"]["protocol"] == "none"
    assert "5 captions per image: 20 images x 100 texts" in about["protocols"]["retrieval"]
    assert {file.name for file in (tmp_path / "run").iterdir()} >= {"table.md", "table.csv", "table.tex", "config.yaml"}


def make_image_folder(folder, names=("cat", "dog", "sea slug"), num_photos=4):
    generator = np.random.default_rng(5)
    for name in names:
        (folder / "test" / name).mkdir(parents=True)
        for i in range(num_photos):
            color = generator.integers(0, 255, size=(300, 400, 3), dtype=np.uint8)
            Image.fromarray(color).save(folder / "test" / name / f"{i}.png")
    return folder


@pytest.mark.parametrize("architecture", ["small", pytest.param("ViT-B-32", marks=pytest.mark.slow)])
def test_zero_shot_is_that_of_plain_open_clip(world, tmp_path, own_cache, architecture):
    if architecture == "small":
        weights, name, clip = world / "small.pt", world / "small.json", open_clip.model.CLIP(**SMALL)
    else:
        torch.manual_seed(1)
        weights, name, clip = tmp_path / "big.pt", architecture, open_clip.create_model(architecture)
        torch.save(clip.state_dict(), weights)
    clip.load_state_dict(torch.load(weights, weights_only=True))
    root = make_image_folder(tmp_path / "things")
    numbers = engine.evaluate(
        compose("eval", [f"model.architecture={name}", f"model.pretrained={weights}", "model=open_clip", "report=false",
                         "data=imagefolder", f"data.root={root}", "data.num_workers=0",
                         "data.templates=['a photo of a {c}.','a drawing of a {c}.','{c}']",
                         f"paths.output_dir={tmp_path / 'run'}"])
    )  # fmt: skip
    size = 32 if architecture == "small" else 224
    transform = open_clip.image_transform(size, is_train=False)
    files = [sorted((root / "test" / name).iterdir()) for name in ("cat", "dog", "sea slug")]
    images = torch.stack([transform(Image.open(file)) for of_class in files for file in of_class])
    texts = [
        t.format(c=c) for c in ("cat", "dog", "sea slug") for t in ("a photo of a {c}.", "a drawing of a {c}.", "{c}")
    ]
    with torch.no_grad():
        image = F.normalize(clip.eval().encode_image(images), dim=-1)
        text = F.normalize(clip.encode_text(open_clip.tokenize(texts)), dim=-1).view(3, 3, -1)
    (folder,) = (own_cache / "embeddings").glob("*/")
    cached = load_set(folder)
    torch.testing.assert_close(F.normalize(cached.image_features, dim=-1), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(F.normalize(cached.prompts["class"].features, dim=-1), text, rtol=0, atol=1e-5)
    predicted = (image @ F.normalize(text.mean(1), dim=-1).T).argmax(1)
    labels = torch.arange(3).repeat_interleave(4)
    assert numbers["test/none/zeroshot/class"] == pytest.approx((predicted == labels).double().mean().item())
    assert np.isfinite(numbers["test/none/gap/rmg"])


def test_a_second_reducer_touches_no_encoder(world, tmp_path, own_cache, monkeypatch):
    first = evaluate(world, tmp_path / "one", "gap_reducer=posthoc", "gap_reducer.fit_split=train")

    def refuse(*_):
        raise AssertionError("the encoder was built")

    monkeypatch.setattr("i0t.engine.loading.build_encoder", refuse)
    monkeypatch.setattr("i0t.data.flickr8k.Flickr8kDataModule.__init__", refuse)
    second = evaluate(world, tmp_path / "two", "gap_reducer=async_bn", "gap_reducer.batch_size=8")
    assert first["test/none/retrieval/t2i_r5"] == second["test/none/retrieval/t2i_r5"]
    assert second["test/async_bn/gap/centroid_distance"] < second["test/none/gap/centroid_distance"]


def test_what_the_cache_depends_on(world, tmp_path, own_cache, encoded_images):
    evaluate(world, tmp_path / "one")
    assert encoded_images == list(range(NUM_PHOTOS))
    encoded_images.clear()
    evaluate(world, tmp_path / "two", "data.captions_per_image=1")
    evaluate(world, tmp_path / "three", "model.image_size=48")
    evaluate(world, tmp_path / "four", "data.prompt_prefix='a photo of '")
    assert len(encoded_images) == 3 * NUM_PHOTOS
    encoded_images.clear()
    evaluate(world, tmp_path / "five", "data.eval_batch_size=7", "evaluation=[gap]")
    assert not encoded_images, "the batch size does not change a feature"


def test_a_relative_path_means_another_file_in_another_folder(world, tmp_path, own_cache, monkeypatch):
    gaps = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        torch.manual_seed(number)
        torch.save(open_clip.model.CLIP(**SMALL).state_dict(), folder / "w.pt")
        monkeypatch.chdir(folder)
        numbers = evaluate(world, tmp_path / f"run{number}", "model.pretrained=w.pt")
        gaps.append(numbers["test/none/gap/centroid_distance"])
    assert gaps[0] != gaps[1]


def test_an_interrupted_encoding_goes_on_where_it_stopped(world, tmp_path, own_cache, monkeypatch, encoded_images):
    monkeypatch.setattr(embedding_store, "SHARD_IMAGES", 8)
    keep = ShardWriter.on_predict_batch_end

    def stop(self, trainer, module, outputs, *others):
        keep(self, trainer, module, outputs, *others)
        if int(outputs.sample_id[-1]) == 11:  # half of the second shard
            raise RuntimeError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "on_predict_batch_end", stop)
        with pytest.raises(RuntimeError, match="power failure"):
            evaluate(world, tmp_path / "one")
    encoded_images.clear()
    resumed = evaluate(world, tmp_path / "one")
    assert encoded_images == list(range(8, 20))
    (folder,) = (own_cache / "embeddings").glob("*/")
    shard = folder / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    encoded_images.clear()
    assert evaluate(world, tmp_path / "two") == resumed
    assert encoded_images == list(range(8, 16)), "only what was cut short"


def test_an_image_that_changes_is_encoded_again(world, tmp_path, own_cache, encoded_images):
    root = make_flickr8k(tmp_path / "mine", num_photos=6)
    before = evaluate(world, tmp_path / "one", f"data.root={root}")
    Image.new("RGB", (50, 50)).save(root / "images" / "test0_2.jpg")
    assert evaluate(world, tmp_path / "two", f"data.root={root}") != before
    assert encoded_images == [*range(6), *range(6)]


def test_calibration_size_and_another_data_set(world, tmp_path, own_cache):
    rows = ["gap_reducer=posthoc", "gap_reducer.fit_split=train"]
    few = evaluate(world, tmp_path / "few", *rows, "gap_reducer.fit_samples=4")
    other = evaluate(
        world, tmp_path / "other", *rows, "gap_reducer.fit_data=flickr8k", "gap_reducer.fit_split=test",
        f"gap_reducer.fit_data.root={world / 'elsewhere'}", "gap_reducer.fit_data.num_workers=0",
    )  # fmt: skip
    about = json.loads((tmp_path / "few" / runs.METRICS_FILE).read_text())["rows"]["posthoc"]
    assert (about["fit_samples"], about["protocol"], about["fit_data"]) == (4, "inductive", None)
    about = json.loads((tmp_path / "other" / runs.METRICS_FILE).read_text())["rows"]["posthoc"]
    assert (about["fit_samples"], about["protocol"], about["fit_data"]) == (12, "inductive", "flickr8k")
    assert few["test/posthoc/gap/centroid_distance"] != other["test/posthoc/gap/centroid_distance"]


def test_a_validation_split_of_the_same_photos_is_transductive(world, tmp_path, own_cache):
    root = make_flickr8k(tmp_path / "mine", num_photos=6)
    (root / "Flickr_8k.devImages.txt").write_text((root / "Flickr_8k.testImages.txt").read_text())
    rows = [f"data.root={root}", "compare=default", "compare.posthoc.fit_split=val", "compare.async_bn=null"]
    evaluate(world, tmp_path / "run", *rows)
    about = json.loads((tmp_path / "run" / runs.METRICS_FILE).read_text())
    assert [about["rows"][row]["protocol"] for row in ("none", "posthoc", "posthoc_test")] == [
        "none", "transductive", "transductive"
    ]  # fmt: skip
    found = {(d["row"], d["metric"]): d for d in about["differences"]}
    gap = found["posthoc", "gap/centroid_distance"]
    assert gap["value"] == pytest.approx(
        about["test/posthoc/gap/centroid_distance"] - about["test/none/gap/centroid_distance"]
    )
    assert gap["low"] <= gap["value"] <= gap["high"] < 0 < 1 - gap["p_value"]
    assert (tmp_path / "run" / "differences.tex").read_text().count("\\begin{tabular}") == 1


def test_a_corrupt_photo_stops_an_evaluation_with_its_name(world, tmp_path, own_cache, run_script):
    root = make_flickr8k(tmp_path / "mine", num_photos=3)
    (root / "images" / "test0_1.jpg").write_bytes(b"not a photo")
    done = run_script("eval.py", *arguments(world, f"data.root={root}", "data.num_workers=1"))
    assert done.returncode == 2
    assert "test0_1.jpg" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    (root / "images" / "test0_1.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 .*test0_1\.jpg"):
        evaluate(world, tmp_path / "run", f"data.root={root}")


@pytest.mark.slow
@pytest.mark.ddp
def test_two_processes_fill_the_cache_together(world, tmp_path, run_script):
    more = ["gap_reducer=posthoc", "gap_reducer.fit_split=train", "compare=baseline"]
    alone = run_script("eval.py", *arguments(world, *more, f"hydra.run.dir={tmp_path / 'one'}"),
                       env={"I0T_CACHE_DIR": str(tmp_path / "c1")})  # fmt: skip
    both = run_script("eval.py", *arguments(world, *more, f"hydra.run.dir={tmp_path / 'two'}", "trainer=ddp_cpu"),
                      env={"I0T_CACHE_DIR": str(tmp_path / "c2")})  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    assert both.returncode == 0, both.stderr
    one, two = (json.loads((tmp_path / name / runs.METRICS_FILE).read_text()) for name in ("one", "two"))
    numbers = {name: value for name, value in one.items() if isinstance(value, float)}
    assert len(numbers) > 20
    for name, value in numbers.items():
        assert two[name] == pytest.approx(value, abs=2e-5), name
    assert one["rows"]["posthoc"]["fit_samples"] == two["rows"]["posthoc"]["fit_samples"] == NUM_PHOTOS


@pytest.mark.slow
def test_a_model_trained_on_photos_is_evaluated_from_its_checkpoint(world, tmp_path, own_cache, encoded_images):
    run = tmp_path / "run"
    given = [a for a in arguments(world) if not a.startswith("data.eval_batch_size")]
    numbers = engine.train(compose("train", [*given, *SHORT_TRAINING, f"paths.output_dir={run}"]))
    (world / "small.pt").rename(world / "away.pt")  # a checkpoint needs nothing else
    try:
        cfg = compose_from_checkpoint(run / runs.CHECKPOINT, tmp_path / "eval")
        again = engine.evaluate(cfg)
    finally:
        (world / "away.pt").rename(world / "small.pt")
    for name in ("test/none/retrieval/i2t_r5", "test/posthoc/gap/centroid_distance"):
        assert again[name] == pytest.approx(numbers[name], abs=1e-4)
    encoded_images.clear()
    assert engine.evaluate(compose_from_checkpoint(run / runs.CHECKPOINT, tmp_path / "eval2")) == again
    assert not encoded_images


def compose_from_checkpoint(checkpoint, folder):
    from i0t.config import Command

    command = preparation.prepare_evaluation(Command("eval", [f"ckpt_path={checkpoint}"]))
    return compose("eval", [*command.overrides, "report=false", f"paths.output_dir={folder}"])


def test_embeddings_of_two_widths_do_not_mix(world, tmp_path, own_cache):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(8, 16)).astype("float32")
    np.savez(tmp_path / "narrow.npz", image=x, text=x, text_image_index=np.arange(8))
    with pytest.raises(ConfigError, match="fit_data is 16 wide, what is measured 32"):
        evaluate(
            world, tmp_path / "run", "gap_reducer=posthoc", "gap_reducer.fit_split=test",
            "gap_reducer.fit_data=embeddings", f"gap_reducer.fit_data.path={tmp_path / 'narrow.npz'}",
        )  # fmt: skip
