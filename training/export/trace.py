"""A torch module's call to an ONNX graph.

Two operators are translated our own way so that the same graph also compiles for the Hexagon NPU.
It knows nothing of components or packs.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxscript
import torch
from onnx import numpy_helper
from onnxscript import opset20 as op
from torch import Tensor, nn

from builder.storage import Arrays, array_of, store, strip, widened
from training.export.source import Traced


class Call(nn.Module):
    """A function of a module as a module of its own, which is what can be exported."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        """`function` is called with the module and the graph's inputs in order."""
        super().__init__()
        self.module = module
        self.function = function
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.module, *inputs)


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Scaled dot-product attention of any rank as MatMul, Add, Softmax, MatMul."""
    assert not is_causal and not enable_gqa and not dropout_p, "no model here needs it"
    rank = len(query.shape)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if scale != 1:
        query = op.Mul(query, op.Constant(value_float=scale))
    scores = op.MatMul(query, op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2]))
    if attn_mask is not None:
        if attn_mask.dtype == onnxscript.ir.DataType.BOOL:
            hidden = op.Constant(value_float=-1e9)
            attn_mask = op.Where(attn_mask, op.Constant(value_float=0.0), hidden)
        scores = op.Add(scores, attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


def rms_norm(
    input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float = 1e-5
) -> Any:
    """RMS norm of the last axis, on a rank-2 view.

    QNN 2.51's RMSNormalization is wrong on [tokens, heads, head_dim] with 6 heads: 4 dB, and right
    with 8, 16 or no heads. `nn.RMSNorm` is one operator from opset 23 on.
    """
    width = normalized_shape[-1]
    shape = [size if isinstance(size, int) else -1 for size in input.shape]
    rows = op.Reshape(input, op.Constant(value_ints=[-1, width]))
    normed = onnxscript.opset23.RMSNormalization(rows, weight, axis=-1, epsilon=eps)
    return op.Reshape(normed, op.Constant(value_ints=shape))


@contextmanager
def traced_graph(
    traced: Traced, external: bool, work: Path
) -> Iterator[tuple[onnx.ModelProto, Arrays]]:
    """The graph of a call, its weights in float32 as the exporter has folded them, unshared.

    external: they wait in a folder inside `work` and come one by one, so that no second copy is
    ever in memory.
    """
    program = _program(traced)
    if not external:
        model = program.model_proto
        strip(model, traced.dynamic)
        yield model, widened(model, numpy_helper.to_array)
        return
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        whole = Path(folder) / "whole.onnx"
        program.save(whole, external_data=True)
        del program
        model = onnx.load(whole, load_external_data=False)
        strip(model, traced.dynamic)
        yield model, widened(model, lambda tensor: array_of(tensor, Path(folder)))


def traced_in_memory(traced: Traced) -> tuple[onnx.ModelProto, Arrays]:
    """The same without a file: the exporter's own arrays, most of them views of the module's."""
    program = _program(traced).model
    values = program.graph.initializers
    weights = {name: value.const_value for name, value in values.items()}
    for name, value in values.items():
        weight = weights[name]
        value.const_value = onnxscript.ir.ExternalTensor(
            "", 0, weight.nbytes, weight.dtype, shape=weight.shape, name=name
        )
    model = onnxscript.ir.to_proto(program)
    strip(model, traced.dynamic)
    return model, widened(model, lambda tensor: weights[tensor.name].numpy())


def write(traced: Traced, path: Path, external: bool) -> tuple[onnx.ModelProto, list[Path]]:
    """Trace a call to a file at `path`: the graph, and the files written, see `storage.store`."""
    with traced_graph(traced, external, path.parent) as (model, arrays):
        files = store(model, arrays, path, external)
    return model, files


@contextmanager
def told_apart(module: nn.Module) -> Iterator[None]:
    """Give parameters that are one number throughout other values until the graph is traced.

    The exporter drops an addition of zeros and a product with ones; a graph that did not depend on
    the values of weights would then have it, as a template does. The graph's weights are views of
    the module's, so they are the right ones again afterwards.
    """
    plain = {
        weight: weight.flatten()[0].item()
        for weight in module.parameters()
        if weight.numel() and bool((weight == weight.flatten()[0]).all())
    }
    for number, weight in enumerate(plain):
        places = torch.arange(weight.numel()) % 97
        weight.data.copy_((1.25 + (places + number) % 97 / 128).view(weight.shape))
    try:
        yield
    finally:
        for weight, value in plain.items():
            weight.data.fill_(value)


def _program(traced: Traced) -> Any:
    """opset 20 decomposes norms as ONNX Runtime runs them best, 23 keeps RMS norms whole."""
    call, inputs, dynamic = Call(traced.module, traced.function), traced.inputs, traced.dynamic
    auto = torch.export.Dim.AUTO
    shapes = tuple(
        {axis: auto for axis, size in enumerate(dynamic.get(name, ())) if size} for name in inputs
    )
    translations: dict[Any, Any] = {torch.ops.aten.scaled_dot_product_attention.default: attention}
    if traced.opset >= 23:
        translations[torch.ops.aten.rms_norm.default] = rms_norm
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad(), told_apart(traced.module):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            call,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=traced.opset,
            input_names=list(inputs),
            output_names=list(traced.outputs),
            dynamic_shapes=(shapes,) if dynamic else None,
            custom_translation_table=translations,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return program
