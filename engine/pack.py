"""Open and verify a pack: a folder, or one .zip of it, with `pack.json` beside the files it names.

Opening checks the manifest, the graphs' contracts and that every file is there with its size; a
file's SHA-256 is checked before its first use. The files are written by others, so nothing in them
is trusted: no name may leave the pack, no link is followed and no size is believed without limit.
What a graph really looks like is compared with the manifest where it is loaded (`session.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from engine.config import (
    FirstFrameConfig,
    Geometry,
    ModeConfig,
    PromptConfig,
    ScheduleConfig,
    TransformerConfig,
    VaeConfig,
)
from engine.errors import PackError

FORMAT = 1
MANIFEST = "pack.json"
MANIFEST_LIMIT = 4 * 2**20  # bytes
FILE_LIMIT = 32 * 2**30  # bytes
ENTRY_LIMIT = 10_000  # files in a .zip
RATIO_LIMIT = 200  # unpacked over packed size of a .zip's file; weights hardly shrink
DTYPES = ("float32", "float16", "int64", "int32", "uint8")
REQUIRED = ("clip_l", "clip_g", "text_encoder", "video_encoder", "transformer", "video_decoder")
GET_AGAIN = "get the pack again or export it anew"

# What each graph must be: inputs, outputs. H, W frame; h, w latent; C channels; with an f in front
# those of the first frame; U* upscaled; S frames per unit; L, N tokens of CLIP and T5; V width of
# the transformer; other letters are the graph's own affair.
CONTRACT: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "clip_l": ({"ids": "1 L"}, {"hidden": "1 L D", "pooled": "1 P"}),
    "clip_g": ({"ids": "1 L"}, {"hidden": "1 L D", "pooled": "1 P"}),
    "first_frame_clip_l": ({"ids": "1 L"}, {"hidden": "1 L D", "pooled": "1 P"}),
    "first_frame_clip_g": ({"ids": "1 L"}, {"hidden": "1 L D", "pooled": "1 P"}),
    "text_encoder": ({"ids": "1 N", "mask": "1 N"}, {"context": "N V"}),
    "unet": (
        {
            "sample": "1 fC fh fw",
            "timestep": "1",
            "hidden": "1 L D",
            "pooled": "1 P",
            "time_ids": "1 6",
        },
        {"prediction": "1 fC fh fw"},
    ),
    "first_frame_decoder": ({"latent": "1 fC fh fw"}, {"image": "1 3 fH fW"}),
    "video_encoder": ({"image": "1 3 H W"}, {"moments": "1 2C h w"}),
    "modulation": ({"waves": "1 K", "pooled": "1 P"}, {"modulation": "M V"}),
    "transformer": (
        {
            "patches": "T X",
            "positions": "T V",
            "rope_cos": "A R",
            "rope_sin": "A R",
            "mask": "A A",
            "context": "N V",
            "modulation": "M V",
        },
        {"flow": "T X"},
    ),
    "transformer_first": (  # it also gives keys and values of text and the oldest frame
        {
            "patches": "T X",
            "positions": "T V",
            "rope_cos": "A R",
            "rope_sin": "A R",
            "mask": "A A",
            "context": "N V",
            "modulation": "M V",
        },
        {"flow": "T X", "keys": "B Q K O", "values": "B Q K O"},
    ),
    "transformer_later": (  # it takes them, and gives those of its own oldest frame
        {
            "patches": "T X",
            "positions": "T V",
            "rope_cos": "T R",
            "rope_sin": "T R",
            "mask": "T A",
            "past_keys": "B Q P O",
            "past_values": "B Q P O",
            "modulation": "M V",
        },
        {"flow": "T X", "keys": "B Q K O", "values": "B Q K O"},
    ),
    "video_decoder": ({"latent": "1 C h w"}, {"frames": "S 3 H W"}),
    "safety_checker": ({"image": "1 3 224 224"}, {"concepts": "E", "special": "Z"}),
    "upscaler": ({"image": "1 3 H W"}, {"image_2x": "1 3 UH UW"}),
}

# Of a graph in parts, `.._part0` and on: what the first alone takes, what the last alone gives, and
# what each hands on to the next, as `next_..`.
_BEGIN = ("patches", "positions", "context")
PARTS: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    "transformer": (_BEGIN, "flow", {"image": "T V", "text": "N V"}),
    "transformer_first": (_BEGIN, "flow", {"image": "T V", "text": "N V"}),
    "transformer_later": (_BEGIN, "flow", {"image": "T V"}),
}

Section = TypeVar("Section")


@dataclass(frozen=True)
class PackFile:
    """A file of the pack: its name relative to the manifest, size in bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of a graph's input or output; a dynamic dimension is its name."""

    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Context:
    """What a graph was compiled for: Qualcomm's number of the SoC, its Hexagon, the QNN SDK used.

    shared: its weights are those of the other graphs of its variant, in one file.
    """

    soc_model: int
    htp_arch: int
    sdk: str
    shared: bool


@dataclass(frozen=True)
class Graph:
    """One graph: its file, weights kept outside it, sizes fixed on load and what goes in and out.

    fidelity_db: signal-to-noise ratio against the network it was exported from, in dB; context:
    None for ONNX, which any processor's runtime compiles itself; expected: by output, what a
    compiled graph has given in emulation, see `engine.canary`.
    """

    name: str
    file: PackFile
    data: tuple[PackFile, ...]
    dimensions: Mapping[str, int]
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    fidelity_db: float | None
    context: Context | None = None
    expected: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def files(self) -> tuple[PackFile, ...]:
        """The graph's own file and its weights."""
        return (self.file, *self.data)


@dataclass(frozen=True)
class Component:
    """A network and its variants, each graphs by name.

    `portable` runs on the CPU; for the NPU there are `htp` (the same files with sizes fixed),
    `context` (compiled) and `context-shared` (compiled, its graphs sharing one file of weights).
    """

    name: str
    optional: bool
    variants: Mapping[str, Mapping[str, Graph]]

    @property
    def files(self) -> tuple[PackFile, ...]:
        """Every file of every variant, each once."""
        graphs = [graph for variant in self.variants.values() for graph in variant.values()]
        return tuple(dict.fromkeys(file for graph in graphs for file in graph.files))


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer and the number of tokens its encoders read."""

    file: PackFile
    length: int


@dataclass
class Pack:
    """An open pack; close it, or use it as a context manager, to let go of a .zip.

    pack_hash: SHA-256 of `pack.json` in hex, which through the hashes in it names every file.
    missing: optional components whose files are not there; they are not in `components`.
    """

    path: Path
    pack_hash: str
    name: str
    version: str
    licence: str
    provenance: str
    geometry: Geometry
    transformer: TransformerConfig
    schedule: ScheduleConfig
    first_frame: FirstFrameConfig | None
    vae: VaeConfig
    prompt: PromptConfig
    tokenizers: Mapping[str, TokenizerFile]
    components: Mapping[str, Component]
    missing: tuple[str, ...]
    _source: _Source = field(repr=False)
    _verified: set[PackFile] = field(default_factory=set, repr=False)

    @property
    def files(self) -> tuple[PackFile, ...]:
        """Every file the pack uses, each once."""
        named = [tokenizer.file for tokenizer in self.tokenizers.values()]
        named += [file for component in self.components.values() for file in component.files]
        return tuple(dict.fromkeys(named))

    def has(self, component: str) -> bool:
        """Whether the pack has this component, files and all."""
        return component in self.components

    def graphs(self, component: str, variant: str) -> Mapping[str, Graph]:
        """A component's graphs in `variant`, maybe none; PackError without the component."""
        if component not in self.components:
            raise PackError(
                f"The pack {self.name} should have the component {component}, but it is absent;"
                " use a pack that has it."
            )
        return self.components[component].variants.get(variant, {})

    def verified(self, file: PackFile) -> Path:
        """Where to read `file`, after comparing its size and SHA-256 once; raises PackError."""
        path = self._source.fetch(file.name, file.size)
        if file not in self._verified:
            got = _sha256(path, file.name)
            if got != file.sha256:
                raise PackError(
                    f"{file.name} should have the SHA-256 {file.sha256[:12]}, but it has"
                    f" {got[:12]}; {GET_AGAIN}."
                )
            self._verified.add(file)
        return path

    def blocks(self, name: str, size: int) -> Iterator[bytes]:
        """The bytes of a file with that size, unchecked, piece by piece; raises PackError."""
        self._source.check(name, size)
        return self._source.blocks(name)

    def manifest(self) -> bytes:
        """`pack.json` as it is."""
        return b"".join(self._source.blocks(MANIFEST))

    def close(self) -> None:
        """Remove what was unpacked from a .zip and close it."""
        self._source.close()

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_pack(path: Path | str) -> Pack:
    """Open the pack at `path`, a folder or a .zip; raises PackError with one sentence."""
    path = Path(path)
    source: _Source
    if path.is_dir():
        source = _Folder(path)
    elif path.is_file():
        source = _Zip(path)
    else:
        raise PackError(
            f"{path} should be a pack's folder or .zip, but there is nothing; check the path."
        )
    try:
        return _read(path, source)
    except BaseException:
        source.close()
        raise


class _Source:
    """Where a pack's files come from."""

    def size(self, name: str) -> int | None:
        """Size of a file in bytes, None where it is missing; raises PackError for a link."""
        raise NotImplementedError

    def fetch(self, name: str, size: int) -> Path:
        """A path to read the file at, which has `size` bytes; raises PackError."""
        raise NotImplementedError

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, piece by piece; raises PackError."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of everything."""

    def check(self, name: str, size: int) -> None:
        """Raise PackError unless the file is there with `size` bytes."""
        got = self.size(name)
        if got is None:
            raise PackError(f"{name} should be in the pack, but it is missing; {GET_AGAIN}.")
        if got != size:
            raise PackError(f"{name} should have {size} bytes, but it has {got}; {GET_AGAIN}.")


class _Folder(_Source):
    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def size(self, name: str) -> int | None:
        path = self.root / name
        if not path.is_file():
            return None
        if path.resolve() != path:
            raise PackError(f"{name} should be a file of the pack, but it is a link; {GET_AGAIN}.")
        return path.stat().st_size

    def fetch(self, name: str, size: int) -> Path:
        self.check(name, size)
        return self.root / name

    def blocks(self, name: str) -> Iterator[bytes]:
        try:
            with (self.root / name).open("rb") as stream:
                yield from _blocks(stream)
        except OSError as error:
            raise PackError(
                f"{name} should be readable, but it is not ({_first_line(error)}); {GET_AGAIN}."
            ) from error


class _Zip(_Source):
    """A .zip whose files are unpacked, when used, into a folder of our own that `close` removes."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise PackError(
                f"{path.name} should be a folder or a .zip, but it cannot be read as one"
                f" ({_first_line(error)}); {GET_AGAIN}."
            ) from error
        self.unpacked: tempfile.TemporaryDirectory[str] | None = None
        try:
            self.entries = self._entries()
        except PackError:
            self.archive.close()
            raise

    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        """Checked entries by their name relative to the manifest, which may sit in one folder."""
        listed = [entry for entry in self.archive.infolist() if not entry.is_dir()]
        if len(listed) > ENTRY_LIMIT:
            raise PackError(
                f"The .zip should have at most {ENTRY_LIMIT} files, but it has {len(listed)};"
                f" {GET_AGAIN}."
            )
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in listed:
            _check_name(entry.filename)
            problem = _entry_problem(entry)
            if entry.filename in entries:
                problem = "is there twice"
            if problem:
                raise PackError(
                    f"{entry.filename} in the .zip should be a plain file, but it {problem};"
                    f" {GET_AGAIN}."
                )
            entries[entry.filename] = entry
        manifests = [name for name in entries if PurePosixPath(name).name == MANIFEST]
        shallow = min(manifests, key=lambda name: name.count("/"), default=MANIFEST)
        folder = shallow[: -len(MANIFEST)]
        return {name[len(folder) :]: e for name, e in entries.items() if name.startswith(folder)}

    def size(self, name: str) -> int | None:
        return self.entries[name].file_size if name in self.entries else None

    def fetch(self, name: str, size: int) -> Path:
        self.check(name, size)
        if self.unpacked is None:
            self.unpacked = tempfile.TemporaryDirectory(prefix="neodragon-pack-")
        path = Path(self.unpacked.name) / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".part")
            with partial.open("wb") as out:
                for block in self.blocks(name):
                    out.write(block)
            partial.replace(path)
        return path

    def blocks(self, name: str) -> Iterator[bytes]:
        try:
            with self.archive.open(self.entries[name]) as packed:
                yield from _blocks(packed)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise PackError(
                f"{name} in the .zip should unpack, but it is damaged"
                f" ({_first_line(error)}); {GET_AGAIN}."
            ) from error

    def close(self) -> None:
        self.archive.close()
        if self.unpacked is not None:
            self.unpacked.cleanup()


def _entry_problem(entry: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry of a .zip, to end a sentence."""
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link or a device"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.file_size > min(FILE_LIMIT, RATIO_LIMIT * entry.compress_size + 2**20):
        return f"claims to unpack to {entry.file_size} bytes from {entry.compress_size}"
    return None


def _check_name(name: object) -> str:
    """A file name that stays inside the pack, with forward slashes; raises PackError."""
    valid = isinstance(name, str) and 0 < len(name) <= 200 and not set(name) & set('\\:*?"<>|\0')
    if not valid or any(part in ("", ".", "..") for part in str(name).split("/")):
        raise PackError(
            f"A file of the pack should have a plain relative name, but one is named {name!r};"
            f" {GET_AGAIN}."
        )
    return str(name)


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(2**20):
        yield block


def _sha256(path: Path, name: str) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for block in _blocks(stream):
                digest.update(block)
    except OSError as error:
        raise PackError(
            f"{name} should be readable, but it is not ({_first_line(error)}); {GET_AGAIN}."
        ) from error
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _wrong(where: str, expected: str, got: object) -> PackError:
    return PackError(
        f"{where} in {MANIFEST} should be {expected}, but it is {got!r:.80}; {GET_AGAIN}."
    )


def _get(part: Mapping[str, Any], key: str, kind: type, where: str, expected: str) -> Any:
    """`part[key]` of type `kind`; raises PackError."""
    value = part.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _wrong(f"{where}{key}", expected, value)
    return value


def _section(manifest: Mapping[str, Any], key: str, build: Callable[..., Section]) -> Section:
    """A dataclass from the manifest's `key`; raises PackError where a field is missing."""
    values = _get(manifest, key, dict, "", "a table")
    names = [f.name for f in fields(build)]  # type: ignore[arg-type]
    for name in names:
        if name not in values:
            raise _wrong(f"{key}.{name}", "given", None)
    return build(**{name: values[name] for name in names})


def _schedule(manifest: Mapping[str, Any]) -> ScheduleConfig:
    values = _get(manifest, "schedule", dict, "", "a table")
    modes = _get(values, "modes", dict, "schedule.", "a table")
    built = {name: _section(modes, name, ModeConfig) for name in modes}
    return _section({"schedule": {**values, "modes": built}}, "schedule", ScheduleConfig)


def _file(values: Mapping[str, Any], where: str) -> PackFile:
    name = _check_name(values.get("file"))
    size = _get(values, "size", int, where, "a number of bytes")
    if not 0 < size <= FILE_LIMIT:
        raise _wrong(f"{where}size", f"1 to {FILE_LIMIT} bytes", size)
    digest = _get(values, "sha256", str, where, "64 hex digits")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise _wrong(f"{where}sha256", "64 hex digits", digest)
    return PackFile(name, size, digest)


def _tensors(values: Mapping[str, Any], key: str, where: str) -> dict[str, TensorSpec]:
    tensors = {}
    for name, spec in _get(values, key, dict, where, "a table of tensors").items():
        here = f"{where}{key}.{name}"
        if not isinstance(spec, dict) or spec.get("dtype") not in DTYPES:
            raise _wrong(here, f"a tensor of one of {', '.join(DTYPES)}", spec)
        shape = _get(spec, "shape", list, f"{here}.", "a list of dimensions")
        for size in shape:
            number = isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**31
            if len(shape) > 8 or not (number or (isinstance(size, str) and size.isidentifier())):
                raise _wrong(f"{here}.shape", "up to 8 positive sizes or names", shape)
        tensors[name] = TensorSpec(spec["dtype"], tuple(shape))
    return tensors


def _graph(name: str, values: Any, where: str) -> Graph:
    if not isinstance(values, dict):
        raise _wrong(where[:-1], "a table", values)
    dimensions = values.get("dimensions", {})
    valid = isinstance(dimensions, dict) and all(
        isinstance(size, int) and size > 0 for size in dimensions.values()
    )
    if not valid:
        raise _wrong(f"{where}dimensions", "a table of positive sizes", dimensions)
    data = values.get("data", [])
    if not isinstance(data, list) or not all(isinstance(file, dict) for file in data):
        raise _wrong(f"{where}data", "a list of files", data)
    fidelity = values.get("fidelity_db")
    if fidelity is not None and (
        isinstance(fidelity, bool) or not isinstance(fidelity, int | float)
    ):
        raise _wrong(f"{where}fidelity_db", "a number of dB", fidelity)
    expected = values.get("expected", {})
    if not isinstance(expected, dict) or not all(map(_numbers, expected.values())):
        raise _wrong(f"{where}expected", "a table of lists of numbers", expected)
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
    return isinstance(values, list) and all(isinstance(number, int | float) for number in values)


def _context(part: Mapping[str, Any], where: str) -> Context | None:
    """What the graphs of a variant were compiled for."""
    if "context" not in part:
        return None
    values, here = _get(part, "context", dict, where, "a table"), f"{where}context."
    sdk = _get(values, "sdk", str, here, "a version")
    if not re.fullmatch(r"\d+\.\d+(\.\d+)*", sdk):
        raise _wrong(f"{here}sdk", "a version", sdk)
    return Context(
        _get(values, "soc_model", int, here, "a number"),
        _get(values, "htp_arch", int, here, "a number"),
        sdk,
        _get(values, "shared", bool, here, "true or false"),
    )


def _component(name: str, values: Any, sizes: Mapping[str, int]) -> Component:
    where = f"components.{name}."
    if not isinstance(values, dict):
        raise _wrong(where[:-1], "a table", values)
    variants: dict[str, dict[str, Graph]] = {}
    for variant, part in _get(values, "variants", dict, where, "a table").items():
        here = f"{where}variants.{variant}."
        if not isinstance(part, dict):
            raise _wrong(here[:-1], "a table", part)
        context = _context(part, here)
        variants[variant] = {
            graph: replace(_graph(graph, entry, f"{here}graphs.{graph}."), context=context)
            for graph, entry in _get(part, "graphs", dict, here, "a table of graphs").items()
        }
        for graph in variants[variant].values():
            _check_contract(graph, f"{here}graphs.{graph.name}.", sizes)
    if not {"portable", "context"} & set(variants):
        raise _wrong(f"{where}variants", "a table with portable or context", list(variants))
    return Component(name, _get(values, "optional", bool, where, "true or false"), variants)


def _check_contract(graph: Graph, where: str, sizes: Mapping[str, int]) -> None:
    """Raise PackError unless a graph has the tensors the engine will give and take."""
    role, _, part = graph.name.partition("_part")
    role = re.sub(r"_?\d+(?=$|_first$|_later$)", "", role)
    if role not in CONTRACT:
        return
    inputs, outputs = CONTRACT[role]
    if part and role in PARTS:
        begin, end, passed = PARTS[role]
        if begin[0] not in graph.inputs:
            inputs = {key: shape for key, shape in inputs.items() if key not in begin} | passed
        if end not in graph.outputs:
            outputs = {key: shape for key, shape in outputs.items() if key != end}
            outputs |= {f"next_{name}": shape for name, shape in passed.items()}
    for key, wanted in (("inputs", inputs), ("outputs", outputs)):
        tensors: Mapping[str, TensorSpec] = getattr(graph, key)
        extra = [name for name in tensors if name not in wanted and "state_" not in name]
        if extra or set(wanted) - set(tensors):
            raise _wrong(f"{where}{key}", ", ".join(wanted), ", ".join(tensors))
        for name, letters in wanted.items():
            shape = [sizes.get(letter, letter) for letter in letters.split()]
            got = tensors[name].shape
            same = len(got) == len(shape) and all(
                a == b
                for a, b in zip(got, shape, strict=True)
                if isinstance(a, int) is isinstance(b, int)
            )
            if not same:
                raise _wrong(f"{where}{key}.{name}.shape", str(shape), list(got))
    for name, spec in graph.inputs.items():
        if name.startswith("state_"):
            following = graph.outputs.get(f"next_{name}")
            if following != spec or not all(isinstance(size, int) for size in spec.shape):
                expected = f"{spec} of fixed size"
                raise _wrong(f"{where}outputs.next_{name}", expected, str(following))


def _sizes(
    geometry: Geometry, transformer: TransformerConfig, tokenizers: Mapping[str, TokenizerFile]
) -> dict[str, int]:
    """The dimensions that the manifest fixes, under the letters of `CONTRACT`."""
    g = geometry
    first = (g.first_frame_height, g.first_frame_width)
    return {
        **{"1": 1, "3": 3, "6": 6, "224": 224, "H": g.height, "W": g.width},
        **{"h": g.latent_height, "w": g.latent_width},
        **{"C": g.latent_channels, "2C": 2 * g.latent_channels, "fC": g.first_frame_channels},
        **{"fH": first[0], "fW": first[1]},
        **{"fh": first[0] // g.first_frame_stride, "fw": first[1] // g.first_frame_stride},
        **{"UH": g.upscale * g.height, "UW": g.upscale * g.width, "S": g.temporal_stride},
        **{"L": tokenizers["clip"].length, "N": tokenizers["t5"].length, "V": transformer.width},
        "X": g.latent_channels * transformer.patch_size**2,
        "R": transformer.head_dim // 2,
    }


def _tokenizers(manifest: Mapping[str, Any]) -> dict[str, TokenizerFile]:
    listed = _get(manifest, "tokenizers", dict, "", "a table")
    built = {}
    for name in ("clip", "t5"):
        values = _get(listed, name, dict, "tokenizers.", "a table")
        length = _get(values, "length", int, f"tokenizers.{name}.", "a number of tokens")
        if not 2 <= length <= 4096:
            raise _wrong(f"tokenizers.{name}.length", "2 to 4096 tokens", length)
        built[name] = TokenizerFile(_file(values, f"tokenizers.{name}."), length)
    return built


def _manifest(source: _Source) -> tuple[dict[str, Any], str]:
    """The parsed manifest and its SHA-256; raises PackError where this engine cannot read it."""
    size = source.size(MANIFEST)
    if size is None or not 0 < size <= MANIFEST_LIMIT:
        got = "it is missing" if size is None else f"it has {size} bytes"
        raise PackError(
            f"{MANIFEST} should be in the pack with at most {MANIFEST_LIMIT} bytes, but {got};"
            " choose a pack's folder or .zip."
        )
    text = source.fetch(MANIFEST, size).read_bytes()
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PackError(
            f"{MANIFEST} should be JSON, but it cannot be read ({_first_line(error)}); {GET_AGAIN}."
        ) from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise PackError(
            f"{MANIFEST} should have format {FORMAT}, but it has the newer format {version};"
            " update Neodragon Studio."
        )
    if version != FORMAT or isinstance(version, bool):
        raise _wrong("format", str(FORMAT), version)
    return manifest, hashlib.sha256(text).hexdigest()


def _read(path: Path, source: _Source) -> Pack:
    manifest, digest = _manifest(source)
    about = {
        key: _get(manifest, key, str, "", "text")
        for key in ("name", "version", "licence", "provenance")
    }
    geometry = _section(manifest, "geometry", Geometry)
    transformer = _section(manifest, "transformer", TransformerConfig)
    schedule = _schedule(manifest)
    if schedule.stages != geometry.stages:
        raise _wrong("schedule.stage_range", f"for {geometry.stages} stages", schedule.stage_range)
    first = None
    if manifest.get("first_frame") is not None:
        first = _section(manifest, "first_frame", FirstFrameConfig)
    tokenizers = _tokenizers(manifest)
    sizes = _sizes(geometry, transformer, tokenizers)
    listed = _get(manifest, "components", dict, "", "a table")
    components = {name: _component(name, values, sizes) for name, values in listed.items()}
    for tokenizer in tokenizers.values():
        source.check(tokenizer.file.name, tokenizer.file.size)
    missing = []
    for name, component in components.items():
        if component.optional and any(source.size(file.name) is None for file in component.files):
            missing.append(name)
            continue
        for file in component.files:
            source.check(file.name, file.size)
    for name in (*REQUIRED, *(("first_frame",) if first else ())):
        if name not in components or name in missing:
            raise _wrong("components", f"a table with {name}", list(components))
    return Pack(
        path=path,
        pack_hash=digest,
        **about,
        geometry=geometry,
        transformer=transformer,
        schedule=schedule,
        first_frame=first,
        vae=_section(manifest, "vae", VaeConfig),
        prompt=_section(manifest, "prompt", PromptConfig),
        tokenizers=tokenizers,
        components={k: v for k, v in components.items() if k not in missing},
        missing=tuple(missing),
        _source=source,
    )
