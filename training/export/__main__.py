"""The command line of `python -m training.export`."""

from __future__ import annotations

import argparse
from pathlib import Path

import diffusers
import torch
import transformers

from builder.contexts.pack import compile_pack
from builder.contexts.work import PATIENCE, PRECISIONS
from engine.errors import NeodragonError
from training import export
from training.export.pack import export_pack

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples.txt"


def arguments() -> argparse.ArgumentParser:
    """Those of the command."""
    parser = argparse.ArgumentParser(
        description=export.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder of published folders")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the pack's folder")
    parser.add_argument(
        "--target",
        choices=["portable", "snapdragon-x-elite"],
        default="portable",
        help="ONNX for any machine, or compiled for that NPU (docs/snapdragon.md)",
    )
    parser.add_argument(
        "--no-emulation", action="store_true", help="do not measure the NPU's graphs"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    compiled = parser.add_argument_group("for snapdragon-x-elite")
    compiled.add_argument("--components", nargs="+", default=(), help="compile only these")
    compiled.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="w8a16",
        help="fp16: quantise nothing",
    )
    compiled.add_argument(
        "--calibration", type=Path, default=EXAMPLES, help="prompts, one a line, for the ranges"
    )
    compiled.add_argument("--clips", type=int, default=6, help="how many of them to make")
    compiled.add_argument(
        "--multistep",
        action="store_true",
        help="with the monolithic mode's own weights: 1.7 GB more, and hours",
    )
    compiled.add_argument("--portable", action="store_true", help="keep what runs on the CPU, too")
    compiled.add_argument(
        "--unshared",
        action="store_true",
        help="add the transformer's graphs each with its own weights, for a device that refuses"
        " shared ones and for the emulation",
    )
    compiled.add_argument(
        "--patience",
        type=float,
        default=PATIENCE / 60,
        metavar="MINUTES",
        help="a graph that takes longer in emulation is measured on the CPU (default: 10)",
    )
    return parser


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for library in (transformers.utils.logging, diffusers.utils.logging):
        library.disable_progress_bar()
    try:
        if options.target == "portable":
            export_pack(options.checkpoint, options.output, not options.no_emulation)
            return
        work = options.output.with_name(f"{options.output.name}.portable")
        export_pack(
            options.checkpoint, work, emulate=False, remember=True, multistep=options.multistep
        )
        lines = options.calibration.read_text(encoding="utf-8").splitlines()
        prompts = [line for line in lines if line.strip()][: options.clips]
        compile_pack(
            work,
            options.output,
            prompts,
            options.precision,
            options.components,
            portable=options.portable,
            unshared=options.unshared,
            patience=60 * options.patience,
        )
    except (NeodragonError, RuntimeError, OSError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
