"""Weights & Biases without an account: offline, never a prompt, never a crash."""

import pytest

from i0t.config import compose, instantiate


@pytest.fixture
def logger_node(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return compose("train", ["logger=wandb", f"paths.output_dir={tmp_path}"]).logger.wandb


def test_without_a_login_it_is_offline_and_writes_a_run_to_sync(logger_node, tmp_path):
    logger = instantiate(logger_node)
    logger.log_metrics({"val/rmg": 0.25}, step=1)
    logger.log_hyperparams({"seed": 0})
    logger.experiment.finish()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    ("environment", "netrc", "offline"),
    [
        ({}, None, True),
        ({"WANDB_API_KEY": "x" * 40}, None, False),
        ({"WANDB_API_KEY": "x" * 40, "WANDB_MODE": "offline"}, None, True),
        ({"WANDB_MODE": "online"}, None, False),
        ({}, "machine api.wandb.ai login user password secret", False),
        ({}, "machine elsewhere.org login user password secret", True),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "machine wandb.example.org login u password s", False),
        ({}, "machine", True),
    ],
)
def test_it_is_online_only_where_a_login_is_at_hand(logger_node, monkeypatch, tmp_path, environment, netrc, offline):
    from i0t.loggers import wandb as module

    if netrc is not None:
        (tmp_path / "netrc").write_text(netrc + "\n")
        (tmp_path / "netrc").chmod(0o600)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    seen = {}
    monkeypatch.setattr(module, "WandbLogger", lambda **arguments: seen.update(arguments))
    instantiate(logger_node)
    assert seen["offline"] is offline
