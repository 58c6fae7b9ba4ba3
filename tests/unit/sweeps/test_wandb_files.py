"""Sweeps that W&B steers: valid by its own schema, and its agent's command is one that Hydra understands."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

from i0t.config import Command, check_command, conf_dir

FILES = sorted((conf_dir() / "sweep" / "wandb").glob("*.yaml"))


def read(file):
    return yaml.safe_load(file.read_text())


def agents_command(config, values, monkeypatch, tmp_path):
    """What wandb's agent would start for these parameters, expanded by the agent itself."""
    wandb_agent = pytest.importorskip("wandb.wandb_agent")
    started = []
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_RUN_ID", "before")  # so that what the agent sets is taken back
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "before")
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda **arguments: started.append(arguments) or FakeProcess())
    agent = wandb_agent.Agent(api=None, queue=None)
    agent._sweep_command = list(config["command"])
    arguments = {name: {"value": value} for name, value in values.items()}
    agent._command_run({"run_id": "abc", "program": config["program"], "args": arguments})
    return started[0]["command"]


class FakeProcess:
    """Never runs."""

    last_sigterm_time = None


def middle(parameter):
    """A value that W&B could choose."""
    if "values" in parameter:
        return parameter["values"][-1]
    return parameter["min"] + (parameter["max"] - parameter["min"]) / 3


def test_there_is_one():
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_agents_command_composes(file, monkeypatch, tmp_path):
    config = read(file)
    values = {name: middle(parameter) for name, parameter in config["parameters"].items()}
    command = agents_command(config, values, monkeypatch, tmp_path)
    assert command[:3] == ["/usr/bin/env", "python", config["program"]]
    (job,) = check_command(Command(Path(config["program"]).stem, command[3:]))
    for name, value in values.items():
        found = job
        for word in name.split("."):
            found = found[word]
        assert found == pytest.approx(value)
    split, row, evaluation, _ = config["metric"]["name"].split("/")
    assert split == job.split
    assert row in job.compare
    assert evaluation in job.evaluation
    assert "wandb" in job.logger


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_wandb_takes_it(file):
    """The schema of wandb's own engine, where that is installed: pip install --no-deps sweeps jsonschema."""
    spec = importlib.util.find_spec("sweeps")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("wandb ships no schema; its package `sweeps`, which does, is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(spec.submodule_search_locations[0]) / "config" / "schema.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    assert [error.message for error in validator.iter_errors(read(file))] == []
    broken = read(file) | {"method": "bayesian"}
    assert list(validator.iter_errors(broken)), "the schema does look at it"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_has_what_wandb_asks_for(file):
    config = read(file)
    assert config["method"] in ("grid", "random", "bayes")
    assert config["metric"]["goal"] in ("minimize", "maximize")
    for parameter in config["parameters"].values():
        assert {"values"} <= set(parameter) or {"distribution", "min", "max"} == set(parameter)
