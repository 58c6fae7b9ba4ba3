"""Fixtures of the whole suite: no network, no account, nothing written outside the test's own folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, which collection may do
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def isolated_environment(tmp_path_factory):
    """A cache of the session's own, and no hub or dashboard to talk to."""
    patch = pytest.MonkeyPatch()
    patch.setenv("I0T_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("NETRC", os.devnull)
    patch.setenv("WANDB_DIR", str(tmp_path_factory.mktemp("wandb")))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "HYDRA_FULL_ERROR", "I0T_TRUSTED"):
        patch.delenv(name, raising=False)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def shared_data():
    """Folder of real embeddings, photos and digits that the project does not ship."""
    folder = Path(os.environ.get("I0T_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder of real data at {folder}; set I0T_SHARED_DATA to one")
    return folder


@pytest.fixture
def run_script(tmp_path):
    """Runs train.py or eval.py of the checkout in a folder of the test's own; returns the finished process."""

    def run(script, *arguments, timeout=300, env=None, cwd=None):
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=cwd or tmp_path,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
