"""The engine's public surface, the form of its code, and its two measures."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.measures import LIMIT_DB, psnr, snr_db

ENGINE = Path(engine.__file__).parent
LONGEST_FILE, LONGEST_FUNCTION = 500, 60  # lines


def test_the_public_surface_is_there() -> None:
    assert engine.__doc__ and engine.__all__ == sorted(engine.__all__)
    assert set(engine.__all__) == {name for names in engine._HOMES.values() for name in names}
    assert set(engine.__all__) <= set(dir(engine))
    for name in engine.__all__:
        assert getattr(engine, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = engine.torch


def test_the_packages_export_what_they_say() -> None:
    for name in ("pack", "session"):
        package = __import__(f"engine.{name}", fromlist=["__all__"])
        assert all(hasattr(package, public) for public in package.__all__)


def test_importing_the_engine_loads_nothing() -> None:
    script = (
        "import json, sys, engine\n"
        "heavy = {'numpy', 'onnxruntime', 'PIL', 'tokenizers'}\n"
        "before = sorted(heavy & set(sys.modules))\n"
        "from engine import Request, generate, open_pack\n"
        "print(json.dumps([before, sorted(heavy & set(sys.modules))]))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True
    )
    before, after = json.loads(run.stdout)
    assert before == [] and "onnxruntime" in after


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=lambda p: p.name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    long = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long


def test_signal_to_noise() -> None:
    signal = np.ones(100, np.float32)
    assert snr_db(signal, signal + np.float32(0.01)) == pytest.approx(40, abs=0.01)
    assert snr_db(signal, signal) == LIMIT_DB == 200
    assert snr_db(signal, signal * np.float32("nan")) == -LIMIT_DB
    assert snr_db(0 * signal, signal) == -LIMIT_DB
    assert snr_db(0 * signal, 0 * signal) == LIMIT_DB


def test_peak_signal_to_noise() -> None:
    one = np.zeros((2, 4, 4, 3), np.uint8)
    other = one.copy()
    other[0] = 51  # a fifth of the range in every other frame: 10 log10(25) + 10 log10(2)
    assert psnr(one, other) == pytest.approx(16.99, abs=0.01) == psnr(other, one)
    assert psnr(one, one) == LIMIT_DB
    assert psnr(np.zeros(1), np.full(1, 0.2), peak=2) == pytest.approx(20.0)
    with pytest.raises(ValueError, match="shorter"):
        psnr(one, other[:1])
