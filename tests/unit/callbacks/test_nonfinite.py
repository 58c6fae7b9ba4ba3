"""A loss that is not finite stops the run before the weights are spoiled, and says what is to blame."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from i0t.callbacks.nonfinite import NonFiniteLoss, StopOnNonFinite, first_causes
from i0t.data.base import Batch, ImageTextDataModule, SplitInfo

NAN, INF = float("nan"), float("inf")
BATCH = 4


class Data(ImageTextDataModule):
    """Eight batches of four; the pixels of some rows of one batch are not finite."""

    def __init__(self, bad=(), value=NAN, at_batch=2):
        super().__init__()
        self.bad, self.value, self.at_batch = bad, value, at_batch

    def describe(self, split):
        assert split == "train"
        captions = [f"caption {i} " + "of a long kind " * 9 for i in range(100)]
        return SplitInfo(num_images=100, captions=captions, image_ids=[f"photo{i}.jpg" for i in range(100)])

    def train_dataloader(self):
        batches = []
        for number in range(8):
            images = torch.ones(BATCH, 3, 2, 2)
            if number == self.at_batch:
                images[list(self.bad), 0, 1, 1] = self.value
            rows = torch.arange(BATCH) + 10 * number
            batches.append(Batch(images, torch.ones(BATCH, 5, dtype=torch.int64), rows, rows, rows + 1))
        return DataLoader(batches, batch_size=None)


class Loss(nn.Module):
    """A mean, with a fault in one of its calls."""

    def __init__(self, fault=None, at_call=2):
        super().__init__()
        self.fault, self.at_call, self.calls = fault, at_call, -1

    def forward(self, image_features, text_features, scale=None, bias=None):
        self.calls += 1
        loss = (image_features * text_features).mean()
        if self.fault is not None and self.calls == self.at_call:
            loss = loss * self.fault
        return {"loss": loss, "part": loss}


class Module(pl.LightningModule):
    def __init__(self, loss=None, fault=None):
        super().__init__()
        self.loss = Loss() if loss is None else loss
        self.tower = nn.Linear(12, 3)
        self.fault = fault
        self.states = []

    def training_step(self, batch, index):
        self.states.append({name: value.clone() for name, value in self.state_dict().items()})
        image, text = self.tower(batch.images.flatten(1)), torch.ones(BATCH, 3)
        if index == 2 and self.fault is not None:
            image, text = self.fault(self, image, text)
        return self.loss(image, text, None, None)["loss"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def message(tmp_path):
    """What a training stops with, which must be before the third step changed a weight."""

    def run(module, data=None, **options):
        callback = StopOnNonFinite(str(tmp_path / "last.ckpt"), most_named=options.pop("most_named", 5))
        trainer = pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=1, callbacks=[callback], logger=False, enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path, **options,
        )  # fmt: skip
        data = Data() if data is None else data
        with pytest.raises(NonFiniteLoss) as stopped:
            trainer.fit(module, datamodule=data)
        assert stopped.value.exit_code == 2
        assert "\n" not in str(stopped.value)
        assert not module.loss._forward_hooks, "it looks away"
        for name, value in module.state_dict().items():
            assert torch.equal(value, module.states[-1][name], ) or name == "spoiled", name  # fmt: skip
        return str(stopped.value)

    return run


def test_images_are_named_as_the_data_know_them(message):
    text = message(Module(), Data(bad=(1, 3)))
    assert text.startswith('the loss of step 3 is not finite: images are not finite: photo21.jpg "caption 22')
    assert 'photo23.jpg "caption 24' in text
    assert "photo20" not in text
    assert len(text) < 300, "captions are cut"
    assert text.endswith("there is no checkpoint yet")


def test_further_samples_are_counted(message):
    text = message(Module(), Data(bad=(0, 1, 2, 3), value=-INF), most_named=1)
    assert "photo20.jpg" in text
    assert "photo21.jpg" not in text
    assert "and 3 more" in text


def test_names_of_a_stream_come_from_the_stream(message):
    data = Data(bad=(2,))
    data.sample_names = lambda ids: [f"shard-7.tar:{i}" for i in ids]
    assert "images are not finite: shard-7.tar:22. there" in message(Module(), data)


def test_the_last_checkpoint_is_pointed_to_and_kept(message, tmp_path):
    (tmp_path / "last.ckpt").write_text("as it was")
    assert f"the last checkpoint, {tmp_path / 'last.ckpt'}, is from before" in message(Module(Loss(NAN)))
    assert (tmp_path / "last.ckpt").read_text() == "as it was"


@pytest.mark.parametrize("fault", [NAN, INF, -INF])
def test_the_loss_alone(message, fault):
    assert "step 3 is not finite: images, weights and features are finite, the loss alone is not." in message(
        Module(Loss(fault))
    )


def bad_text(module, image, text):
    text = text.clone()
    text[1, 2] = NAN
    return image, text


def bad_both(module, image, text):
    return image * INF, bad_text(module, image, text)[1]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (bad_text, "finite: text features of 1 of 4 pairs are not finite: photo21.jpg"),
        (bad_both, "finite: image features of 4 of 4 pairs are not finite: photo20.jpg"),
        (bad_both, "and text features of 1 of 4 pairs are not finite: photo21.jpg"),
    ],
)
def test_features_are_told_from_the_images_and_the_loss(message, fault, expected):
    assert expected in message(Module(fault=fault))


def test_weights_that_an_earlier_step_spoiled(message):
    class Spoiled(Module):
        def training_step(self, batch, index):
            if index == 2:
                self.tower.weight.data[0, 0] = INF
            return super().training_step(batch, index)

    text = message(Spoiled())
    assert "1 weights are not finite since an earlier step, the first is tower.weight" in text


class SpoilsGradients(Module):
    """From the given batch on, with a loss that stays finite."""

    def __init__(self, at_batch):
        super().__init__()
        self.at_batch = at_batch

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        return loss + (self.tower.weight * 0).sum().sqrt() if index == self.at_batch else loss  # derivative: 0 / 0


@pytest.mark.parametrize("saves", [False, True])
def test_weights_that_a_finite_loss_spoiled_are_not_saved(tmp_path, saves):
    path = tmp_path / "last.ckpt"
    path.write_text("as it was")

    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer, *others):
            if saves and trainer.global_step == 3:
                trainer.save_checkpoint(path)

    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=3, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[StopOnNonFinite(str(path)), Saves()],
    )  # fmt: skip
    with pytest.raises(NonFiniteLoss, match=r"not finite after step 3, the first is tower.weight: a gradient was not"):
        trainer.fit(SpoilsGradients(at_batch=2), datamodule=Data())
    assert path.read_text() == "as it was"


def test_every_batch_of_an_accumulated_step_is_looked_at(message):
    text = message(Module(Loss(NAN, at_call=3)), accumulate_grad_batches=3)
    assert "the loss of step 2" in text, "the fourth batch is the first of the second step"


def test_several_views_of_a_batch_are_several_losses(message):
    class Views(Module):
        def training_step(self, batch, index):
            first = super().training_step(batch, index)
            return (first + self.loss(self.tower(batch.images.flatten(1)), torch.ones(BATCH, 3))["loss"]) / 2

    assert "the loss of step 2 " in message(Views(Loss(NAN, at_call=2)))


def test_an_infinite_scaled_loss_or_gradient_is_none_of_its_business(tmp_path):
    """What a gradient scaler meets in half precision, and skips the step for."""

    class Scaled(Module):
        def training_step(self, batch, index):
            return super().training_step(batch, index) * (INF if index == 2 else 1)

        def on_before_optimizer_step(self, optimizer):
            for parameter in self.parameters():
                if parameter.grad is not None and not parameter.grad.isfinite().all():
                    parameter.grad = None

    seen = []

    class Watch(StopOnNonFinite):
        def on_before_backward(self, trainer, pl_module, loss):
            seen.append(float(loss))
            super().on_before_backward(trainer, pl_module, loss)

    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, callbacks=[Watch(str(tmp_path / "last.ckpt"))], logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path,
        limit_train_batches=3,
    )  # fmt: skip
    trainer.fit(Scaled(), datamodule=Data())
    assert len(seen) == 3
    assert abs(seen[2]) == INF


def test_what_spreads_from_rank_to_rank_is_reported_where_it_begins():
    ranks = [(2, "rank 0: features"), None, (0, "rank 2: images"), (0, "rank 3: images"), (3, "rank 4: loss")]
    assert first_causes(ranks) == ["rank 2: images", "rank 3: images"]
    assert first_causes([(3, "rank 0: loss"), (3, "rank 1: loss")]) == ["rank 0: loss", "rank 1: loss"]
