"""`nds doctor`: whether the studio works on this machine, line by line."""

from __future__ import annotations

import argparse

from studio.cli.console import SOME_FAILED, print_json


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.add_argument(
        "--npu",
        action="store_true",
        help="measure every NPU graph instead: accuracy in dB and time",
    )
    parser.add_argument("--no-golden", action="store_true", help="without making the golden clip")
    parser.add_argument("--report", action="store_true", help="without your folders and name")
    parser.add_argument("--json", action="store_true", help="as JSON on stdout")
    parser.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from engine.pack import open_pack
    from studio.health import doctor
    from studio.system.privacy import redacted
    from studio.system.settings import pack_path

    if arguments.npu:
        with open_pack(pack_path()) as pack:
            for sentence in doctor.npu_report(pack):
                print(redacted(sentence), flush=True)
        return 0
    lines = []
    for line in doctor.examine(golden=not arguments.no_golden):
        lines.append(line)
        if not arguments.json:
            print(redacted(str(line)) if arguments.report else line, flush=True)
    if arguments.json:
        print_json([line.to_dict() for line in lines])
    return SOME_FAILED if any(line.state == "fail" for line in lines) else 0
