import numpy as np
import pytest
import torch

from i0t.data.embeddings import EmbeddingsFile
from i0t.embedding_store import save_set
from i0t.embeddings import EmbeddingSet

RNG = np.random.default_rng(0)


def write(path, num_images=20, captions=3, **arrays):
    """Image i is (i + 1, 1, 0), its captions are (i + 1, 2, c): rows tell where they come from."""
    image = np.array([[i + 1, 1, 0] for i in range(num_images)], dtype=np.float32)
    text = np.array([[i + 1, 2, c] for i in range(num_images) for c in range(captions)], dtype=np.float32)
    index = np.repeat(np.arange(num_images), captions)
    order = np.random.default_rng(1).permutation(len(text))
    np.savez(path, **{"image": image, "text": text[order], "text_image_index": index[order], **arrays})
    return str(path)


def images_of(embeddings):
    return (embeddings.image_features[:, 0].long() - 1).tolist()


def owners_of_texts(embeddings):
    return (embeddings.text_features[:, 0].long() - 1).tolist()


def assert_texts_follow(embeddings):
    """Each pair joins rows of the same image, every text of the images is there and no other."""
    image, text = embeddings.pairs.T
    assert torch.equal(embeddings.image_features[image, 0], embeddings.text_features[text, 0])
    assert sorted(owners_of_texts(embeddings)) == sorted(3 * images_of(embeddings))


# --- files with and without splits ---


def test_a_file_without_splits_is_one_test_split_and_nothing_can_be_fitted_on_another(tmp_path):
    source = EmbeddingsFile(path=write(tmp_path / "pairs.npz"))
    embeddings = source.load("test")
    assert embeddings.num_images == 20
    assert embeddings.provenance == {"source": "pairs.npz", "logit_scale_known": False, "split": "test"}
    assert not source.has_splits
    message = "nothing can be fitted on 'train'; fit_split=test gives the transductive numbers, data.holdout=.5 keeps"
    with pytest.raises(ValueError, match=message):
        source.load("train")


def test_a_split_array_selects_images_and_their_texts(tmp_path):
    split = RNG.choice(["train", "val", "test"], 20)
    ids, captions = np.array([f"id{i}" for i in range(20)]), np.array([f"c{i}" for i in range(60)])
    source = EmbeddingsFile(path=write(tmp_path / "a.npz", split=split, image_id=ids, caption=captions))
    whole = np.load(source.path)
    assert source.has_splits
    for name in ("train", "val", "test"):
        embeddings = source.load(name)
        rows = np.flatnonzero(split == name)
        assert images_of(embeddings) == rows.tolist()
        assert embeddings.image_ids == tuple(ids[rows])
        assert_texts_follow(embeddings)
        kept = np.flatnonzero(np.isin(whole["text_image_index"], rows))
        np.testing.assert_array_equal(embeddings.text_features, whole["text"][kept])
        assert embeddings.captions == tuple(captions[kept])
    with pytest.raises(ValueError, match=r"no split 'dev'; it has test \(\d+ images\), train \(\d+ images\), val \("):
        source.load("dev")


def test_a_text_of_several_images_is_in_every_split_of_theirs(tmp_path):
    pairs = np.array([[0, 0], [1, 0], [1, 1], [2, 1]])
    text = np.eye(3, dtype=np.float32)[:2]
    path = write(tmp_path / "a.npz", num_images=3, split=np.array(["train", "test", "train"]))
    arrays = {k: v for k, v in np.load(path).items() if k != "text_image_index"}
    np.savez(path, **{**arrays, "text": text, "pairs": pairs})
    train, test = (EmbeddingsFile(path=path).load(name) for name in ("train", "test"))
    assert train.pairs.tolist() == [[0, 0], [1, 1]]
    assert test.pairs.tolist() == [[0, 0], [0, 1]]
    assert len(train.text_features) == len(test.text_features) == 2


def test_unpaired_sets_need_a_split_of_their_texts(tmp_path):
    image, text = (RNG.normal(size=(n, 4)).astype(np.float16) for n in (5, 7))
    split, text_split = np.array(["train"] * 2 + ["test"] * 3), np.array(["test"] * 4 + ["train"] * 3)
    path = str(tmp_path / "a.npz")
    np.savez(path, image=image, text=text, split=split, text_split=text_split)
    train = EmbeddingsFile(path=path).load("train")
    np.testing.assert_array_equal(train.image_features, image[:2])
    np.testing.assert_array_equal(train.text_features, text[4:])
    assert train.image_features.dtype == torch.float16
    np.savez(path, image=image, text=text, split=split)
    with pytest.raises(ValueError, match=r"7 texts of .*a\.npz belong to no image: beside `split`, a `text_split`"):
        EmbeddingsFile(path=path).load("train")
    np.savez(path, image=image, text=text, split=split, text_split=np.array(["test"] * 7))
    with pytest.raises(ValueError, match=r"the split 'train' of .* has 2 images and no texts"):
        EmbeddingsFile(path=path).load("train")


def test_a_text_in_another_split_than_its_image_is_an_error(tmp_path):
    text_split = np.array(["test"] * 60)
    source = EmbeddingsFile(
        path=write(tmp_path / "a.npz", split=np.array(["test"] * 19 + ["val"]), text_split=text_split)
    )
    with pytest.raises(ValueError, match=r"text \d+ is in split 'test', but its image 19 in 'val'"):
        source.load("test")


def test_a_run_of_rows_stays_memory_mapped(tmp_path):
    save_set(
        EmbeddingSet.from_index(torch.eye(6), torch.eye(6), torch.arange(6), provenance={"split": "val"}),
        tmp_path / "s",
    )
    source = EmbeddingsFile(path=str(tmp_path / "s"))
    embeddings = source.load("val")
    assert embeddings.image_features.data_ptr() == source._stored.embeddings.image_features.data_ptr()
    with pytest.raises(ValueError, match=r"has no split 'test'; it has val \(6 images\)"):
        source.load("test")


# --- holdout ---


@pytest.mark.parametrize("holdout", [0.1, 0.5, 0.75])
def test_holdout_splits_by_image(tmp_path, holdout):
    source = EmbeddingsFile(path=write(tmp_path / "a.npz"), holdout=holdout, seed=3)
    train, test = source.load("train"), source.load("test")
    assert train.num_images == 20 * holdout
    assert sorted(images_of(train) + images_of(test)) == list(range(20))
    for part in (train, test):
        assert_texts_follow(part)
    again = EmbeddingsFile(path=source.path, holdout=holdout, seed=3).load("train")
    assert images_of(again) == images_of(train)
    others = {
        tuple(images_of(EmbeddingsFile(path=source.path, holdout=holdout, seed=s).load("train"))) for s in range(5)
    }
    assert len(others) > 1
    with pytest.raises(ValueError, match=r"no split 'val'; it has test \(\d+ images\), train \(\d+ images\)"):
        source.load("val")


def test_holdout_draws_every_image_equally_often(tmp_path):
    path = write(tmp_path / "a.npz", num_images=5)
    count = np.zeros(5)
    for seed in range(300):
        count[images_of(EmbeddingsFile(path=path, holdout=0.4, seed=seed).load("train"))] += 1
    np.testing.assert_allclose(count / 300, 0.4, atol=0.12)  # four standard deviations


def test_images_that_share_a_text_or_a_group_stay_together(tmp_path):
    """Images 0-1-2 hang together by texts, 3-4 by their group, 5 and 6 by both; the oracle merges sets until done."""
    image, text = torch.eye(9), torch.eye(9)[:5]
    pairs = torch.tensor([[0, 0], [1, 0], [1, 1], [2, 1], [5, 2], [6, 2], [7, 3], [8, 4]])
    groups = torch.tensor([10, 11, 12, 40, 40, 7, 7, 8, 9])
    expected = [{0, 1, 2}, {3, 4}, {5, 6}, {7}, {8}]
    save_set(EmbeddingSet(image_features=image, text_features=text, pairs=pairs, groups=groups), tmp_path / "s")
    seen = set()
    for seed in range(20):
        source = EmbeddingsFile(path=str(tmp_path / "s"), holdout=0.5, seed=seed)
        rows = set(source.load("train").image_features.argmax(1).tolist())
        assert all(cluster <= rows or not cluster & rows for cluster in expected)
        assert 3 <= len(rows) <= 6  # half of 9, but for half a cluster
        seen.add(frozenset(rows))
    assert len(seen) > 3


def test_holdout_of_an_unpaired_set_draws_each_modality(tmp_path):
    image, text = np.eye(10, dtype=np.float32), np.eye(10, dtype=np.float32)[:8]
    np.savez(tmp_path / "a.npz", image=image, text=text)
    source = EmbeddingsFile(path=str(tmp_path / "a.npz"), holdout=0.5)
    train, test = source.load("train"), source.load("test")
    for name, total in (("image_features", 10), ("text_features", 8)):
        a, b = (getattr(part, name).argmax(1).tolist() for part in (train, test))
        assert len(a) == len(b) == total / 2
        assert sorted(a + b) == list(range(total))


@pytest.mark.parametrize("holdout", [0, 1, -0.5, 1.5, float("nan")])
def test_holdout_out_of_range(holdout):
    with pytest.raises(ValueError, match="holdout is the share of the images to fit on, between 0 and 1, got"):
        EmbeddingsFile(path="x.npz", holdout=holdout)


def test_holdout_that_cannot_be(tmp_path):
    path = write(tmp_path / "a.npz", split=np.array(["train"] * 10 + ["test"] * 10))
    with pytest.raises(ValueError, match=r"a\.npz has splits of its own; leave out data\.holdout"):
        EmbeddingsFile(path=path, holdout=0.5).load("train")
    path = write(tmp_path / "b.npz", num_images=3)
    with pytest.raises(ValueError, match=r"holdout=0.1 of 3 images in 3 sets .* leaves nothing to fit on"):
        EmbeddingsFile(path=path, holdout=0.1).load("train")


@pytest.mark.data
def test_real_clip_features_by_holdout(shared_data):
    """Half of the 100 photos to fit on: centroid distance of the other half."""
    from i0t.gap_reducers import Posthoc

    distances = []
    for seed in range(5):
        path = str(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz")
        source = EmbeddingsFile(path=path, holdout=0.5, seed=seed)
        reducer = Posthoc(512, fit_split="train")
        reducer.fit(source.load("train"))
        test = source.load("test")
        image, text = reducer(test.image_features, test.text_features)
        distances.append((image.mean(0) - text.mean(0)).norm().item())
    assert np.mean(distances) == pytest.approx(0.2114, abs=0.02)
