"""What the callback collects of a validation, and when."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from i0t.callbacks import dashboard
from i0t.callbacks.dashboard import DashboardSnapshots
from i0t.data.base import Batch, ImageTextDataModule, MissingSplitError, SplitInfo

NUM_IMAGES, WIDTH = 10, 4


class Data(ImageTextDataModule):
    """Ten images with two captions each."""

    def describe(self, split):
        assert split == "val"
        index = torch.arange(NUM_IMAGES).repeat_interleave(2)
        captions = [f"text {row}" for row in range(2 * NUM_IMAGES)]
        return SplitInfo(num_images=NUM_IMAGES, captions=captions, text_image_index=index)


class DataWithImages(Data):
    def images(self, split, rows):
        return [np.full((4, 4, 3), row, np.uint8) for row in rows]


class DataWithoutVal(ImageTextDataModule):
    def describe(self, split):
        raise MissingSplitError("no val")


def trainer_of(datamodule, *, loggers=("one",), step=5):
    return SimpleNamespace(
        sanity_checking=False, loggers=list(loggers), datamodule=datamodule, global_step=step, is_global_zero=True,
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )  # fmt: skip


def callback_of(**options):
    return DashboardSnapshots(**{"every_n_validations": 1, "num_pairs": 6, "num_examples": 2, "seed": 0, **options})


FEATURES = torch.randn(3 * NUM_IMAGES, WIDTH, generator=torch.Generator().manual_seed(0))


def feed(callback, trainer, images):
    """One batch with these images and both captions of each, in reverse."""
    images = torch.tensor(list(images))
    texts = torch.stack([2 * images + 1, 2 * images], dim=1).flatten()
    batch = Batch(images, texts, torch.arange(len(images)).repeat_interleave(2), images, texts)
    outputs = {"image_features": FEATURES[images], "text_features": FEATURES[NUM_IMAGES + texts]}
    callback.on_validation_batch_end(trainer, None, outputs, batch, 0)


@pytest.fixture
def shown(monkeypatch):
    """What the callback gives the loggers."""
    found = []
    monkeypatch.setattr(
        dashboard, "log_moment", lambda loggers, moment, images, num_examples: found.append((moment, images))
    )
    return found


def validate(callback, trainer, *batches):
    callback.on_validation_start(trainer, None)
    for batch in batches:
        feed(callback, trainer, batch)
    callback.on_validation_end(trainer, None)


def test_features_stand_beside_their_rows_whatever_the_order_of_batches(shown):
    callback = callback_of()
    validate(callback, trainer_of(DataWithImages()), [7, 3, 9], [0, 1, 2, 4], [8, 6, 5])
    ((moment, images),) = shown
    assert (moment.name, moment.step, len(moment.pairs.image_rows)) == ("val", 5, 6)
    assert moment.pairs.text_rows.tolist() == [2 * row for row in moment.pairs.image_rows.tolist()], "the first caption"
    torch.testing.assert_close(moment.image_features, FEATURES[moment.pairs.image_rows])
    torch.testing.assert_close(moment.text_features, FEATURES[NUM_IMAGES + moment.pairs.text_rows])
    assert images([3])[0][0, 0, 0] == 3


def test_images_that_a_sampler_repeats_and_those_not_seen_do_no_harm(shown):
    validate(callback_of(num_pairs=10), trainer_of(Data()), [0, 1, 2], [2, 3, 0])
    ((moment, images),) = shown
    assert moment.pairs.image_rows.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(moment.image_features, FEATURES[:4])
    assert images is None, "these data have none"


def test_every_nth_validation_is_shown_and_a_resumed_run_counts_on(shown):
    callback, trainer = callback_of(every_n_validations=2), trainer_of(Data())
    for _ in range(3):
        validate(callback, trainer, range(NUM_IMAGES))
    assert len(shown) == 2
    resumed = callback_of(every_n_validations=2)
    resumed.load_state_dict(callback.state_dict())
    validate(resumed, trainer, range(NUM_IMAGES))
    assert len(shown) == 2, "the fourth is not due"
    validate(resumed, trainer, range(NUM_IMAGES))
    assert len(shown) == 3


@pytest.mark.parametrize(
    "trainer",
    [trainer_of(DataWithoutVal()), trainer_of(None), trainer_of(Data(), loggers=())],
    ids=["no split", "no data module", "no loggers"],
)
def test_nothing_is_kept_where_there_is_nothing_to_show(shown, trainer):
    callback = callback_of()
    callback.on_validation_start(trainer, None)
    callback.on_validation_batch_end(trainer, None, None, None, 0)  # would fail if it looked
    callback.on_validation_end(trainer, None)
    assert not shown


def test_a_single_pair_is_no_picture(shown):
    for batches in ([], [[0]], [[5]]):
        validate(callback_of(), trainer_of(Data()), *batches)
    assert not shown


def test_the_ranks_parts_are_put_together(shown, monkeypatch):
    other = callback_of(num_pairs=10)
    trainer = trainer_of(Data())
    other.on_validation_start(trainer, None)
    feed(other, trainer, [5, 6, 7, 8, 9])
    monkeypatch.setattr(dashboard, "_of_all_ranks", lambda parts: [*parts, *other._parts])
    validate(callback_of(num_pairs=10), trainer, [0, 1, 2, 3, 4])
    ((moment, _),) = shown
    torch.testing.assert_close(moment.image_features, FEATURES[:NUM_IMAGES])


@pytest.mark.parametrize(
    ("option", "value"), [("every_n_validations", 0), ("num_pairs", 1), ("num_examples", -1)]
)  # fmt: skip
def test_numbers_that_are_too_small_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"callbacks\.dashboard\.{option} must be at least \d, got {value}"):
        callback_of(**{option: value})
