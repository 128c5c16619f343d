"""NF4: matrices in four bits a number, for weights that are used but not trained (QLoRA, Dettmers et al. 2023).

Numbers are taken in blocks of 64. A block keeps its largest magnitude, its scale, and for each number the code of the
nearest of 16 values between -1 and 1, chosen so that normally distributed numbers use each about equally often. Double
quantization: the scales in turn are kept in 8 bits, in blocks of 256. Together 4.127 bits a number, where float32 has
32; with blocks of 32, which round less, 4.254. The tables are those of bitsandbytes. A block may also choose a scale
somewhat below its largest magnitude, where that brings the others closer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array
from ..models.decoder import CausalLM
from ..nn.module import Linear
from ..tensor import OPS, Context, Tensor
from .lora import LoraLinear, named_linears, replace_module

BLOCK = 64  # numbers that share a scale, unless other blocks are asked for
SCALE_BLOCK = 256  # scales that share a scale of their own


def normal_float_values() -> np.ndarray:
    """The 16 values of NF4, ascending: quantiles of the normal distribution, divided by the largest. float32.

    Eight evenly spaced probabilities above 1/2, seven below, and zero itself. The outermost probability is the mean of
    what the two sides would choose by themselves, 1 - 1/32 and 1 - 1/30; so both ends are 1 in magnitude.
    """
    quantile, outermost = NormalDist().inv_cdf, 1 - (1 / 32 + 1 / 30) / 2
    above = [quantile(p) for p in np.linspace(outermost, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(outermost, 0.5, 8)[:-1]]
    return (np.sort([*below, 0.0, *above]) / quantile(outermost)).astype(np.float32)


def dynamic_values() -> np.ndarray:
    """The 256 values that scales are rounded to, ascending: float32 (Dettmers et al. 2022, arXiv:2110.02861).

    Seven powers of ten, from 1 down, with 64, 32, 16, … values each on both sides of zero: fine steps for large
    numbers, and still some for small ones.
    """
    positive = []
    for exponent in range(7):
        steps = np.linspace(0.1, 1, 2**exponent + 1)
        positive += list((steps[:-1] + steps[1:]) / 2 * 10.0 ** (exponent - 6))
    return np.sort([*positive, *np.negative(positive), 0.0, 1.0]).astype(np.float32)


NORMAL_FLOAT = normal_float_values()
DYNAMIC = dynamic_values()
# The two values that each byte stands for: the first code is in the upper half of the byte.
PAIRS = np.stack([NORMAL_FLOAT[np.arange(256) >> 4], NORMAL_FLOAT[np.arange(256) & 15]], axis=1)  # (256, 2)


@dataclass(frozen=True)
class NF4:
    """A quantized array: what `quantize` returns and `dequantize` takes. Arrays of the current backend.

    codes (blocks * size / 2,) of uint8, two in a byte; scales (blocks,) of uint8, numbers of values in `DYNAMIC`; spans
    (blocks / 256,), for each block of scales the largest distance from the mean of all scales; and that mean.
    """

    shape: tuple[int, ...]
    codes: Array
    scales: Array
    spans: Array
    mean: Array

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in (self.codes, self.scales, self.spans, self.mean))


def quantize(array: Array, block_size: int = BLOCK, fit_scales: bool = False) -> NF4:
    """Round a float array of any shape to NF4, in blocks of this size, whose scales are fitted to them or plain.

    Raises ValueError where a number is not finite, and for a size that is odd or below 2: two codes share a byte.
    """
    if block_size < 2 or block_size % 2:
        raise ValueError(f"block_size: got {block_size}, expected an even number ≥ 2")
    values = current().to_numpy(array).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("array: it holds a number that is not finite, and so has no largest magnitude")
    blocks = in_blocks(values.reshape(-1), block_size)  # (blocks, size)
    largest = np.abs(blocks).max(axis=1)
    if fit_scales:
        largest = best_scales(blocks, largest)
    codes = nearest(blocks / np.where(largest > 0, largest, 1)[:, None], NORMAL_FLOAT).reshape(-1, 2)
    mean = largest.mean(dtype=np.float32)
    off = in_blocks(largest - mean, SCALE_BLOCK)  # (blocks / 256, 256)
    spans = np.abs(off).max(axis=1)
    scales = nearest(off / np.where(spans > 0, spans, 1)[:, None], DYNAMIC).reshape(-1)[: len(largest)]
    arrays = (codes[:, 0] << 4 | codes[:, 1], scales, spans, np.asarray(mean))
    return NF4(values.shape, *map(current().asarray, arrays))


def dequantize(quantized: NF4) -> Array:
    """The float32 array that the codes stand for."""
    xp, table = current().xp, current().asarray(DYNAMIC)
    spans = xp.repeat(quantized.spans, SCALE_BLOCK)[: len(quantized.scales)]
    largest = table[quantized.scales] * spans + quantized.mean  # (blocks,)
    largest = xp.maximum(largest, 0)  # a small scale among large ones may be rounded to below zero
    values = current().asarray(PAIRS)[quantized.codes].reshape(len(largest), -1) * largest[:, None]  # (blocks, size)
    return values.reshape(-1)[: math.prod(quantized.shape)].reshape(quantized.shape)


def best_scales(blocks: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """For each block (blocks, size) the scale with the least squared error, of 75 to 100 % of its largest magnitude.

    What is larger is cut off, for the sake of the many others (the clipping of AWQ, Lin et al. 2023, arXiv:2306.00978,
    with the weights' own error as its measure).
    """
    best, least = largest, np.full(len(largest), np.inf)
    for share in np.linspace(1, 0.75, 11, dtype=np.float32):
        scale = np.where(largest > 0, largest * share, 1)[:, None]
        error = np.square(NORMAL_FLOAT[nearest(blocks / scale, NORMAL_FLOAT)] * scale - blocks).sum(axis=1)
        best, least = np.where(error < least, largest * share, best), np.minimum(error, least)
    return best


def in_blocks(values: np.ndarray, size: int) -> np.ndarray:
    """A flat array in rows of `size`, the last filled up with zeros."""
    return np.pad(values, (0, -len(values) % size)).reshape(-1, size)


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """For each value the number of the nearest entry of an ascending table: uint8."""
    return np.searchsorted((table[1:] + table[:-1]) / 2, values).astype(np.uint8)


@ops.op
def nf4_linear(ctx: Context, x: Array, bias: Array | None = None, *, weight: NF4) -> ops.Result:
    """`linear` with a quantized weight, (out, in), which is unpacked for each use and has no gradient.

    Forward and backward each unpack it anew: between them only the codes stay in memory.
    """
    y, _ = OPS["linear"](ctx, x, dequantize(weight).astype(x.dtype), bias)

    def vjp(g: Array) -> tuple[Array | None, ...]:
        rows = g.reshape(-1, g.shape[-1])  # (N, out)
        dx = (rows @ dequantize(weight).astype(x.dtype)).reshape(x.shape) if ctx.needs[0] else None
        return (dx, None if bias is None else rows.sum(axis=0))[: len(ctx.needs)]

    return y, vjp


class QuantizedLinear(Linear):
    """A linear layer whose matrix is kept as NF4, `codes`; a bias stays as it is. Made from a `Linear`."""

    def __init__(self, linear: Linear, block_size: int = BLOCK, fit_scales: bool = False):
        self.codes = quantize(linear.weight.data, block_size, fit_scales)
        if hasattr(linear, "bias"):
            self.bias = linear.bias

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        bias = (self.bias,) if hasattr(self, "bias") else ()
        return nf4_linear(x, *bias, weight=self.codes)

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The matrix that the codes stand for, (out, in), unpacked at each call: float32, not trained."""
        return Tensor(dequantize(self.codes))


def quantize_model(
    model: CausalLM, skip: tuple[str, ...] = ("lm_head",), block_size: int = BLOCK, fit_scales: bool = False
) -> CausalLM:
    """Quantize the linear layers of a model, but for those whose paths end with one of `skip`. Returns the model.

    Embeddings, norms, routers and stacked experts stay as they are. Adapters come afterwards: QLoRA is LoRA on this.
    Raises ValueError for a model that has adapters, and as `quantize` does.
    """
    for path, layer in list(named_linears(model)):
        if isinstance(layer, LoraLinear):
            raise ValueError(f"model: {path} has adapters; quantize before adding them, or unload them first")
        if type(layer) is Linear and not f".{path}".endswith(tuple(f".{name}" for name in skip)):
            replace_module(model, path, QuantizedLinear(layer, block_size, fit_scales))
    return model


def quantized_bytes(model: CausalLM) -> tuple[int, int]:
    """Bytes of the quantized matrices of a model, and what they would take in float32."""
    layers = [layer.base if isinstance(layer, LoraLinear) else layer for _, layer in named_linears(model)]
    codes = [layer.codes for layer in layers if isinstance(layer, QuantizedLinear)]
    return sum(each.nbytes for each in codes), sum(4 * math.prod(each.shape) for each in codes)
