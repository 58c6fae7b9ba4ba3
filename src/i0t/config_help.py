"""What ``--help`` prints."""

from __future__ import annotations

import textwrap
from pathlib import Path

from i0t.config import conf_dir


def help_text(config_name: str, config_dir: str | None) -> str:
    """What ``--help`` prints: the groups and their choices, and how to see the rest.

    Hydra's own page composes the config once per group and takes seconds.
    """
    groups: dict[str, list[str]] = {}
    for root in [conf_dir(), *([Path(config_dir)] if config_dir else [])]:
        for file in sorted({*root.rglob("*.yaml"), *(root / "sweep").glob("*.yaml")}):  # a link in a checkout
            group = file.parent.relative_to(root).as_posix()
            if group not in (".", "hydra", "paths"):
                groups.setdefault(group, []).append(file.stem)
    width = max(map(len, groups))
    choices = "\n".join(f"  {group:<{width}}  {', '.join(sorted(set(names)))}" for group, names in groups.items())
    root_file = (conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8")
    return f"""Usage: python {config_name}.py [group=choice ...] [key=value ...] [flags]

Groups and their choices (group=choice, several where a list stands: logger=[csv,wandb]):
{choices}

The root config, conf/{config_name}.yaml:
{textwrap.indent(root_file, "  ")}
Flags:
  --cfg job          print the whole composed config      --config-dir DIR   add your own configs
  -m, --multirun     run every combination of a=1,2,3     --info defaults    print where each part comes from
  --hydra-help       Hydra's own flags                    --version          Hydra's version

HYDRA_FULL_ERROR=1 shows the traceback of an error."""
