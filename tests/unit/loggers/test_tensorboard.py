"""TensorBoard's events, read with its own reader."""

from i0t.config import compose, instantiate


def test_the_placeholder_of_lightning_is_not_among_the_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = instantiate(compose("train", ["logger=tensorboard", f"paths.output_dir={tmp_path}"]).logger.tensorboard)
    logger.log_hyperparams({"data": {"limit": 3}})
    logger.log_result({"test/none/gap/rmg": 0.5, "test/none/zeroshot/digit": 0.25}, step=9)
    logger.close(finished=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"test/none/gap/rmg", "test/none/zeroshot/digit"}
    assert events.Scalars("test/none/gap/rmg")[0].step == 9
    assert logger.where() == f"tensorboard --logdir {tmp_path}/tensorboard"
