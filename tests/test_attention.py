"""The attention kernel against the plain formula, in every combination of rules; and the layers that use it."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinymoe as tm
from tinymoe import ops
from tinymoe.backend import current, reference
from tinymoe.backend.reference import AttentionRules, ReferenceBackend
from tinymoe.models import CausalLM, Config
from tinymoe.nn.variants import weights_by_rules
from tinymoe.tensor import Tensor

# The fixture sets the backend once for all examples of a test, which is what is wanted.
with_backend = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

Arrays = dict[str, np.ndarray | None]
OPTIONS = ("window", "sinks", "softcap", "slopes", "documents", "selected", "offset")


def attention_case(
    seed: int = 0,
    *,
    batch: int = 2,
    tokens: int = 5,
    offset: int = 0,
    kv_heads: int = 1,
    group: int = 1,
    dim: int = 3,
    value_dim: int = 2,
    window: int | None = None,
    softcap: float | None = None,
    sinks: bool = False,
    slopes: bool = False,
    documents: bool = False,
    selected: bool = False,
) -> tuple[Arrays, dict[str, Any]]:
    """Random queries, keys and values (and sinks) in float64, and the rules as NumPy arrays and numbers."""
    rng = np.random.default_rng(seed)
    keys, heads = tokens + offset, kv_heads * group
    arrays: Arrays = {
        "q": rng.standard_normal((batch, tokens, heads, dim)),
        "k": rng.standard_normal((batch, keys, kv_heads, dim)),
        "v": rng.standard_normal((batch, keys, kv_heads, value_dim)),
        "sinks": rng.standard_normal(heads) if sinks else None,
    }
    rules: dict[str, Any] = {"scale": 0.7, "window": window, "softcap": softcap}
    if slopes:
        rules["slopes"] = rng.uniform(0, 1, heads)
    if documents:
        numbers = rng.integers(0, 3, (batch, keys))
        rules |= {"q_documents": numbers[:, offset:], "k_documents": numbers}
    if selected:
        # Each query's own place is among its keys, so that there is always something to see.
        own = np.broadcast_to(np.arange(offset, keys)[None, :, None], (batch, tokens, 1))
        rules["selected"] = np.concatenate([own, rng.integers(0, keys, (batch, tokens, 2))], axis=-1)
    return arrays, rules


def plain_attention(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, rules: dict[str, Any]) -> Tensor:
    """The formula as it is written, with the whole table of T x S, from operations that need no kernel.

    The queries are the last T of the S positions. Gradients come from the tape.
    """
    B, T, H, _ = q.shape
    S = k.shape[1]
    served = np.arange(H) * k.shape[2] // H  # the key/value head of each query head
    queries, keys, values = q.transpose(0, 2, 1, 3), k[:, :, served], v[:, :, served].transpose(0, 2, 1, 3)
    scores = queries @ keys.transpose(0, 2, 3, 1) * rules["scale"]  # (B, H, T, S)
    if rules["softcap"]:
        scores = (scores / rules["softcap"]).tanh() * rules["softcap"]
    distance = np.arange(S - T, S)[:, None] - np.arange(S)  # (T, S)
    if rules.get("slopes") is not None:
        scores = scores - rules["slopes"][:, None, None] * distance
    hidden = np.zeros((B, 1, T, S))
    for b, t, s in np.ndindex(B, T, S):
        seen = 0 <= distance[t, s] < (rules["window"] or S + 1)
        if rules.get("k_documents") is not None:
            seen = seen and rules["q_documents"][b, t] == rules["k_documents"][b, s]
        if rules.get("selected") is not None:
            seen = seen and s in rules["selected"][b, t]
        hidden[b, 0, t, s] = 0 if seen else -np.inf
    scores = scores + hidden
    if sinks is not None:
        column = sinks.reshape(1, H, 1, 1) + np.zeros((B, H, T, 1))
        scores = ops.concatenate(scores, column, axis=-1)
    weights = ops.softmax(scores)[..., :S]
    return (weights @ values).transpose(0, 2, 1, 3)


def by_formula(arrays: Arrays, rules: dict[str, Any]) -> list[np.ndarray]:
    """Output and gradients of the plain formula, on NumPy."""
    with tm.using("numpy"):
        leaves = _leaves(arrays)
        return _backward(plain_attention(*leaves, rules), leaves)


def by_kernel(arrays: Arrays, rules: dict[str, Any]) -> list[np.ndarray]:
    """Output and gradients of `ops.ruled_attention` on the backend in use."""
    put = {name: current().asarray(value) if isinstance(value, np.ndarray) else value for name, value in rules.items()}
    leaves = _leaves(arrays)
    return _backward(ops.ruled_attention(*leaves, rules=AttentionRules(**put)), leaves)


def _leaves(arrays: Arrays) -> list[Any]:
    return [None if a is None else Tensor(current().asarray(a), requires_grad=True) for a in arrays.values()]


def _backward(out: Tensor, leaves: list[Tensor | None]) -> list[np.ndarray]:
    g = np.random.default_rng(7).standard_normal(out.shape).astype(out.dtype)
    out.backward(current().asarray(g))
    grads = [current().to_numpy(leaf.grad) for leaf in leaves if leaf is not None]
    return [out.numpy(), *grads]


def assert_equal(got: list[np.ndarray], expected: list[np.ndarray], tol: float, what: str = "") -> None:
    names = ("output", "gradient of q", "gradient of k", "gradient of v", "gradient of sinks")
    for name, a, b in zip(names, got, expected, strict=False):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol, err_msg=f"{name} {what}")
    assert len(got) == len(expected)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_every_combination_of_rules_is_the_plain_formula(backend, monkeypatch, kv_heads, group):
    """All 128 combinations of what the rules can say, in blocks shorter than the text."""
    monkeypatch.setattr(reference, "ATTENTION_BLOCK", 2)
    values = {"window": 3, "softcap": 0.8, "offset": 2}
    for chosen in itertools.product([False, True], repeat=len(OPTIONS)):
        options = {name: values.get(name, True) for name, on in zip(OPTIONS, chosen, strict=True) if on}
        arrays, rules = attention_case(batch=1, tokens=4, kv_heads=kv_heads, group=group, **options)
        assert_equal(by_kernel(arrays, rules), by_formula(arrays, rules), 1e-11, str(options))


cases = st.fixed_dictionaries({
    "seed": st.integers(0, 999),
    "batch": st.integers(1, 2),
    "tokens": st.integers(1, 6),
    "offset": st.integers(0, 4),
    "kv_heads": st.integers(1, 3),
    "group": st.integers(1, 3),
    "dim": st.integers(1, 4),
    "value_dim": st.integers(1, 4),
    "window": st.none() | st.integers(1, 8),
    "softcap": st.none() | st.floats(0.3, 5),
    "sinks": st.booleans(),
    "slopes": st.booleans(),
    "documents": st.booleans(),
    "selected": st.booleans(),
})  # fmt: skip


@with_backend
@given(case=cases, block=st.integers(1, 8))
def test_the_kernel_is_the_plain_formula(backend, case, block):
    arrays, rules = attention_case(**case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "ATTENTION_BLOCK", block)
        assert_equal(by_kernel(arrays, rules), by_formula(arrays, rules), 1e-11)


@given(case=cases)
def test_numba_agrees_with_numpy_in_float32(case):
    pytest.importorskip("numba", reason="Numba is not installed")
    arrays, rules = attention_case(**case)
    singles: Arrays = {name: None if a is None else a.astype(np.float32) for name, a in arrays.items()}
    with tm.using("numba"):
        got = by_kernel(singles, rules)
    with tm.using("numpy"):
        expected = by_kernel(singles, rules)
    assert all(a.dtype == np.float32 for a in got)
    assert_equal(got, expected, 2e-5)


def test_a_query_that_sees_nothing_listens_to_its_sink(backend):
    """Documents that no key belongs to: all attention goes to the sink, and nothing comes of it, forwards or back."""
    arrays, rules = attention_case(tokens=4, group=2, sinks=True)
    rules |= {"q_documents": np.full((2, 4), 1), "k_documents": np.zeros((2, 4), dtype=int)}
    for result in by_kernel(arrays, rules):
        np.testing.assert_array_equal(result, np.zeros_like(result))


# Not the fixture: without the compiler, Numba's loops over so many scores would take minutes.
@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("options", [{}, {"window": 64}, {"sinks": True, "softcap": 5.0, "slopes": True}])
def test_memory_grows_with_the_length_and_not_with_its_square(monkeypatch, name, options):
    """Four times the tokens, less than five times the memory of a forward and backward pass."""
    pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.setattr(reference, "ATTENTION_BLOCK", 32)

    def peak(tokens: int) -> int:
        arrays, rules = attention_case(batch=1, tokens=tokens, group=2, dim=4, value_dim=4, **options)
        by_kernel(arrays, rules)  # compiles
        tracemalloc.start()
        by_kernel(arrays, rules)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    with tm.using(name):
        assert peak(1024) < 5 * peak(256)


def test_a_window_bounds_the_keys_that_are_read(monkeypatch):
    """With a window the work grows with the length, too: no block reads more keys than itself and the window."""
    widths = []
    whole = ReferenceBackend.masked_softmax

    def watched(self, scores, *others):
        widths.append(scores.shape[-1])
        return whole(self, scores, *others)

    monkeypatch.setattr(ReferenceBackend, "masked_softmax", watched)
    monkeypatch.setattr(reference, "ATTENTION_BLOCK", 16)
    arrays, rules = attention_case(batch=1, tokens=200, window=10)
    with tm.using("numpy"):
        by_kernel(arrays, rules)
    assert len(widths) == 13 and max(widths) == 16 + 10 - 1


def test_looking_shows_the_weights_that_are_used(backend):
    """`weights_by_rules` gives the kernel's own probabilities; what is missing from 1 has gone to the sink."""
    arrays, rules = attention_case(
        tokens=5, offset=2, kv_heads=2, group=2, window=3, softcap=1.0, sinks=True, slopes=True
    )
    q, k, v, sinks = _leaves(arrays)
    put = AttentionRules(**{n: current().asarray(a) if isinstance(a, np.ndarray) else a for n, a in rules.items()})
    weights = current().to_numpy(weights_by_rules(q, k, sinks, put))
    values = np.repeat(arrays["v"], 2, axis=2)
    expected = ops.ruled_attention(q, k, v, sinks, rules=put).numpy()
    np.testing.assert_allclose(np.einsum("bhts,bshe->bthe", weights, values), expected, rtol=1e-12)
    assert (weights.sum(axis=-1) < 1).all()
    visible = (weights > 0).sum(axis=-1)
    assert (visible == 3).all()  # two old tokens and the first new one fill the window from the start


def variant(**fields: Any) -> CausalLM:
    """A small model with attention of the kind "variant"; every parameter is random, norms and sinks too."""
    config = Config(
        vocab_size=17, hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, attention="variant", **fields,
    )  # fmt: skip
    model, rng = CausalLM(config), np.random.default_rng(1)
    for p in model.parameters():
        p.data += current().asarray(0.3 * rng.standard_normal(p.shape).astype(np.float32))
    return model


LOCAL = {"layer_types": ("sliding_attention", "full_attention", "sliding_attention"), "sliding_window": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "window": {"layer_types": ("sliding_attention",) * 3, "sliding_window": 3},
    "window of one": {"layer_types": ("sliding_attention",) * 3, "sliding_window": 1},
    "local and global": LOCAL,
    "local and global with two thetas": {**LOCAL, "rope_theta": 1e6, "rope_local_base_freq": 100.0},
    "softcap": {"attn_logit_softcapping": 1.5, "query_pre_attn_scalar": 10.0, "final_logit_softcapping": 2.0},
    "qk_norm": {"qk_norm": "rms_norm"},
    "qk_norm of Gemma": {"qk_norm": "rms_norm_plus_one", "norm": "rms_norm_plus_one", **LOCAL},
    "sinks": {"attention_sinks": True, "attention_bias": True, "attention_out_bias": True, **LOCAL},
    "alibi": {"position": "alibi"},
    "alibi of Falcon": {"position": "alibi", "scale_alibi": True, "norm": "layer_norm", "mlp": "plain"},
    "layers without positions": {"no_rope_layers": (1, 0, 1)},
    "parallel": {"layer": "parallel", "norm": "layer_norm", "mlp": "plain", "hidden_act": "gelu_new"},
    "parallel with two norms": {"layer": "parallel", "parallel_norms": 2},
    "sandwich": {"layer": "sandwich", "inputs": ("scale",), "mlp": "gated", "hidden_act": "gelu_pytorch_tanh"},
    "normed input": {"inputs": ("norm",), "norm": "layer_norm", "lm_head_bias": True},
    "learned positions": {"position": "learned", "inputs": ("learned_positions",), "max_position_embeddings": 16},
}
IDS = np.random.default_rng(2).integers(0, 17, (2, 12))


@pytest.mark.parametrize("name", VARIANTS)
def test_reading_in_pieces_is_reading_at_once(backend, name):
    model, ids = variant(**VARIANTS[name]), current().asarray(IDS)
    whole = model(ids).numpy()
    assert np.abs(whole).max() > 0.3
    cache = model.new_cache()
    pieces = [model(ids[:, start:stop], cache=cache).numpy() for start, stop in ((0, 5), (5, 6), (6, 7), (7, 12))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_of_every_variant_by_finite_differences(name):
    """Along a random direction of all parameters at once, in float64."""
    with tm.using("numpy"):
        model, rng = variant(**VARIANTS[name]), np.random.default_rng(3)
        for p in model.parameters():
            p.data = p.data.astype(np.float64)
        targets = np.roll(IDS, -1, axis=1)
        model.loss(IDS, targets).backward()
        directions = [rng.standard_normal(p.shape) for p in model.parameters()]
        slope = sum(float((p.grad * d).sum()) for p, d in zip(model.parameters(), directions, strict=True))
        # A query that looks at one key has no choice: its gradient is zero, but for rounding.
        unmoved = ("q_proj", "k_proj") if name == "window of one" else ()
        moved = [p.grad for key, p in model.named_parameters() if not any(part in key for part in unmoved)]
        assert all(np.abs(grad).max() > 0 for grad in moved), "a parameter gets no gradient"
        ends = []
        for step in (1e-5, -2e-5):
            for p, d in zip(model.parameters(), directions, strict=True):
                p.data = p.data + step * d
            ends.append(model.loss(IDS, targets).item())
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_a_window_hides_what_is_far(backend, window):
    """With one sliding layer, a token that leaves the window no longer changes what is predicted."""
    config = Config(
        vocab_size=17, hidden_size=24, intermediate_size=20, num_hidden_layers=1, num_attention_heads=4,
        initializer_range=0.3, attention="variant", layer_types=("sliding_attention",), sliding_window=window,
    )  # fmt: skip
    model, other = CausalLM(config), IDS.copy()
    other[:, 2] = (IDS[:, 2] + 1) % 17
    change = np.abs(model(current().asarray(IDS)).numpy() - model(current().asarray(other)).numpy()).max(axis=(0, 2))
    assert (change[:2] == 0).all() and (change[2 : 2 + window] > 0).all() and (change[2 + window :] == 0).all()


def test_a_cap_bounds_the_scores_and_the_logits(backend):
    """However large the weights: no probability ratio above exp(2 cap), no logit above its own cap."""
    model = variant(attn_logit_softcapping=0.5, final_logit_softcapping=1.5)
    for name, p in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight", "lm_head.weight")):
            p.data *= 30
    trace = model.trace(current().asarray(IDS))
    assert np.abs(trace.logits).max() <= 1.5
    for weights in trace.attention:
        last = weights[:, :, -1]  # (B, H, S): the last token sees all
        assert (last.max(axis=-1) / last.min(axis=-1)).max() <= np.exp(1.0) * 1.001


def test_costs_are_counted_by_layer():
    """A window bounds work and cache of its own layers only."""
    local, full, _ = (layer.self_attn for layer in variant(**LOCAL).model.layers)
    for length in (1, 3, 100):
        assert full.cached(length) == 2 * 2 * 6 * length and full.work(length) == 4 * 4 * 6 * length
        assert local.cached(length) == 2 * 2 * 6 * min(length, 3) and local.work(length) == 4 * 4 * 6 * min(length, 3)


@pytest.mark.parametrize("kind", ["gated", "plain"])
def test_an_activation_that_is_not_known(kind):
    with pytest.raises(ValueError, match=r"hidden_act: got 'softsign', expected one of gelu, gelu_new, "):
        variant(mlp=kind, hidden_act="softsign")
