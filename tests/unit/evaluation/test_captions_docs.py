"""The page on captions names what there is: its example runs, its commands compose, its line of a file can be read."""

import json
import re
from pathlib import Path

import pytest

import i0t
from i0t.config import compose
from i0t.data.captions import CaptionsDataModule

PAGE = Path(i0t.__file__).parents[2] / "docs" / "captions.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="not a checkout")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_runs(capsys):
    (code,) = blocks("python")
    exec(compile(code, str(PAGE), "exec"), {})
    assert re.fullmatch(
        r"tensor\(.*\) tensor\(.*nan\].*\) tensor\(-?[\d.]+, dtype=torch.float64\)\n", capsys.readouterr().out
    )


def test_every_command_composes_into_what_the_page_says():
    commands = [c.split() for c in re.findall(r"^python .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)]
    assert len(commands) == 3
    for python, script, *overrides in commands:
        assert (python, script) == ("python", "eval.py")
        cfg = compose("eval", [*(o for o in overrides if not o.endswith("…")), "paths.output_dir=o"])
        (evaluation,) = cfg.evaluation
        data = {"caption_score": "captions", "caption_correlation": "flickr8k_expert"}[evaluation]
        assert cfg.data._target_.startswith(f"i0t.data.{data}.")


def test_the_data_of_another_choice_go_before_the_users_own_file():
    cfg = compose("eval", ["evaluation=caption_score", "data=flickr8k_expert", "paths.output_dir=o", "compare=baseline",
                           "model=vit_b_32", "model.pretrained=openai"])  # fmt: skip
    assert cfg.data._target_.startswith("i0t.data.flickr8k_expert.")


def test_the_line_of_the_file_can_be_read(tmp_path):
    (line,) = blocks("json")
    photo = tmp_path / json.loads(line)["image"]
    photo.parent.mkdir()
    photo.touch()
    (tmp_path / "candidates.jsonl").write_text(line, encoding="utf-8")
    data = CaptionsDataModule(
        path=str(tmp_path / "candidates.jsonl"),
        prompt_prefix="",
        max_caption_chars=None,
        only_present=False,
        limit=None,
        eval_batch_size=1,
        num_workers=0,
    )
    judgements = data.describe("test").judgements
    assert judgements.candidates.tolist() == [[0, 0]]
    assert judgements.references.tolist() == [[0, 1]]
    assert judgements.ratings.tolist() == [[3.0]]
