"""What a plain `pip install` gives: commands that work from any folder, and a reducer from a package of one's own."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel's own files and console scripts, ahead of the checkout on the path; its dependencies are at hand."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, timeout=120)
    return target


def run(installed, cwd, script, *arguments, path=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *map(str, path)])}
    command = [sys.executable, str(installed / "bin" / script), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_wheel_carries_every_module_config_and_template(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "src" / "i0t").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert f"i0t/{path.relative_to(ROOT / 'src' / 'i0t').as_posix()}" in names
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"i0t/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_commands_run_from_any_folder_with_a_reducer_of_ones_own(installed, tmp_path):
    package = tmp_path / "site" / "whitening"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "flip.py").write_text(
        '''from typing import ClassVar

from i0t.gap_reducers.base import GapReducer


class Flip(GapReducer):
    """Turns the texts round: the gap becomes as large as it can be."""

    needs_fit: ClassVar[bool] = False

    def __init__(self, dim: int, *, sign: float) -> None:
        super().__init__(dim)
        self.sign = sign

    def _reduce_image(self, unit_rows):
        return unit_rows

    def _reduce_text(self, unit_rows):
        return self.sign * unit_rows
'''
    )
    configs = tmp_path / "my_conf" / "gap_reducer"
    configs.mkdir(parents=True)
    (configs / "flip.yaml").write_text("_target_: whitening.flip.Flip\nsign: -1.0\n")
    done = run(
        installed,
        tmp_path,
        "i0t-train",
        "--config-dir",
        "my_conf",
        "+gap_reducer@compare.mine=flip",
        "debug=tiny",
        path=[tmp_path / "site"],
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs" / "mad").iterdir()
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["rows"]["mine"]["reducer"] == "whitening.flip.Flip"
    assert numbers["test/mine/gap/alignment"] == pytest.approx(4 - numbers["test/none/gap/alignment"], abs=1e-4)
    assert (folder / "report.html").stat().st_size > 100_000

    checkpoint = f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    refused = run(installed, tmp_path, "i0t-eval", checkpoint, path=[tmp_path / "site"])
    assert refused.returncode == 2
    assert "asks to build whitening.flip.Flip" in refused.stderr
    assert "I0T_TRUSTED=whitening" in refused.stderr


def test_an_error_names_the_command_and_exits_with_two(installed, tmp_path):
    done = run(installed, tmp_path, "i0t-train", "data=madd")
    assert done.returncode == 2
    assert "i0t-train: error: data=madd: there is no such choice; did you mean 'mad'?" in done.stderr
