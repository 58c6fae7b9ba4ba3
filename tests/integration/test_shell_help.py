"""What the commands tell about themselves: completion, the composed config, where it comes from."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(*command, cwd=ROOT, **options):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=True, **options).stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("command", ["i0t-train", "i0t-eval", "python train.py", "python eval.py"])
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("gap_reducer=post", {"gap_reducer=posthoc"}),
        ("data=flickr8", {"data=flickr8k", "data=flickr8k_cf", "data=flickr8k_expert"}),
        ("compare=b", {"compare=baseline"}),
    ],
)
def test_bash_completes_groups_and_choices(command, typed, expected):
    # What the shell does at a tab, after the line that docs/command_line.md gives for ~/.bashrc.
    script = f"""
set -e
export PATH={BIN}:$PATH
eval "$({command} -sc install=bash)"
COMP_LINE="{command} {typed}" COMP_CWORD={len(command.split())}
hydra_bash_completion || true
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    assert set(run("bash", "-c", script).split()) == expected


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_the_composed_config_is_printed(script):
    found = yaml.safe_load(run(sys.executable, script, "--cfg", "job", "gap_reducer=posthoc", "data=mad", "seed=7"))
    assert found["seed"] == 7
    assert found["gap_reducer"]["_target_"] == "i0t.gap_reducers.posthoc.Posthoc"


def test_where_the_config_comes_from_is_printed():
    found = run(sys.executable, "train.py", "--info", "defaults", "experiment=mad_entropy")
    assert "experiment/mad_entropy" in found
    assert "gap_reducer" in found
    searched = run(sys.executable, "train.py", "--info", "searchpath")
    assert str(ROOT / "conf") in searched
