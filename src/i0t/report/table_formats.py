"""A table of ready texts, in the forms that terminals, Markdown and LaTeX take.

The first column names the rows, the last may say more about them; what stands between is right-aligned.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_UNLIMITED = 10_000  # rich cuts what it measures to the width it is given
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\N{EN DASH}": "--",
        "\N{MINUS SIGN}": "$-$",
        "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
        "\N{GREEK SMALL LETTER TAU}": r"$\tau$",
        "\N{NO-BREAK SPACE}": "~",
        "\n": " ",
    }
)


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""The table in GitHub's Markdown.

    Example:
        >>> print(markdown_table(["row", "CD", "fitted on"], [["a|b", "0.5", "train"]]))
        | row | CD | fitted on |
        | :-- | --: | :-- |
        | a\|b | 0.5 | train |
    """
    alignment = [":--", *["--:"] * (len(headers) - 2), ":--"]
    escaped = ([_escape_markdown(cell) for cell in line] for line in rows)
    lines = [[_escape_markdown(header) for header in headers], alignment, *escaped]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""The table as a ``tabular`` of the package booktabs; every cell is escaped.

    Example:
        >>> print(latex_table(["row", "CD", "fitted on"], [["async_bn", "0.5", "50 % of train"]]))
        % \usepackage{booktabs}
        \begin{tabular}{lrl}
        \toprule
        row & CD & fitted on \\
        \midrule
        async\_bn & 0.5 & 50 \% of train \\
        \bottomrule
        \end{tabular}
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + r" \\"

    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{tabular}{l" + "r" * (len(headers) - 2) + "l}",
            r"\toprule",
            line(headers),
            r"\midrule",
            *map(line, rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> Table:
    """The table for a terminal: one line per row, or turned over where that would have to break numbers.

    Args:
        headers: One per column.
        rows: Cells, row by row.
        width: Columns of the terminal; by default those of the current one.

    Returns:
        A renderable; print it with :class:`rich.console.Console`.
    """
    console = Console(width=width)
    wide = _wide(headers, rows)
    needed = Measurement.get(console, console.options.update(width=_UNLIMITED), wide).minimum
    return wide if needed <= console.width else _transposed(headers, rows)


def _wide(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(headers[0].replace(" ", "\n"))
    for header in headers[1:-1]:
        table.add_column(Text(header.replace(" ", "\n", 1)), justify="right", no_wrap=True)
    table.add_column(headers[-1], min_width=17)
    for cells in rows:
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _transposed(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for name, *_ in rows:
        table.add_column(Text(name), justify="right", overflow="fold")
    for header, *values in list(zip(headers, *rows, strict=True))[1:]:
        table.add_row(Text(header), *(Text(value) for value in values))
    return table


def _escape_markdown(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
