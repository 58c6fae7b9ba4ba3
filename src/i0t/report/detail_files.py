"""The files of what evaluations found beside their numbers, next to ``metrics.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from i0t.evaluation.results import RowResult
from i0t.report.detail_table import DetailTable, details_by_name
from i0t.report.whole_files import write_whole

_MARKDOWN_LINES = 100  # of each row: a longer table is for programs, which read the CSV


def write_details(folder: Path, rows: Sequence[RowResult], *, figures: bool = True) -> list[Path]:
    """Writes each detail of all rows: ``<name>.json`` (row to content), ``.csv``, ``.md`` and ``figures/<name>.png``.

    Everything is made before the first file is written, and each file is written whole or not at all. The CSV has every
    line; the Markdown the first hundred of each row.

    Args:
        folder: The run's folder.
        rows: The comparison; rows without a detail are left out of its files.
        figures: Draw the pictures; not needed where :func:`i0t.report.page.write_report` is to draw them.

    Returns:
        The files.

    Raises:
        ValueError: If rows have tables with other columns under one name, or a name is not that of a file.
    """
    contents: dict[Path, str | bytes] = {}
    for name, details in details_by_name(rows).items():
        if not name or Path(name).name != name:
            raise ValueError(f"a detail is named by its files, without folder: got {name!r}")
        table = DetailTable(details)
        content = {row: _finite(detail.as_json()) for row, detail in details.items()}
        in_json = ",\n".join(
            f"{json.dumps(row)}: {json.dumps(value, allow_nan=False)}" for row, value in content.items()
        )
        contents[folder / f"{name}.json"] = f"{{\n{in_json}\n}}\n"  # a line for each row of the comparison
        contents[folder / f"{name}.csv"] = table.to_csv()
        contents[folder / f"{name}.md"] = table.to_markdown(first=_MARKDOWN_LINES, csv_file=f"{name}.csv") + "\n"
        if figures:
            # Numbers and tables need not wait for the figures' library.
            from i0t.report.detail_figures import draw_details
            from i0t.report.style import png_bytes

            contents[folder / "figures" / f"{name}.png"] = png_bytes(draw_details(details))
    return [write_whole(path, content) for path, content in contents.items()]


def _finite(node: Any) -> Any:
    """The same with ``None`` for NaN and infinity, which JSON does not have."""
    if isinstance(node, dict):
        return {str(key): _finite(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node
