"""A portable pack's graphs compiled for one Hexagon to a pack."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from builder.contexts.work import PATIENCE, Precision, Report, Work, files_of
from builder.errors import BuildError
from engine.pack import MANIFEST, open_pack
from engine.session import CHIPS, Chip


def compile_pack(
    source: Path,
    folder: Path,
    prompts: Sequence[str],
    precision: Precision = "w8a16",
    components: Sequence[str] = (),
    *,
    portable: bool = False,
    unshared: bool = False,
    patience: float = PATIENCE,
    chip: Chip = CHIPS[0],
    report: Report = print,
) -> None:
    """Compile the graphs of the portable pack `source` to a pack in `folder`.

    components: only these, all where empty, the others stay as they are; portable: keep what runs
    on the CPU of all; the upscaler keeps it anyway, as the graph by which an NPU is tried;
    unshared: also graphs that do not share their weights with others; patience: seconds that one
    graph may take in emulation. What is done is noted in `source`, and not done again. Raises
    BuildError.
    """
    if not prompts:
        raise BuildError("There is no prompt to calibrate with; give one.")
    manifest = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    with open_pack(source) as pack:
        unknown = sorted(set(components) - set(pack.components))
        if unknown:
            raise BuildError(
                "There is no component {name}; choose from {known}.",
                known=", ".join(pack.components),
                name=unknown[0],
            )
        chosen = {
            name: part.variants["htp"]
            for name, part in pack.components.items()
            if "htp" in part.variants and (not components or name in components)
        }
        todo = {(name, graph) for name, graphs in chosen.items() for graph in graphs}
        work = Work(pack, folder, tuple(prompts), precision, report, unshared, patience, todo, chip)
        for name, graphs in chosen.items():
            listed = manifest["components"][name]
            listed["variants"] |= work.variants(name, graphs)
            if not portable and name != "upscaler":
                del listed["variants"]["portable"], listed["variants"]["htp"]
    shutil.rmtree(work.home, ignore_errors=True)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for file in files_of(manifest):
        if not (folder / file["file"]).exists():
            (folder / file["file"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file["file"], folder / file["file"])
    with open_pack(folder) as made:
        size = sum(file.size for file in made.files) / 1e6
        report(f"{folder}: {made.name} {made.version}, {size:.1f} MB, pack {made.pack_hash[:12]}")
