"""What each graph of a pack must take and give, and whether it does."""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.config import Geometry, TransformerConfig
from engine.pack.graphs import Graph, TensorSpec, TokenizerFile
from engine.pack.values import wrong

# What each graph must be: inputs, outputs. H, W frame; h, w latent; C channels; with an f in front
# those of the first frame; U* upscaled; S frames per unit; L, N tokens of CLIP and T5; V width of
# the transformer; other letters are the graph's own affair.
_CLIP = ({"ids": "1 L"}, {"hidden": "1 L D", "pooled": "1 P"})
_TRANSFORMER = {
    "patches": "T X",
    "positions": "T V",
    "rope_cos": "A R",
    "rope_sin": "A R",
    "mask": "A A",
    "context": "N V",
    "modulation": "M V",
}
_MEMORY = {"keys": "B Q K O", "values": "B Q K O"}  # of the text and the oldest frame
_PAST = {"past_keys": "B Q P O", "past_values": "B Q P O"}
CONTRACT: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "clip_l": _CLIP,
    "clip_g": _CLIP,
    "first_frame_clip_l": _CLIP,
    "first_frame_clip_g": _CLIP,
    "text_encoder": ({"ids": "1 N", "mask": "1 N"}, {"context": "N V"}),
    "unet": (
        {
            "sample": "1 fC fh fw",
            "timestep": "1",
            "hidden": "1 L D",
            "pooled": "1 P",
            "time_ids": "1 6",
        },
        {"prediction": "1 fC fh fw"},
    ),
    "first_frame_decoder": ({"latent": "1 fC fh fw"}, {"image": "1 3 fH fW"}),
    "video_encoder": ({"image": "1 3 H W"}, {"moments": "1 2C h w"}),
    "modulation": ({"waves": "1 K", "pooled": "1 P"}, {"modulation": "M V"}),
    "transformer": (_TRANSFORMER, {"flow": "T X"}),
    "transformer_first": (  # it also gives keys and values of text and the oldest frame
        _TRANSFORMER,
        {"flow": "T X", **_MEMORY},
    ),
    "transformer_later": (  # it takes them, and gives those of its own oldest frame
        {
            "patches": "T X",
            "positions": "T V",
            "rope_cos": "T R",
            "rope_sin": "T R",
            "mask": "T A",
            **_PAST,
            "modulation": "M V",
        },
        {"flow": "T X", **_MEMORY},
    ),
    "video_decoder": ({"latent": "1 C h w"}, {"frames": "S 3 H W"}),
    "safety_checker": ({"image": "1 3 224 224"}, {"concepts": "E", "special": "Z"}),
    "upscaler": ({"image": "1 3 H W"}, {"image_2x": "1 3 UH UW"}),
}

# Of a graph in parts, `.._part0` and on: what the first alone takes, what the last alone gives, and
# what each hands on to the next, as `next_..`.
_BEGIN = ("patches", "positions", "context")
PARTS: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    "transformer": (_BEGIN, "flow", {"image": "T V", "text": "N V"}),
    "transformer_first": (_BEGIN, "flow", {"image": "T V", "text": "N V"}),
    "transformer_later": (_BEGIN, "flow", {"image": "T V"}),
}


def check_contract(graph: Graph, where: str, sizes: Mapping[str, int]) -> None:
    """Raise PackError unless a graph has the tensors the engine will give and take."""
    role, _, part = graph.name.partition("_part")
    role = re.sub(r"_?\d+(?=$|_first$|_later$)", "", role)
    if role not in CONTRACT:
        return
    inputs, outputs = CONTRACT[role]
    if part and role in PARTS:
        begin, end, passed = PARTS[role]
        if begin[0] not in graph.inputs:
            inputs = {key: shape for key, shape in inputs.items() if key not in begin} | passed
        if end not in graph.outputs:
            outputs = {key: shape for key, shape in outputs.items() if key != end}
            outputs |= {f"next_{name}": shape for name, shape in passed.items()}
    for key, wanted in (("inputs", inputs), ("outputs", outputs)):
        tensors: Mapping[str, TensorSpec] = getattr(graph, key)
        extra = [name for name in tensors if name not in wanted and "state_" not in name]
        if extra or set(wanted) - set(tensors):
            raise wrong(f"{where}{key}", ", ".join(wanted), ", ".join(tensors))
        for name, letters in wanted.items():
            shape = [sizes.get(letter, letter) for letter in letters.split()]
            got = tensors[name].shape
            same = len(got) == len(shape) and all(
                a == b
                for a, b in zip(got, shape, strict=True)
                if isinstance(a, int) is isinstance(b, int)
            )
            if not same:
                raise wrong(f"{where}{key}.{name}.shape", str(shape), list(got))
    for name, spec in graph.inputs.items():
        if name.startswith("state_"):
            following = graph.outputs.get(f"next_{name}")
            if following != spec or not all(isinstance(size, int) for size in spec.shape):
                expected = str(spec)
                raise wrong(f"{where}outputs.next_{name}", expected, str(following))


def sizes_of(
    geometry: Geometry, transformer: TransformerConfig, tokenizers: Mapping[str, TokenizerFile]
) -> dict[str, int]:
    """The dimensions that the manifest fixes, under the letters of `CONTRACT`."""
    g = geometry
    first = (g.first_frame_height, g.first_frame_width)
    return {
        **{"1": 1, "3": 3, "6": 6, "224": 224, "H": g.height, "W": g.width},
        **{"h": g.latent_height, "w": g.latent_width},
        **{"C": g.latent_channels, "2C": 2 * g.latent_channels, "fC": g.first_frame_channels},
        **{"fH": first[0], "fW": first[1]},
        **{"fh": first[0] // g.first_frame_stride, "fw": first[1] // g.first_frame_stride},
        **{"UH": g.upscale * g.height, "UW": g.upscale * g.width, "S": g.temporal_stride},
        **{"L": tokenizers["clip"].length, "N": tokenizers["t5"].length, "V": transformer.width},
        "X": g.latent_channels * transformer.patch_size**2,
        "R": transformer.head_dim // 2,
    }
