import sys

import numpy as np
import pytest
import torch

from i0t.data.embedding_formats import read_embeddings
from i0t.embedding_store import save_set
from i0t.embeddings import EmbeddingSet

RNG = np.random.default_rng(0)
IMAGE, TEXT = RNG.normal(size=(4, 6)).astype(np.float32), RNG.normal(size=(9, 6)).astype(np.float32)
INDEX = np.array([3, 0, 0, 1, 2, 2, 3, 1, 0])


def save_npz(path, **arrays):
    np.savez(path, **{"image": IMAGE, "text": TEXT, **arrays})
    return path


# --- npz ---


def test_npz_with_everything(tmp_path):
    path = save_npz(
        tmp_path / "a.npz",
        text_image_index=INDEX,
        split=np.array(["train", "test", "val", "train"]),
        text_split=np.array(["x"] * 9),
        image_id=np.array([b"a", b"b", b"c", b"d"]),
        caption=np.array([f"caption {i}" for i in range(9)]),
    )
    stored = read_embeddings(path)
    embeddings = stored.embeddings
    np.testing.assert_array_equal(embeddings.image_features, IMAGE)
    np.testing.assert_array_equal(embeddings.text_features, TEXT)
    assert embeddings.text_image_index.tolist() == INDEX.tolist()
    assert embeddings.image_ids == ("a", "b", "c", "d")
    assert embeddings.captions[8] == "caption 8"
    assert stored.split.tolist() == ["train", "test", "val", "train"]
    assert stored.text_split.tolist() == ["x"] * 9
    assert embeddings.provenance == {"source": "a.npz", "logit_scale_known": False}


def test_npz_with_pairs_and_without(tmp_path):
    pairs = np.array([[0, 0], [1, 0], [2, 8]], dtype=np.int32)
    assert read_embeddings(save_npz(tmp_path / "a.npz", pairs=pairs)).embeddings.pairs.tolist() == pairs.tolist()
    unpaired = read_embeddings(save_npz(tmp_path / "b.npz"))
    assert unpaired.embeddings.pairs.shape == (0, 2)
    assert unpaired.split is None


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("<f2", torch.float16),
        ("<f4", torch.float32),
        (">f4", torch.float32),
        ("<f8", torch.float32),
        ("i1", torch.float32),
    ],
)
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_half_and_single_precision_stay_and_the_rest_becomes_single(tmp_path, stored, expected, suffix):
    values = (IMAGE * 20).round().astype(stored)
    if suffix == "npz":
        embeddings = read_embeddings(save_npz(tmp_path / "a.npz", image=values)).embeddings
    else:
        np.save(tmp_path / "i.npy", values)
        np.save(tmp_path / "t.npy", TEXT)
        embeddings = read_embeddings(tmp_path / "i.npy", text_path=tmp_path / "t.npy").embeddings
    assert embeddings.image_features.dtype == expected
    np.testing.assert_array_equal(embeddings.image_features.float(), (IMAGE * 20).round())


# --- npy ---


def test_npy_files_are_mapped_and_not_copied(tmp_path):
    np.save(tmp_path / "i.npy", IMAGE.astype(np.float16))
    np.save(tmp_path / "t.npy", TEXT)
    np.save(tmp_path / "index.npy", INDEX)
    np.save(tmp_path / "pairs.npy", np.array([[1, 2], [3, 4]]))
    paths = {"text_path": tmp_path / "t.npy", "index_path": tmp_path / "index.npy"}
    embeddings = read_embeddings(tmp_path / "i.npy", **paths).embeddings
    assert embeddings.text_image_index.tolist() == INDEX.tolist()
    with (tmp_path / "i.npy").open("r+b") as file:  # a mapped page that nobody wrote to shows what the file holds
        file.seek(-2, 2)
        file.write(np.float16(7).tobytes())
    assert embeddings.image_features[-1, -1].item() == 7
    paths["index_path"] = tmp_path / "pairs.npy"
    assert read_embeddings(tmp_path / "i.npy", **paths).embeddings.pairs.tolist() == [[1, 2], [3, 4]]
    assert len(read_embeddings(tmp_path / "i.npy", text_path=tmp_path / "t.npy").embeddings.pairs) == 0


def test_column_order_reads_the_same(tmp_path):
    np.save(tmp_path / "i.npy", np.asfortranarray(IMAGE))
    np.save(tmp_path / "t.npy", TEXT)
    embeddings = read_embeddings(tmp_path / "i.npy", text_path=tmp_path / "t.npy").embeddings
    np.testing.assert_array_equal(embeddings.image_features, IMAGE)


# --- our own sets ---


def test_own_set(tmp_path):
    original = EmbeddingSet.from_index(
        torch.from_numpy(IMAGE),
        torch.from_numpy(TEXT),
        torch.from_numpy(INDEX),
        labels={"class": torch.arange(4)},
        logit_scale=37.0,
        provenance={"split": "val"},
    )
    save_set(original, tmp_path / "set")
    stored = read_embeddings(tmp_path / "set")
    np.testing.assert_array_equal(stored.embeddings.text_features, TEXT)
    assert stored.embeddings.logit_scale == 37.0
    assert stored.embeddings.labels["class"].tolist() == [0, 1, 2, 3]
    assert stored.split.tolist() == ["val"] * 4


# --- parquet ---


def rows_of(image_rows, text_rows, dtype="float32"):
    pa = pytest.importorskip("pyarrow")
    kind = pa.list_(getattr(pa, dtype)())

    def column(values):
        return pa.array([None if v is None else v.tolist() for v in values], type=kind)

    return {"image": column(image_rows), "text": column(text_rows)}


def write_parquet(path, columns, **options):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_with_a_pair_in_each_row(tmp_path):
    columns = rows_of(IMAGE, TEXT[:4]) | {"caption": ["a", None, "c", "d"], "split": ["train", "test", "test", "train"]}
    stored = read_embeddings(write_parquet(tmp_path / "a.parquet", columns, row_group_size=3))
    np.testing.assert_array_equal(stored.embeddings.image_features, IMAGE)
    np.testing.assert_array_equal(stored.embeddings.text_features, TEXT[:4])
    assert stored.embeddings.pairs.tolist() == [[i, i] for i in range(4)]
    assert stored.embeddings.captions == ("a", "", "c", "d")
    assert stored.split.tolist() == ["train", "test", "test", "train"]


def test_parquet_with_several_captions_for_an_image(tmp_path):
    """An id's image is the first that its rows hold; "q" has none, and one row has no text."""
    ids = ["z", "a", "z", "q", "a", "m"]
    images = [None, IMAGE[1], IMAGE[0], None, None, IMAGE[2]]
    texts = [TEXT[0], TEXT[1], TEXT[2], TEXT[3], TEXT[4], None]
    columns = rows_of(images, texts, "float16") | {"image_id": ids}
    embeddings = read_embeddings(write_parquet(tmp_path / "a.parquet", columns)).embeddings
    assert embeddings.image_ids == ("a", "z", "m")  # in the order of the rows that hold them
    np.testing.assert_array_equal(embeddings.image_features, IMAGE[[1, 0, 2]].astype(np.float16))
    np.testing.assert_array_equal(embeddings.text_features, TEXT[:5].astype(np.float16))
    assert embeddings.image_features.dtype == torch.float16
    assert sorted(embeddings.pairs.tolist()) == [[0, 1], [0, 4], [1, 0], [1, 2]]


def test_parquet_of_fixed_size_lists(tmp_path):
    pa = pytest.importorskip("pyarrow")
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 6)
        for name, values in (("image", IMAGE), ("text", TEXT[:4]))
    }
    embeddings = read_embeddings(write_parquet(tmp_path / "a.parquet", columns)).embeddings
    np.testing.assert_array_equal(embeddings.image_features, IMAGE)
    np.testing.assert_array_equal(embeddings.text_features, TEXT[:4])


def test_parquet_that_cannot_be_used(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    good = rows_of(IMAGE, TEXT[:4])
    uneven = rows_of([IMAGE[0], IMAGE[1, :5], IMAGE[2], np.append(IMAGE[3], 1)], TEXT[:4])
    for columns, message in [
        ({"image": good["image"], "words": ["a"] * 4}, r"no column \['text'\]; it has \['image', 'words'\]"),
        (uneven, "lists of the column image have different lengths"),
        (good | {"image": [1.0] * 4}, "column image must hold lists of numbers, got double"),
        (good | {"image_id": ["a", None, "b", "c"]}, "column image_id of .* has 1 nulls"),
        (good | {"image_id": ["a", "a", "b", "b"], "split": ["x", "y", "x", "x"]}, "image a of .* more than one split"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_embeddings(write_parquet(path, columns))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot read .*a\.parquet"):
        read_embeddings(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"needs pyarrow: pip install 'i0t\[parquet\]'"):
        read_embeddings(path)


# --- what cannot be read is one line ---


def test_missing_truncated_and_foreign_files(tmp_path):
    good = save_npz(tmp_path / "good.npz")
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:300])
    np.save(tmp_path / "i.npy", IMAGE)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "i.npy").read_bytes()[:-4])
    (tmp_path / "x.csv").write_text("1,2")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("none.npz", "there is no .*none.npz; embeddings are read from a folder with index.json, .npz"),
        ("cut.npz", "cut.npz is truncated or not an .npz file"),
        ("cut.npy", "cannot read .*cut.npy"),
        ("x.csv", "x.csv is of no known format"),
        ("empty", "the folder .*empty holds no embeddings"),
    ]:
        text_path = tmp_path / "i.npy" if name.endswith("npy") else None
        with pytest.raises(ValueError, match=message) as error:
            read_embeddings(tmp_path / name, text_path=text_path)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"i\.npy holds one modality; give the .npy of the texts as text_path"):
        read_embeddings(tmp_path / "i.npy")
    with pytest.raises(ValueError, match=r"there is no file .*missing.npy"):
        read_embeddings(tmp_path / "i.npy", text_path=tmp_path / "missing.npy")
    with pytest.raises(ValueError, match=r"go with an \.npy of image features, not with .*good.npz"):
        read_embeddings(good, text_path=tmp_path / "i.npy")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"text_image_index": INDEX[:8]}, r"text_image_index has shape \(8,\) for 9 texts"),
        ({"text_image_index": INDEX + 1}, "pairs points at image 4 .* there are 4 images and 9 texts"),
        ({"text_image_index": INDEX.astype(float)}, "text_image_index must hold row numbers, got float64"),
        ({"pairs": np.zeros((2, 3), int)}, r"pairs must be \(P, 2\)"),
        ({"pairs": np.zeros((2, 2), int), "text_image_index": INDEX}, "both pairs and text_image_index"),
        ({"split": np.array(["a"] * 9)}, r"split must be \(4,\).* got \(9,\)"),
        ({"text_split": np.array(["a"] * 4)}, r"text_split must be \(9,\)"),
        ({"image_id": np.array(["a"] * 3)}, "image_ids has 3 entries for 4 images"),
        ({"caption": np.array([["a"] * 9])}, "caption must have one dimension"),
        ({"image": IMAGE[:, :5]}, "image features are 5 wide and text features 6"),
        ({"image": IMAGE * np.nan}, "NaN or infinity"),
        ({"image": IMAGE[0]}, "image features must be"),
        ({"image": np.array(["a"])}, "array image must hold numbers"),
        ({"image": np.array([{}, 1], dtype=object)}, "cannot read embeddings from .*a.npz: Object arrays"),
    ],
)
def test_arrays_that_disagree(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message) as error:
        read_embeddings(save_npz(tmp_path / "a.npz", **arrays))
    assert "a.npz" in str(error.value)


def test_a_logit_scale_beside_the_features(tmp_path):
    embeddings = read_embeddings(save_npz(tmp_path / "a.npz", logit_scale=np.float32(14.5))).embeddings
    assert embeddings.logit_scale == 14.5
    assert embeddings.provenance["logit_scale_known"] is True
    for wrong in (np.array([1.0, 2.0]), np.array(-3.0), np.array(np.nan), np.array("a")):
        with pytest.raises(ValueError, match="logit_scale must be one positive number, the factor"):
            read_embeddings(save_npz(tmp_path / "b.npz", logit_scale=wrong))
