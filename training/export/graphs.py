"""Each plan's graph as it is traced, by the name of the graph."""

from __future__ import annotations

from builder.plans import Plan
from training.export.first_frame import first_frame_decoder, safety_checker, unet
from training.export.source import Source, Traced
from training.export.text import clip, text_encoder
from training.export.transformer import modulation, transformer
from training.export.video import upscaler, video_decoder, video_encoder

ALONE = {
    "unet": unet,
    "first_frame_decoder": first_frame_decoder,
    "safety_checker": safety_checker,
    "video_encoder": video_encoder,
    "video_decoder": video_decoder,
    "upscaler": upscaler,
}


def traced(source: Source, plan: Plan) -> Traced:
    """The call whose graph a plan is."""
    if plan.graph in ALONE:
        return ALONE[plan.graph](source)
    if plan.graph == "text_encoder":
        return text_encoder(source, plan.suffix)
    if plan.graph == "modulation":
        return modulation(source, plan.suffix)
    if plan.graph.startswith("transformer"):
        return transformer(source, plan.suffix, plan.part, form=plan.form)
    return clip(source, plan.folders[0])
