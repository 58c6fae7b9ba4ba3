"""COCO in Karpathy's split and the official ones, with either year's images."""

import pytest

from i0t.data.coco import KNOWN_COUNTS, CocoDataModule

IDS = {"train": [9, 25], "restval": [42], "val": [391, 522], "test": [640, 641, 7]}


def name_of_2014(split, image_id):
    return f"COCO_{'train' if split == 'train' else 'val'}2014_{image_id:012d}.jpg"


@pytest.fixture
def karpathy_root(tmp_path, make):
    splits = {split: [name_of_2014(split, i) for i in ids] for split, ids in IDS.items()}
    make.karpathy_json(
        tmp_path / "dataset_coco.json",
        splits,
        filepath=lambda name: name.split("_")[1],
        cocoid=lambda name: int(name[-16:-4]),
        num_captions=6,
    )
    return tmp_path


@pytest.fixture
def coco(options):
    def build(root, annotations="karpathy", **changed):
        return CocoDataModule(annotations=annotations, root=str(root), **options | changed)

    return build


EXPECTED = {"train": [9, 25, 42], "val": [391, 522], "test": [640, 641, 7]}


@pytest.mark.parametrize("base", ["", "images/"])
@pytest.mark.parametrize("year", [2014, 2017])
def test_karpathys_split_with_the_images_of_either_year(karpathy_root, make, coco, base, year):
    places = {}
    for split, ids in IDS.items():
        for number, image_id in enumerate(ids):
            if year == 2014:
                name = name_of_2014(split, image_id)
                place = f"{base}{name.split('_')[1]}/{name}"
            else:  # the split of 2017 is another one than that of 2014
                place = f"{base}{'val' if number else 'train'}2017/{image_id:012d}.jpg"
            places[image_id] = karpathy_root / place
    for place in places.values():
        make.save_photos(place.parent, [place.name])
    module = coco(karpathy_root)
    for split, ids in EXPECTED.items():
        photos = module.split(split)
        assert photos.image_ids == [str(i) for i in ids]
        assert photos.image_files == [places[i] for i in ids]
        assert photos.captions[0] == make.captions_of(name_of_2014(split, ids[0]), 6)
    assert len(coco(karpathy_root, captions_per_image=5).describe("test").captions) == 15
    provenance = module.describe("test").provenance
    assert provenance["split_of"] == "karpathy"
    assert provenance["warnings"] == ["coco test: 3 images, where the published split has 5,000"]


@pytest.mark.parametrize("folder", ["annotations", "."])
@pytest.mark.parametrize("images", ["val{year}", "images/val{year}", "images", "."])
@pytest.mark.parametrize("year", [2014, 2017])
def test_the_official_validation_split(tmp_path, make, coco, folder, images, year):
    prefix = "COCO_val2014_" if year == 2014 else ""
    listed = [(i, f"{prefix}{i:012d}.jpg") for i in (522, 391)]
    place = tmp_path / images.format(year=year)
    make.save_photos(place, [name for _, name in listed])
    make.coco_json(tmp_path / folder / f"captions_val{year}.json", listed)
    module = coco(tmp_path, f"official_{year}")
    info = module.describe("val")
    assert info.image_ids == ["522", "391"]
    assert module.split("val").image_files == [place / name for _, name in listed]
    assert info.captions[:5] == make.captions_of(listed[0][1])
    known = {2014: "40,504", 2017: "5,000"}[year]
    assert info.provenance["warnings"] == [f"coco val: 2 images, where the published split has {known}"]


def test_the_official_test_split_is_the_validation_split_and_says_so(tmp_path, make, coco):
    make.save_photos(tmp_path / "val2017", ["000000000391.jpg"])
    make.coco_json(tmp_path / "annotations" / "captions_val2017.json", [(391, "000000000391.jpg")])
    info = coco(tmp_path, "official_2017").describe("test")
    assert info.image_ids == ["391"]
    assert info.provenance["same_images_as"] == "val"
    assert info.provenance["warnings"][1] == (
        "coco test: these are the images of val, since the data set has no others with captions; "
        "what is fitted on val is transductive here"
    )
    assert coco(tmp_path, "official_2017").describe("val").provenance["same_images_as"] is None
    with pytest.raises(ValueError, match=r"has no annotations/captions_train2017.json"):
        coco(tmp_path, "official_2017").describe("train")


def test_the_published_counts():
    assert KNOWN_COUNTS["karpathy"] == {"train": 113287, "val": 5000, "test": 5000}
    assert KNOWN_COUNTS["official_2017"] == {"train": 118287, "val": 5000}
    assert KNOWN_COUNTS["official_2014"] == {"train": 82783, "val": 40504}


def test_an_unknown_choice_of_annotations_lists_the_choices(tmp_path, coco):
    with pytest.raises(
        ValueError, match=r"data.annotations='2017' does not exist; choose one of karpathy, official_2014"
    ):
        coco(tmp_path, "2017")


@pytest.mark.data
def test_the_real_coco(shared_data, coco, bind):
    module = bind(coco(shared_data / "coco_val2017", "official_2017", captions_per_image=5, eval_batch_size=16))
    info = module.describe("val")
    assert info.num_images == 60
    assert len(info.captions) == 300
    assert info.image_ids[0] == "78915"
    batches = list(module.eval_dataloader("val"))
    assert sum(len(batch.images) for batch in batches) == 60
    assert info.provenance["warnings"] == ["coco val: 60 images, where the published split has 5,000"]
    bed = info.image_ids.index("116479")
    assert "An old victorian style bed frame in a bedroom." in [
        text for text, image in zip(info.captions, info.text_image_index, strict=True) if image == bed
    ]
