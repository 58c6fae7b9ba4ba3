"""Every logger through the real engine, offline, read back with what the backend itself reads with."""

import csv
import json
import os
import re
import signal
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from i0t import engine, preparation, runs
from i0t.callbacks.graceful_stop import StoppedBySignal
from i0t.config import Command, compose
from i0t.module import ClipModule

TINY = ("debug=tiny", "report=false", "compare=baseline", "evaluation=[gap]", "evaluation.gap.num_resamples=10")
SHOWN = ("callbacks.dashboard.num_pairs=20", "callbacks.dashboard.num_examples=3")
FOUR = ("logger=[csv,tensorboard,wandb,mlflow]", "logger.wandb.save_checkpoints=true",
        "logger.mlflow.save_checkpoints=true", "+logger.mine._target_=pytorch_lightning.loggers.CSVLogger",
        "+logger.mine.name=mine")  # fmt: skip
KINDS = ("image_image", "matched", "text_text", "unmatched")


def train_in(folder, *overrides):
    return engine.train(compose("train", [*TINY, *SHOWN, f"paths.output_dir={folder}", *overrides]))


def train_until_step_four(folder, *overrides):
    """A run that a signal stops."""
    original = ClipModule.training_step

    def step_with_signal(self, batch, batch_idx):
        if self.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClipModule, "training_step", step_with_signal)
        with pytest.raises(StoppedBySignal):
            train_in(folder, *overrides)


def resume(folder):
    saved = yaml.safe_load((folder / runs.CONFIG_FILE).read_text())
    return engine.train(OmegaConf.create({**saved, "resume": str(folder)}))


def deny_network(patch):
    """Only what stays on this machine may be connected to."""
    plain = socket.socket.connect

    def connect(self, address):
        local = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        assert local, f"somebody tried to reach {address}"
        return plain(self, address)

    patch.setattr(socket.socket, "connect", connect)


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def csv_scalars(folder):
    """(name, step) to value, over all versions of a CSV logger."""
    return {
        (name, int(row["step"])): float(value)
        for path in sorted(folder.glob("version_*/metrics.csv"))
        for row in read_csv(path)
        for name, value in row.items()
        if value and name != "step"
    }


def tensorboard_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kinds = ("scalars", "histograms", "images", "tensors")
    events = EventAccumulator(str(folder), size_guidance=dict.fromkeys(kinds, 0))
    events.Reload()
    return events


def wandb_records(path):
    """The records of a ``.wandb`` file: LevelDB's log format, of which wandb has no reader in Python any more."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def values_of(items):
    """What is written leaf by leaf, put together again."""
    found = {}
    for item in items:
        *path, leaf = item.nested_key or [item.key]
        node = found
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = json.loads(item.value_json)
    return found


def wandb_run(folder):
    """What the offline runs of a folder hold together."""
    config, history, artifacts, ids, exits = {}, {}, [], set(), []
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        for record in wandb_records(path):
            config |= values_of([*record.run.config.update, *record.config.update])
            ids |= {record.run.run_id} - {""}
            items = values_of(record.history.item)
            step = items.get("trainer/global_step")
            history |= {(name, step): value for name, value in items.items()}
            if record.WhichOneof("record_type") == "request" and record.request.log_artifact.artifact.name:
                artifacts.append(record.request.log_artifact.artifact)
            if record.WhichOneof("record_type") == "artifact":
                artifacts.append(record.artifact)
            if record.WhichOneof("record_type") == "exit":
                exits.append(record.exit.exit_code)
    return SimpleNamespace(config=config, history=history, artifacts=artifacts, ids=ids, exits=exits)


def wandb_table(folder, node):
    (path,) = folder.glob(f"offline-run-*/files/{node['path']}")
    found = json.loads(path.read_text())
    return found["columns"], found["data"]


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A run of six steps with every logger, stopped after the fourth and resumed."""
    folder, of_wandb = tmp_path_factory.mktemp("four"), tmp_path_factory.mktemp("of_wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
            patch.setenv(name, str(of_wandb))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        deny_network(patch)
        overrides = (*FOUR, f"+logger.mine.save_dir={folder}")
        train_until_step_four(folder, *overrides)
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        (stopped,) = client.search_runs(["1"])
        numbers = resume(folder)
        (run,) = client.search_runs(["1"])
    return SimpleNamespace(folder=folder, numbers=numbers, client=client, stopped=stopped, run=run,
                           files=folder / "mlflow_files" / run.info.run_id / "artifacts")  # fmt: skip


def mlflow_scalars(four):
    names = four.run.data.metrics
    return {
        (name, point.step): point.value
        for name in names
        for point in four.client.get_metric_history(four.run.info.run_id, name)
    }


@pytest.mark.slow
def test_all_loggers_have_the_same_scalars(four):
    wanted = csv_scalars(four.folder / "csv")
    names = {name for name, _ in wanted}
    assert {"train/loss", "train/temperature", "progress/samples_seen", "lr-AdamW/pg1"} <= names
    assert {f"val/{name}" for name in ("centroid_distance", "rmg", "alignment", "logit_entropy")} <= names
    assert {f"val/mean_cosine/{kind}" for kind in KINDS} <= names
    assert {f"test/none/mean_cosine/{kind}" for kind in KINDS} <= names
    assert {step for name, step in wanted if name == "val/rmg"} == {3, 6}, "the gap over training time"
    assert {name: wanted[name, 6] for name in four.numbers} == pytest.approx(four.numbers)
    assert csv_scalars(four.folder / "mine") == wanted, "a logger that is no dashboard"
    assert mlflow_scalars(four) == pytest.approx(wanted, rel=1e-6)
    events = tensorboard_events(four.folder / "tensorboard")
    found = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    assert found == pytest.approx(wanted, rel=1e-6)
    history = wandb_run(four.folder / "wandb").history
    scalars = {key: value for key, value in history.items() if isinstance(value, (int, float)) and key in wanted}
    assert scalars == pytest.approx(wanted, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step"), [("val", 3), ("val", 6), ("test/none", 6)])
def test_all_loggers_have_the_same_histograms(four, name, step):
    lines = read_csv(next(four.folder.glob(f"csv/version_*/{name}/cosine_{step:07d}.csv")))
    counts = {kind: [int(line["count"]) for line in lines if line["kind"] == kind] for kind in KINDS}
    edges = [float(line["low"]) for line in lines if line["kind"] == "matched"] + [1.0]
    assert sum(counts["matched"]) == 20
    assert 20 * 19 * 0.8 < sum(counts["unmatched"]) <= 20 * 19, "all but those whose captions read the same"
    assert sum(counts["image_image"]) == sum(counts["text_text"]) == 20 * 19 / 2
    assert read_csv(four.files / f"{name}/cosine_{step:07d}.csv") == lines
    events = tensorboard_events(four.folder / "tensorboard")
    history = wandb_run(four.folder / "wandb").history
    for kind in KINDS:
        (event,) = [event for event in events.Histograms(f"{name}/cosine/{kind}") if event.step == step]
        found = zip(event.histogram_value.bucket_limit, event.histogram_value.bucket, strict=True)
        wanted = dict(zip(edges[1:], counts[kind], strict=True))
        assert {limit: count for limit, count in found if count} == pytest.approx(
            {k: v for k, v in wanted.items() if v}
        )
        node = history[f"{name}/cosine/{kind}", step]
        assert node["values"] == counts[kind]
        assert node["bins"] == pytest.approx(edges)


@pytest.mark.slow
def test_config_commit_and_environment_are_everywhere(four):
    environment = runs.environment()
    own = yaml.safe_load(next(four.folder.glob("csv/version_0/hparams.yaml")).read_text())
    params = four.run.data.params
    of_wandb = wandb_run(four.folder / "wandb").config
    of_tensorboard = yaml.safe_load((four.folder / "tensorboard" / "hparams.yaml").read_text())
    for key in ("i0t", "torch", "git_commit"):
        value = environment.get(key)
        assert own["environment"].get(key) == of_wandb["environment"].get(key) == value
        assert of_tensorboard["environment"].get(key) == params.get(f"environment/{key}") == value
    assert own["optimizer"]["lr"] == of_wandb["optimizer"]["lr"] == float(params["optimizer/lr"])
    assert params["data/limit"] == "30"
    saved = yaml.safe_load((four.files / "config.yaml").read_text())
    assert saved["trainer"]["max_steps"] == 6
    texts = tensorboard_events(four.folder / "tensorboard")
    (text,) = {event.tensor_proto.string_val[0] for event in texts.Tensors("environment/text_summary")}
    assert f"torch: {environment['torch']}" in text.decode()
    assert "max_steps: 6" in texts.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()


@pytest.mark.slow
def test_a_resumed_run_is_the_same_run_everywhere(four):
    ids = json.loads((four.folder / "dashboards.json").read_text())
    assert four.stopped.info.run_id == four.run.info.run_id == ids["mlflow"]
    assert (four.stopped.info.status, four.run.info.status) == ("FAILED", "FINISHED")
    folders = list((four.folder / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert {folder.name.rpartition("-")[2] for folder in folders} == {ids["wandb"]}
    of_wandb = wandb_run(four.folder / "wandb")
    assert of_wandb.ids == {ids["wandb"]}
    assert of_wandb.exits == [1, 0]
    assert {path.parent.name for path in four.folder.rglob("events.out.*")} == {"tensorboard"}


@pytest.mark.slow
def test_projections_examples_and_embeddings_are_everywhere(four):
    lines = read_csv(next(four.folder.glob("csv/version_*/test/none/projection_0000006.csv")))
    assert [line["modality"] for line in lines] == ["image"] * 20 + ["text"] * 20
    assert read_csv(four.files / "test/none/projection_0000006.csv") == lines
    of_wandb = wandb_run(four.folder / "wandb")
    columns, data = wandb_table(four.folder / "wandb", of_wandb.history["test/none/projection_points", 6])
    assert columns == list(lines[0])
    assert [row[columns.index("x")] for row in data] == pytest.approx([float(line["x"]) for line in lines])
    projector = four.folder / "tensorboard" / "00006" / "test%2fnone%2fembedding"
    vectors = np.loadtxt(projector / "tensors.tsv")
    assert vectors.shape == (40, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(np.loadtxt(four.files / "test/none/embedding_0000006/tensors.tsv"), vectors, atol=2e-5)
    columns, data = wandb_table(four.folder / "wandb", of_wandb.history["test/none/embedding", 6])
    np.testing.assert_allclose([row[columns.index("D1") :] for row in data], vectors, atol=2e-5)
    metadata = (projector / "metadata.tsv").read_text()
    assert metadata == (four.files / "test/none/embedding_0000006/metadata.tsv").read_text()
    assert metadata.splitlines()[1].split("\t")[:3] == ["image", lines[0]["row"], lines[0]["caption"]]
    assert 'tensor_name: "test/none/embedding:00006"' in (projector.parents[1] / "projector_config.pbtxt").read_text()
    assert (projector / "sprite.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_pictures_are_where_backends_show_them(four):
    shown = {(f"{name}/{what}", step) for name, step in (("val", 3), ("val", 6), ("test/none", 6))
             for what in ("projection", "examples")}  # fmt: skip
    events = tensorboard_events(four.folder / "tensorboard")
    assert {(tag, event.step) for tag in events.Tags()["images"] for event in events.Images(tag)} == shown
    history = wandb_run(four.folder / "wandb").history
    for name, step in shown:
        node = history[name, step]
        assert node["_type"] == ("image-file" if name.endswith("projection") else "images/separated")
    captions = [line["caption"] for line in read_csv(next(four.folder.glob("csv/*/val/examples_0000006.csv")))]
    told = history["val/examples", 6]["captions"]
    assert len(told) == 3
    assert all(text.startswith(f"{caption} (") for text, caption in zip(told, captions, strict=True))
    # MLflow's file names, of old and new versions: <key>+step+<step>+…, with its slashes replaced.
    files = [re.split("[+%]", path.name) for path in (four.files / "images").glob("*.png")]
    assert {(re.sub("[~#]", "/", key), int(step)) for key, _, step, *_ in files} == shown | {
        ("val/cosine", 3), ("val/cosine", 6), ("test/none/cosine", 6)
    }  # fmt: skip


@pytest.mark.slow
def test_the_final_table_is_everywhere(four):
    (line,) = read_csv(next(four.folder.glob("csv/version_*/test/table_0000006.csv")))
    assert line["row"] == "none"
    assert float(line["gap/rmg"]) == four.numbers["test/none/gap/rmg"]
    assert read_csv(four.files / "test/table_0000006.csv") == [line]
    columns, data = wandb_table(four.folder / "wandb", wandb_run(four.folder / "wandb").history["test/table", 6])
    assert data[0][columns.index("gap/rmg")] == pytest.approx(four.numbers["test/none/gap/rmg"])
    events = tensorboard_events(four.folder / "tensorboard")
    text = events.Tensors("test/table/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"{four.numbers['test/none/gap/rmg']:.4g}" in text
    assert any(tag.startswith("_hparams_/session_start_info") for tag in events.summary_metadata)


@pytest.mark.slow
def test_checkpoints_are_artifacts_where_asked(four):
    kept = four.files / "checkpoints" / "last.ckpt"
    assert kept.read_bytes() == (four.folder / runs.CHECKPOINT).read_bytes()
    of_wandb = wandb_run(four.folder / "wandb")
    models = {artifact.name for artifact in of_wandb.artifacts if artifact.type == "model"}
    assert models == {f"checkpoint-{next(iter(of_wandb.ids))}-last"}


def test_without_loggers_a_run_is_the_same(tmp_path):
    numbers = train_in(tmp_path / "none", "logger=[]")
    assert numbers == train_in(tmp_path / "csv", "logger=[csv]")
    assert not [
        path for path in (tmp_path / "none").iterdir() if path.name in ("csv", "tensorboard", "dashboards.json")
    ]


def test_without_the_callback_there_are_scalars_and_the_table_alone(tmp_path):
    numbers = train_in(tmp_path, "logger=[csv]", "callbacks.dashboard=null")
    folder = tmp_path / "csv" / "version_0"
    names = {name for name, _ in csv_scalars(tmp_path / "csv")}
    assert set(numbers) <= names
    assert not [name for name in names if "mean_cosine" in name]
    assert {path.name for path in folder.rglob("*.csv")} == {"metrics.csv", "table_0000006.csv"}


def test_an_evaluation_has_loggers_where_asked(tmp_path):
    rng = np.random.default_rng(0)
    text = rng.normal(size=(30, 8))
    np.savez(tmp_path / "pairs.npz", image=text + 2, text=text, text_image_index=np.arange(30))
    overrides = ["data=embeddings", f"data.path={tmp_path / 'pairs.npz'}", "gap_reducer=posthoc", "report=false",
                 "gap_reducer.fit_split=test", "evaluation=[gap]", f"paths.output_dir={tmp_path}"]  # fmt: skip
    command = preparation.prepare_evaluation(Command("eval", [*overrides, "logger=[csv]"]))
    numbers = engine.evaluate(compose("eval", command.overrides))
    scalars = csv_scalars(tmp_path / "csv")
    assert {name: scalars[name, 0] for name in numbers} == pytest.approx(numbers)
    # Cosines by hand: what is matched stands closer together once the means are gone.
    unit = [(rows / np.linalg.norm(rows, axis=1, keepdims=True)) for rows in (text + 2, text)]
    assert scalars["test/none/mean_cosine/matched", 0] == pytest.approx(
        float((unit[0] * unit[1]).sum(1).mean()), abs=1e-5
    )
    assert scalars["test/posthoc/mean_cosine/matched", 0] > scalars["test/none/mean_cosine/matched", 0]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_are_one_run_that_shows_the_pairs_of_both(run_script, tmp_path):
    overrides = ("trainer=ddp_cpu", "data.batch_size=32", "logger=[csv,mlflow]", f"hydra.run.dir={tmp_path}/run")
    done = run_script("train.py", *TINY, *overrides, env={"MLFLOW_TRACKING_URI": ""}, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("look at:  mlflow ui --backend-store-uri sqlite:///") == 1
    from mlflow import MlflowClient

    (run,) = MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db").search_runs(["1"])
    assert run.info.status == "FINISHED"
    (folder,) = (tmp_path / "run" / "csv").iterdir()
    rows = [int(line["row"]) for line in read_csv(folder / "val" / "projection_0000006.csv")]
    assert len(rows) == 1000, "500 pairs"
    assert {row < 360 for row in rows} == {True, False}, "each rank has a half of the 720 images"
    last = {name: value for (name, step), value in csv_scalars(tmp_path / "run" / "csv").items() if step == 6}
    assert {name: last[name] for name in run.data.metrics if name in last} == pytest.approx(
        {name: value for name, value in run.data.metrics.items() if name in last}
    )
