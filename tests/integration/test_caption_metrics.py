"""Caption scores from files of photos and captions equal those of plain open_clip and NumPy."""

import csv
import json
import shutil

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from scipy.stats import kendalltau

from i0t import engine, preparation
from i0t.config import Command, compose

PREFIX = "A photo depicts "


@pytest.fixture(scope="module")
def world(recipe, tmp_path_factory):
    """Eight photos and 24 judged captions of them, beside a small model with weights in a file."""
    folder = tmp_path_factory.mktemp("captions")
    for name in ("small.json", "small.pt"):
        shutil.copy(recipe.folder / name, folder)
    generator = np.random.default_rng(0)
    for i in range(8):
        color = generator.integers(0, 255, size=(6, 8, 3), dtype=np.uint8)
        Image.fromarray(color).resize((50, 40)).save(folder / f"{i}.png")
    words = ["red", "green", "dog", "cat", "runs", "sits", "street", "table", "the", "a", "two", "small"]

    def sentence():
        return " ".join(generator.choice(words, size=5))

    rows = [
        {
            "image": f"{i % 8}.png",
            "caption": sentence(),
            "references": [sentence() for _ in range(i % 3 + 1)],
            "ratings": generator.integers(1, 5, size=3).tolist(),
        }
        for i in range(24)
    ]
    rows[3]["caption"] = " ".join(["word"] * 200)  # beyond the context
    (folder / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder, rows


def evaluate(folder, output, *more):
    """What ``python eval.py evaluation=caption_score data.path=candidates.jsonl …`` runs."""
    overrides = [
        "evaluation=caption_score",
        f"data.path={folder / 'candidates.jsonl'}",
        "model=open_clip",
        f"model.architecture={folder / 'small.json'}",
        f"model.pretrained={folder / 'small.pt'}",
        "data.num_workers=0",
        "trainer.enable_progress_bar=false",
        "evaluation.caption_score.num_resamples=20",
        "report=false",
        f"paths.output_dir={output}",
        f"paths.cache_dir={folder / 'cache'}",
        *more,
    ]
    command = preparation.prepare_evaluation(Command("eval", overrides))
    return engine.evaluate(compose("eval", command.overrides))


@pytest.fixture(scope="module")
def plain(world):
    """Unit features of images, captions and references by open_clip alone."""
    folder, rows = world
    open_clip.add_model_config(folder / "small.json")
    model, _, preprocess = open_clip.create_model_and_transforms("small", pretrained=str(folder / "small.pt"))
    model.eval()
    tokenize = open_clip.get_tokenizer("small")

    @torch.no_grad()
    def text(sentences):
        return model.encode_text(tokenize([PREFIX + s for s in sentences]), normalize=True).double().numpy()

    with torch.no_grad():
        images = torch.stack([preprocess(Image.open(folder / row["image"])) for row in rows])
        image = model.encode_image(images, normalize=True).double().numpy()
    return image, text([row["caption"] for row in rows]), [text(row["references"]) for row in rows]


def harmonic(score, reference):
    return 2 * score * reference / (score + reference) if score + reference > 0 else 0.0


def test_scores_and_taus_equal_those_of_plain_open_clip(world, plain, tmp_path, capsys):
    folder, rows = world
    numbers = evaluate(folder, tmp_path / "run")
    image, caption, references = plain
    cosines = (image * caption).sum(1)
    clip_s = 2.5 * np.maximum(cosines, 0)
    best = [max(0.0, float((r @ c).max())) for r, c in zip(references, caption, strict=True)]
    ref_clip_s = [harmonic(s, r) for s, r in zip(clip_s, best, strict=True)]

    written = list(csv.DictReader((tmp_path / "run" / "caption_scores.csv").open()))
    assert [row["image"] for row in written] == [row["image"] for row in rows]
    assert [row["caption"] for row in written] == [row["caption"] for row in rows]
    assert [int(row["line"]) for row in written] == list(range(1, 25))
    np.testing.assert_allclose([float(row["score"]) for row in written], clip_s, atol=1e-5)
    np.testing.assert_allclose([float(row["raw"]) for row in written], 2.5 * cosines, atol=1e-5)
    np.testing.assert_allclose([float(row["reference_score"]) for row in written], ref_clip_s, atol=1e-5)

    every = [(i, rating) for i, row in enumerate(rows) for rating in row["ratings"]]
    ratings = [rating for _, rating in every]
    for name, scores in (("tau_b", cosines), ("tau_b_clipped", clip_s), ("ref_tau_b_clipped", ref_clip_s)):
        expected = kendalltau([scores[i] for i, _ in every], ratings, variant="b").statistic
        assert numbers[f"test/none/caption_score/{name}"] == pytest.approx(expected, abs=1e-9), name
    expected = kendalltau([cosines[i] for i, _ in every], ratings, variant="c").statistic
    assert numbers["test/none/caption_score/tau_c"] == pytest.approx(expected, abs=1e-9)
    assert "1 of" in capsys.readouterr().out.partition("longer than the model's context")[0][-60:]


def test_i0t_s_is_the_same_after_centring_and_says_what_on(world, plain, tmp_path):
    folder, rows = world
    numbers = evaluate(folder, tmp_path / "run", "gap_reducer=posthoc", "gap_reducer.fit_split=test")
    image, caption, references = plain
    distinct = {row["image"]: vector for row, vector in zip(rows, image, strict=True)}
    sentences = {row["caption"]: vector for row, vector in zip(rows, caption, strict=True)}
    for row, vectors in zip(rows, references, strict=True):
        sentences |= dict(zip(row["references"], vectors, strict=True))

    def centred(vectors, mean):
        moved = vectors - mean
        return moved / np.linalg.norm(moved, axis=-1, keepdims=True)

    image_mean = np.mean(list(distinct.values()), axis=0)
    text_mean = np.mean(list(sentences.values()), axis=0)
    cosines = (centred(image, image_mean) * centred(caption, text_mean)).sum(1)
    written = [
        row for row in csv.DictReader((tmp_path / "run" / "caption_scores.csv").open()) if row["row"] == "posthoc"
    ]
    np.testing.assert_allclose([float(row["raw"]) for row in written], cosines, atol=2e-5)
    assert min(cosines) < 0 <= min(float(row["score"]) for row in written)
    about = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "transductive" in about["protocols"]["caption_score"]
    assert numbers["test/posthoc/caption_score/mean"] == pytest.approx(cosines.mean(), abs=1e-5)


def test_a_file_with_bad_rows_is_refused_whole(world, tmp_path):
    folder, rows = world
    lines = [json.dumps(row) for row in rows]
    lines[1] = '{"image": "nowhere.png", "caption": "x"}'
    lines[4] = "{not json"
    lines[6] = '{"image": "0.png"}'
    bad = folder / "bad.jsonl"
    bad.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"bad.jsonl: 3 of 24 rows cannot be used: line 2: .*line 5: .*line 7: "):
        evaluate(folder, tmp_path / "run", f"data.path={bad}")
    assert not (tmp_path / "run" / "metrics.json").exists()
