"""MLflow in a database of the run's own, or a shared one; without the package, one line."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from i0t.config import compose, instantiate
from i0t.loggers import mlflow as module
from i0t.loggers.dashboard import Dashboard


@pytest.fixture
def node_of(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def compose_node(*overrides):
        return compose("train", ["logger=mlflow", f"paths.output_dir={tmp_path / 'run'}", *overrides]).logger.mlflow

    return compose_node


def test_without_the_package_it_says_what_to_install(node_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r"logger=mlflow needs MLflow: pip install 'i0t\[dashboards\]'$"):
        instantiate(node_of())


def test_other_ranks_have_no_client(node_of, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "rank_zero_only", SimpleNamespace(rank=1))
    silent = instantiate(node_of())
    silent.log_metrics({"a": 1.0}, step=1)
    silent.log_hyperparams({"a": 1})
    silent.finalize("success")
    assert not isinstance(silent, Dashboard)
    assert instantiate({"_target_": "builtins.dict"}, logger=[silent])["logger"] == [silent], "as the trainer gets it"
    assert not (tmp_path / "run").exists()


def test_a_database_made_at_once_by_several_jobs_is_guarded_and_a_run_goes_on(node_of, tmp_path, monkeypatch):
    shared = tmp_path / "shared.db"
    node = node_of(f"logger.mlflow.tracking_uri=sqlite:///{shared}")
    logger = instantiate(node)
    assert (tmp_path / "shared.db.lock").exists()
    logger.log_hyperparams({"data": {"limit": 3}, "command": "first"})
    logger.log_texts({"config": "a: 1\n"})
    logger.log_metrics({"val/rmg": 0.25}, step=1)
    assert logger.where() == f"mlflow ui --backend-store-uri sqlite:///{shared}"
    logger.finalize("success")
    client, run_id = logger.experiment, logger.run_id
    assert client.get_run(run_id).info.status == "RUNNING", "only a call of the trainer has ended"
    logger.close(finished=False)
    assert client.get_run(run_id).info.status == "FAILED"
    assert json.loads((tmp_path / "run" / "dashboards.json").read_text()) == {"mlflow": run_id}
    resumed = instantiate(node)
    assert resumed.run_id == run_id
    assert client.get_run(run_id).info.status == "RUNNING"
    resumed.log_hyperparams({"data": {"limit": 3}, "command": "second", "more": 1})  # MLflow refuses other values
    assert client.get_run(run_id).data.params == {"data/limit": "3", "command": "first", "more": "1"}
    resumed.close(finished=True)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert (tmp_path / "shared_files" / run_id / "artifacts" / "config.yaml").read_text() == "a: 1\n"
    # A run that this database does not know.
    (tmp_path / "run" / "dashboards.json").write_text(json.dumps({"mlflow": "0" * 32}))
    with pytest.raises(ValueError, match=r"does not know the run 0+ .* delete .*dashboards\.json"):
        instantiate(node)
    (tmp_path / "run" / "dashboards.json").write_text("{")
    with pytest.raises(ValueError, match=r"dashboards\.json is damaged: delete it"):
        instantiate(node)


def test_a_sprite_has_the_tiles_in_order():
    tiles = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    sprite = module._sprite(tiles)
    assert sprite.shape == (6, 6, 3)
    assert sprite[::2, ::2, 0].tolist() == [[0, 1, 2], [3, 4, 0], [0, 0, 0]]
