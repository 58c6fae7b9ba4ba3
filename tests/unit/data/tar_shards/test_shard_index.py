"""Samples of shards by number."""

import io
import json
import tarfile

import numpy as np
import pytest

from i0t.data.shard_index import index_shards, read_caption
from i0t.data.shards import UnreadableShard, UnusableSample


def index(paths, **options):
    return index_shards(paths, **{"caption_key": "txt", "caption_field": None, "limit": None} | options)


def naive_samples(paths):
    """Identifier, image and caption of every sample, by unpacking whole tars."""
    for path in paths:
        with tarfile.open(path) as tar:
            content = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
        for name in content:
            if name.endswith(".jpg"):
                yield f"{path.stem}/{name[:-4]}", content[name], content[name[:-4] + ".txt"].decode()


@pytest.mark.parametrize(("limit", "num_shards"), [(None, 3), (1, 1), (4, 1), (5, 2), (100, 3)])
def test_every_sample_is_found_where_it_stands(write_shard, limit, num_shards):
    paths = [write_shard(f"{i}.tar", 10 * i, count) for i, count in enumerate((4, 1, 6))]
    found = index(paths, limit=limit)
    expected = list(naive_samples(paths))[:limit]
    assert len(found) == len(expected)
    assert list(found.image_ids) == [name for name, _, _ in expected]
    assert list(found.captions) == [caption for _, _, caption in expected]
    assert [found.read_image(row)[0] for row in range(len(found))] == [data for _, data, _ in expected]
    assert list(found.shards) == paths[:num_shards], "a limit does not read on"


def test_the_name_of_an_image_has_its_shard_and_key(write_shard):
    path = write_shard("0.tar", 3, 2)
    assert index([path]).read_image(1)[1] == f"0/000004 in {path}"


@pytest.mark.parametrize("suffix", ["jpeg", "png", "webp", "JPG"])
def test_images_have_any_of_the_usual_suffixes(write_shard, photos, suffix):
    def rename(number, sample):
        sample[suffix] = sample.pop("jpg")

    assert index([write_shard("0.tar", 5, 1, rename)]).read_image(0)[0] == photos(5)


def test_captions_may_be_a_field_of_a_json_member(write_shard):
    def describe(number, sample):
        sample.pop("txt")
        sample["json"] = json.dumps({"caption": f" números {number}\n", "other": 1})

    path = write_shard("0.tar", 0, 2, describe)
    assert list(index([path], caption_key="json", caption_field="caption").captions) == ["números 0", "números 1"]
    with pytest.raises(UnusableSample, match=r"0\.tar: sample 000000: \.json has no field 'text'"):
        index([path], caption_key="json", caption_field="text")
    with pytest.raises(UnusableSample, match=r"0\.tar: sample 000000 has an empty caption \(\.json\)"):
        index([path], caption_key="json", caption_field="other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sample: sample.pop("txt"), r"sample 000002 has no caption \(\.txt\)"),
        (lambda sample: sample.update(txt=" \n"), r"sample 000002 has an empty caption"),
        (lambda sample: sample.update(txt=b"\xff\xfe"), r"sample 000002: \.txt cannot be read \('utf-8' codec"),
        (lambda sample: sample.pop("jpg"), r"sample 000002 has no image \(\.jpg, \.jpeg, \.png, \.webp\)"),
    ],
)
def test_a_sample_without_image_or_caption_is_named(write_shard, change, message):
    path = write_shard("1.tar", 0, 4, lambda number, sample: change(sample) if number == 2 else None)
    with pytest.raises(UnusableSample, match=r"1\.tar: " + message):
        index([write_shard("0.tar", 0, 3), path])
    assert len(index([path], limit=2)) == 2, "what lies behind the limit is not looked at"


def test_captions_that_are_not_json_are_named():
    with pytest.raises(UnusableSample, match=r"x: \.json cannot be read \(Expecting"):
        read_caption(b"{", "caption", name="x", suffix="json")
    with pytest.raises(UnusableSample, match=r"x: \.json has no field 'caption'"):
        read_caption(b"[1]", "caption", name="x", suffix="json")


def last_member(path):
    with tarfile.open(path) as tar:
        return tar.getmembers()[-1]


@pytest.mark.parametrize("where", ["in content", "in a header", "before a header", "before the end mark"])
def test_a_shard_cut_short_anywhere_is_refused_by_name(write_shard, cut, where):
    path = write_shard("0.tar", 0, 5)
    last = last_member(path)
    size = {
        "in content": last.offset_data + 1,
        "in a header": last.offset + 100,
        "before a header": last.offset,
        "before the end mark": last.offset_data + 512,
    }[where]
    with pytest.raises(UnreadableShard, match=r"cannot read shard .*short\.tar: .*; evaluation needs whole, unc"):
        index([path, cut(path, size, "short.tar")])


def test_damaged_compressed_and_repeated_members_are_refused_by_name(write_shard, tmp_path):
    path = write_shard("0.tar", 0, 5)
    data = bytearray(path.read_bytes())
    data[last_member(path).offset + 20] ^= 255
    path.write_bytes(data)
    with pytest.raises(UnreadableShard, match=r"0\.tar: a header is damaged"):
        index([path])
    with pytest.raises(UnreadableShard, match=r"1\.tar\.gz: .*uncompressed"):
        index([write_shard("1.tar.gz", 0, 5)])
    twice = write_shard("2.tar", 0, 1)
    with tarfile.open(twice) as tar:
        members = [(m, tar.extractfile(m).read()) for m in tar.getmembers()]
    with tarfile.open(twice, "w") as tar:
        for member, content in [*members, *members]:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(UnreadableShard, match=r"2\.tar: 000000\.\w+: duplicate file name in tar file"):
        index([twice])


def test_shards_without_samples_are_refused(write_shard):
    with pytest.raises(ValueError, match=r"there is no sample in .*0\.tar"):
        index([write_shard("0.tar", 0, 0)])


def test_offsets_are_whole_numbers_that_do_not_overflow(write_shard):
    found = index([write_shard("0.tar", 0, 2)])
    assert found.offset.dtype == found.size.dtype == np.int64
