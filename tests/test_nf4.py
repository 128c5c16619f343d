"""NF4: its tables, how far rounding goes, memory, and a linear layer that unpacks its matrix when it is needed."""

from __future__ import annotations

import gc
import math
import tracemalloc

import numpy as np
import pytest
from gradients import check_gradients
from hypothesis import given
from hypothesis import strategies as st
from training import tiny_model

import tinymoe as tm
from tinymoe.backend import current
from tinymoe.models import zoo
from tinymoe.nn.module import Linear
from tinymoe.posttrain import lora, nf4
from tinymoe.tensor import Tensor, no_grad

# bitsandbytes, `get_4bit_type("nf4")`.
PUBLISHED = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]
WIDEST = float(np.diff(PUBLISHED).max()) / 2  # how far a number between -1 and 1 is from the nearest value
WIDEST_SCALE = float(np.diff(nf4.DYNAMIC).max()) / 2  # the same for scales; below the table's first value no less


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_the_formula_gives_the_published_table():
    np.testing.assert_allclose(nf4.normal_float_values(), PUBLISHED, atol=3e-7)  # theirs was computed in float32
    assert nf4.NORMAL_FLOAT[[0, 7, 15]].tolist() == [-1, 0, 1]


def test_scales_are_rounded_to_256_values():
    values = nf4.dynamic_values()
    assert len(np.unique(values)) == 256 and (np.diff(values) > 0).all()
    assert values[-1] == 1 and 0 in values
    np.testing.assert_allclose(values[0], -0.99296875)
    np.testing.assert_allclose(values[values > 0][:3], [5.5e-7, 3.25e-6, 7.75e-6], rtol=1e-6)


def test_normal_numbers_use_every_code_and_none_too_often():
    quantized = nf4.quantize(normal(512, 512))
    codes = np.concatenate([quantized.codes >> 4, quantized.codes & 15])
    share = np.bincount(codes, minlength=16) / len(codes)
    assert share.min() > 0.005 and share.max() < 0.12  # an even spread would be 0.0625


def bound(values: np.ndarray, size: int = 64) -> np.ndarray:
    """The most that a number may be off: by its code, and by its block's scale."""
    blocks = np.pad(values.reshape(-1), (0, -values.size % size)).reshape(-1, size)
    largest = np.abs(blocks).max(axis=1)
    off = np.abs(largest - largest.mean())
    spans = np.repeat([part.max() for part in np.split(off, range(256, len(off), 256))], 256)[: len(off)]
    most = largest * WIDEST + spans * WIDEST_SCALE
    return np.repeat(most, size)[: values.size].reshape(values.shape) * (1 + 1e-5) + 1e-12


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 70),
    spread=st.floats(1e-4, 1e3),
    outlier=st.floats(0, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_number_is_further_off_than_half_a_gap(rows, columns, spread, outlier, seed):
    values = normal(rows, columns, seed=seed) * np.float32(spread)
    values[0, 0] += np.float32(outlier)
    quantized = nf4.quantize(values)
    back = nf4.dequantize(quantized)
    assert back.shape == values.shape and back.dtype == np.float32
    assert (np.abs(back - values) <= bound(values)).all()
    assert (back * values >= 0).all(), "a sign was turned"


@given(size=st.integers(1, 70_000), block=st.sampled_from((2, 32, 64, 4096)), seed=st.integers(0, 100))
def test_many_blocks_of_scales(size, block, seed):
    values = normal(size, seed=seed)
    quantized = nf4.quantize(values, block)
    blocks = -(-size // block)
    assert quantized.codes.nbytes == block // 2 * blocks and quantized.scales.nbytes == blocks
    assert quantized.nbytes == (block // 2 + 1) * blocks + 4 * -(-blocks // 256) + 4
    assert (np.abs(nf4.dequantize(quantized) - values) <= bound(values, block)).all()


def test_smaller_blocks_round_less_and_take_more():
    values = normal(256, 256)
    by_size = {size: nf4.quantize(values, size) for size in (256, 64, 32)}
    errors = [np.square(nf4.dequantize(each) - values).mean() for each in by_size.values()]
    assert errors[0] > 1.1 * errors[1] > 1.15 * errors[2]
    assert by_size[256].nbytes < by_size[64].nbytes < by_size[32].nbytes <= 0.14 * values.nbytes
    layer = nf4.quantize_model(tiny_model(), block_size=32).model.layers[0].mlp.up_proj
    assert len(layer.codes.scales) == -(-math.prod(layer.codes.shape) // 32)


@pytest.mark.parametrize("size", [32, 64])
def test_fitted_scales_round_less_and_take_no_more(size):
    values = normal(256, 256)
    values[0, :100] = 0.0
    plain, fitted = (nf4.quantize(values, size, fit_scales=fit) for fit in (False, True))
    errors = [np.square(nf4.dequantize(each) - values).reshape(-1, size).sum(axis=1) for each in (plain, fitted)]
    assert errors[1].sum() < 0.92 * errors[0].sum() and fitted.nbytes == plain.nbytes
    blocks = values.reshape(-1, size)
    largest = np.abs(blocks).max(axis=1)
    scales = nf4.best_scales(blocks, largest)
    assert (scales <= largest).all() and (scales >= 0.7499 * largest).all() and 0 < (scales < largest).mean() < 1

    def error(scale: np.ndarray) -> np.ndarray:
        scale = np.where(scale > 0, scale, 1)[:, None]
        nearest = np.abs(blocks[..., None] / scale[..., None] - nf4.NORMAL_FLOAT).argmin(axis=-1)
        return np.square(nf4.NORMAL_FLOAT[nearest] * scale - blocks).sum(axis=1)

    assert (error(scales) <= np.minimum(error(largest), error(0.85 * largest)) * (1 + 1e-5)).all()
    model = nf4.quantize_model(tiny_model(), block_size=size, fit_scales=True)
    weight = tiny_model().model.layers[0].mlp.up_proj.weight.numpy()
    np.testing.assert_array_equal(
        model.model.layers[0].mlp.up_proj.weight.numpy(), nf4.dequantize(nf4.quantize(weight, size, fit_scales=True))
    )


@pytest.mark.parametrize("bad", [0, 1, 33, -64])
def test_a_block_is_of_pairs(bad):
    with pytest.raises(ValueError, match=f"block_size: got {bad}, expected an even number"):
        nf4.quantize(normal(4, 64), bad)


def test_zeros_and_equal_blocks_are_exact():
    for values in (np.zeros((3, 50), np.float32), np.full((2, 64), -2.5, np.float32)):
        np.testing.assert_array_equal(nf4.dequantize(nf4.quantize(values)), values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(bad):
    values = normal(4, 64)
    values[2, 3] = bad
    with pytest.raises(ValueError, match="not finite"):
        nf4.quantize(values)


def test_backends_agree(backend):
    with tm.using("numpy"):
        expected = nf4.dequantize(nf4.quantize(normal(9, 50)))
    quantized = nf4.quantize(current().asarray(normal(9, 50)))
    np.testing.assert_array_equal(current().to_numpy(nf4.dequantize(quantized)), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_reach_what_comes_before(bias, backend):
    weight = nf4.quantize(normal(5, 7))
    x, *others = [normal(2, 3, 7), normal(5)][: 1 + bias]
    check_gradients(lambda x, *bias: nf4.nf4_linear(x, *bias, weight=weight), x, *others)


@pytest.mark.parametrize("bias", [False, True])
def test_a_quantized_layer_is_a_layer_with_the_rounded_matrix(bias, backend):
    linear = Linear(70, 33, bias=bias, rng=np.random.default_rng(0), std=0.3)
    if bias:
        linear.bias.data[...] = 1.5
    quantized, x = nf4.QuantizedLinear(linear), Tensor(normal(2, 5, 70))
    linear.weight.data = quantized.weight.data
    np.testing.assert_array_equal(quantized(x).numpy(), linear(x).numpy())
    assert [name for name, _ in quantized.named_parameters()] == ["bias"] * bias


def test_between_forward_and_backward_only_the_codes_are_kept():
    linear = nf4.QuantizedLinear(Linear(512, 512, bias=False, rng=np.random.default_rng(0)))
    x = Tensor(normal(1, 512), requires_grad=True)
    gc.collect()
    tracemalloc.start()
    y = x
    for _ in range(4):
        y = linear(y)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    matrix = 4 * 512 * 512
    assert held < matrix / 10, "an unpacked matrix was kept for the backward pass"
    assert most > matrix, "this test would not notice"
    y.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", ["llama-nano", "qwen2-nano", "deepseek-v3-nano"])
def test_matrices_take_an_eighth_of_their_memory(name):
    model = zoo.build(name, vocab_size=100, seed=0)
    matrices = {path: layer.weight.size for path, layer in lora.named_linears(model) if path != "lm_head"}
    before = model.num_parameters()
    assert nf4.quantize_model(model) is model
    bytes_now, bytes_before = nf4.quantized_bytes(model)
    assert bytes_before == 4 * sum(matrices.values())
    assert bytes_now <= 0.14 * bytes_before
    assert model.num_parameters() == before - sum(matrices.values())
    held = 0
    for _, layer in lora.named_linears(model):
        if isinstance(layer, nf4.QuantizedLinear):
            arrays = {key: value for key, value in vars(layer).items() if key != "bias"}
            assert arrays.keys() == {"codes"}
            held += sum(a.nbytes for a in vars(layer.codes).values() if isinstance(a, np.ndarray))
    assert held == bytes_now


def test_the_output_layer_stays_unless_asked():
    kept, all_of_it = (nf4.quantize_model(tiny_model(), **options) for options in ({}, {"skip": ()}))
    assert type(kept.lm_head) is Linear and isinstance(all_of_it.lm_head, nf4.QuantizedLinear)
    ids = np.arange(8)[None]
    all_of_it.loss(ids, ids).backward()
    partly = nf4.quantize_model(tiny_model(), skip=("lm_head", "q_proj"))
    assert type(partly.model.layers[0].self_attn.q_proj) is Linear


def test_a_quantized_model_reads_in_pieces_and_shows_itself(backend):
    model = nf4.quantize_model(tiny_model())
    ids = np.random.default_rng(0).integers(0, 11, (2, 9))
    with no_grad():
        whole, cache = model(ids).numpy(), model.new_cache()
        pieces = np.concatenate([model(part, cache=cache).numpy() for part in (ids[:, :5], ids[:, 5:])], axis=1)
    np.testing.assert_allclose(pieces, whole, atol=1e-5)
    np.testing.assert_array_equal(model.trace(ids).logits, whole)
    assert model.generate(ids, max_new_tokens=4, temperature=0).shape == (2, 13)


def test_adapters_come_after_quantization():
    model = lora.add_lora(tiny_model(), lora.LoraConfig(r=2))
    with pytest.raises(ValueError, match=r"model.layers.0.self_attn.q_proj has adapters; quantize before"):
        nf4.quantize_model(model)
