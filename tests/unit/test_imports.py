"""Imports point one way, and what must be light stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import i0t

PACKAGE = Path(i0t.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# A part may import itself, and from the project only what stands here.
ALLOWED = {
    "distributed": set(),
    "schedulers": set(),
    "losses": {"distributed"},
    "gap_reducers": {"distributed"},
    "metrics": {"distributed"},
    "models": {"distributed"},
    "judgements": set(),
    "data": {"embeddings", "embedding_store", "judgements"},
    "embeddings": {"judgements"},
    "features": {"distributed"},
    "embedding_store": {"embeddings", "features", "judgements"},
    "embedding_cache": {"embedding_store", "embeddings"},
    "encode": {"data", "embeddings", "features", "models"},
    "analysis": {"embeddings", "metrics"},
    "evaluation": {"analysis", "embeddings", "gap_reducers", "judgements", "metrics"},
    "report": {"analysis", "command_line", "embeddings", "evaluation", "metrics", "progress"},
    "command_line": set(),
    "progress": set(),
    "paper": {"command_line", "report"},
    "loggers": {"runs"},
    "grad_cache": set(),
    "module": {
        *("data", "distributed", "encode", "features", "gap_reducers"),
        *("grad_cache", "metrics", "models", "parameter_groups"),
    },
    "parameter_groups": set(),
    "callbacks": {
        "data",
        "embedding_store",
        "embeddings",
        "encode",
        "features",
        "loggers",
        "module",
        "progress",
        "report",
        "runs",
    },
    "config_errors": set(),
    "config_keys": {"config_errors"},
    "config_resolvers": {"config_errors", "launch", "models"},
    "config": {"config_errors", "config_keys", "config_resolvers", "launch", "sweeps"},
    "sweeps": {"config_errors", "launch", "runs"},
    "config_targets": {"config", "config_errors"},
    "config_help": {"config"},
    "runs": {"config_errors"},
    "launch": {"config_errors", "runs"},
    "rendezvous": {"launch"},
    "preparation": {"config", "config_errors", "config_targets", "launch", "runs"},
    "reduce": {
        *("cli", "command_line", "config", "config_errors", "data"),
        *("embeddings", "gap_reducers", "progress", "runs"),
    },
    "export": {"command_line", "engine", "gap_reducers", "models", "progress", "runs"},
    # What `import i0t` offers to a notebook.
    "__init__": {"embeddings", "gap_reducers", "library", "losses", "metrics", "plots"},
    "library": {"data", "embeddings", "evaluation", "gap_reducers", "report"},
    "plots": {"analysis", "embeddings", "evaluation", "gap_reducers", "report"},
    "cli": {"config", "config_errors", "config_help", "engine", "launch", "preparation", "runs", "sweeps"},
}
# `module` knows base types only; so does whoever else looks into these packages from outside.
BASE_ONLY = {"module": {"gap_reducers.base", "models.base", "data.base"}}
MAY_IMPORT = {
    "hydra": {"cli", "config", "config_errors", "config_keys", "engine", "preparation", "callbacks", "sweeps"},
    "omegaconf": {"cli", "config", "config_errors", "config_keys", "config_resolvers", "engine", "callbacks", "reduce"},
    "pytorch_lightning": {"module", "engine", "data", "callbacks", "loggers"},
    "wandb": {"loggers"},
    "mlflow": {"loggers"},
}


def part_of(path):
    relative = path.relative_to(PACKAGE).with_suffix("")
    return relative.parts[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "i0t":
                yield from (f"i0t.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_one_way(path):
    part = part_of(path)
    for name in imports(path):
        root, *rest = name.split(".")
        if root == "i0t" and rest and part != "engine":
            assert rest[0] in ALLOWED.get(part, set()) | {part, "__version__"}, f"{path} imports {name}"
            if part in BASE_ONLY and rest[0] in {b.split(".")[0] for b in BASE_ONLY[part]}:
                assert ".".join(rest) in BASE_ONLY[part], f"{path} must know base types only, not {name}"
        if root in MAY_IMPORT:
            assert part in MAY_IMPORT[root] | ({"engine"} if root not in ("wandb", "mlflow") else set()), (
                f"{path} imports {name}"
            )
        assert not name.startswith("lightning."), f"{path} mixes lightning with pytorch_lightning"


def test_nobody_but_the_command_line_imports_the_engine():
    for path in MODULES:
        if part_of(path) not in ("engine", "cli", "export"):
            assert "i0t.engine" not in set(imports(path)), path


@pytest.mark.parametrize(
    "statement",
    ["import i0t", "import i0t.cli", "import i0t.data.mad_generator", "import i0t.paper.command", "import i0t.export"],
)
def test_light_imports_stay_light(statement):
    heavy = ("torch", "pytorch_lightning", "open_clip", "sklearn", "matplotlib", "wandb")
    code = f"import sys; {statement}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_in_the_project_names_a_folder_of_one_machine():
    root = PACKAGE.parents[1]
    if not (root / "conf").is_dir():
        pytest.skip("not a checkout")
    tracked = [*MODULES, *root.glob("*.py"), *root.glob("*.md"), *(root / "conf").rglob("*.yaml")]
    for path in tracked:
        text = path.read_text(encoding="utf-8")
        assert not any(f"/{name}/" in text for name in ("root", "home", "work")), path
