"""What all data sets of photos share, on a stand-in of Flickr8k: batches, draws, options, and what is wrong on disk."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from torchvision import transforms

from i0t.callbacks.skipped_images import SkippedImages
from i0t.data.flickr8k import Flickr8kDataModule
from i0t.data.image_files import UnreadableImage
from i0t.data.photo_batches import first_sentence


@pytest.fixture
def data(flickr8k_root, options, bind):
    """Makes the data module with some options changed."""

    def build(**changed):
        return bind(Flickr8kDataModule(root=str(flickr8k_root), **options | changed))

    return build


def reference_image(path, transform):
    return transform(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("captions_per_image", [None, 1, 2, 6])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_gives_every_image_once_with_its_captions(
    data, make, flickr8k_root, transform, read_tokens, captions_per_image, num_workers
):
    module = data(captions_per_image=captions_per_image, num_workers=num_workers, eval_batch_size=2)
    names = make.flickr8k_names("test", 5)
    expected = [(i, c) for i, name in enumerate(names) for c in make.captions_of(name, 7 if i == 0 else 5)]
    if captions_per_image is not None:
        taken = [[pair for pair in expected if pair[0] == i][:captions_per_image] for i in range(5)]
        expected = [pair for pairs in taken for pair in pairs]
    info = module.describe("test")
    assert list(zip(info.text_image_index.tolist(), info.captions, strict=True)) == expected
    assert info.num_images == 5
    batches = list(module.eval_dataloader("test"))
    assert [batch.sample_id.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert torch.cat([batch.text_id for batch in batches]).tolist() == list(range(len(expected)))
    for batch in batches:
        for place, row in enumerate(batch.sample_id.tolist()):
            plain = reference_image(flickr8k_root / "Flicker8k_Dataset" / names[row], transform)
            assert (batch.images[place] - plain).abs().max() <= 2.01 / 255
        texts = read_tokens(batch.tokens)
        assert [(int(batch.sample_id[i]), t) for i, t in zip(batch.text_image_index, texts, strict=True)] == [
            expected[i] for i in batch.text_id
        ]


def test_evaluation_gives_the_batches_that_are_asked_for(data):
    batches = list(data().eval_dataloader("test", [[4, 1], [0]]))
    assert [batch.sample_id.tolist() for batch in batches] == [[4, 1], [0]]
    assert batches[0].text_id.tolist() == [22, 23, 24, 25, 26, 7, 8, 9, 10, 11]
    assert batches[0].text_image_index.tolist() == [0] * 5 + [1] * 5
    assert list(data().eval_dataloader("test", [])) == []


def drawn(loader):
    """Image row to caption row, over an epoch."""
    return {i: t for batch in loader for i, t in zip(batch.sample_id.tolist(), batch.text_id.tolist(), strict=True)}


def test_training_draws_one_caption_of_each_image(data, read_tokens, make):
    module = data()
    names, captions = make.flickr8k_names("train", 7), module.split("train").captions
    for batch in module.train_dataloader():
        assert batch.text_image_index.tolist() == [0, 1]
        assert batch.images.shape == (2, 3, 16, 16)
        for row, text in zip(batch.sample_id.tolist(), read_tokens(batch.tokens), strict=True):
            assert text in captions[row]
            assert text.endswith(names[row])


def epochs(module, number):
    loader = module.train_dataloader()
    result = []
    for epoch in range(number):
        loader.sampler.set_epoch(epoch)
        result.append(drawn(loader))
    return result


def test_the_draw_depends_on_seed_epoch_and_row_only(data):
    base = epochs(data(), 6)
    assert base == epochs(data(num_workers=2), 6), "workers that outlive an epoch draw as the main process does"
    assert len({tuple(sorted(epoch.items())) for epoch in base}) == 6
    other_batches = epochs(data(batch_size=3, limit=6), 6)
    for one, other in zip(base, other_batches, strict=True):
        assert all(one[row] == other[row] for row in one.keys() & other.keys())
    rows = [data(train_seed=seed).train_dataloader().dataset.caption_rows(0).tolist() for seed in (0, 1, 1)]
    assert rows[0] != rows[1] == rows[2]


def test_every_caption_is_drawn_as_often_as_its_siblings(data):
    loader = data(captions_per_image=1).train_dataloader()  # an option of evaluation
    draws = np.concatenate([loader.dataset.caption_rows(epoch) for epoch in range(2000)])
    counts = np.bincount(draws, minlength=37)
    assert len(counts) == 37  # 7 + 6 * 5
    assert np.abs(counts[:7] - 2000 / 7).max() < 5 * np.sqrt(2000 / 7)
    assert np.abs(counts[7:] - 400).max() < 5 * np.sqrt(400)


def test_two_ranks_draw_what_one_process_draws(data, monkeypatch):
    whole = list(data(batch_size=4).train_dataloader())
    parts = []
    for rank in range(2):
        monkeypatch.setattr("i0t.data.samplers._world", lambda rank=rank: (rank, 2))
        parts.append(list(data(batch_size=2).train_dataloader()))
        evaluated = [i for batch in data().eval_dataloader("test") for i in batch.sample_id.tolist()]
        assert evaluated == [[0, 1], [2, 3, 4]][rank]
    assert len(parts[0]) == len(parts[1]) == len(whole) == 1
    for field in ("images", "tokens", "sample_id", "text_id"):
        assert torch.equal(
            torch.cat([getattr(parts[0][0], field), getattr(parts[1][0], field)]), getattr(whole[0], field)
        )


def test_a_resumed_run_sees_the_batches_it_would_have_seen(data):
    loader = data().train_dataloader()
    uninterrupted = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        uninterrupted += list(loader)
    module = data()
    module.first_batch = 4
    resumed = list(module.train_dataloader())
    assert len(resumed) == 2  # of the second epoch's three
    for one, other in zip(resumed, uninterrupted[4:], strict=True):
        assert torch.equal(one.text_id, other.text_id)
        assert torch.equal(one.images, other.images)


def test_training_uses_the_transform_of_training(data, bind):
    flipped = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor(), transforms.Normalize([9.0], [1.0])])
    module = bind(data(), train_transform=flipped)
    assert next(iter(module.train_dataloader())).images.shape == (2, 3, 8, 8)
    assert next(iter(module.val_dataloader())).images.shape == (3, 3, 16, 16)


def test_captions_are_worded_as_asked_in_training_and_evaluation(data, read_tokens):
    module = data(prompt_prefix="a photo of ", lowercase_first=True, max_caption_chars=9)
    assert set(module.describe("test").captions) == {f"a photo of caption {i}" for i in range(7)}
    texts = {text for batch in module.train_dataloader() for text in read_tokens(batch.tokens)}
    assert texts <= {f"a photo of caption {i}" for i in range(7)}


def test_the_limit_takes_the_first_images(data, make):
    module = data(limit=2)
    assert module.describe("test").image_ids == [name.partition(".")[0] for name in make.flickr8k_names("test", 2)]
    assert len(module.describe("test").captions) == 12
    assert module.describe("test").provenance["limit"] == 2


def test_a_wrong_count_stands_beside_the_numbers(data, caplog):
    with caplog.at_level(logging.WARNING):
        info = data().describe("test")
    warning = "flickr8k test: 5 images, where the published split has 1,000"
    assert info.provenance["warnings"] == [warning]
    assert (info.provenance["num_images"], info.provenance["known_num_images"]) == (5, 1000)
    assert [record.message for record in caplog.records] == [warning]


def test_the_right_count_is_not_remarked_on(data, monkeypatch, caplog):
    monkeypatch.setitem(__import__("i0t.data.flickr8k", fromlist=["x"]).KNOWN_COUNTS, "test", 5)
    assert data(limit=2).describe("test").provenance["warnings"] == []
    assert not caplog.records


def test_absent_images_are_named_before_anything_is_read(data, flickr8k_root, make):
    names = make.flickr8k_names("train", 7)
    for name in names[:6]:
        (flickr8k_root / "Flicker8k_Dataset" / name).unlink()
    message = (
        r"6 of the 7 images that Flickr8k.token.txt and Flickr_8k.trainImages.txt names? are not there: "
        + ", ".join(names[:5])
        + r", … \(looked in .*Flicker8k_Dataset\); data.only_present=true"
    )
    for use in (lambda m: m.setup("fit"), lambda m: m.describe("train"), lambda m: m.files("train")):
        with pytest.raises(ValueError, match=message) as error:
            use(data())
        assert "\n" not in str(error.value)
        assert names[5] not in str(error.value)
    assert data().describe("test").num_images == 5, "another split is whole"


def test_only_present_uses_what_is_there_and_says_so(data, flickr8k_root, make, read_tokens):
    names = make.flickr8k_names("test", 5)
    for name in (names[0], names[3]):
        (flickr8k_root / "Flicker8k_Dataset" / name).unlink()
    module = data(only_present=True)
    info = module.describe("test")
    assert info.image_ids == [names[i].partition(".")[0] for i in (1, 2, 4)]
    assert info.provenance["missing_images"] == 2
    assert info.provenance["warnings"] == [
        "flickr8k test: 3 images, where the published split has 1,000; 2 annotated images are not there "
        "(data.only_present)"
    ]
    texts = [text for batch in module.eval_dataloader("test") for text in read_tokens(batch.tokens)]
    assert texts == [c for i in (1, 2, 4) for c in make.captions_of(names[i])]
    for name in names:
        (flickr8k_root / "Flicker8k_Dataset" / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=f"none of the 5 images .* is there: looked for .*{names[0]}"):
        data(only_present=True).describe("test")


def tear(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_replaces_an_unreadable_image_by_the_next_and_counts_it(data, flickr8k_root, make, num_workers):
    names = make.flickr8k_names("train", 7)
    torn = {2, 3, 6}
    for row in torn:
        tear(flickr8k_root / "Flicker8k_Dataset" / names[row])
    module = data(num_workers=num_workers, batch_size=3)
    for _ in range(4):
        loader = module.train_dataloader()
        expected_skips = 0
        for wanted, batch in zip([rows for _, rows in loader.sampler], loader, strict=True):
            rows = batch.sample_id.tolist()
            assert not torn & set(rows)
            assert len(set(rows)) == 3, "no image stands twice in a batch"
            replaced = [(w, got) for w, got in zip(wanted, rows, strict=True) if w in torn]
            assert all(w == got for w, got in zip(wanted, rows, strict=True) if w not in torn)
            expected_skips += len(replaced)
            first = module.split("train")
            offsets = np.cumsum([0, *first.num_captions])
            assert all(offsets[r] <= t < offsets[r + 1] for r, t in zip(rows, batch.text_id.tolist(), strict=True))
        skipped = module.skipped.take()
        assert skipped.number >= expected_skips > 0
        assert all(any(names[row] in reason for row in torn) for reason in skipped.reasons)
    assert module.skipped.take() == (0, ())


def test_the_replacement_is_the_next_row_that_is_not_in_the_batch(data, flickr8k_root, make):
    names = make.flickr8k_names("train", 7)
    for row in (5, 6):
        tear(flickr8k_root / "Flicker8k_Dataset" / names[row])
    dataset = data().train_dataloader().dataset
    assert dataset[0, [5, 0, 3]].sample_id.tolist() == [1, 0, 3]
    assert dataset[0, [4, 6]].sample_id.tolist() == [4, 0]


def test_training_stops_where_nothing_is_readable(data, flickr8k_root):
    for path in (flickr8k_root / "Flicker8k_Dataset").glob("*train*"):
        tear(path)
    with pytest.raises(
        UnreadableImage, match=r"^\d images in a row are unreadable; the last: cannot read image .*jpg: "
    ):
        next(iter(data().train_dataloader()))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_evaluation_stops_at_an_unreadable_image_with_its_name(data, flickr8k_root, make, num_workers):
    path = flickr8k_root / "Flicker8k_Dataset" / make.flickr8k_names("test", 5)[3]
    tear(path)
    with pytest.raises(UnreadableImage) as error:
        list(data(num_workers=num_workers).eval_dataloader("test"))
    assert str(error.value).startswith(f"cannot read image {path}: ")
    assert "\n" not in str(error.value)


def test_the_files_of_a_split_are_its_annotations_and_images(data, flickr8k_root, make):
    files = data().files("test")
    expected = ["Flickr8k.token.txt", "Flickr_8k.testImages.txt", *make.flickr8k_names("test", 5)]
    assert [path.name for path in files] == expected
    assert all(path.is_file() for path in files)


def test_images_to_look_at_are_the_photos(data, flickr8k_root, make):
    (image,) = data().images("test", [3])
    path = flickr8k_root / "Flicker8k_Dataset" / make.flickr8k_names("test", 5)[3]
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.asarray(Image.open(path)))


@pytest.mark.parametrize(
    ("option", "value"), [("captions_per_image", 0), ("limit", -1), ("max_caption_chars", 0), ("num_workers", -1)]
)
def test_an_option_out_of_range_is_named(data, option, value):
    with pytest.raises(ValueError, match=rf"data.{option}={value} must be"):
        data(**{option: value})


def test_a_split_that_does_not_exist_and_a_root_that_does_not(data, options):
    with pytest.raises(ValueError, match="split 'dev' does not exist; choose one of train, val, test"):
        data().describe("dev")
    with pytest.raises(ValueError, match=r"data.root=/nowhere is not a folder"):
        Flickr8kDataModule(root="/nowhere", **options).describe("test")


def test_num_workers_defaults_to_the_cores(data, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(3)), raising=False)
    assert data(num_workers=None).num_workers == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert data(num_workers=None).num_workers == 8


def test_the_provenance_is_plain(data):
    assert json.loads(json.dumps(data().describe("test").provenance))["data"] == "flickr8k"


class Watching(LightningModule):
    """Trains nothing and keeps which caption came with which image in each epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen = []

    def training_step(self, batch, index):
        pairs = zip(batch.sample_id.tolist(), batch.text_id.tolist(), strict=True)
        self.seen += [(self.current_epoch, *pair) for pair in pairs]
        return (self.weight * batch.images.mean()).sum()

    def validation_step(self, batch, index):
        assert len(batch.tokens) > len(batch.images)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_trains_on_the_epochs_draws_and_the_skipped_are_told(data, flickr8k_root, make, caplog, num_workers):
    expected = [(epoch, *pair) for epoch, pairs in enumerate(epochs(data(), 3)) for pair in pairs.items()]
    module, callback = Watching(), SkippedImages()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(
        max_epochs=3, callbacks=[callback], use_distributed_sampler=False, enable_model_summary=False, **options
    )
    trainer.fit(module, datamodule=data(num_workers=num_workers))
    assert module.seen == expected
    assert callback.total == 0
    tear(flickr8k_root / "Flicker8k_Dataset" / make.flickr8k_names("train", 7)[4])
    trainer = Trainer(max_epochs=3, callbacks=[callback], use_distributed_sampler=False, **options)
    with caplog.at_level(logging.WARNING):
        trainer.fit(Watching(), datamodule=data(num_workers=num_workers))
    asked = sum(row == 4 for _, row, _ in expected)
    assert callback.total >= asked > 0
    assert any("1004_train0004.jpg" in r.message for r in caplog.records if "training skipped" in r.message)


@pytest.fixture
def long_captions(flickr8k_root, make):
    """Two sentences a caption; a full stop inside a number and none at all in some."""
    file = flickr8k_root / "Flickr8k.token.txt"
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    endings = [". It rains. Nobody is there.", " of 3.5 m", "", "! It runs. "]
    file.write_text("".join(f"{key}\t{text}{endings[i % 4]}\n" for i, (key, text) in enumerate(lines)))


def test_without_being_asked_for_there_are_no_short_captions(data):
    module = data()
    assert module.short_captions is False
    assert all(batch.short_tokens is None for batch in module.train_dataloader())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_short_captions_are_the_first_sentences_of_those_drawn(data, long_captions, read_tokens, num_workers):
    module, plain = data(num_workers=num_workers), data()
    module.short_captions = True
    seen = set()
    for batch, without in zip(module.train_dataloader(), plain.train_dataloader(), strict=True):
        assert batch.short_tokens.shape == batch.tokens.shape
        for field in ("images", "tokens", "sample_id", "text_id"):
            assert torch.equal(getattr(batch, field), getattr(without, field)), field
        for text, short in zip(read_tokens(batch.tokens), read_tokens(batch.short_tokens), strict=True):
            assert short == text[: text.find(". ") if ". " in text else None]
            seen.add(short == text)
    assert seen == {True, False}, "some captions are one sentence"
    for batch in module.val_dataloader():
        assert batch.short_tokens is None, "evaluation has whole captions"


def test_short_captions_are_worded_as_the_long_ones(data, long_captions, read_tokens):
    module = data(prompt_prefix="a photo of ", lowercase_first=True, max_caption_chars=40)
    module.short_captions = True
    for batch in module.train_dataloader():
        for text, short in zip(read_tokens(batch.tokens), read_tokens(batch.short_tokens), strict=True):
            assert short.startswith("a photo of caption ")
            assert text.startswith(short)


def test_the_short_caption_of_a_replaced_image_is_its_own(data, long_captions, flickr8k_root, make, read_tokens):
    names = make.flickr8k_names("train", 7)
    (flickr8k_root / "Flicker8k_Dataset" / names[2]).write_bytes(b"torn")
    module = data()
    module.short_captions = True
    captions = [text for texts in module.split("train").captions for text in texts]
    for epoch in range(3):
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert 2 not in batch.sample_id.tolist()
            shorts = [captions[i].split(". ")[0] for i in batch.text_id.tolist()]
            assert read_tokens(batch.short_tokens) == shorts
            for row, short in zip(batch.sample_id.tolist(), shorts, strict=True):
                assert f"of {names[row]}" in short


@pytest.mark.parametrize(
    ("caption", "short"),
    [
        ("A dog. It runs. Fast.", "A dog"),
        ("A dog.", "A dog."),
        ("3.5 m of rope", "3.5 m of rope"),
        ("A dog.It runs", "A dog.It runs"),
        ("A dog! It runs? Yes", "A dog! It runs? Yes"),
        ("", ""),
        (". after", ""),
    ],
)
def test_the_first_sentence_ends_at_the_first_full_stop_with_a_space(caption, short):
    assert first_sentence(caption) == short


def test_training_captions_are_all_that_can_be_drawn(data, make):
    module = data(captions_per_image=1, limit=2, prompt_prefix="a ")
    names = make.flickr8k_names("train", 2)
    expected = [f"a {c}" for i, name in enumerate(names) for c in make.captions_of(name, 7 if i == 0 else 5)]
    assert module.training_captions() == expected
    drawn = {
        module.training_captions()[text]
        for epoch in epochs(module, 60)
        for text in epoch.values()
    }  # fmt: skip
    assert drawn == set(expected)
