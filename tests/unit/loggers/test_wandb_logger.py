"""Weights & Biases without an account: offline, never a prompt, never a crash."""

import json

import pytest

from i0t.config import compose, instantiate
from i0t.loggers.run_ids import forget_run_ids


@pytest.fixture
def logger_node(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return compose("train", ["logger=wandb", f"paths.output_dir={tmp_path}"]).logger.wandb


def test_without_a_login_it_is_offline_says_how_to_sync_and_goes_on_under_its_id(logger_node, tmp_path, monkeypatch):
    logger = instantiate(logger_node)
    assert logger.where() is None, "nothing has begun"
    logger.log_metrics({"val/rmg": 0.25}, step=1)
    logger.log_hyperparams({"seed": 0})
    logger.log_texts({})
    run_id = logger.experiment.id
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert logger.where() == f"wandb sync {folder}"
    logger.close(finished=True)
    assert list(folder.glob("*.wandb"))
    assert json.loads((tmp_path / "dashboards.json").read_text()) == {"wandb": run_id}
    assert instantiate(logger_node).version == run_id, "a resumed run"
    forget_run_ids(tmp_path)
    assert instantiate(logger_node).version is None, "one that begins anew"


@pytest.mark.parametrize(
    ("environment", "netrc", "mode"),
    [
        ({}, None, "offline"),
        ({"WANDB_API_KEY": "x" * 40}, None, "online"),
        ({"WANDB_API_KEY": "x" * 40, "WANDB_MODE": "offline"}, None, None),
        ({"WANDB_MODE": "online"}, None, None),
        ({}, "machine api.wandb.ai login user password secret", "online"),
        ({}, "machine elsewhere.org login user password secret", "offline"),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "machine wandb.example.org login u password s", "online"),
        ({}, "machine", "offline"),
    ],
)
def test_it_is_online_only_where_a_login_is_at_hand(logger_node, monkeypatch, tmp_path, environment, netrc, mode):
    if netrc is not None:
        (tmp_path / "netrc").write_text(netrc + "\n")
        (tmp_path / "netrc").chmod(0o600)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert instantiate(logger_node)._wandb_init["mode"] == mode


@pytest.mark.parametrize(("offline", "mode"), [(True, "offline"), (False, "online")])
def test_what_the_user_asks_for_rules(logger_node, monkeypatch, offline, mode):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert instantiate({**logger_node, "offline": offline})._wandb_init["mode"] == mode
