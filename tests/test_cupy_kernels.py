"""The GPU's kernels without a GPU: compiled for it where its compiler is installed, and run by the emulator.

Where there is a GPU, the tests of the other backends run on it too: see the fixture `backend`.
"""

from __future__ import annotations

import cuda_emulator
import cuda_fake
import cuda_nvrtc
import numpy as np
import pytest
from op_cases import CASES

import tinymoe as tm
from tinymoe.backend import cupy_gpu, current, reference
from tinymoe.backend.cupy_gpu import SOURCE, _parameters
from tinymoe.tensor import Tensor

rng = np.random.default_rng(1)


@pytest.mark.parametrize("chip", [80, 90])
@pytest.mark.parametrize("real", ["float", "double"])
def test_the_kernels_compile_for_the_chips(chip, real):
    if cuda_nvrtc.library() is None:
        pytest.skip("NVRTC is not installed; pip install nvidia-cuda-nvrtc-cu12")
    code = cuda_nvrtc.compile_for(chip, SOURCE.read_text("utf-8"), (f"-DREAL={real}",))
    assert all(name.encode() in code for name in _parameters())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_operations_are_those_of_the_reference(case, dtype, emulated_cupy, monkeypatch):
    """And the same to the last bit when threads and blocks run in the other order."""
    f, arrays = CASES[case][0], [array.astype(dtype) for array in CASES[case][1]]
    with tm.using("numpy"):
        expected = _run(f, arrays)
    got = _run(f, arrays)
    monkeypatch.setattr(cuda_emulator.Function, "backwards", 1)
    again = _run(f, arrays)
    tolerance = 1e-5 if dtype == np.float32 else 1e-11
    for a, b, c in zip(got, again, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=tolerance, atol=tolerance * max(1.0, np.abs(c).max()))


@pytest.mark.parametrize(
    "case",
    [name for name in CASES if name.split()[0] in ("attention", "ruled_attention", "linear_cross_entropy")],
)
def test_operations_across_blocks(case, emulated_cupy, monkeypatch):
    """The same with blocks so small that every loop over blocks turns more than once."""
    f, arrays = CASES[case]
    with tm.using("numpy"):
        expected = _run(f, arrays)
    monkeypatch.setattr(cupy_gpu, "QUERIES", (2, 2))
    monkeypatch.setattr(reference, "LOSS_CHUNK", 4)
    for a, b in zip(_run(f, arrays), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_no_kernel_is_left_over():
    callers = [SOURCE.with_name("cupy_gpu.py"), SOURCE.parents[1] / "train/device_step.py"]
    text = "".join(file.read_text("utf-8") for file in callers)
    assert [name for name in _parameters() if f'"{name}"' not in text] == []


def test_long_attention(emulated_cupy):
    """More queries than a block, more keys than threads, and a window that begins inside a block."""
    from tinymoe.backend.reference import AttentionRules

    q, k, v, g = (rng.standard_normal((1, 150, heads, 8)) for heads in (4, 2, 2, 4))
    for rules in (AttentionRules(0.3), AttentionRules(0.3, window=100, softcap=1.5)):
        expected, lse = reference.ReferenceBackend().attention(q, k, v, None, rules)
        grads = reference.ReferenceBackend().attention_backward(g, q, k, v, None, rules, expected, lse)[:3]
        mine = [emulated_cupy.asarray(array) for array in (q, k, v)]
        out, lse = emulated_cupy.attention(*mine, None, rules)
        got = emulated_cupy.attention_backward(emulated_cupy.asarray(g), *mine, None, rules, out, lse)[:3]
        for a, b in zip((out, *got), (expected, *grads), strict=True):
            np.testing.assert_allclose(a.get(), b, rtol=1e-10, atol=1e-12)


def test_rows_and_views_of_any_size(emulated_cupy):
    """Widths that are no multiple of a warp, and views into larger arrays."""
    wide = rng.standard_normal((3, 7, 2, 70)).astype(np.float32)
    cos, sin = (f(rng.standard_normal((1, 7, 10)).astype(np.float32)) for f in (np.cos, np.sin))
    expected = reference.ReferenceBackend().rope(wide[:, :, :, 5:40], cos, sin)
    got = emulated_cupy.rope(emulated_cupy.asarray(wide)[:, :, :, 5:40], *map(emulated_cupy.asarray, (cos, sin)))
    np.testing.assert_allclose(got.get(), expected, rtol=1e-6, atol=1e-6)
    for width in (1, 33, 1030):
        x, g, w = (rng.standard_normal((n, width)).astype(np.float32) for n in (5, 5, 1))
        y, inverse = reference.ReferenceBackend().rms_norm(x, w[0], 1e-5)
        dx, dw = reference.ReferenceBackend().rms_norm_backward(g, x, w[0], inverse)
        mine = [emulated_cupy.asarray(array) for array in (x, w[0], g)]
        a, b = emulated_cupy.rms_norm(*mine[:2], 1e-5)
        c, d = emulated_cupy.rms_norm_backward(mine[2], *mine[:2], b)
        for here, there in ((a, y), (c, dx), (d, dw)):
            np.testing.assert_allclose(here.get(), there, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (300, 5), (700, 256), (900, 70_000), (5000, 300)])
def test_sorting_is_stable(count, limit, emulated_cupy):
    keys = rng.integers(0, limit, count)
    got, order = emulated_cupy._sort(emulated_cupy.asarray(keys), limit)
    np.testing.assert_array_equal(order.get(), np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(got.get(), np.sort(keys))


def test_counts_and_sorted_pairs(emulated_cupy):
    choices = rng.integers(-1, 5, (200, 3))
    here = emulated_cupy.asarray(choices)
    there = reference.ReferenceBackend()
    np.testing.assert_array_equal(
        emulated_cupy.bincount(here.reshape(-1), 6).get(), there.bincount(choices.reshape(-1), 6)
    )
    for a, b in zip(emulated_cupy.sort_by_expert(here, 6), there.sort_by_expert(choices, 6), strict=True):
        np.testing.assert_array_equal(a.get(), b)


@pytest.mark.parametrize(("rows", "width", "k"), [(3, 4, 4), (9, 70, 8), (2, 1000, 3)])
def test_top_k_breaks_ties_by_place(rows, width, k, emulated_cupy):
    scores = rng.integers(0, 9, (rows, width)).astype(np.float32)
    scores[0, : width // 2] = -np.inf
    expected = reference.ReferenceBackend().top_k(scores, k)
    np.testing.assert_array_equal(emulated_cupy.top_k(emulated_cupy.asarray(scores), k).get(), expected)


def test_top_k_of_what_is_not_a_number_names_entries_that_exist(emulated_cupy):
    scores = np.full((2, 40), np.nan, dtype=np.float32)
    scores[0, 7] = 1
    got = emulated_cupy.top_k(emulated_cupy.asarray(scores), 3).get()
    np.testing.assert_array_equal(got, [[7, 0, 1], [0, 1, 2]])


def test_grouped_products_over_several_tiles(emulated_cupy):
    """Groups of no row, of few and of more than a tile; rows before the first group are of none."""
    x, g = rng.standard_normal((200, 70)), rng.standard_normal((200, 90))
    weight, offsets = rng.standard_normal((4, 90, 70)), [10, 10, 140, 145, 200]
    expected = reference.ReferenceBackend().grouped_linear(x, weight, offsets)
    dx, dweight = reference.ReferenceBackend().grouped_linear_backward(g, x, weight, offsets)
    for given in (offsets, emulated_cupy.asarray(np.array(offsets, dtype=np.int32))):
        mine = [emulated_cupy.asarray(array) for array in (g, x, weight)]
        y = emulated_cupy.grouped_linear(*mine[1:], given).get()
        got = [array.get() for array in emulated_cupy.grouped_linear_backward(*mine, given)]
        np.testing.assert_allclose(y[10:], expected[10:], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got[0][10:], dx[10:], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got[1], dweight, rtol=1e-12, atol=1e-12)
        assert not y[:10].any() and not got[0][:10].any()


@pytest.mark.parametrize(("precision", "bits"), [("tf32", 10), ("bfloat16", 7)])
def test_grouped_products_on_tensor_cores(precision, bits, emulated_cupy, monkeypatch):
    """Factors are rounded to so many bits, and then multiplied as exactly as in float32."""
    x, g = (rng.standard_normal((100, n)).astype(np.float32) for n in (37, 70))
    weight, offsets = rng.standard_normal((3, 70, 37)).astype(np.float32), [0, 67, 67, 100]
    rounded = [_round(array, bits) for array in (g, x, weight)]
    there = reference.ReferenceBackend()
    expected = there.grouped_linear(*rounded[1:], offsets), *there.grouped_linear_backward(*rounded, offsets)
    mine = [emulated_cupy.asarray(array) for array in (g, x, weight)]
    monkeypatch.setattr(emulated_cupy, "_precision", precision)
    got = emulated_cupy.grouped_linear(*mine[1:], offsets), *emulated_cupy.grouped_linear_backward(*mine, offsets)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.get(), b, rtol=1e-5, atol=2e-5)


def _round(x, bits):
    """To so many bits after the first, to the nearest."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent).astype(np.float32)


def test_a_dropped_pair_takes_no_part(emulated_cupy):
    rows, weights = rng.standard_normal((4, 3)), rng.standard_normal((2, 2))
    mine = [emulated_cupy.asarray(array) for array in (rows, weights)]
    pairs = np.array([-1, 2, 0, -1])
    expected = np.stack([weights[0, 0] * rows[2], weights[1, 0] * rows[1]])
    np.testing.assert_allclose(emulated_cupy.combine(*mine, emulated_cupy.asarray(pairs)).get(), expected)
    g = emulated_cupy.asarray(rng.standard_normal((2, 3)))
    drows, dweights = emulated_cupy.combine_backward(g, *mine, emulated_cupy.asarray(pairs))
    assert not drows.get()[[0, 3]].any() and not dweights.get()[:, 1].any()


def test_rounding_to_bfloat16(emulated_cupy):
    x = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-9, np.inf, -np.inf, np.nan, 0, 3e38], dtype=np.float32)
    emulated_cupy.precision = "bfloat16"
    try:
        bits = emulated_cupy.operand(emulated_cupy.asarray(x)).get()
    finally:
        emulated_cupy.precision = "float32"
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(rounded, [1, 1, 1 + 2**-6, -1, np.inf, -np.inf, np.nan, 0, rounded[-1]])
    assert rounded[-1] == pytest.approx(3e38, rel=2**-8)


def test_a_block_of_uneven_threads_is_an_error():
    """The emulator notices what would hang a GPU, and arguments of another type than the kernel's."""
    if cuda_emulator.compiler() is None:
        pytest.skip("g++ is not installed")
    source = 'extern "C" __global__ void wrong(int* x) { if (threadIdx.x) __syncthreads(); x[0] = 1; }'
    wrong = cuda_emulator.compile_module(source)("wrong")
    x = cuda_fake.module.asarray(np.zeros(1, dtype=np.int32))
    with pytest.raises(RuntimeError, match="others never reach"):
        wrong((1,), (64,), (x,))
    with pytest.raises(TypeError, match="expected int32"):
        wrong((1,), (64,), (cuda_fake.module.asarray(np.zeros(1)),))


def _run(f, arrays):
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    out = f(*leaves)
    out.sum().backward()
    return [out.numpy(), *(current().to_numpy(leaf.grad) for leaf in leaves)]
