"""The command ``i0t-reduce fit | apply | show``.

Files are flags; the reducer is chosen and set as in the other commands (``gap_reducer=posthoc``), with the same checks.
Only ``fit`` imports torch for its own sake; ``apply`` starts without it unless a file is in half precision.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from i0t.command_line import Parser, one_line_errors, say
from i0t.progress import working

PROG = "i0t-reduce"
EPILOG = """examples:
  i0t-reduce fit --image img.npy --text txt.npy --output r.safetensors gap_reducer=posthoc gap_reducer.fit_split=train
  i0t-reduce fit --data pairs.npz --holdout .5 --output r.safetensors gap_reducer=posthoc gap_reducer.fit_split=train
  i0t-reduce apply r.safetensors --image img.npy --output img_reduced.npy
  i0t-reduce apply r.safetensors --data pairs.npz --output reduced.npz
  i0t-reduce show r.safetensors
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """``i0t-reduce``; exits with 2 and one line if the input is wrong.

    Args:
        arguments: Of the command line; ``None`` for those of this process.
    """
    options = _parser().parse_args(arguments)
    with one_line_errors(PROG):
        _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        PROG,
        description="Fits gap reducers on files of embeddings, and applies them to files of any size.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="fit | apply | show")
    _add_fit(commands.add_parser("fit", help="fit a reducer on files and save it"))
    _add_apply(commands.add_parser("apply", help="apply a saved reducer to a file"))
    show = commands.add_parser("show", help="print what a saved reducer is")
    show.add_argument("reducer", type=Path, help="what `fit` wrote")
    return parser


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="+", metavar="gap_reducer=NAME", help="and gap_reducer.ARGUMENT=VALUE …")
    parser.add_argument("--image", type=Path, metavar="NPY", help="(N, D) features of images; all rows are used")
    parser.add_argument("--text", type=Path, metavar="NPY", help="(M, D) features of texts; alone, or beside --image")
    parser.add_argument("--index", type=Path, metavar="NPY", help="(M,) image row of each text, for kinds that need it")
    parser.add_argument(
        "--data", type=Path, help="a set: .npz, parquet or a folder; rows of fit_split, if it has splits"
    )
    parser.add_argument("--holdout", type=float, metavar="SHARE", help="of the images of --data, to fit on")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of --holdout (default 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="SAFETENSORS")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--config-dir", metavar="DIR", help="your own configs, as in the other commands")


def _add_apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reducer", type=Path, help="what `fit` wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", type=Path, metavar="NPY", help="(N, D) features of images")
    source.add_argument("--text", type=Path, metavar="NPY", help="(N, D) features of texts")
    source.add_argument("--data", type=Path, metavar="NPZ", help="both, in one .npz; its other arrays are kept")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--dtype", choices=("float16", "float32"), help="of the output; default: that of the input")
    parser.add_argument("--threads", type=int, default=None, help="default: one for each core")


def _run(options: argparse.Namespace) -> None:
    if options.command == "show":
        from i0t.gap_reducers import load

        say(json.dumps(load(options.reducer).description, indent=2, sort_keys=True))
        return
    started = time.perf_counter()
    check_output(options.output, overwrite=options.overwrite)
    with working("fitting" if options.command == "fit" else "applying"):
        if options.command == "fit":
            from i0t.reduce.fit import fit

            done = fit(options)
        else:
            from i0t.reduce.apply import apply

            done = apply(options)
    say(f"{options.output}: {done}, {time.perf_counter() - started:.1f} s")


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuses, before any work, an output that cannot be written.

    Raises:
        ValueError: If its folder is missing, or it exists and must stay.
    """
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} into")
    if path.is_dir():
        raise ValueError(f"{path} is a folder")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; --overwrite replaces it")
