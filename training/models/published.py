"""Configurations of the published modules, where their classes' defaults are others."""

from __future__ import annotations

from typing import Any

# OpenAI CLIP ViT-L/14 and OpenCLIP bigG/14 as SDXL has them. They have
# 123.06 M parameters (and a projection of 0.59 M) and 694.66 M.
CLIP_L: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "projection_dim": 768}
CLIP_L |= {"num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G: dict[str, Any] = {"hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1280}
CLIP_G |= {"num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu"}
# T5 1.1 base, whose names and shapes are those of the published state dict.
T5: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 12,
    "num_heads": 12,
    "feed_forward_proj": "gated-gelu",
}
# SSD-1B: SDXL's UNet with fewer layers, a middle without attention. Its
# 1331.33 M parameters are what the pipeline's 2232.7 M leave for it.
UNET: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": [1, [2, 2], [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,  # CLIP-L and CLIP-G side by side
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
}
# SDXL's image autoencoder.
IMAGE_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
# The paper does not say which QuickSRNet it runs; Small, as we train it.
UPSCALER: dict[str, Any] = {"num_channels": 32, "num_intermediate_layers": 2}

CLIP_TOKENS = {"vocab_size": 49408, "max_position_embeddings": 77}
CLIP_TOKENS |= {"bos_token_id": 49406, "eos_token_id": 49407}
# CompVis's checker: CLIP ViT-L/14's picture encoder, and 17 concepts.
SAFETY_CHECKER: dict[str, Any] = {
    "projection_dim": 768,
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
}
CONFIGS: dict[str, dict[str, Any]] = {
    "text_encoder": CLIP_L | CLIP_TOKENS,
    "text_encoder_2": CLIP_G | CLIP_TOKENS,
    "text_encoder_3": T5,
    "context_adapter": {},
    "diffusion_transformer_320p": {},
    "causal_video_vae": {},
    "ssd_1b_unet": UNET,
    "ssd_1b_vae": IMAGE_VAE | {"scaling_factor": 0.13025},
    "upscaler": UPSCALER,
}
