"""`pack.json` read into checked parts; every fault names its place in the file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from engine.config import LARGEST, ModeConfig, ScheduleConfig, is_number
from engine.errors import PackError, first_line
from engine.pack.archive import FILE_LIMIT, Source
from engine.pack.contract import check_contract
from engine.pack.graphs import Component, Context, Graph, PackFile, TensorSpec, TokenizerFile
from engine.pack.names import check_name
from engine.pack.values import MANIFEST, get, wrong

FORMAT = 1
MANIFEST_LIMIT = 4 * 2**20  # bytes
NAME_LIMIT, TEXT_LIMIT = 100, 2000  # characters
DB_LIMIT = 1000
VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){1,4}")
DTYPES = ("float32", "float16", "int64", "int32", "uint8")

Section = TypeVar("Section")


def section(manifest: Mapping[str, Any], key: str, build: Callable[..., Section]) -> Section:
    """A dataclass from the manifest's `key`; raises PackError where a field is missing."""
    values = get(manifest, key, dict, "", "object")
    names = [f.name for f in fields(build)]  # type: ignore[arg-type]
    for name in names:
        if name not in values:
            raise wrong(f"{key}.{name}", "!= null", None)
    return build(**{name: values[name] for name in names})


def schedule_of(manifest: Mapping[str, Any]) -> ScheduleConfig:
    """The schedule with its modes; raises PackError."""
    values = get(manifest, "schedule", dict, "", "object")
    modes = get(values, "modes", dict, "schedule.", "object")
    built = {name: section(modes, name, ModeConfig) for name in modes}
    return section({"schedule": {**values, "modes": built}}, "schedule", ScheduleConfig)


def name_of(name: str, where: str) -> str:
    """A key of the manifest that can be shown on one line; raises PackError."""
    if not 0 < len(name) <= NAME_LIMIT or not name.isprintable():
        raise wrong(where or "{}", f"name: 1..{NAME_LIMIT}", name)
    return name


def text_of(manifest: Mapping[str, Any], key: str) -> str:
    """A text that can be shown on one line; raises PackError."""
    text: str = get(manifest, key, str, "", "string")
    if len(text) > TEXT_LIMIT or not text.isprintable():
        raise wrong(key, f"string, length <= {TEXT_LIMIT}", text)
    return text


def _file(values: Mapping[str, Any], where: str) -> PackFile:
    name = check_name(values.get("file"))
    size = get(values, "size", int, where, "integer")
    if not 0 < size <= FILE_LIMIT:
        raise wrong(f"{where}size", f"1..{FILE_LIMIT}", size)
    digest = get(values, "sha256", str, where, "[0-9a-f]{64}")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise wrong(f"{where}sha256", "[0-9a-f]{64}", digest)
    return PackFile(name, size, digest)


def _tensors(values: Mapping[str, Any], key: str, where: str) -> dict[str, TensorSpec]:
    tensors = {}
    for name, spec in get(values, key, dict, where, "object").items():
        here = f"{where}{key}.{name_of(name, where + key)}"
        if not isinstance(spec, dict) or spec.get("dtype") not in DTYPES:
            raise wrong(here, f"dtype: {' | '.join(DTYPES)}", spec)
        shape = get(spec, "shape", list, f"{here}.", "array")
        for size in shape:
            number = isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**31
            if len(shape) > 8 or not (number or (isinstance(size, str) and size.isidentifier())):
                raise wrong(f"{here}.shape", "integer > 0 | string, length <= 8", shape)
        tensors[name] = TensorSpec(spec["dtype"], tuple(shape))
    return tensors


def _graph(name: str, values: Any, where: str) -> Graph:
    if not isinstance(values, dict):
        raise wrong(where[:-1], "object", values)
    dimensions = values.get("dimensions", {})
    valid = isinstance(dimensions, dict) and all(
        name.isidentifier() and is_number(size) and isinstance(size, int) and 0 < size < 2**31
        for name, size in dimensions.items()
    )
    if not valid:
        raise wrong(f"{where}dimensions", "object, integer > 0", dimensions)
    data = values.get("data", [])
    if not isinstance(data, list) or not all(isinstance(file, dict) for file in data):
        raise wrong(f"{where}data", "array, object", data)
    fidelity = values.get("fidelity_db")
    if fidelity is not None and not (is_number(fidelity) and abs(fidelity) <= DB_LIMIT):
        raise wrong(f"{where}fidelity_db", f"-{DB_LIMIT}..{DB_LIMIT} dB", fidelity)
    expected = values.get("expected", {})
    if not isinstance(expected, dict) or not all(map(_numbers, expected.values())):
        raise wrong(f"{where}expected", "object, array, number", expected)
    return Graph(
        name=name,
        file=_file(values, where),
        data=tuple(_file(file, f"{where}data.") for file in data),
        dimensions=dict(dimensions),
        inputs=_tensors(values, "inputs", where),
        outputs=_tensors(values, "outputs", where),
        fidelity_db=fidelity,
        expected=expected,
    )


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(map(is_number, values))


def _context(part: Mapping[str, Any], where: str) -> Context | None:
    """What the graphs of a variant were compiled for."""
    if "context" not in part:
        return None
    values, here = get(part, "context", dict, where, "object"), f"{where}context."
    sdk = get(values, "sdk", str, here, "1.2.3")
    if not VERSION.fullmatch(sdk):
        raise wrong(f"{here}sdk", "1.2.3", sdk)
    driver = values.get("driver", "")
    if driver and not (isinstance(driver, str) and VERSION.fullmatch(driver)):
        raise wrong(f"{here}driver", "1.2.3", driver)
    return Context(
        _number(values, "soc_model", here),
        _number(values, "htp_arch", here),
        sdk,
        get(values, "shared", bool, here, "true | false"),
        driver or "",
    )


def _number(values: Mapping[str, Any], key: str, where: str) -> int:
    number: int = get(values, key, int, where, "integer")
    if not 0 <= number < LARGEST:
        raise wrong(f"{where}{key}", f"0 <= {key} < {LARGEST}", number)
    return number


def component_of(name: str, values: Any, sizes: Mapping[str, int]) -> Component:
    """A component, its graphs checked against their contracts; raises PackError."""
    where = f"components.{name_of(name, 'components')}."
    if not isinstance(values, dict):
        raise wrong(where[:-1], "object", values)
    variants: dict[str, dict[str, Graph]] = {}
    for variant, part in get(values, "variants", dict, where, "object").items():
        here = f"{where}variants.{name_of(variant, where + 'variants')}."
        if not isinstance(part, dict):
            raise wrong(here[:-1], "object", part)
        context = _context(part, here)
        variants[variant] = {
            name_of(graph, here + "graphs"): replace(
                _graph(graph, entry, f"{here}graphs.{graph}."), context=context
            )
            for graph, entry in get(part, "graphs", dict, here, "object").items()
        }
        for graph in variants[variant].values():
            check_contract(graph, f"{here}graphs.{graph.name}.", sizes)
    if not {"portable", "context"} & set(variants):
        raise wrong(f"{where}variants", "portable | context", list(variants))
    return Component(name, get(values, "optional", bool, where, "true | false"), variants)


def tokenizers_of(manifest: Mapping[str, Any]) -> dict[str, TokenizerFile]:
    """Both tokenizers; raises PackError."""
    listed = get(manifest, "tokenizers", dict, "", "object")
    built = {}
    for name in ("clip", "t5"):
        values = get(listed, name, dict, "tokenizers.", "object")
        length = get(values, "length", int, f"tokenizers.{name}.", "integer")
        if not 2 <= length <= 4096:
            raise wrong(f"tokenizers.{name}.length", "2..4096", length)
        built[name] = TokenizerFile(_file(values, f"tokenizers.{name}."), length)
    return built


def licences_of(manifest: Mapping[str, Any]) -> tuple[PackFile, ...]:
    """The files of licences that came with the weights, maybe none; raises PackError."""
    listed = manifest.get("licences", [])
    if not isinstance(listed, list) or not all(isinstance(file, dict) for file in listed):
        raise wrong("licences", "array, object", listed)
    return tuple(_file(file, "licences.") for file in listed)


def knows_of(manifest: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The words a small model was taught, phrases by kind; empty where it says none. PackError."""
    listed = manifest.get("knows", {})
    if not isinstance(listed, dict):
        raise wrong("knows", "a table of lists of words", listed)
    return {name_of(kind, "knows"): phrases_of(listed, kind, "knows.") for kind in listed}


def phrases_of(manifest: Mapping[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    """A list of short texts that can be shown on one line, maybe absent; raises PackError."""
    listed = manifest.get(key, [])
    shown = isinstance(listed, list) and all(
        isinstance(text, str) and 0 < len(text) <= TEXT_LIMIT and text.isprintable()
        for text in listed
    )
    if not shown:
        raise wrong(f"{where}{key}", "a list of plain words", listed)
    return tuple(listed)


def load_manifest(source: Source) -> tuple[dict[str, Any], str]:
    """The parsed manifest and its SHA-256; raises PackError where this engine cannot read it."""
    size = source.size(MANIFEST)
    if size is None:
        raise PackError(
            "There is no {file}; choose a pack's folder or .zip.",
            file=MANIFEST,
        )
    if not 0 < size <= MANIFEST_LIMIT:
        raise PackError(
            "{file} has {size} bytes, and only 1 to {limit} are read; choose a pack's folder or "
            ".zip.",
            file=MANIFEST,
            limit=MANIFEST_LIMIT,
            size=size,
        )
    text = b"".join(source.blocks(MANIFEST))
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PackError(
            "{file} is not valid JSON ({reason}); get the pack again or export it anew.",
            file=MANIFEST,
            reason=first_line(error),
        ) from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if is_number(version) and isinstance(version, int) and version > FORMAT:
        raise PackError(
            "{file} has format {version}, which is newer than {format}; update Neodragon Studio.",
            file=MANIFEST,
            format=FORMAT,
            version=version,
        )
    if version != FORMAT or isinstance(version, bool):
        raise wrong("format", str(FORMAT), version)
    return manifest, hashlib.sha256(text).hexdigest()
