"""QuickSRNet: a plain convolutional image upscaler made for 8-bit hardware (arXiv 2303.04336).

Names are those of `QuickSRNetSmall` and `QuickSRNetMedium` in quic/aimet-model-zoo; Large, which
adds the input through a learned 1x1 convolution, is not here.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from training.checkpoint import Checkpoint

COLOURS = 3


class QuickSRNet(nn.Module, Checkpoint):
    """Images in [0, 1] to images `scaling_factor` times as wide and high.

    Small is 32 channels and 2 intermediate layers, Medium 32 and 5.
    A new network is near nearest-neighbour upscaling: every layer starts as identity plus noise.
    """

    def __init__(
        self, scaling_factor: int = 2, num_channels: int = 32, num_intermediate_layers: int = 2
    ) -> None:
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config = settings
        convs: list[nn.Conv2d] = []
        for i in range(num_intermediate_layers + 1):
            channels = num_channels if i else COLOURS
            convs.append(nn.Conv2d(channels, num_channels, 3, padding=1))
        self.cnn = nn.Sequential(*(layer for conv in convs for layer in (conv, nn.Hardtanh(0, 1))))
        copies = scaling_factor**2
        self.conv_last = nn.Conv2d(num_channels, COLOURS * copies, 3, padding=1)
        self.clip_output = nn.Hardtanh(0, 1)
        self.depth_to_space = nn.PixelShuffle(scaling_factor)
        with torch.no_grad():
            for conv in convs:
                nn.init.dirac_(identity := torch.empty_like(conv.weight))
                conv.weight += identity
            for out in range(COLOURS * copies):
                self.conv_last.weight[out, out // copies, 1, 1] += 1

    def forward(self, image: Tensor) -> Tensor:
        """image [B, 3, H, W] in [0, 1] -> [B, 3, H * scaling_factor, W * scaling_factor], same."""
        colours = self.clip_output(self.conv_last(self.cnn(image)))
        return cast(Tensor, self.depth_to_space(colours))
