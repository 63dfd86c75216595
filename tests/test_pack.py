"""Packs as they should be, and damaged, truncated, newer, hostile or misshapen ones."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from random_pack import exported

from builder import storage
from builder.storage import graph_of
from engine.errors import BackendError, NeodragonError, PackError
from engine.pack import MANIFEST, Pack, open_pack
from engine.session import load_graph, open_session, verify_pack
from engine.text import PromptTokenizers
from engine.upscaler import upscale
from engine.vae import VideoDecoder, to_bytes
from studio.cli.main import main

MINI = Path(__file__).parents[1] / "assets" / "mini"
Manifest = dict[str, Any]


def one_sentence(error: pytest.ExceptionInfo[NeodragonError]) -> str:
    """The message, checked to be one plain sentence."""
    message = str(error.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 600
    assert ". " not in message.replace("e.g. ", "")
    return message


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A pack's folder whose files may be replaced but not changed in place: they are linked."""
    return Path(shutil.copytree(exported(), tmp_path / "pack", copy_function=os.link))


def rewrite(pack: Path, change: Callable[[Manifest], object]) -> None:
    """Replace the manifest by a changed one."""
    manifest = json.loads((pack / MANIFEST).read_text("utf-8"))
    change(manifest)
    (pack / MANIFEST).unlink()
    (pack / MANIFEST).write_text(json.dumps(manifest))


def replace(file: Path, content: bytes) -> None:
    """Put another file in the place of a linked one."""
    file.unlink()
    file.write_bytes(content)


def zipped(pack: Path, file: Path, prefix: str = "") -> Path:
    """The pack as a .zip, in a folder of its own where `prefix` says so."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in pack.rglob("*") if path.is_file()):
            archive.write(path, prefix + path.relative_to(pack).as_posix())
    return file


def graph(manifest: Manifest, component: str = "video_decoder") -> dict[str, Any]:
    """The manifest's entry of a component's first portable graph."""
    graphs: dict[str, Any] = manifest["components"][component]["variants"]["portable"]["graphs"]
    return next(iter(graphs.values()))  # type: ignore[no-any-return]


def test_a_folder_and_its_zip_are_one_pack(pack: Path, tmp_path: Path) -> None:
    with open_pack(pack) as folder:
        expected = folder.pack_hash
        assert folder.geometry.units == 7
        assert folder.has("upscaler") and not folder.missing
        assert folder.first_frame is not None and folder.first_frame.prediction == "v_prediction"
        assert folder.graphs("transformer", "htp")["transformer_0"].dimensions == {
            "T": 42,
            "N": 32,
            "A": 74,
        }
    for prefix in ("", "neodragon-mini/"):
        file = zipped(pack, tmp_path / "pack.zip", prefix)
        with zipfile.ZipFile(file, "a") as archive:  # as macOS packs a folder with an icon
            archive.writestr(f"{prefix}Icon\r", b"")
            archive.writestr(f"__MACOSX/{prefix}._Icon\r", b"icon")
        with open_pack(file) as archive:
            assert archive.pack_hash == expected
            session = open_session(archive, archive.graphs("upscaler", "portable")["upscaler"])
            image = np.zeros((1, 3, 128, 192), np.float32)
            assert session.run(image=image)["image_2x"].shape == (1, 3, 256, 384)


def test_verification_loads_every_graph(pack: Path) -> None:
    with open_pack(pack) as opened:
        passed = list(verify_pack(opened))
    assert "portable/transformer.onnx" in passed and "tokenizers/t5.json" in passed
    assert "transformer/htp/transformer_2" in passed and "first_frame/portable/unet" in passed


def test_unpacked_files_go_away(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(private))
    with open_pack(zipped(pack, tmp_path / "pack.zip")) as archive:
        path = archive.verified(archive.tokenizers["t5"].file)
        assert path.is_relative_to(private) and path.is_file()
    assert list(private.iterdir()) == []


def test_there_is_no_pack(tmp_path: Path) -> None:
    with pytest.raises(PackError) as error:
        open_pack(tmp_path / "nothing")
    assert "nothing" in one_sentence(error)
    with pytest.raises(PackError) as error:
        open_pack(tmp_path)
    assert MANIFEST in one_sentence(error)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', "[" * 100_000, "\udcff", " " * (5 * 2**20)]
)
def test_a_manifest_that_is_none(pack: Path, text: str) -> None:
    replace(pack / MANIFEST, text.encode(errors="surrogateescape"))
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert MANIFEST in one_sentence(error)


def test_a_newer_format_says_to_update(pack: Path) -> None:
    rewrite(pack, lambda manifest: manifest.update(format=2))
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert "format 2, which is newer than 1; update Neodragon Studio" in one_sentence(error)


MANIFESTS: dict[str, tuple[Callable[[Manifest], object], str]] = {
    "no geometry": (lambda m: m.pop("geometry"), "geometry"),
    "no height": (lambda m: m["geometry"].pop("height"), "geometry.height"),
    "odd height": (lambda m: m["geometry"].update(height=130), "height % 32 == 0"),
    "text for a number": (lambda m: m["vae"].update(scale="1"), "scale"),
    "unknown sampler": (lambda m: m["first_frame"].update(sampler="euler"), "sampler"),
    "too few stages": (lambda m: m["schedule"].update(stage_range=[0, 1]), "steps"),
    "a mode lacks steps": (lambda m: m["schedule"]["modes"]["hybrid"].pop("steps"), "steps"),
    "no decoder": (lambda m: m["components"].pop("video_decoder"), "video_decoder"),
    "no first frame": (lambda m: m["components"].pop("first_frame"), "first_frame"),
    "no portable": (
        lambda m: m["components"]["clip_l"]["variants"].pop("portable"),
        "portable | context",
    ),
    "components is a list": (lambda m: m.update(components=[]), "components"),
    "graphs is a list": (
        lambda m: m["components"]["clip_l"]["variants"]["portable"].update(graphs=[]),
        "graphs",
    ),
    "huge size": (lambda m: graph(m).update(size=2**50), "size"),
    "negative size": (lambda m: graph(m).update(size=-1), "size"),
    "size is true": (lambda m: graph(m).update(size=True), "size"),
    "bad hash": (lambda m: graph(m).update(sha256="zz"), "sha256"),
    "unknown type": (
        lambda m: graph(m)["inputs"]["latent"].update(dtype="float8"),
        "inputs.latent",
    ),
    "shape of the latent": (
        lambda m: graph(m)["inputs"]["latent"].update(shape=[1, 16, 16, 24]),
        "[1, 12, 16, 24]",
    ),
    "rank of the frames": (
        lambda m: graph(m)["outputs"]["frames"].update(shape=[3, 128, 192]),
        "outputs.frames.shape",
    ),
    "no latent": (lambda m: graph(m)["inputs"].pop("latent"), "inputs"),
    "an input more": (
        lambda m: graph(m)["inputs"].update(x={"dtype": "float32", "shape": [1]}),
        "inputs",
    ),
    "a state that changes its size": (
        lambda m: graph(m)["outputs"]["next_state_0"].update(shape=[1, 1, 1, 1]),
        "next_state_0",
    ),
    "long tokens": (lambda m: m["tokenizers"]["t5"].update(length=10**9), "t5.length"),
    "dimension": (
        lambda m: m["components"]["transformer"]["variants"].update(
            htp={"graphs": {"transformer_0": {"dimensions": {"T": -1}}}}
        ),
        "dimensions",
    ),
    "stages without end": (lambda m: m["geometry"].update(stages=1000), "stages <= 8"),
    "a number no machine holds": (lambda m: m["vae"].update(shift=10**400), "shift"),
    "a size no machine holds": (lambda m: m["geometry"].update(height=10**400), "height"),
    "infinite dB": (lambda m: graph(m).update(fidelity_db=10**400), "fidelity_db"),
    "no number of dB": (lambda m: graph(m).update(fidelity_db=float("nan")), "fidelity_db"),
    "a dimension no machine holds": (lambda m: graph(m).update(dimensions={"T": 2**70}), "dimen"),
    "expected truths": (lambda m: graph(m).update(expected={"frames": [True]}), "expected"),
    "a terminal's escape in the licence": (lambda m: m.update(licence="\x1b[2J"), "licence"),
    "half a character in the name": (lambda m: m.update(name="\ud800"), "name"),
    "an essay": (lambda m: m.update(provenance="x" * 3000), "provenance"),
    "an escape in a component": (lambda m: m["components"].update({"\x1b": {}}), "components"),
    "a component without name": (lambda m: m["components"].update({"": {}}), "components"),
    "an escape in a graph": (
        lambda m: m["components"]["clip_l"]["variants"]["portable"]["graphs"].update({"\n": {}}),
        "graphs",
    ),
    "a chip no table holds": (
        lambda m: m["components"]["clip_l"]["variants"].update(
            context={
                "context": {"soc_model": 2**40, "htp_arch": 73, "sdk": "2.1", "shared": False},
                "graphs": {},
            }
        ),
        "soc_model",
    ),
    "a long version": (
        lambda m: m["components"]["clip_l"]["variants"].update(
            context={
                "context": {"soc_model": 60, "htp_arch": 73, "sdk": "2." + "1" * 5000},
                "graphs": {},
            }
        ),
        "sdk",
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_wrong_manifest(pack: Path, name: str) -> None:
    change, named = MANIFESTS[name]
    rewrite(pack, change)
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert named in one_sentence(error)


NAMES = [
    *("../decoder.onnx", "portable/../../decoder.onnx", "..", ".", "a/./b", "a//b", "a/", ""),
    *("/etc/passwd", "//host/share/x", "C:/decoder.onnx", "C:decoder.onnx", "portable\\x.onnx"),
    *("a\0b", "a\nb", "a\x1b[31m", "a\x7f", "a\u202egnp", "a\u2028b", "\udc80", "a\u200bb"),
    *("x" * 201, "\u754c" * 67, "a/" + "x" * 300, "\U0001f600" * 51),
    *("CON", "con", "nul.json", "NUL", "aux.tar.gz", "a/prn/b", "com1", "LPT9.onnx", "COM\u00b9"),
    *("nul .json", "conin$", "Lpt\u00b3.x", "x.", "x ", " x", "a./b", "a /b", "..."),
    *('a"b', "a<b", "a>b", "a|b", "a?b", "a*b", "a:b", 7, None, True, ["a"], {}),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_file_name_that_some_system_cannot_store(
    pack: Path, tmp_path: Path, name: object
) -> None:
    rewrite(pack, lambda manifest: graph(manifest).update(file=name))
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert "The file name" in one_sentence(error)
    assert str(error.value).isprintable()
    if isinstance(name, str) and name and name.isascii() and "\0" not in name:
        archive = tmp_path / "names.zip"
        with zipfile.ZipFile(archive, "w") as writing:
            writing.writestr(zipfile.ZipInfo(name), b"x")
        with pytest.raises(PackError) as error:
            open_pack(archive)
        harmless = name.endswith("/") or ("\\" in name and os.sep == "\\")  # read as a "/" there
        assert "The file name" in one_sentence(error) or harmless


@pytest.mark.parametrize(
    "name", ["\u754c" * 66, "a/b.c/d", ".hidden", "console", "nul0.json", "COM10", "a b", "\u00e9"]
)
def test_other_names_are_taken(pack: Path, name: str) -> None:
    file = pack / "portable" / "video_decoder.onnx"
    (pack / name).parent.mkdir(parents=True, exist_ok=True)
    os.link(file, pack / name)

    def change(manifest: Manifest) -> None:
        for component in manifest["components"].values():
            for variant in component["variants"].values():
                for entry in variant["graphs"].values():
                    if entry["file"] == "portable/video_decoder.onnx":
                        entry["file"] = name

    rewrite(pack, change)
    with open_pack(pack) as opened:
        opened.verified(next(file for file in opened.files if file.name == name))


TWINS = {
    "case": ("Weights.bin", "weights.bin"),
    "case of a folder's file": ("A/x.bin", "a/X.bin"),
    "an accent in one and in two characters": ("\u00e9.bin", "e\u0301.bin"),
    "both": ("\u00c9.bin", "e\u0301.BIN"),
    "a file that is a folder": ("weights", "weights/x.bin"),
    "deeper, in other case": ("a/B", "A/b/c/d"),
    "sharp s": ("stra\u00dfe", "STRASSE"),
    "the manifest": ("PACK.json", "x"),
    "the manifest as a folder": ("pack.json/x", "x"),
}


@pytest.mark.parametrize("case", TWINS)
def test_names_that_cannot_lie_beside_each_other(pack: Path, tmp_path: Path, case: str) -> None:
    names = TWINS[case]

    def change(manifest: Manifest) -> None:
        entry = graph(manifest)
        like = {key: entry[key] for key in ("size", "sha256")}
        entry["data"] = [{"file": name, **like} for name in names]

    archive = tmp_path / "twins.zip"
    with zipfile.ZipFile(archive, "w") as writing:
        for name in (MANIFEST, *names):
            writing.writestr(name, b"x")
    for path in (pack, archive):
        rewrite(pack, change)
        with pytest.raises(PackError) as error:
            open_pack(path)
        assert "cannot be in one folder" in one_sentence(error)


def test_one_file_has_one_size_and_hash(pack: Path) -> None:
    def change(manifest: Manifest) -> None:
        entry = graph(manifest)
        entry["data"] = [{**{k: entry[k] for k in ("file", "size")}, "sha256": "0" * 64}]

    rewrite(pack, change)
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert "describes" in one_sentence(error)
    rewrite(pack, lambda manifest: graph(manifest).update(file=MANIFEST, data=[]))
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert MANIFEST in one_sentence(error)


def test_a_link_is_refused(pack: Path, tmp_path: Path) -> None:
    file = pack / "portable" / "video_decoder.onnx"
    content = file.read_bytes()
    outside = tmp_path / "outside.onnx"
    outside.write_bytes(content)
    file.unlink()
    file.symlink_to(outside)
    if not file.is_symlink():
        pytest.skip("Wine shows no symbolic link as one")
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert "is a link" in one_sentence(error)


def test_licences_are_part_of_the_pack(pack: Path, tmp_path: Path) -> None:
    text = b"Responsible AI License"
    (pack / "licences").mkdir()
    (pack / "licences" / "LICENSE").write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    entry = {"file": "licences/LICENSE", "size": len(text), "sha256": digest}
    rewrite(pack, lambda manifest: manifest.update(licences=[entry]))
    with open_pack(pack) as opened:
        (licence,) = opened.licences
        assert licence in opened.files and opened.verified(licence).read_bytes() == text
    (pack / "licences" / "LICENSE").unlink()
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert "licences/LICENSE is missing from the pack" in one_sentence(error)
    rewrite(pack, lambda manifest: manifest.update(licences={"file": "x"}))
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert "licences in pack.json" in one_sentence(error)


def test_a_missing_file(pack: Path) -> None:
    (pack / "portable" / "video_decoder.onnx").unlink()
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert "portable/video_decoder.onnx is missing from the pack" in one_sentence(error)


def test_an_optional_component_may_be_missing(pack: Path) -> None:
    (pack / "portable" / "upscaler.onnx").unlink()
    with open_pack(pack) as opened:
        assert opened.missing == ("upscaler",) and not opened.has("upscaler")
        with pytest.raises(PackError) as error:
            opened.graphs("upscaler", "portable")
    assert "upscaler" in one_sentence(error)


def test_a_truncated_file(pack: Path) -> None:
    file = pack / "portable" / "video_decoder.onnx"
    replace(file, file.read_bytes()[:-1])
    with pytest.raises(PackError) as error:
        open_pack(pack)
    assert "video_decoder.onnx has" in one_sentence(error)


def test_a_flipped_bit_is_found_before_use(pack: Path) -> None:
    file = pack / "portable" / "video_decoder.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    replace(file, bytes(content))
    with open_pack(pack) as opened:
        with pytest.raises(PackError) as error:
            open_session(opened, opened.graphs("video_decoder", "portable")["video_decoder"])
        assert "video_decoder.onnx has the SHA-256" in one_sentence(error)
        with pytest.raises(PackError):
            list(verify_pack(opened))


def rehashed(pack: Path, file: str, content: bytes) -> None:
    """Replace a file and make the manifest agree with it."""
    replace(pack / file, content)

    def change(manifest: Manifest) -> None:
        for component in manifest["components"].values():
            for variant in component["variants"].values():
                for entry in variant["graphs"].values():
                    if entry["file"] == file:
                        digest = hashlib.sha256(content).hexdigest()
                        entry.update(size=len(content), sha256=digest)

    rewrite(pack, change)


@pytest.mark.parametrize("content", [b"not an ONNX graph", b"\x08\x0a" * 1000])
def test_a_file_that_is_no_graph(pack: Path, content: bytes) -> None:
    rehashed(pack, "portable/video_decoder.onnx", content)
    with open_pack(pack) as opened:
        with pytest.raises(BackendError) as error:
            open_session(opened, opened.graphs("video_decoder", "portable")["video_decoder"])
    assert "video_decoder.onnx" in one_sentence(error)


def test_a_graph_that_is_another_one(pack: Path) -> None:
    rehashed(pack, "portable/video_decoder.onnx", (pack / "portable/upscaler.onnx").read_bytes())
    with open_pack(pack) as opened:
        with pytest.raises(PackError) as error:
            open_session(opened, opened.graphs("video_decoder", "portable")["video_decoder"])
    assert "video_decoder.onnx has the inputs" in one_sentence(error)


HIDDEN: dict[str, Callable[[onnx.StringStringEntryProto, bytes], bytes]] = {
    "as onnx writes it": lambda entry, whole: whole,
    "a length in two bytes": lambda entry, whole: whole.replace(
        b"\x0a\x08location", b"\x0a\x88\x00location"
    ),
    "the key given twice": lambda entry, whole: whole.replace(
        b"\x0a\x08location", b"\x0a\x08checksum\x0a\x08location"
    ),
}


@pytest.mark.parametrize("listed", [False, True], ids=["hidden", "beside a listed file"])
@pytest.mark.parametrize("way", HIDDEN)
def test_weights_of_a_file_that_the_manifest_does_not_name(
    pack: Path, way: str, listed: bool
) -> None:
    """Nobody has compared it with a hash."""
    name, model = "portable/upscaler.onnx", onnx.load(pack / "portable/upscaler.onnx")
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    (pack / "portable" / "hidden.bin").write_bytes(tensor.raw_data)
    (pack / "portable" / "listed.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add(key="location", value="hidden.bin")
    short, whole = entry.SerializeToString(), HIDDEN[way](entry, entry.SerializeToString())
    graphs = model.SerializeToString()
    if way == "as onnx writes it":
        rehashed(pack, name, graphs)
    else:  # the lengths around the entry no longer agree; the name is there all the same
        rehashed(pack, name, graphs.replace(short, whole))
    if listed:
        digest = hashlib.sha256((pack / "portable/listed.bin").read_bytes()).hexdigest()
        size = (pack / "portable/listed.bin").stat().st_size
        data = [{"file": "portable/listed.bin", "size": size, "sha256": digest}]
        rewrite(pack, lambda manifest: graph(manifest, "upscaler").update(data=data))
    with open_pack(pack) as opened, pytest.raises(PackError) as error:
        open_session(opened, opened.graphs("upscaler", "portable")["upscaler"])
    assert "portable/upscaler.onnx reads files that pack.json does not" in one_sentence(error)


def other_upscaler(pack: Path, scale: float, factor: float) -> None:
    """A graph in the place of the upscaler's that resizes by `scale` and multiplies by `factor`."""
    old = onnx.load(pack / "portable/upscaler.onnx")
    inits = [
        numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales"),
        numpy_helper.from_array(np.array(factor, np.float32), "factor"),
    ]
    nodes = [
        onnx.helper.make_node("Resize", ["image", "", "scales"], ["larger"]),
        onnx.helper.make_node("Mul", ["larger", "factor"], ["image_2x"]),
    ]
    body = onnx.helper.make_graph(nodes, "x", old.graph.input, old.graph.output, inits)
    model = onnx.helper.make_model(body, opset_imports=old.opset_import, ir_version=old.ir_version)
    rehashed(pack, "portable/upscaler.onnx", model.SerializeToString())


@pytest.mark.parametrize("scale", [1, 3])
def test_what_a_graph_gives_has_the_size_it_should(pack: Path, scale: float) -> None:
    """Frames of it would be another picture's bytes."""
    other_upscaler(pack, scale, 1)
    with open_pack(pack) as opened:
        session = open_session(opened, opened.graphs("upscaler", "portable")["upscaler"])
        with session, pytest.raises(BackendError) as error:
            session.run(image=np.full((1, 3, 128, 192), 0.5, np.float32))
    size = [1, 3, 128 * scale, 192 * scale]
    assert f"image_2x of the graph upscaler is float32 {size}, and" in one_sentence(error)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_no_frames(pack: Path, factor: float) -> None:
    other_upscaler(pack, 2, factor)
    with open_pack(pack) as opened:
        session = open_session(opened, opened.graphs("upscaler", "portable")["upscaler"])
        with session, pytest.raises(BackendError) as error:
            upscale(session, np.full((1, 128, 192, 3), 9, np.uint8))
    assert "values that are no numbers; try another backend" in one_sentence(error)


@pytest.mark.parametrize(("factor", "wanted"), [(0.5, 100), (1e30, 255), (-1e30, 0)])
def test_numbers_outside_of_the_range_are_its_ends(pack: Path, factor: float, wanted: int) -> None:
    other_upscaler(pack, 2, factor)
    with open_pack(pack) as opened:
        session = open_session(opened, opened.graphs("upscaler", "portable")["upscaler"])
        with session:
            frames = upscale(session, np.full((1, 128, 192, 3), 200, np.uint8))
    assert frames.shape == (1, 256, 384, 3) and np.all(frames == wanted)


def test_a_decoder_that_overflows_makes_no_frames(pack: Path) -> None:
    with open_pack(pack) as opened:
        decoder = opened.graphs("video_decoder", "portable")["video_decoder"]
        latent = np.full((12, 1, 16, 24), np.nan, np.float32)
        with open_session(opened, decoder) as session, pytest.raises(BackendError) as error:
            to_bytes(VideoDecoder(session, opened.vae).decode(latent))
    assert "values that are no numbers" in one_sentence(error)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[]", b"\xff\xfe{\0}\0", b"[" * 100_000, b"\0", b"NaN"],
    ids=lambda of: ascii(of)[:20],
)
def test_a_file_that_is_no_tokenizer(
    pack: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(pack / "tokenizers/clip.json", content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(
        pack,
        lambda manifest: manifest["tokenizers"]["clip"].update(size=len(content), sha256=digest),
    )
    with open_pack(pack) as opened, pytest.raises(PackError) as error:
        PromptTokenizers(opened)
    assert "tokenizers/clip.json cannot be read as a tokenizer" in one_sentence(error)
    assert main(["pack", "verify", str(pack)]) == 2
    assert "tokenizers/clip.json cannot be read" in capsys.readouterr().err


def test_a_shape_that_the_graph_does_not_have(pack: Path) -> None:
    def change(manifest: Manifest) -> None:
        for spec in (
            graph(manifest)["inputs"]["state_0"],
            graph(manifest)["outputs"]["next_state_0"],
        ):
            spec["shape"] = [1, 32, 16, 24]

    rewrite(pack, change)
    with open_pack(pack) as opened:
        with pytest.raises(PackError) as error:
            open_session(opened, opened.graphs("video_decoder", "portable")["video_decoder"])
    message = one_sentence(error)
    assert "state_0 of portable/video_decoder.onnx is" in message


def test_inputs_are_checked_on_every_call(pack: Path) -> None:
    with open_pack(pack) as opened:
        session = open_session(opened, opened.graphs("upscaler", "portable")["upscaler"])
    for inputs, named in (
        ({"picture": np.zeros((1, 3, 128, 192), np.float32)}, "takes the inputs image"),
        ({"image": np.zeros((1, 3, 128, 192), np.float64)}, "float64"),
        ({"image": np.zeros((1, 3, 128, 191), np.float32)}, "[1, 3, 128, 191]"),
        ({"image": np.zeros((3, 128, 192), np.float32)}, "[3, 128, 192]"),
    ):
        with pytest.raises(BackendError) as error:
            session.run(**inputs)
        assert named in one_sentence(error)
    session.close()
    with pytest.raises(BackendError) as error:
        session.run(image=np.zeros((1, 3, 128, 192), np.float32))
    assert "closed" in one_sentence(error)


def test_one_name_is_one_size(pack: Path) -> None:
    with open_pack(pack) as opened:
        session = open_session(opened, opened.graphs("transformer", "portable")["transformer"])
    inputs = {
        name: np.zeros([{"T": 6, "N": 3, "A": 9}.get(str(s), s) for s in spec.shape], spec.dtype)
        for name, spec in session.inputs.items()
    }
    assert session.run(**inputs)["flow"].shape == (6, 48)
    inputs["positions"] = inputs["positions"][1:]
    with pytest.raises(BackendError) as error:
        session.run(**inputs)
    assert "positions" in one_sentence(error)


def hostile_zip(entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> bytes:
    """A .zip of these entries."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return memory.getvalue()


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("portable/link.onnx")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("entries", "named"),
    [
        ([("../pack.json", b"{}")], "The file name"),
        ([("/pack.json", b"{}")], "The file name"),
        ([("a/../../pack.json", b"{}")], "The file name"),
        ([(link(), b"/etc/passwd")], "is a link"),
        ([(MANIFEST, b"{}"), ("bomb.bin", b"\0" * 2**23)], "claims to unpack"),
        ([(MANIFEST, b"{}"), ("other.txt", b"")], "format"),
        ([("other.txt", b"")], MANIFEST),
    ],
)
def test_a_hostile_zip(
    tmp_path: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]], named: str
) -> None:
    file = tmp_path / "pack.zip"
    file.write_bytes(hostile_zip(entries))
    with pytest.raises(PackError) as error:
        open_pack(file)
    assert named in one_sentence(error)
    assert list(tmp_path.iterdir()) == [file]


def test_a_zip_with_one_name_twice(tmp_path: Path) -> None:
    file = tmp_path / "pack.zip"
    with pytest.warns(UserWarning, match="Duplicate name"):
        file.write_bytes(hostile_zip([(MANIFEST, b"{}"), (MANIFEST, b"{ }")]))
    with pytest.raises(PackError) as error:
        open_pack(file)
    assert "twice" in one_sentence(error)


def test_a_zip_that_lies_about_sizes(pack: Path, tmp_path: Path) -> None:
    file = zipped(pack, tmp_path / "pack.zip")
    content = bytearray(file.read_bytes())
    entry = content.rfind(b"PK\x01\x02")  # the last file's record in the directory
    content[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
    file.write_bytes(bytes(content))
    with pytest.raises(PackError) as error:
        open_pack(file)
    assert "2147483648" in one_sentence(error)


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_a_truncated_zip(pack: Path, tmp_path: Path, keep: float) -> None:
    file = zipped(pack, tmp_path / "pack.zip")
    content = file.read_bytes()
    file.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(PackError) as error:
        open_pack(file)
    assert "pack.zip" in one_sentence(error)


def test_a_damaged_zip(pack: Path, tmp_path: Path) -> None:
    file = zipped(pack, tmp_path / "pack.zip")
    with zipfile.ZipFile(file) as archive:
        entry = archive.getinfo("portable/video_decoder.onnx")
    content = bytearray(file.read_bytes())
    middle = entry.header_offset + entry.compress_size // 2
    content[middle : middle + 64] = bytes(64)
    file.write_bytes(bytes(content))
    with open_pack(file) as opened, pytest.raises(PackError) as error:
        list(verify_pack(opened))
    assert "portable/video_decoder.onnx" in one_sentence(error)


def test_weights_outside_the_graph(tmp_path: Path) -> None:
    model = onnx.load(exported() / "portable" / "upscaler.onnx")
    files = storage.store(model, numpy_helper.to_array, tmp_path / "upscaler.onnx", external=True)
    assert [file.name for file in files] == ["upscaler.onnx", "upscaler.onnx.data"]
    entry = storage.graph_entry(model, files, tmp_path)
    image = np.full((1, 3, 128, 192), 0.5, np.float32)
    with load_graph(graph_of("upscaler", entry), files[0]) as session:
        assert session.run(image=image)["image_2x"].shape == (1, 3, 256, 384)


def test_every_pack_error_names_its_component(pack: Path) -> None:
    with open_pack(pack) as opened:
        assert isinstance(opened, Pack)
        with pytest.raises(PackError) as error:
            opened.graphs("colouriser", "portable")
    assert "colouriser" in one_sentence(error)


@pytest.mark.skipif(not (MINI / MANIFEST).exists(), reason="the mini pack is not trained yet")
def test_the_mini_pack_is_whole_and_true_to_its_networks() -> None:
    with open_pack(MINI) as opened:
        assert len(list(verify_pack(opened))) > len(opened.files)
        assert sum(file.size for file in opened.files) < 40e6
        for component in opened.components.values():
            for variant, floor in (("portable", 100), ("htp", 35)):
                for part in component.variants.get(variant, {}).values():
                    assert part.fidelity_db is not None and part.fidelity_db >= floor
