"""Import Pyramid-Flow's transformer as the teacher: `python -m training.recipes.pyramid_flow FOLDER
--checkpoint OUT`.

FOLDER is its `diffusion_transformer_384p` (or another resolution's) of the Stable Diffusion 3
variant, 24 joint blocks, from which Neodragon's 18 were pruned (arXiv 2511.06055, section 3.3).
Blocks and names are ours; its context embedder, which Neodragon replaced, becomes a context adapter
of one linear layer. The miniFLUX variant is another network: its single-stream blocks and rotary
axes have no place in Neodragon's transformer, so it is refused.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from training.checkpoint import CONFIG, CheckpointError, load_weights, tensors_of
from training.models.context_adapter import ContextAdapter
from training.models.mmdit import PyramidMMDiT

EMBEDDER = "context_embedder."
OTHERS = ("use_flash_attn",)  # settings that say nothing of the network
FLUX = "num_single_layers"  # a setting that only miniFLUX has


def read(folder: Path) -> tuple[PyramidMMDiT, ContextAdapter]:
    """Transformer and context adapter of a Pyramid-Flow folder, in the file's type.

    Raises CheckpointError where it is none of the Stable Diffusion 3 variant, or damaged.
    """
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} cannot be read ({error}); download Pyramid-Flow's transformer."
        ) from error
    if FLUX in settings:
        raise CheckpointError(
            f"{folder} is Pyramid-Flow's miniFLUX, which Neodragon was not made from; download the"
            " Stable Diffusion 3 variant."
        )
    settings = {k: v for k, v in settings.items() if k[:1] != "_" and k not in OTHERS}
    state = tensors_of(folder)
    embedder = {
        f"network_layers.0.0.{name.removeprefix(EMBEDDER)}": state.pop(name)
        for name in list(state)
        if name.startswith(EMBEDDER)
    }
    with torch.device("meta"):
        try:
            model = PyramidMMDiT(**settings)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder / CONFIG} is of another transformer ({error}); download the Stable"
                " Diffusion 3 variant."
            ) from error
        widths = model.config["joint_attention_dim"], model.config["caption_projection_dim"]
        adapter = ContextAdapter(*widths, layer_depths=[], skips=[])
    load_weights(model, state, str(folder))
    load_weights(adapter, embedder, f"{folder}'s {EMBEDDER[:-1]}")
    return model, adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="Pyramid-Flow's diffusion_transformer_384p")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder to write to")
    options = parser.parse_args()
    model, adapter = read(options.folder)
    model.save_pretrained(options.checkpoint / "diffusion_transformer_320p")
    adapter.save_pretrained(options.checkpoint / "context_adapter")


if __name__ == "__main__":
    main()
