"""The test suite by Windows' Python: every file by a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as Tree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import box as boxes

PACKAGES = r"Z:\w\source;Z:\w\tests"
SHARED = r"Z:\w\shared"  # the folder that tests/random_pack.py keeps its packs in
PATIENCE = 5400  # seconds that one file may take
# What differs most between the systems, for CI.
QUICK = ("test_strings", "test_windows_ways")
# Files that are about Linux, and why.
LINUX = {
    "test_architecture": "reads the source, which is the same",
    "test_farm": "three hosts in network namespaces",
    "test_offline": "strace and network namespaces",
    "test_packaging": "makensis and the locks are Linux' work",
    "test_wine": "the box is made on Linux",
}
# Modules that the box's Python lacks, and why; what imports one is skipped for that reason.
TRAINING = "PyTorch is for training, which is for Linux"
ABSENT = {
    **dict.fromkeys(
        ("torch", "diffusers", "transformers", "sentencepiece", "webdataset"), TRAINING
    ),
    **dict.fromkeys(("av", "onnxscript"), TRAINING),
    **dict.fromkeys(
        ("playwright", "axe_playwright_python"),
        "a browser on Linux drives the studio on Windows in the life of an installation",
    ),
    "pywintypes": "pip sets pywin32 up, and the box only unpacks wheels",
    **dict.fromkeys(("pefile", "uv", "PyInstaller", "resvg_py"), "packages are made on Linux"),
}
LACKS = re.compile(rf"No module named '({'|'.join(ABSENT)})\b")


def tested(box: boxes.Box, names: Sequence[str] | None) -> str:
    """Run test files by name, all when absent; a summary. AssertionError where a test failed."""
    files = sorted(path.stem for path in (boxes.ROOT / "tests").glob("test_*.py"))
    counts: Counter[str] = Counter()
    bad: list[str] = []
    reasons: Counter[str] = Counter()
    if any("random_pack" in text(name) for name in names or files):
        make_packs(box)
    for name in names or files:
        if name in LINUX:
            reasons[f"{name}: {LINUX[name]}"] += 1
            continue
        found = one(box, name)
        counts.update(found[0])
        bad += found[1]
        reasons.update(found[2])
        print(f"  {name}: {dict(found[0])}", *found[1], sep="\n    ", flush=True)
    for reason, count in reasons.most_common():
        print(f"  skipped {count}: {reason}")
    assert not bad, f"{len(bad)} of {counts.total()} tests failed"
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))


def text(name: str) -> str:
    """Of a test file."""
    return (boxes.ROOT / "tests" / f"{name}.py").read_text(encoding="utf-8")


def make_packs(box: boxes.Box) -> None:
    """The packs of tests/random_pack.py, by this Python, since an export takes PyTorch."""
    folder = box.work / "shared"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    paths = os.pathsep.join(map(str, (boxes.ROOT, boxes.ROOT / "tests")))
    subprocess.run(
        [sys.executable, "-c", "import random_pack; random_pack.strict()"],
        env=os.environ | {"PYTHONPATH": paths, "TESTS_SHARED_FOLDER": str(folder)},
        check=True,
    )
    boxes.own(folder)


def one(box: boxes.Box, name: str) -> tuple[Counter[str], list[str], Counter[str]]:
    """One file: how many of each outcome, what failed, why the rest was skipped."""
    report = box.work / "report.xml"
    report.unlink(missing_ok=True)
    given = {boxes.PATHS: PACKAGES, "TESTS_SHARED_FOLDER": SHARED}
    command = box.command("wine", "/w/cp312/python.exe", "-m", "pytest", **given)
    command += [
        "-q",
        f"tests/{name}.py",
        "-p",
        "no:cacheprovider",
        r"--junitxml=Z:\w\report.xml",
        "--timeout=1800",  # an emulated NPU on Wine is slow
    ]
    with tempfile.TemporaryFile() as output:  # no pipe: a process that is left over keeps it open
        try:
            subprocess.run(command, stdout=output, stderr=output, timeout=PATIENCE)
            output.seek(0)
            said = output.read().decode(errors="replace")
        except subprocess.TimeoutExpired:
            said = f"more than {PATIENCE} s"
        finally:
            box.kill()
    if not report.is_file():
        return Counter(failed=1), [f"{name}: {said[-1500:]}"], Counter()
    return read(report)


def read(report: Path) -> tuple[Counter[str], list[str], Counter[str]]:
    """A pytest report in JUnit's format."""
    counts: Counter[str] = Counter()
    bad: list[str] = []
    reasons: Counter[str] = Counter()
    for case in Tree.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        lacking = wrong is not None and LACKS.search(f"{wrong.get('message')} {wrong.text}")
        if lacking:
            counts["skipped"] += 1
            reasons[f"{case.get('name')}: no {lacking[1]}: {ABSENT[lacking[1]]}"] += 1
        elif wrong is not None:
            counts["failed"] += 1
            words = re.sub(r"\s+", " ", wrong.get("message") or "")[:300]
            bad.append(f"{case.get('classname')}::{case.get('name')}: {words}")
            print(wrong.text or "", file=sys.stderr)
        elif skipped is not None:
            counts["skipped"] += 1
            reasons[skipped.get("message") or "no reason"] += 1
        else:
            counts["passed"] += 1
    return counts, bad, reasons
