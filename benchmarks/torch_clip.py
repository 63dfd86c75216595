"""PyTorch's side of the clip benchmark: the engine's model, in float32, from a checkpoint.

Written as the published pipeline is: padded prompts, the whole transformer at every step, the whole
clip decoded at once, all modules kept loaded. The schedule, the noise and the sampling loop are the
engine's, so the frames are too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from benchmarks.figures import clips, options, request
from engine import first_frame
from engine.config import Request
from engine.first_frame import ClipEmbeds
from engine.latents import denormalise, normalise, sample_posterior
from engine.noise import SeededNoise
from engine.pack import Pack, open_pack
from engine.sampler import UnitLatent, sample_latents
from engine.scheduler import stage_schedule
from engine.text import PromptTokenizers
from engine.vae import fit, to_bytes, to_floats
from training.export.source import Source
from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection
from training.models.mmdit import PyramidMMDiT
from training.models.native_decoder import NativeDecoder
from training.models.quicksrnet import QuickSRNet
from training.models.video_vae import CausalVideoVAE

Floats = NDArray[np.float32]


class TorchClip:
    """The modules of a checkpoint, loaded; call it with a request for the frames of a clip."""

    def __init__(self, checkpoint: Path, pack: Pack, native: bool = False) -> None:
        """`pack` has the settings and tokenizers of the same checkpoint; `native` decodes with the
        large video decoder that the streaming one was distilled from.
        """
        source = Source(checkpoint)
        self.pack = pack
        self.tokenize = PromptTokenizers(pack)
        self.clip_l = source.load(CLIPTextModelWithProjection, "text_encoder")
        self.clip_g = source.load(CLIPTextModelWithProjection, "text_encoder_2")
        self.t5 = source.load(T5EncoderWithProjection, "text_encoder_3")
        self.adapter = source.load(ContextAdapter, "context_adapter")
        self.unet = source.load(UNet2DConditionModel, "ssd_1b_unet")
        self.image_vae = source.load(AutoencoderKL, "ssd_1b_vae")
        self.vae = source.load(CausalVideoVAE, "causal_video_vae")
        self.mmdit = source.load(PyramidMMDiT, "diffusion_transformer_320p")
        self.decoder = source.load(NativeDecoder, "native_video_decoder") if native else None
        self.upscaler = source.load(QuickSRNet, "upscaler") if pack.has("upscaler") else None

    @torch.inference_mode()
    def __call__(self, request: Request) -> NDArray[np.uint8]:
        """uint8 [T, H, W, 3] of a request; its picture, if any, has the size of the frame."""
        pack, geometry = self.pack, self.pack.geometry
        mode, stages = pack.schedule.modes[request.mode], stage_schedule(pack.schedule)
        prompts = [self.tokenize(request.prompt), self.tokenize(pack.prompt.negative)]
        clips = [self.embed(tokens.clip_l, tokens.clip_g) for tokens in prompts]
        shape = (geometry.latent_channels, 1, geometry.latent_height, geometry.latent_width)
        noise = SeededNoise(request.look_seed, request.motion_seed, shape, pack.schedule.gamma)
        first = None
        if mode.first_steps is None:
            image = request.image
            if image is None:
                image = self.first_frame(clips, request.look_seed)
            picture = torch.from_numpy(to_floats(fit(image, geometry.height, geometry.width)))
            moments = self.vae.encode(picture[:, :, None])[0].numpy()
            first = normalise(sample_posterior(moments, noise.posterior()), pack.vae)
        masks = [torch.from_numpy(tokens.t5_mask) for tokens in prompts]
        texts = [
            (
                self.adapter(self.t5(torch.from_numpy(tokens.t5), mask)),
                mask,
                torch.from_numpy(np.concatenate([clip.pooled_l, clip.pooled_g], -1)),
            )
            for tokens, mask, clip in zip(prompts, masks, clips, strict=True)
        ]

        def flow(
            history: Sequence[Floats], current: Floats, timestep: float, negative: bool, **_: Any
        ) -> Floats:
            conditions = [torch.from_numpy(part)[None] for part in (*history, current)]
            predicted: Tensor = self.mmdit(conditions, torch.tensor([timestep]), *texts[negative])
            return predicted[0].numpy()

        events = sample_latents(flow, noise, stages, mode, geometry.units, first)
        latents = np.concatenate([e.latent for e in events if isinstance(e, UnitLatent)], 1)
        decode = self.decoder or self.vae.decode
        video = decode(torch.from_numpy(denormalise(latents, pack.vae))[None])
        frames = to_bytes(video[0].transpose(0, 1).numpy())
        if self.upscaler is None or not request.upscale:
            return frames
        small = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        return to_bytes(self.upscaler(small).numpy() * 2 - 1)

    def embed(self, ids_l: NDArray[np.int64], ids_g: NDArray[np.int64]) -> ClipEmbeds:
        """CLIP's embeddings of token ids [1, L]."""
        states = [
            encoder(torch.from_numpy(ids), output_hidden_states=True)
            for encoder, ids in ((self.clip_l, ids_l), (self.clip_g, ids_g))
        ]
        hidden = torch.cat([state.hidden_states[-2] for state in states], -1).numpy()
        return ClipEmbeds(hidden, *(state.text_embeds.numpy() for state in states))

    def first_frame(self, clips: Sequence[ClipEmbeds], look_seed: int) -> NDArray[np.uint8]:
        """The first frame, uint8 [H, W, 3]."""
        config = self.pack.first_frame
        assert config is not None
        *_, latent = first_frame.sample(
            TorchUnet(self.unet), config, self.pack.geometry, clips[0], clips[1], look_seed
        )
        image = self.image_vae.decode(torch.from_numpy(latent) / config.latent_scale).sample
        return to_bytes(image[0].numpy())


class TorchUnet:
    """The UNet behind the engine's `Session`, for its sampler."""

    inputs: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    seconds = 0.0

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.unet = unet

    def run(self, **inputs: Floats) -> dict[str, Floats]:
        """The prediction for one step."""
        started = time.perf_counter()
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        conditions = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]}
        sample, timestep, hidden = given["sample"], given["timestep"], given["hidden"]
        out = self.unet(sample, timestep, hidden, added_cond_kwargs=conditions).sample
        self.seconds += time.perf_counter() - started
        return {"prediction": out.numpy()}

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> TorchUnet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def main() -> None:
    given = options(__doc__).parse_args()
    torch.set_num_threads(given.threads)
    with open_pack(given.pack) as pack:
        torch_clip = TorchClip(given.checkpoint, pack)

        def clip(number: int) -> tuple[dict[str, float], NDArray[np.uint8]]:
            started = time.perf_counter()
            frames = torch_clip(request(number, given.upscale))
            return {"seconds": time.perf_counter() - started}, frames

        clips(clip, given.output / "torch.npy")


if __name__ == "__main__":
    main()
