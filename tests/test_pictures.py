"""Pictures of every kind that users have: the right colours, the right words, bounded memory."""

from __future__ import annotations

import ast
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from engine.errors import RequestError
from studio.media.pictures import read_picture

ROOT = Path(__file__).parents[1]
RAMP = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(8, 0)
GREY = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)  # what it should be

# Primaries (x, y of red, green, blue) and the exponent of two common colour spaces.
SPACES = {
    "Display P3": ([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], 2.2),
    "Adobe RGB": ([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 2.19921875),
}
SRGB = [(0.64, 0.33), (0.3, 0.6), (0.15, 0.06)]
D65, D50 = (0.95047, 1.0, 1.08883), (0.96422, 1.0, 0.82521)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, depth: int, colour: int, rows: list[bytes], extra: bytes = b"") -> bytes:
    """A PNG from its raw rows, of the kinds that Pillow does not write."""
    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = chunk(b"IHDR", head) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def to_xyz(primaries: list[tuple[float, float]]) -> np.ndarray:
    """Linear RGB to XYZ with the white point D65."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return np.asarray(columns * np.linalg.solve(columns, D65))


def tag(kind: bytes, data: bytes) -> bytes:
    data = kind + bytes(4) + data
    return data + bytes(-len(data) % 4)


def icc(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.4."""
    tags = {b"desc": tag(b"desc", struct.pack(">I", 5) + b"test\0" + bytes(78))} | tags
    tags[b"wtpt"] = tag(b"XYZ ", struct.pack(">3i", *(round(v * 65536) for v in D50)))
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x2400000, kind, space, pcs, b"acsp")
    head += bytes(68 - len(head)) + struct.pack(">3i", *(round(v * 65536) for v in D50))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def rgb_profile(name: str) -> bytes:
    """The profile of a colour space: its primaries, adapted to D50, and its exponent."""
    primaries, gamma = SPACES[name]
    bradford = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    scale = np.diag((bradford @ D50) / (bradford @ D65))
    matrix = np.linalg.inv(bradford) @ scale @ bradford @ to_xyz(primaries)
    curve = tag(b"curv", struct.pack(">IH", 1, round(gamma * 256)))
    tags = {}
    for letter, column in zip(b"rgb", matrix.T, strict=True):
        xyz = struct.pack(">3i", *(round(v * 65536) for v in column))
        tags[bytes([letter]) + b"XYZ"] = tag(b"XYZ ", xyz)
        tags[bytes([letter]) + b"TRC"] = curve
    return icc(b"RGB ", b"mntr", b"XYZ ", tags)


def cmyk_profile() -> bytes:
    """A press whose full black is dark grey and whose inks only darken: lightness by a table."""
    corners = []
    for inks in np.ndindex(2, 2, 2, 2):
        light = 100 * (1 - 0.25 * sum(inks[:3])) * (1 - 0.75 * inks[3])
        corners += [round(light * 2.55), 128, 128]
    identity = bytes(range(256))
    head = struct.pack(">BBBx9i", 4, 3, 2, *(65536 * v for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = tag(b"mft1", head + identity * 4 + bytes(corners) + identity * 3)
    return icc(b"CMYK", b"prtr", b"Lab ", {b"A2B0": table, b"A2B1": table})


def expected(colour: tuple[int, int, int], name: str) -> np.ndarray:
    """The same light in sRGB, as the standards compute it."""
    primaries, gamma = SPACES[name]
    light = (np.array(colour) / 255) ** gamma
    linear = (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries) @ light).clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * curved))


def near(image: np.ndarray, colour: object, within: int = 1) -> bool:
    wanted = np.broadcast_to(np.asarray(colour, int), image.shape)
    return bool(np.abs(image.astype(int) - wanted).max() <= within)


# Depth


def test_deep_greys_are_as_bright_as_they_say(tmp_path: Path) -> None:
    floats = RAMP.astype(np.float32)
    broken = floats / 257
    broken[0, :2] = np.nan, np.inf
    made: dict[str, np.ndarray] = {
        "16.png": RAMP,
        "16.tif": RAMP,
        "1.tif": floats / 65535,
        "255.tif": floats / 257,
        "65535.tif": floats,
        "32.tif": RAMP.astype(np.int32) * 32768,
        "nan.tif": broken,
    }
    for name, values in made.items():
        Image.fromarray(values).save(tmp_path / name)
        read = read_picture(tmp_path / name)
        assert read.dtype == np.uint8 and near(read[1:], GREY), name


def test_16_bits_a_channel_keep_their_upper_eight(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    colours = np.stack([RAMP[0], RAMP[0][::-1], np.full(256, 0x8000, np.uint16)], -1)
    path.write_bytes(png(256, 16, 2, [colours.astype(">u2").tobytes()] * 8))
    assert near(read_picture(path), (colours >> 8).astype(int))
    half = np.stack([RAMP[0], np.full(256, 0x8000, np.uint16)], -1).astype(">u2").tobytes()
    path.write_bytes(png(256, 16, 4, [half] * 8))
    assert near(read_picture(path), (GREY.astype(int) + 255) // 2)


def test_a_transparent_grey_of_16_bits_lies_on_white(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    clear = chunk(b"tRNS", struct.pack(">H", int(RAMP[0, 10])))
    path.write_bytes(png(256, 16, 0, [RAMP[0].astype(">u2").tobytes()] * 8, clear))
    read = read_picture(path)
    assert near(read[:, 10], 255, 0) and near(read[:, 11:], GREY[11:])


# Transparency


@pytest.mark.parametrize(
    "name", ["LA.png", "LA.tif", "RGBA.png", "RGBA.webp", "RGBA.tif", "P.png", "P.gif"]
)
def test_what_shines_through_lies_on_white(tmp_path: Path, name: str) -> None:
    mode = name.split(".")[0]
    picture = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    picture.paste((0, 0, 200, 0), (0, 0, 4, 8))  # transparent, with a colour below
    if mode == "P":
        flat = picture.convert("RGB").quantize(4)
        flat.save(tmp_path / name, transparency=flat.getpixel((0, 0)))
    else:
        picture.convert(mode).save(tmp_path / name, lossless=True)
    read = read_picture(tmp_path / name)
    assert near(read[:, :4], 255, 0)
    assert near(read[:, 4:], (60,) * 3 if mode == "LA" else (200, 0, 0), 3)


# Colour profiles


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("name", SPACES)
def test_wide_colours_are_converted(tmp_path: Path, name: str, ending: str) -> None:
    colours = [(200, 100, 50), (60, 160, 90), (120, 120, 120), (255, 255, 255), (0, 0, 0)]
    for colour in colours:
        path = tmp_path / f"wide.{ending}"
        options = {"lossless": True} if ending == "webp" else {"quality": 100, "subsampling": 0}
        picture = Image.new("RGB", (8, 8), colour)
        picture.save(path, icc_profile=rgb_profile(name), **options)
        assert near(read_picture(path), expected(colour, name), 3), colour


def test_transparent_pictures_have_profiles_too(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (8, 8), (200, 100, 50, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "a.png", icc_profile=rgb_profile("Adobe RGB"))
    read = read_picture(tmp_path / "a.png")
    assert near(read[0, 0], 255, 0)
    assert near(read[1:], expected((200, 100, 50), "Adobe RGB"), 2)
    flat = picture.convert("RGB").quantize(8)
    flat.save(tmp_path / "p.png", icc_profile=rgb_profile("Adobe RGB"))
    assert near(read_picture(tmp_path / "p.png")[1:], expected((200, 100, 50), "Adobe RGB"), 2)


def test_srgb_and_no_profile_change_nothing(tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (None, srgb):
        Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
        assert np.array_equal(read_picture(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk_with_and_without_a_profile(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"print.{ending}"
    for inks, colour in {(0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 0): (255, 255, 255)}.items():
        Image.new("CMYK", (8, 8), inks).save(path, quality=100)
        assert near(read_picture(path), colour, 3)
    for inks, light in {(0, 0, 0, 255): 25, (0, 0, 0, 0): 100, (255, 255, 0, 0): 50}.items():
        Image.new("CMYK", (8, 8), inks).save(path, quality=100, icc_profile=cmyk_profile())
        grey = 255 * (1.055 * ((light + 16) / 116) ** (3 / 2.4) - 0.055)
        assert near(read_picture(path), grey, 4), inks


def test_a_broken_or_foreign_profile_does_not_cost_the_picture(tmp_path: Path) -> None:
    whole = rgb_profile("Adobe RGB")
    for profile in (b"rubbish" * 40, whole[:200], whole[:132], cmyk_profile(), b"\0" * 500):
        for ending in ("png", "jpg", "tif"):
            path = tmp_path / f"a.{ending}"
            Image.new("RGB", (8, 8), (10, 200, 30)).save(path, icc_profile=profile, quality=100)
            assert near(read_picture(path), (10, 200, 30), 4), (ending, profile[:10])
            Image.new("L", (8, 8), 77).save(path, icc_profile=profile, quality=100)
            assert near(read_picture(path), 77, 4), (ending, profile[:10])


# Which way up, which of several


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_pictures_are_upright(tmp_path: Path, ending: str) -> None:
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1)}
    corners |= {7: (-1, -1), 8: (-1, 0)}
    for orientation, corner in corners.items():
        picture = Image.new("RGB", (48, 32), "white")
        picture.paste("black", (0, 0, 16, 16))
        exif = Image.Exif()
        exif[0x112] = orientation
        picture.save(tmp_path / f"a.{ending}", exif=exif)
        read = read_picture(tmp_path / f"a.{ending}")
        assert read.shape[:2] == ((32, 48) if orientation < 5 else (48, 32))
        assert read[corner].max() < 40 and (read < 128).mean() < 0.2


def test_a_broken_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    for exif in (
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0rubbish",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x09",
    ):
        Image.new("RGB", (8, 8), (10, 200, 30)).save(tmp_path / "a.jpg", exif=exif, quality=100)
        assert near(read_picture(tmp_path / "a.jpg"), (10, 200, 30), 4)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_picture(tmp_path: Path, ending: str) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=[second])
    assert near(read_picture(tmp_path / f"a.{ending}"), (255, 0, 0), 3)


# What is no picture


def sentence(path: Path) -> str:
    with pytest.raises(RequestError) as error:
        read_picture(path)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    return str(error.value)


def test_damaged_empty_foreign_and_no_pictures_are_told_apart(tmp_path: Path) -> None:
    whole = {}
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    for ending in ("jpg", "png", "webp", "tif", "bmp", "gif"):
        Image.fromarray(pixels).save(tmp_path / f"a.{ending}")
        whole[ending] = (tmp_path / f"a.{ending}").read_bytes()
    path = tmp_path / "picture.png"
    for content in whole.values():
        for length in (9, 40, len(content) // 2):
            path.write_bytes(content[:length])
            assert "damaged or incomplete" in sentence(path), content[:8]
    path.write_bytes(whole["png"][:200] + b"\0\0\0" + whole["png"][203:])
    assert "damaged or incomplete" in sentence(path)
    path.write_bytes(b"")
    assert "is empty" in sentence(path)
    for content in (b"<!doctype html>", b"hello", b"\0" * 100, b"PK\3\4", b"\x7fELF"):
        path.write_bytes(content)
        assert "not a picture" in sentence(path)
    foreign = {
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "a video": b"\0\0\0\x18ftypisom\0\0\0\0isomavc1",
        "camera raw": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        "PDF": b"%PDF-1.7\n",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        "Photoshop": b"8BPS\0\1",
        "JPEG XL": b"\xff\x0a\xfa\x7f",
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, content in foreign.items():
        path.write_bytes(content)
        assert name in sentence(path) and "which cannot be read here" in sentence(path)
    assert "cannot be read (No such file" in sentence(tmp_path / "absent.png")
    assert "folder or a device" in sentence(tmp_path)
    for name in ("a\0b.png", "n" * 300 + ".png"):
        assert "cannot be read (" in sentence(tmp_path / name)


def test_a_raw_with_a_small_copy_in_front_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (16, 12)).save(tmp_path / "a.tif", tiffinfo={254: 1})
    assert "camera raw" in sentence(tmp_path / "a.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has none")
@pytest.mark.timeout(60)
def test_a_pipe_a_socket_and_a_circle_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        for name in ("pipe", "socket", "circle"):
            assert "cannot be read" in sentence(tmp_path / f"{name}.png")


def test_mutants_are_pictures_or_one_sentence(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    exif = Image.Exif()
    exif[0x112] = 6
    for ending in ("jpg", "png", "webp", "tif", "gif", "bmp"):
        path = tmp_path / f"a.{ending}"
        picture = Image.effect_noise((40, 30), 60).convert("RGB")
        picture.save(path, exif=exif, icc_profile=rgb_profile("Adobe RGB"))
        whole = path.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for at in random.integers(0, min(len(whole), 900), 4):
                content[at] = random.integers(256)
            path.write_bytes(content)
            try:
                assert read_picture(path).shape[2] == 3
            except RequestError as error:
                assert str(error).endswith(".")


def test_postscript_starts_no_program(tmp_path: Path) -> None:
    program = tmp_path / "gs"
    program.write_text("#!/bin/sh\ntouch started\n", encoding="utf-8")
    program.chmod(0o755)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (tmp_path / "a.png").write_bytes(eps)
    script = (
        "import sys\nfrom pathlib import Path\nfrom PIL import Image\n"
        "from studio.media.pictures import read_picture\n"
        "from engine.errors import RequestError\n"
        "try:\n    read_picture(Path('a.png'))\nexcept RequestError as e:\n    print(e)\n"
        "try:\n    Image.open('a.png').load()\nexcept OSError as e:\n    print('no:', e)\n"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert "PostScript" in run.stdout and "no: " in run.stdout
    assert not (tmp_path / "started").exists()


def test_every_picture_is_opened_as_a_format_that_is_meant() -> None:
    calls, bare = 0, []
    for package in ("engine", "builder", "studio", "training", "packaging", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                    calls += 1
                    if "formats" not in {keyword.arg for keyword in node.keywords}:
                        bare.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert calls and not bare


# Size


PEAK = """
import resource, sys
from pathlib import Path
from engine.errors import RequestError
from studio.media.pictures import read_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(*read_picture(Path(sys.argv[1])).shape[:2], end=" ")
except RequestError as error:
    print(str(error).replace(" ", "_"), 0, end=" ")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak(path: Path) -> tuple[str, str, int]:
    """What a process makes of a picture (rows, columns), and the MB it takes for that."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PEAK, path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert not run.stderr
    rows, columns, megabytes = run.stdout.split()
    return rows, columns, int(megabytes)


@pytest.mark.skipif(sys.platform == "win32", reason="counts memory in the POSIX way")
def test_large_pictures_take_little_memory(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        Image.new("RGB", (12000, 9000), "teal").save(tmp_path / "photo.jpg", quality=50)
        Image.new("P", (9000, 9000)).save(tmp_path / "small.png", compress_level=1)
        Image.new("1", (30000, 20000)).save(tmp_path / "bomb.png", compress_level=1)
    rows, columns, megabytes = peak(tmp_path / "photo.jpg")
    assert (rows, columns) == ("2250", "3000") and megabytes < 300
    assert (tmp_path / "small.png").stat().st_size < 100_000
    assert peak(tmp_path / "small.png")[2] < 300
    words, _, megabytes = peak(tmp_path / "bomb.png")
    assert "million_pixels" in words and megabytes < 50


def test_a_picture_that_comes_smaller_is_the_same_picture(tmp_path: Path) -> None:
    pixels = np.zeros((4100, 4200, 3), np.uint8)
    pixels[:2050, :2100], pixels[:2050, 2100:] = (220, 30, 30), (30, 180, 40)
    pixels[2050:, :2100], pixels[2050:, 2100:] = (30, 60, 210), (240, 240, 240)
    exif = Image.Exif()
    exif[0x112] = 3
    for ending in ("png", "jpg", "tif"):
        Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif, quality=90)
        read = read_picture(tmp_path / f"a.{ending}")
        assert read.shape == (2050, 2100, 3)
        assert near(read[40:1000, 40:1000], (240, 240, 240), 3)
        assert near(read[-1000:-40, -1000:-40], (220, 30, 30), 3)
        assert near(read[40:1000, -1000:-40], (30, 60, 210), 3)
