"""Flickr30k in Karpathy's split."""

import pytest

from i0t.data.flickr30k import KNOWN_COUNTS, Flickr30kDataModule

NAMES = {"train": ["10.jpg", "11.jpg"], "val": ["20.jpg"], "test": ["30.jpg", "31.jpg", "29.jpg"]}


@pytest.mark.parametrize("annotations", ["dataset_flickr30k.json", "karpathy/dataset_flickr30k.json"])
@pytest.mark.parametrize("folder", ["flickr30k-images", "flickr30k_images", "Images", "images"])
def test_karpathys_split(tmp_path, make, options, annotations, folder):
    make.karpathy_json(tmp_path / annotations, NAMES)
    make.save_photos(tmp_path / folder, [name for names in NAMES.values() for name in names])
    module = Flickr30kDataModule(root=str(tmp_path), **options)
    for split, names in NAMES.items():
        assert module.split(split).image_files == [tmp_path / folder / name for name in names]
        assert module.split(split).captions == [list(make.captions_of(name)) for name in names]
    assert module.describe("test").provenance["annotations"] == ["dataset_flickr30k.json"]
    assert "published split has 1,000" in module.describe("test").provenance["warnings"][0]


def test_the_published_counts():
    assert KNOWN_COUNTS == {"train": 29000, "val": 1014, "test": 1000}


def test_the_token_file_alone_is_all_images_and_says_so(tmp_path, make, options):
    names = [f"{i}.jpg" for i in range(4)]
    make.save_photos(tmp_path / "flickr30k-images", names)
    lines = [f"{name}#{i}\t{caption}" for name in names for i, caption in enumerate(make.captions_of(name))]
    (tmp_path / "results_20130124.token").write_text("\n".join(lines))
    module = Flickr30kDataModule(root=str(tmp_path), **options)
    info = module.describe("test")
    assert info.num_images == 4
    assert info.captions[5:7] == ["Caption 0 of 1.jpg", "Caption 1 of 1.jpg"]
    assert info.provenance["annotations"] == ["results_20130124.token"]
    assert info.provenance["warnings"] == ["flickr30k test: 4 images, where the published split has 1,000"]
    with pytest.raises(ValueError, match=r"has no dataset_flickr30k.json \(nor karpathy/"):
        module.describe("train")
