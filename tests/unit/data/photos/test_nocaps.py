"""nocaps: one split, to measure on."""

import pytest

from i0t.data.nocaps import KNOWN_COUNT, NocapsDataModule

LISTED = [(0, "0013ea2087020901.jpg"), (1, "0014cef5a9ecbc2e.jpg")]


@pytest.mark.parametrize("annotations", [".", "annotations"])
@pytest.mark.parametrize("folder", ["val", "validation", "images", "images/val", "."])
def test_the_validation_images_with_ten_captions(tmp_path, make, options, annotations, folder):
    make.save_photos(tmp_path / folder, [name for _, name in LISTED])
    make.coco_json(tmp_path / annotations / "nocaps_val_4500_captions.json", LISTED, num_captions=10)
    module = NocapsDataModule(root=str(tmp_path), **options)
    info = module.describe("val")
    assert info.image_ids == ["0", "1"]
    assert info.text_image_index.tolist() == [0] * 10 + [1] * 10
    assert info.captions[10:] == make.captions_of(LISTED[1][1], 10)
    assert module.split("val").image_files == [tmp_path / folder / name for _, name in LISTED]
    assert info.provenance["warnings"] == ["nocaps val: 2 images, where the published split has 4,500"]
    assert module.describe("test").captions == info.captions
    assert module.describe("test").provenance["same_images_as"] == "val"
    with pytest.raises(ValueError, match="nocaps has no training split"):
        module.describe("train")


def test_the_published_count():
    assert KNOWN_COUNT == 4500
