"""The main job at its real size: `python train.py`, as a newcomer runs it, reaches the figures of the README."""

import json
import re

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    import subprocess
    import sys
    from pathlib import Path

    folder = tmp_path_factory.mktemp("default")
    script = Path(__file__).resolve().parents[2] / "train.py"
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "outputs" / "mad").iterdir()
    return run, json.loads((run / "metrics.json").read_text()), done.stdout


def test_accuracies(finished):
    _, numbers, _ = finished
    found = {name: numbers[f"test/none/zeroshot/{name}"] for name in ("digit", "color", "scale", "thickness")}
    # Other processors round otherwise, and 400 steps of training spread that to about a point.
    assert found["digit"] >= 0.94
    assert found["color"] >= 0.95
    assert found["scale"] >= 0.95
    assert found["thickness"] >= 0.70
    for factor in ("swelling", "fracture"):
        assert numbers["intervals"][f"test/none/zeroshot/{factor}"][0] > 0.5, f"{factor} is read above chance"


def test_the_gap_is_there_and_closes_without_costing_retrieval(finished):
    _, numbers, _ = finished
    assert numbers["test/none/gap/centroid_distance"] >= 0.15
    assert numbers["test/none/gap/linear_separability"] >= 0.95
    for row in ("posthoc", "posthoc_test"):
        assert numbers[f"test/{row}/gap/centroid_distance"] <= 0.05
        for direction in ("i2t_r1", "t2i_r1"):
            name = f"retrieval/{direction}"
            assert numbers[f"test/{row}/{name}"] >= 0.9 * numbers[f"test/none/{name}"]
    assert numbers["test/async_bn/gap/centroid_distance"] <= 0.05


def test_the_user_sees_progress_table_and_report(finished):
    run, _, output = finished
    for text in ("MAD: digits", "training", "400/400", "posthoc_test", "transductive", "inductive", "CD", "RMG"):
        assert text in output
    shown = re.sub(r"\s", "", output)
    assert str(run / "report.html") in shown
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "default-src &#39;none&#39;" in page  # its own scripts run, and ask for nothing
    outside_of_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', outside_of_scripts)
    assert len(list((run / "figures").glob("*.png"))) >= 10
