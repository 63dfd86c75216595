"""A pack that is open: its parts and its verified files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.config import (
    FirstFrameConfig,
    Geometry,
    PromptConfig,
    ScheduleConfig,
    TransformerConfig,
    VaeConfig,
)
from engine.errors import PackError, reason_of
from engine.pack.archive import Folder, Source, Zip, sha256_of
from engine.pack.contract import sizes_of
from engine.pack.graphs import Component, Graph, PackFile, TokenizerFile, version_numbers
from engine.pack.manifest import (
    component_of,
    knows_of,
    licences_of,
    load_manifest,
    phrases_of,
    schedule_of,
    section,
    text_of,
    tokenizers_of,
)
from engine.pack.names import check_together
from engine.pack.values import MANIFEST, get, wrong

REQUIRED = ("clip_l", "clip_g", "text_encoder", "video_encoder", "transformer", "video_decoder")


@dataclass
class Pack:
    """An open pack; close it, or use it as a context manager, to let go of a .zip.

    pack_hash: SHA-256 of `pack.json` in hex, which through the hashes in it names every file.
    missing: optional components whose files are not there; they are not in `components`; licences:
    the texts that came with the weights; knows: the phrases a small model was taught, by kind,
    empty where it was not taught a list of them; examples: prompts to begin with, maybe none.
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
    licences: tuple[PackFile, ...]
    knows: Mapping[str, tuple[str, ...]]
    examples: tuple[str, ...]
    _source: Source = field(repr=False)
    _verified: set[PackFile] = field(default_factory=set, repr=False)
    _checked: set[PackFile] = field(default_factory=set, repr=False)

    @property
    def files(self) -> tuple[PackFile, ...]:
        """Every file the pack uses, each once."""
        named = [tokenizer.file for tokenizer in self.tokenizers.values()]
        named += self.licences
        named += [file for component in self.components.values() for file in component.files]
        return tuple(dict.fromkeys(named))

    @property
    def chips(self) -> tuple[int, ...]:
        """The Hexagon architectures that its compiled graphs are for; empty without any."""
        graphs = [
            graph
            for component in self.components.values()
            for variant in component.variants.values()
            for graph in variant.values()
        ]
        return tuple(sorted({graph.context.htp_arch for graph in graphs if graph.context}))

    @property
    def driver(self) -> str:
        """The least version of the NPU's driver that its compiled graphs say, "" for none."""
        versions = [
            graph.context.driver
            for component in self.components.values()
            for variant in component.variants.values()
            for graph in variant.values()
            if graph.context
        ]
        return max(versions, key=version_numbers, default="")

    def has(self, component: str) -> bool:
        """Whether the pack has this component, files and all."""
        return component in self.components

    def frame_size(self, upscale: bool) -> tuple[int, int]:
        """Rows and columns of a clip's frames; upscale: as of a request."""
        geometry = self.geometry
        scale = geometry.upscale if upscale and self.has("upscaler") else 1
        return geometry.height * scale, geometry.width * scale

    def graphs(self, component: str, variant: str) -> Mapping[str, Graph]:
        """A component's graphs in `variant`, maybe none; PackError without the component."""
        if component not in self.components:
            raise PackError(
                "The pack {name} has no component {component}; use a pack that has it.",
                name=self.name,
                component=component,
            )
        return self.components[component].variants.get(variant, {})

    def verified(self, file: PackFile) -> Path:
        """Where to read `file`, after comparing its size and SHA-256 once; raises PackError."""
        path = self._source.fetch(file.name, file.size)
        if file not in self._verified:
            got = sha256_of(path, file.name)
            if got != file.sha256:
                raise PackError(
                    "{name} has the SHA-256 {got} instead of {sha256}; get the pack again or "
                    "export it anew.",
                    name=file.name,
                    sha256=file.sha256[:12],
                    got=got[:12],
                )
            self._verified.add(file)
        return path

    def once(self, file: PackFile, check: Callable[[Path], None]) -> Path:
        """Where to read `file`, verified; `check` looks at it the first time and may raise."""
        path = self.verified(file)
        if file not in self._checked:
            check(path)
            self._checked.add(file)
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
    try:
        source: Source | None
        source = Folder(path) if path.is_dir() else Zip(path) if path.is_file() else None
    except OSError as error:
        raise PackError(
            "{path} cannot be read ({reason}); check the path.",
            path=str(path),
            reason=reason_of(error),
        ) from error
    if source is None:
        raise PackError(
            "There is no pack at {path}; check the path.",
            path=str(path),
        )
    try:
        return _read(path, source)
    except BaseException:
        source.close()
        raise


def _check_files(files: list[PackFile], components: Iterable[Component]) -> None:
    """Raise PackError where one file is described twice, or two cannot lie beside each other."""
    known: dict[str, PackFile] = {}
    for file in (*files, *(file for component in components for file in component.files)):
        if known.setdefault(file.name, file) != file:
            raise PackError(
                "pack.json describes {file} twice and differently; get the pack again or export "
                "it anew.",
                file=file.name,
            )
    if MANIFEST in known:
        raise wrong("components", f"!= {MANIFEST}", MANIFEST)
    check_together([MANIFEST, *known])


def _read(path: Path, source: Source) -> Pack:
    manifest, digest = load_manifest(source)
    about = {key: text_of(manifest, key) for key in ("name", "version", "licence", "provenance")}
    geometry = section(manifest, "geometry", Geometry)
    transformer = section(manifest, "transformer", TransformerConfig)
    schedule = schedule_of(manifest)
    if schedule.stages != geometry.stages:
        raise wrong(
            "schedule.stage_range",
            f"len(stage_range) == {geometry.stages + 1}",
            schedule.stage_range,
        )
    first = None
    if manifest.get("first_frame") is not None:
        first = section(manifest, "first_frame", FirstFrameConfig)
    tokenizers = tokenizers_of(manifest)
    sizes = sizes_of(geometry, transformer, tokenizers)
    listed = get(manifest, "components", dict, "", "object")
    components = {name: component_of(name, values, sizes) for name, values in listed.items()}
    licences = licences_of(manifest)
    alone = [*(tokenizer.file for tokenizer in tokenizers.values()), *licences]
    _check_files(alone, components.values())
    for file in alone:
        source.check(file.name, file.size)
    missing = []
    for name, component in components.items():
        if component.optional and any(source.size(file.name) is None for file in component.files):
            missing.append(name)
            continue
        for file in component.files:
            source.check(file.name, file.size)
    for name in (*REQUIRED, *(("first_frame",) if first else ())):
        if name not in components or name in missing:
            raise wrong("components", name, list(components))
    return Pack(
        path=path,
        pack_hash=digest,
        name=about["name"],
        version=about["version"],
        licence=about["licence"],
        provenance=about["provenance"],
        geometry=geometry,
        transformer=transformer,
        schedule=schedule,
        first_frame=first,
        vae=section(manifest, "vae", VaeConfig),
        prompt=section(manifest, "prompt", PromptConfig),
        tokenizers=tokenizers,
        components={k: v for k, v in components.items() if k not in missing},
        missing=tuple(missing),
        licences=licences,
        knows=knows_of(manifest),
        examples=phrases_of(manifest, "examples"),
        _source=source,
    )
