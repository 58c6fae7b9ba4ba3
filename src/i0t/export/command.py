"""The command ``i0t-export CHECKPOINT``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from i0t.command_line import Parser, one_line_errors, say
from i0t.progress import working

PROG = "i0t-export"
EPILOG = """examples:
  i0t-export outputs/i0t_async/2025-01-31_12-00-00
  i0t-export last.ckpt --output mine --reducer posthoc.safetensors
  i0t-export last.ckpt --push-to-hub me/my-clip --private
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """``i0t-export``; exits with 2 and one line if the input is wrong.

    Args:
        arguments: Of the command line; ``None`` for those of this process.
    """
    options = _parser().parse_args(arguments)
    with one_line_errors(PROG):
        _run(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        PROG,
        description="Writes a folder that plain open_clip loads, with the gap reducer, its application in NumPy and a "
        "model card.",
        epilog=EPILOG,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="of a run, or the run's folder")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: the folder `export` of the run")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument(
        "--reducer", type=Path, metavar="SAFETENSORS", help="one that i0t-reduce fitted; default: the checkpoint's own"
    )
    parser.add_argument("--license", metavar="NAME", help="of the weights, for the model card, as the hub names it")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the folder to the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="make that repository a private one")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.private and options.push_to_hub is None:
        raise ValueError("--private says how to push: name the repository, --push-to-hub OWNER/NAME")
    with working("exporting"):
        from i0t.export.folder import export  # torch and open_clip

        exported = export(
            options.checkpoint,
            options.output,
            reducer=options.reducer,
            weights_license=options.license,
            overwrite=options.overwrite,
        )
    say(f"model:    {exported.folder}  ({exported.architecture})")
    say(f"load it:  {exported.load}")
    say(f"reducer:  {exported.folder / exported.reducer_file}  ({exported.reducer})")
    if options.push_to_hub is not None:
        from i0t.export.hub import push

        with working("pushing"):
            address = push(exported.folder, options.push_to_hub, private=options.private)
        say(f"hub:      {address}")
