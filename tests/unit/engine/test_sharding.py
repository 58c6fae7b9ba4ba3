"""What fully sharded training refuses, which parts of a model it cuts, and which checkpoints a run keeps."""

import pytest
from torch import nn

from i0t import engine, runs
from i0t.config import ConfigError, compose
from i0t.engine.sharding import _num_whole, _units, check_sharding


@pytest.mark.parametrize("trainer", ["fsdp", "fsdp_cpu"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.precision=16-mixed", "trainer.precision=16-mixed does not go"),
        ("trainer.grad_cache_chunk=8", "trainer.grad_cache_chunk=8 does not go"),
        ("+trainer.gradient_clip_algorithm=value", "gradient_clip_algorithm=value does not go"),
        ("encoders=frozen", "encoders=frozen does not go"),
        ("views=2", "views=2 does not go"),
        ("callbacks=[default,ema]", "ema. does not go"),
    ],
)
def test_what_does_not_go_with_cut_weights_is_one_line(trainer, override, message):
    with pytest.raises(ConfigError, match=message):
        check_sharding(compose("train", [f"trainer={trainer}", override, "paths.output_dir=x"]))
    check_sharding(compose("train", [f"trainer={trainer}", "paths.output_dir=x"]))
    check_sharding(compose("train", ["trainer=ddp", override, "paths.output_dir=x"]))


def test_weights_with_channels_innermost_cannot_be_cut():
    common = ["model=vit_b_32", "model.pretrained=null", "model.channels_last=true", "paths.output_dir=x"]
    with pytest.raises(ConfigError, match=r"model.channels_last=true does not go with fully sharded training"):
        check_sharding(compose("train", ["trainer=fsdp_cpu", *common]))
    check_sharding(compose("train", ["trainer=ddp_cpu", *common]))


def test_blocks_of_lists_and_embeddings_are_the_parts_that_are_cut():
    block = lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU())  # noqa: E731
    tower = nn.Module()
    tower.stages = nn.Sequential(nn.Sequential(block(), block()), nn.Sequential(block()))
    tower.table, tower.head, tower.plain = nn.Embedding(9, 4), nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 4))
    units = list(_units(tower))
    assert units == [tower.stages[0], tower.stages[1], tower.table]
    assert [_num_whole(unit) for unit in units] == [40, 20, 36]


@pytest.mark.slow
def test_the_best_validations_are_kept_beside_the_last(tmp_path):
    best = ["callbacks.best.save_top_k=2", "callbacks.best.monitor=val/alignment", "callbacks.best.mode=max"]
    common = ["logger=[csv]", "report=false", "compare=baseline", "evaluation=[gap]", "evaluation.gap.num_resamples=10"]
    run = compose(
        "train", ["debug=tiny", "trainer.val_check_interval=2", *common, *best, f"paths.output_dir={tmp_path / 'run'}"]
    )
    engine.train(run)
    folder = tmp_path / "run" / "checkpoints"
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 3
    assert names[2] == "last.ckpt"
    last = runs.read_checkpoint(folder / "last.ckpt")
    (values,) = [state["values"] for name, state in last["callbacks"].items() if name.startswith("History")]
    by_value = sorted(values["val/alignment"], key=lambda point: -point[1])
    assert names[:2] == sorted(f"best_{step:07d}.ckpt" for step, _ in by_value[:2])
    for name in names[:2]:
        path = folder / name
        assert runs.read_checkpoint(path)["global_step"] == int(name[5:12])
        found = engine.evaluate(
            compose(
                "eval",
                [
                    *("data=mad", "data.limit=30", "data.generator_workers=0", "model=mad_tiny", f"ckpt_path={path}"),
                    *("evaluation=[gap]", "evaluation.gap.num_resamples=10", "report=false"),
                    f"paths.output_dir={tmp_path / name}",
                ],
            )
        )
        assert "test/none/gap/rmg" in found
