"""Start a larger teacher: `python -m training.recipes.grow_teacher STUDENT --out TEACHER`.

The transformer gets 4/3 of its blocks: after every third one a copy of it whose gates are zero, so
that the deeper network first computes the same. The text side becomes a T5 of more than eight times
the parameters, fresh, with a plain linear context embedder. Then `training.distil.text --teacher
STUDENT --checkpoint TEACHER --warm` teaches the new encoder the old one's tokens, and
`training.recipes.transformer --warm --checkpoint TEACHER` trains all of it on data.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from training.models.context_adapter import ContextAdapter
from training.models.distil_t5 import T5EncoderWithProjection, T5ProjectionConfig
from training.models.mmdit import PyramidMMDiT

T5: dict[str, Any] = {
    "d_model": 256,
    "d_kv": 64,
    "d_ff": 768,
    "num_layers": 6,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "project_in_dim": 256,
    "out_dim": 512,
}
EVERY = 3  # blocks between two copies
GATES = (2, 5)  # rows of AdaLN that scale what attention and MLP add


def deeper(model: PyramidMMDiT, every: int = EVERY) -> PyramidMMDiT:
    """The same function with a silent copy after every `every`th block but the last.

    Where the last block would be copied, the one before it is: the last has a form of its own.
    """
    count, width = len(model.transformer_blocks), model.proj_out.weight.shape[1]
    copied = {min(block, count - 2) for block in range(every - 1, count, every)}
    order = [(i, silent) for i in range(count) for silent in (False, True)[: 1 + (i in copied)]]
    larger = PyramidMMDiT(**(model.config | {"num_layers": len(order)}))
    own = model.state_dict()
    state = {n: t.clone() for n, t in own.items() if not n.startswith("transformer_blocks.")}
    for new, (old, silent) in enumerate(order):
        for name, tensor in model.transformer_blocks[old].state_dict().items():
            tensor = tensor.clone()
            if silent and name.startswith(("norm1.linear.", "norm1_context.linear.")):
                for row in GATES:
                    tensor[row * width : (row + 1) * width] = 0
            state[f"transformer_blocks.{new}.{name}"] = tensor
    larger.load_state_dict(state)
    return larger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    shutil.copytree(options.student, options.out)
    folder = options.out / "diffusion_transformer_320p"
    model = deeper(PyramidMMDiT.from_pretrained(folder).float())
    model.half().save_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(options.student / "tokenizer_3" / "tokenizer.json"))
    text = T5EncoderWithProjection(T5ProjectionConfig(vocab_size=tokenizer.get_vocab_size(), **T5))
    embedder = ContextAdapter(
        T5["out_dim"], model.config["caption_projection_dim"], layer_depths=[], skips=[]
    )
    text.save_pretrained(options.out / "text_encoder_3")
    embedder.save_pretrained(options.out / "context_adapter")
    sizes = [sum(w.numel() for w in part.parameters()) for part in (text, embedder, model)]
    print(f"text encoder {sizes[0]:,}, embedder {sizes[1]:,}, transformer {sizes[2]:,} parameters")


if __name__ == "__main__":
    main()
