"""Make the drawings of the emoji theatre: `python -m training.data.draw FLUENT.tgz NOTO.tgz`.

The two files are what `npm pack @iconify-json/fluent-emoji-flat @iconify-json/noto` brings. The
chosen drawings become one sheet a style, `training/data/drawings/STYLE.png`, cells of `CELL` pixels
with straight alpha, in the order of `NAMES`; the packages' licences lie beside them. What is
committed is this command's output, so that training needs neither npm nor a rasteriser.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from training.data.drawings import CELL, COLUMNS, FOLDER, NAMES


def icons(package: Path) -> tuple[dict[str, Any], str, str]:
    """The icons of an Iconify package, name to body and size; its licence's name; its source."""
    with tarfile.open(package) as archive:

        def read(name: str) -> dict[str, Any]:
            file = archive.extractfile(f"package/{name}.json")
            assert file is not None
            return json.load(file)  # type: ignore[no-any-return]

        data, info, about = read("icons"), read("info"), read("package")
    size = {"width": data.get("width", 16), "height": data.get("height", 16)}
    drawings = {name: size | data["icons"][name] for name in NAMES}
    licence = info["license"]
    source = f"{about['name']} {about['version']}, {info['author']['name']}"
    return drawings, f"{licence['spdx']} ({licence['url']})", source


def raster(icon: dict[str, Any]) -> Image.Image:
    """One drawing, RGBA of `CELL` pixels, its visible part fitted into the cell."""
    width, height = icon["width"], icon["height"]
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(svg_string=svg, width=4 * CELL, height=4 * CELL)
    large = Image.open(io.BytesIO(bytes(png)), formats=["PNG"]).convert("RGBA")
    large = large.crop(large.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    scale = CELL / max(large.size)
    fitted = [max(1, round(side * scale)) for side in large.size]
    small = large.resize((fitted[0], fitted[1]), Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (CELL, CELL))  # it stands on the cell's bottom, in the middle
    cell.paste(small, ((CELL - fitted[0]) // 2, CELL - fitted[1]))
    return cell


def sheet(drawings: dict[str, dict[str, Any]]) -> Image.Image:
    """All drawings, `COLUMNS` in a row."""
    rows = -(-len(NAMES) // COLUMNS)
    out = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for i, name in enumerate(NAMES):
        out.paste(raster(drawings[name]), (i % COLUMNS * CELL, i // COLUMNS * CELL))
    pixels = np.array(out)
    pixels[pixels[..., 3] == 0] = 0
    return Image.fromarray(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fluent", type=Path)
    parser.add_argument("noto", type=Path)
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    lines = []
    for style in ("fluent", "noto"):
        drawings, licence, source = icons(getattr(options, style))
        sheet(drawings).save(FOLDER / f"{style}.png", optimize=True)
        lines.append(f"{style}.png: {len(drawings)} drawings of {source}, licence {licence}.")
    (FOLDER / "SOURCES.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
