"""Flickr8k from the official files or Karpathy's, in the usual folders."""

import pytest

from i0t.data.flickr8k import Flickr8kDataModule


def test_the_official_files_give_the_official_split(flickr8k_root, options, make):
    module = Flickr8kDataModule(root=str(flickr8k_root), **options)
    for split, name, count in (("train", "train", 7), ("val", "dev", 3), ("test", "test", 5)):
        names = make.flickr8k_names(name, count)
        photos = module.split(split)
        assert [path.name for path in photos.image_files] == names
        assert photos.captions[1] == make.captions_of(names[1])
        assert len(photos.captions[0]) == 7
        assert photos.image_ids == [name.partition(".")[0] for name in names]


@pytest.mark.parametrize("layout", ["Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images", "."])
@pytest.mark.parametrize("text_folder", [".", "Flickr8k_text"])
def test_the_usual_trees_are_found(flickr8k_root, options, layout, text_folder):
    (flickr8k_root / text_folder).mkdir(exist_ok=True)
    for path in flickr8k_root.glob("*.txt"):
        path.rename(flickr8k_root / text_folder / path.name)
    images = flickr8k_root / "Flicker8k_Dataset"
    if layout == ".":
        for path in images.iterdir():
            path.rename(flickr8k_root / path.name)
    else:
        images.rename(flickr8k_root / layout)
    photos = Flickr8kDataModule(root=str(flickr8k_root), **options).split("test")
    assert {path.parent for path in photos.image_files} == {flickr8k_root / layout}


def test_karpathys_file_does_where_the_official_ones_are_not(flickr8k_root, options, make):
    for path in flickr8k_root.glob("*.txt"):
        path.unlink()
    names = make.flickr8k_names("test", 5)
    make.karpathy_json(flickr8k_root / "karpathy" / "dataset_flickr8k.json", {"test": names[::-1]})
    module = Flickr8kDataModule(root=str(flickr8k_root), **options)
    assert [path.name for path in module.split("test").image_files] == names[::-1]
    assert module.split("test").captions[0] == make.captions_of(names[-1])
    with pytest.raises(ValueError, match=r"dataset_flickr8k.json: no image is of the val split"):
        module.split("val")


def test_the_image_with_the_odd_name_is_found_under_its_plain_one(flickr8k_root, options, make):
    odd = "2258277193_586949ec62.jpg.1"
    (flickr8k_root / "Flickr_8k.testImages.txt").write_text(odd + "\n")
    with (flickr8k_root / "Flickr8k.token.txt").open("a") as file:
        file.write(f"{odd}#0\tpeople waiting for the subway\n")
    make.save_photos(flickr8k_root / "Flicker8k_Dataset", [odd.removesuffix(".1")])
    photos = Flickr8kDataModule(root=str(flickr8k_root), **options).split("test")
    assert [path.name for path in photos.image_files] == ["2258277193_586949ec62.jpg"]
    assert photos.captions == [["people waiting for the subway"]]


def test_a_listed_image_without_captions_is_an_error(flickr8k_root, options):
    with (flickr8k_root / "Flickr_8k.testImages.txt").open("a") as file:
        file.write("7_stranger.jpg\n")
    with pytest.raises(
        ValueError, match=r"1 of 6 images in Flickr8k.token.txt and .* have no caption, first 7_stranger"
    ):
        Flickr8kDataModule(root=str(flickr8k_root), **options).split("test")


@pytest.mark.data
def test_the_real_flickr8k(shared_data, options, bind, read_tokens):
    root = shared_data / "flickr8k"
    with pytest.raises(
        ValueError, match=r"994 of the 1,000 images that Flickr8k.token.txt and Flickr_8k.testImages.txt"
    ):
        Flickr8kDataModule(root=str(root), **options).describe("test")
    module = bind(Flickr8kDataModule(root=str(root), **options | {"only_present": True, "captions_per_image": 5}))
    info = {split: module.describe(split) for split in ("train", "val", "test")}
    assert [info[split].num_images for split in info] == [81, 13, 6]
    assert all(len(one.captions) == 5 * one.num_images for one in info.values())
    assert "994 annotated images are not there" in info["test"].provenance["warnings"][0]
    batches = list(module.eval_dataloader("test"))
    assert sum(len(batch.images) for batch in batches) == 6
    assert info["train"].image_ids[0] == module.split("train").image_files[0].stem
    text = (root / "Flickr8k.token.txt").read_text()
    first = module.split("test").image_files[0].name
    assert f"{first}#0\t{info['test'].captions[0]}" in text
