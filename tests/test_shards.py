"""Latent shards of real videos: what is decoded, kept, left out and drawn again."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.video_vae import CausalVideoVAE
from training.recipes.clips import ShardClips, normalised, read_shard
from training.recipes.configuration import Configuration
from training.recipes.shards import clips, frames, listed, write

FRAMES, HEIGHT, WIDTH = 9, 32, 48


def video(path: Path, count: int, fps: int, size: tuple[int, int] = (64, 128)) -> Path:
    """A video whose frames grow brighter, real MP4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for i in range(count):
            picture = np.full((*size, 3), 20 + 200 * i // count, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def small(given: Tensor) -> Tensor:
    """Every eighth frame at an eighth of the size: stands in for an encoder."""
    keys = given[:, :, ::8]
    return F.avg_pool3d(keys, (1, 8, 8))


def test_frames_come_at_the_wanted_rate_and_shape(tmp_path: Path) -> None:
    for fps in (12, 24, 48):
        found = list(frames(video(tmp_path / f"{fps}.mp4", fps, fps), 24, HEIGHT, WIDTH))
        assert abs(len(found) - 24) <= 1  # a second each
        assert found[0].shape == (HEIGHT, WIDTH, 3)
        light = [float(frame.mean()) for frame in found]
        assert light == sorted(light) and light[-1] - light[0] > 150


def test_clips_are_whole(tmp_path: Path) -> None:
    found = list(clips(video(tmp_path / "a.mp4", 30, 24), FRAMES, 24, HEIGHT, WIDTH))
    assert [clip.shape for clip in found] == [(FRAMES, HEIGHT, WIDTH, 3)] * 3


def test_shards_are_written_once_and_bad_videos_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        video(tmp_path / f"{name}.mp4", 20, 24)
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    rows = "a.mp4\ta fox\nbroken.mp4\tnothing\nb.mp4\tan owl\ngone.mp4\tnone\nc.mp4\ta car\n"
    (tmp_path / "list.txt").write_text(rows)
    entries, out = listed(tmp_path / "list.txt"), tmp_path / "out"
    shape = (FRAMES, HEIGHT, WIDTH)
    out.mkdir()
    (out / "000001.part").write_bytes(b"from a run that was killed")
    assert write(entries, out, small, 2, shape, 24, (1, 2)) == 4  # shards 0 and 2: a, c
    assert sorted(p.name for p in out.glob("*.tar")) == ["000000.tar", "000002.tar"]
    assert write(entries, out, small, 2, shape, 24) == 2  # what is missing: b
    assert write(entries, out, small, 2, shape, 24) == 0
    assert not list(out.glob("*.part"))
    told = capsys.readouterr().err
    assert "broken.mp4" in told and "gone.mp4" in told
    samples = [sample for shard in sorted(out.glob("*.tar")) for sample in read_shard(shard)]
    assert [caption for _, caption in samples] == ["a fox"] * 2 + ["an owl"] * 2 + ["a car"] * 2
    latents = samples[0][0]
    assert latents.shape == (3, 2, 4, 6) and latents.dtype == np.float16
    assert latents[:, 1].mean() > latents[:, 0].mean()


def test_draws_follow_their_generator_and_leave_captions_out(tmp_path: Path) -> None:
    entries = [(video(tmp_path / f"{i}.mp4", 10, 24), f"caption {i}") for i in range(4)]
    write(entries, tmp_path, small, 2, (FRAMES, HEIGHT, WIDTH), 24)
    drawn = []
    for _ in range(2):
        source = ShardClips(sorted(tmp_path.glob("*.tar")))
        generator = torch.Generator()
        drawn.append([source.draw(4, generator.manual_seed(i)) for i in range(5)])
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one[0], other[0]) and one[1] == other[1]
        assert one[0].shape == (4, 3, 2, 4, 6) and one[2].shape == (4, 1, 2, 4, 6)
    assert {word for _, words, _ in drawn[0] for word in words} <= {"", *(c for _, c in entries)}
    words = ShardClips(sorted(tmp_path.glob("*.tar"))).draw(8, torch.Generator(), dropped=1)[1]
    assert words == [""] * 8


def test_a_line_without_a_caption_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.mp4\ta fox\nb.mp4\n")
    with pytest.raises(ValueError, match="line 2"):
        listed(tmp_path / "list.txt")


@torch.no_grad()
def test_an_encoder_with_memory_reads_the_whole_video() -> None:
    torch.manual_seed(0)
    vae = CausalVideoVAE(**Configuration.read()["video_vae"]).eval()
    clip = torch.randn(1, 3, 17, 32, 32)
    plain = {"first_shift": 0.0, "first_scale": 1.0, "shift": 0.0, "scale": 1.0}
    whole = vae.encode(clip).chunk(2, 1)[0]
    found = normalised(vae, clip, plain)
    assert float((found - whole).norm() / whole.norm()) < 0.03  # bfloat16
    for module in vae.modules():  # now it has none
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            module.weight[:, :, :-1] = 0
    found, keys = (
        normalised(vae, clip, plain),
        normalised(vae, clip[:, :, ::8], plain, keys=True),
    )
    torch.testing.assert_close(found, keys)
    whole = vae.encode(clip).chunk(2, 1)[0]
    assert float((found - whole).norm() / whole.norm()) < 0.03
