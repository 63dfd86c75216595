"""What is in the frozen folder and under which licence: `python packaging/licences.py TABLE TEXTS`.

Run by the Python whose packages are frozen. TABLE becomes THIRD_PARTY.md, TEXTS every licence text
that the packages carry, in one file.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

EXTRA = 'extra == "farm"'  # of the studio's own extras, the one that is frozen
HEAD = """# Third-party software

Neodragon Studio itself is under the BSD 3-Clause Clear licence (LICENSE). The frozen program
carries what follows; the texts are in `LICENCES.txt` beside it. Written by
`packaging/licences.py` from the packages' own metadata (on Linux; Windows adds a few).

**The ffmpeg program that imageio-ffmpeg brings is built with `--enable-gpl --enable-version3`
(x264, x265): it is under the GNU General Public License, version 3.** It is a program of its own,
started by the studio; its source is at ffmpeg.org, the build's at the imageio-ffmpeg project. The
`onnxruntime-qnn` package carries Qualcomm's QNN runtime under Qualcomm's own terms. On Windows
`msvc-runtime` carries Microsoft's Visual C++ runtime, which programs may bring along under
Microsoft's terms.

| package | version | licence |
|---|---|---|
"""


def needed(name: str, found: dict[str, Distribution]) -> None:
    """Add a distribution and all that it needs here."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return
    try:
        found[key] = distribution(key)
    except PackageNotFoundError:  # for another platform, or an extra
        return
    for line in found[key].requires or []:
        requirement, _, marker = line.partition(";")
        if "extra" not in marker or EXTRA in marker:
            needed(re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0], found)


def licence(package: Distribution) -> str:
    """The licence in a few words, as the package says it."""
    about = package.metadata
    classified = [
        value.rpartition(":: ")[2]
        for key, value in about.items()
        if key == "Classifier" and value.startswith("License ::")
    ]
    words = about.get("License-Expression") or "; ".join(classified) or about.get("License") or ""
    return " ".join(words.split())[:80].replace("|", "/") or "see its files"


def main() -> None:
    table, texts = map(Path, sys.argv[1:])
    found: dict[str, Distribution] = {}
    needed("neodragon-studio", found)
    if "neodragon-studio" not in found:
        sys.exit("neodragon-studio should be installed here, but it is not; pip install it first.")
    del found["neodragon-studio"]
    rows = [f"| {p.name} | {p.version} | {licence(p)} |" for _, p in sorted(found.items())]
    rows.append(f"| Python | {sys.version.split()[0]} | PSF-2.0 |")
    rows.append("| PyInstaller's bootloader | | GPL-2.0-or-later with an exception for programs |")
    table.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    with texts.open("w", encoding="utf-8") as out:
        for _, package in sorted(found.items()):
            for file in package.files or []:
                stem = Path(str(file)).name.lower()
                if re.match(r"(licen[cs]e|copying|notice|authors)", stem):
                    path = Path(str(package.locate_file(file)))
                    if path.is_file() and path.suffix not in (".py", ".pyc"):
                        title = f"{package.name} {package.version}: {Path(str(file)).name}"
                        out.write(f"\n{'=' * 79}\n{title}\n{'=' * 79}\n")
                        out.write(path.read_text(encoding="utf-8", errors="replace"))


if __name__ == "__main__":
    main()
