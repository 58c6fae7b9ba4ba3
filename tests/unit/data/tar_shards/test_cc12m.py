"""The data module: endless training, exact evaluation."""

import io
import itertools
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from i0t.data import samplers, shard_batches
from i0t.data.image_files import UnreadableImage, decode_image
from i0t.data.shards import UnreadableShard, UnusableSample

BROKEN = b"no photo"


@pytest.fixture
def folders(write_shard):
    """Two shards to train on and two of 5 and 4 samples to validate on."""
    for i in range(2):
        write_shard(f"train/{i}.tar", 100 * i, 6)
    write_shard("val/0.tar", 1000, 5)
    write_shard("val/1.tar", 2000, 4)


def numbers(captions):
    return [int(caption.removeprefix("photo ")) for caption in captions]


def first_batches(loader, count, captions_of):
    batches = iter(loader)
    return [numbers(captions_of(next(batches))) for _ in range(count)]


# --- training ---


def test_a_batch_holds_images_with_their_own_captions(cc12m, folders, photos, captions_of):
    datamodule = cc12m(batch_size=5)
    batches = iter(datamodule.train_dataloader())
    for _ in range(10):
        batch = next(batches)
        assert batch.images.shape == (5, 3, 16, 16)
        for image, number in zip(batch.images, numbers(captions_of(batch)), strict=True):
            assert torch.equal(image, datamodule.transform(decode_image(photos(number), name="")))
        assert batch.text_image_index.tolist() == [0, 1, 2, 3, 4]


def test_training_uses_the_transform_of_training(cc12m, folders):
    datamodule = cc12m()
    datamodule.bind(
        transform=datamodule.transform,
        tokenizer=datamodule.tokenizer,
        train_transform=lambda image: torch.full((3, 2, 2), 7.0),
    )
    assert next(iter(datamodule.train_dataloader())).images.unique().tolist() == [7.0]
    assert next(iter(datamodule.val_dataloader())).images.shape[-1] == 16


def test_two_ranks_with_two_workers_each_have_every_sample_of_an_epoch_once(cc12m, write_shard, captions_of, position):
    for i in range(4):
        write_shard(f"train/{i}.tar", 100 * i, 8)
    seen = []
    for rank in range(2):
        position(rank, 2)
        seen += first_batches(cc12m(num_workers=2, batch_size=2).train_dataloader(), 8, captions_of)
    assert sorted(itertools.chain(*seen)) == [100 * i + n for i in range(4) for n in range(8)]
    position(0, 2)
    again = first_batches(cc12m(num_workers=2, batch_size=2).train_dataloader(), 8, captions_of)
    assert again == seen[:8]


def test_one_shard_feeds_many_workers_only_where_shards_are_drawn_with_replacement(
    cc12m, write_shard, captions_of, position
):
    write_shard("train/0.tar", 0, 24)
    write_shard("val/0.tar", 0, 4)
    message = r"1 shards for 2 device\(s\) with 2 worker\(s\) each.*data\.num_workers=0 or fewer.*data\.resampled=true"
    datamodule = cc12m(num_workers=2)
    datamodule.trainer = SimpleNamespace(world_size=2)
    with pytest.raises(ValueError, match=message):
        datamodule.setup("fit")
    orders = []
    for rank in range(2):
        position(rank, 2)
        with pytest.raises(ValueError, match=message):
            next(iter(cc12m(num_workers=2).train_dataloader()))
        batches = first_batches(cc12m(num_workers=2, resampled=True).train_dataloader(), 12, captions_of)
        orders += [list(itertools.chain(*batches[0::2])), list(itertools.chain(*batches[1::2]))]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(24)) for order in orders), "each goes through the whole shard"


def test_batches_say_which_samples_they_hold(cc12m, folders, captions_of, tmp_path):
    datamodule = cc12m()
    batches = iter(datamodule.train_dataloader())
    for _ in range(6):
        batch = next(batches)
        assert batch.sample_id.tolist() == batch.text_id.tolist()
        assert datamodule.sample_names(batch.sample_id.tolist()) == [
            f"{tmp_path}/train/{n // 100}.tar: sample number {n % 100}, counting from 0"
            for n in numbers(captions_of(batch))
        ]


def test_a_stream_that_is_read_without_a_trainer_begins_again_where_it_began(cc12m, folders, captions_of):
    loader = cc12m(num_workers=1).train_dataloader()
    first, second = (first_batches(loader, 5, captions_of) for _ in range(2))
    assert first == second


def test_a_stream_needs_a_number_of_steps(cc12m, folders):
    datamodule = cc12m()
    datamodule.trainer = SimpleNamespace(max_steps=-1)
    with pytest.raises(ValueError, match=r"trainer\.max_steps must be set: streamed data have no end"):
        datamodule.train_dataloader()


def spoil(number, sample):
    if number % 6 == 1:
        sample["jpg"] = BROKEN
    elif number % 6 == 2:
        sample.pop("txt")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_leaves_out_and_counts_what_it_cannot_use(cc12m, write_shard, captions_of, num_workers):
    path = write_shard("train/0.tar", 0, 6, spoil)
    datamodule = cc12m(num_workers=num_workers, shuffle_buffer=1)
    assert first_batches(datamodule.train_dataloader(), 3, captions_of) == [[0, 3, 4, 5]] * 3
    number, reasons = datamodule.skipped.take()
    assert number >= 6
    assert set(reasons) == {
        f"cannot read image {path}: sample 000001: not an image",
        f"{path}: sample 000002 has no caption (.txt)",
    }


def test_a_shard_cut_short_is_counted_in_a_worker_and_training_goes_on(cc12m, write_shard, cut, captions_of, tmp_path):
    whole = write_shard("train/0.tar", 0, 6)
    cut(whole, whole.stat().st_size - 12_000, "1.tar")
    datamodule = cc12m(num_workers=1)
    seen = first_batches(datamodule.train_dataloader(), 20, captions_of)
    assert {n for batch in seen for n in batch} == set(range(6))
    number, reasons = datamodule.skipped.take()
    assert number >= 1
    assert reasons == (f"cannot read shard {tmp_path}/train/1.tar: unexpected end of data",)


def test_useless_samples_between_good_ones_never_stop_training(cc12m, write_shard, captions_of, monkeypatch):
    monkeypatch.setattr(shard_batches, "_MOST_UNUSABLE", 5)
    write_shard("train/0.tar", 0, 6, spoil)
    assert len(first_batches(cc12m().train_dataloader(), 20, captions_of)) == 20


def test_nothing_but_useless_samples_is_an_error_in_one_line(cc12m, folders, monkeypatch):
    monkeypatch.setattr(shard_batches, "_MOST_UNUSABLE", 20)
    loader = cc12m(num_workers=1, caption_key="text").train_dataloader()
    with pytest.raises(UnusableSample) as error:
        next(iter(loader))
    line = r"20 samples in a row cannot be used; the last: .*\.tar: sample 000\d+ has no caption \(\.text\)"
    assert error.match(f"^{line}$")


def test_unreadable_shards_are_an_error_in_one_line(cc12m, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.tar").write_bytes(b"nothing")
    with pytest.raises(
        UnreadableShard, match=r"^no sample in 1 shards in a row; the last: cannot read .*0\.tar: [^\n]*$"
    ):
        next(iter(cc12m().train_dataloader()))


# --- evaluation ---


def test_evaluation_takes_every_sample_once_over_all_ranks(cc12m, folders, photos, captions_of, monkeypatch):
    datamodule = cc12m(num_workers=1, eval_batch_size=2)
    info = datamodule.describe("val")
    expected = [*range(1000, 1005), *range(2000, 2004)]
    assert numbers(info.captions) == expected
    assert info.text_image_index.tolist() == list(range(9))
    assert list(info.image_ids) == [f"{n // 1000 - 1}/{n:06d}" for n in expected]
    rows, seen = [], []
    for rank in range(2):
        monkeypatch.setattr(samplers, "_world", lambda rank=rank: (rank, 2))
        for batch in datamodule.val_dataloader():
            assert batch.sample_id.tolist() == batch.text_id.tolist()
            rows += batch.sample_id.tolist()
            seen += numbers(captions_of(batch))
            for image, row in zip(batch.images, batch.sample_id.tolist(), strict=True):
                expected_image = datamodule.transform(decode_image(photos(expected[row]), name=""))
                assert torch.equal(image, expected_image)
    assert rows == list(range(9))
    assert seen == expected
    assert list(datamodule.eval_dataloader("val", [])) == [], "no batches are none, not this rank's share"


def test_batches_of_rows_can_be_asked_for(cc12m, folders, captions_of):
    batches = list(cc12m().eval_dataloader("val", [[7, 2], [5]]))
    assert [numbers(captions_of(batch)) for batch in batches] == [[2002, 1002], [2000]]
    assert [batch.sample_id.tolist() for batch in batches] == [[7, 2], [5]]
    assert batches[0].text_image_index.tolist() == [0, 1]


def test_splits_limits_and_files(cc12m, folders, tmp_path):
    datamodule = cc12m(limit=6, train_eval_limit=3)
    assert [len(datamodule.index(split)) for split in ("train", "val", "test")] == [3, 6, 6]
    (warning,) = datamodule.describe("test").provenance["warnings"]
    assert warning.startswith("cc12m test: its images are those of val (data.test_shards)")
    assert datamodule.describe("val").provenance["warnings"] == []
    assert datamodule.files("train") == [tmp_path / "train/0.tar"]
    assert datamodule.files("val") == [tmp_path / "val/0.tar", tmp_path / "val/1.tar"]
    own = cc12m(test_shards="train/1.tar")
    assert numbers(own.describe("test").captions) == list(range(100, 106))
    assert own.describe("test").provenance["warnings"] == []
    with pytest.raises(ValueError, match="split 'dev' does not exist; choose one of train, val, test"):
        datamodule.index("dev")


def test_images_to_look_at(cc12m, folders, photos):
    (image,) = cc12m().images("val", [5])
    assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(photos(2000)))))


def test_evaluation_stops_at_a_corrupt_image_with_one_line(cc12m, write_shard):
    path = write_shard("val/0.tar", 0, 6, lambda number, sample: sample.update(jpg=BROKEN) if number == 4 else None)
    with pytest.raises(UnreadableImage) as error:
        list(cc12m().val_dataloader())
    assert str(error.value) == f"cannot read image 0/000004 in {path}: not an image"


def test_training_stops_before_it_starts_where_the_validation_cannot_be_exact(cc12m, write_shard, cut):
    write_shard("train/0.tar", 0, 6)
    whole = write_shard("val/0.tar", 0, 6)
    cut(whole, whole.stat().st_size - 12_000, "1.tar")
    with pytest.raises(UnreadableShard, match=r"val/1\.tar"):
        cc12m().setup("fit")


def test_evaluation_never_runs_a_command_or_opens_a_url(cc12m, tmp_path):
    for pattern in (f"pipe:touch {tmp_path}/ran", "https://localhost/0.tar", "s3://bucket/0.tar"):
        datamodule = cc12m(train_shards=pattern, val_shards=pattern)
        for split in ("train", "val", "test"):
            for use in (datamodule.describe, datamodule.eval_dataloader, datamodule.files):
                with pytest.raises(ValueError, match="cannot be read by number, as evaluation and fitting need it"):
                    use(split)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "data.batch_size=1: a contrastive batch needs at least 2 pairs"),
        ({"limit": 0}, "data.limit=0 must be at least 1"),
        ({"shuffle_buffer": 0}, "data.shuffle_buffer=0 must be at least 1"),
        ({"caption_part": "third"}, "data.caption_part='third' does not exist; choose one of full, half, quarter"),
        ({"caption_key": "json"}, "a json member, and no other, needs the field"),
        ({"caption_field": "caption"}, "a json member, and no other, needs the field"),
    ],
)
def test_options_out_of_range_are_named(cc12m, options, message):
    with pytest.raises(ValueError, match=message):
        cc12m(**options)


def test_a_warning_of_a_worker_reaches_the_screen(cc12m, write_shard, cut, captions_of, caplog):
    whole = write_shard("train/0.tar", 0, 6)
    cut(whole, 3000, "1.tar")
    with caplog.at_level(logging.WARNING, logger="i0t"):
        first_batches(cc12m(num_workers=0).train_dataloader(), 10, captions_of)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
