"""Mixed precision where it pays: bfloat16 on a GPU and on a processor that multiplies it.

On others a bfloat16 product takes some fifty times as long as a float32 one.
"""

from __future__ import annotations

from functools import cache

import torch


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products (AVX-512, AMX or Arm)."""
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: str) -> torch.autocast:
    """The context of a training step on `device` ("cpu", "cuda"): bfloat16, or float32."""
    return torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or multiplies_bfloat16())
