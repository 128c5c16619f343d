"""Exercises of chapter 03: the parts of a transformer, each of which the chapter's own training run then uses."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymoe import ops
from tinymoe.backend.reference import Array
from tinymoe.nn.attention import attention_weights
from tinymoe.nn.config import Config
from tinymoe.ops import Result
from tinymoe.tensor import Context, Tensor

from ..checks import Case, case, gradients, holds, matches, wrong
from ..registry import Exercise


def _rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).round(2)


def _queries_and_keys(batch: int, T: int, S: int, H: int, K: int, D: int = 2, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [_rows(rng, batch, T, H, D), _rows(rng, batch, S, K, D)]


def _with_values(batch: int, T: int, S: int, H: int, K: int, D: int = 2, seed: int = 0) -> list[np.ndarray]:
    q, k = _queries_and_keys(batch, T, S, H, K, D, seed)
    return [q, k, _rows(np.random.default_rng(seed + 100), batch, S, K, D)]


def _random_attention(rng: np.random.Generator, size: int) -> Case:
    T = int(rng.integers(1, size + 1))
    K, group, D = (int(n) for n in rng.integers(1, 4, size=3))
    return case(_rows(rng, 2, T, K * group, D), _rows(rng, 2, T, K, D), 0.5)


_ONE_TEXT = {"q_documents": None, "k_documents": None}
_TWO_TEXTS = {"q_documents": np.array([[1, 1, 2, 2]]), "k_documents": np.array([[1, 1, 2, 2]])}


def attention(
    ctx: Context,
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    q_documents: Array | None = None,
    k_documents: Array | None = None,
) -> Result:
    """Causal attention by the plain formula, with all T x S weights: q (B, T, H, D), k and v (B, S, K, D)."""
    group = q.shape[2] // k.shape[2]  # query heads that share a key head
    weights = attention_weights(q, k, scale, q_documents, k_documents)  # (B, H, T, S)
    queries = q.transpose(0, 2, 1, 3)  # (B, H, T, D)
    keys = np.repeat(k, group, axis=2).transpose(0, 2, 1, 3)  # (B, H, S, D)
    values = np.repeat(v, group, axis=2).transpose(0, 2, 1, 3)  # (B, H, S, D)
    out = weights @ values  # (B, H, T, D)

    def shared(grad: Array) -> Array:
        # (B, H, S, D) -> (B, S, K, D): a head that was used by several queries gets the sum of their gradients
        B, H, S, D = grad.shape
        return grad.reshape(B, H // group, group, S, D).sum(axis=2).transpose(0, 2, 1, 3)

    def vjp(g: Array) -> tuple[Array, Array, Array]:
        g = g.transpose(0, 2, 1, 3)  # (B, H, T, D)
        dvalues = weights.swapaxes(-1, -2) @ g
        dweights = g @ values.swapaxes(-1, -2)
        dscores = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True)) * scale
        dqueries = dscores @ keys
        dkeys = dscores.swapaxes(-1, -2) @ queries
        return dqueries.transpose(0, 2, 1, 3), shared(dkeys), shared(dvalues)

    return out.transpose(0, 2, 1, 3), vjp


def rope(ctx: Context, x: Array, *, cos: Array, sin: Array) -> Result:
    """Turn the pairs (x[i], x[i + D/2]) by their angles: x (B, T, H, D), cos and sin (B or 1, T, D/2)."""
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]  # (B or 1, T, 1, D/2): the same for every head

    def turn(x: Array, sin: Array) -> Array:
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        return ctx.xp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    return turn(x, sin), lambda g: (turn(g, -sin),)


def _angles(*angles: list[float]) -> dict[str, np.ndarray]:
    """cos and sin of one text, (1, T, D/2), from the angles of each position."""
    return {"cos": np.cos([angles]), "sin": np.sin([angles])}


def _random_rotation(rng: np.random.Generator, size: int) -> Case:
    T, H, half = (int(n) for n in rng.integers(1, 4, size=3))
    angles = rng.uniform(-3, 3, size=(1, T, half))
    return case(_rows(rng, 2, T, H, 2 * half), cos=np.cos(angles), sin=np.sin(angles))


def rms_norm(ctx: Context, x: Array, weight: Array, *, eps: float) -> Result:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    inverse = 1 / ctx.xp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    normed = x * inverse

    def vjp(g: Array) -> tuple[Array, Array]:
        scaled = g * weight
        dx = inverse * (scaled - normed * (scaled * normed).mean(axis=-1, keepdims=True))
        dweight = (g * normed).sum(axis=tuple(range(x.ndim - 1)))
        return dx, dweight

    return normed * weight, vjp


def _random_norm(rng: np.random.Generator, size: int) -> Case:
    width = int(rng.integers(1, 6))
    return case(_rows(rng, 2, size, width), _rows(rng, width), eps=0.01)


def flops_per_token(config: Config, context: int) -> int:
    """Operations of one token's forward pass, in the middle of a text of `context` tokens (no biases)."""
    c = config
    width, kv_width = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    attention = 2 * c.hidden_size * width + 2 * c.hidden_size * kv_width  # q_proj and o_proj, k_proj and v_proj
    mlp = 3 * c.hidden_size * c.intermediate_size
    weights = c.num_hidden_layers * (attention + mlp) + c.vocab_size * c.hidden_size  # the output layer, no table
    looking = c.num_hidden_layers * 2 * width * context // 2  # q k and p v, for half of the context
    return 2 * (weights + looking)


def _shape(**changes: Any) -> Config:
    small = {"vocab_size": 100, "hidden_size": 8, "intermediate_size": 20, "num_hidden_layers": 1}
    return Config(**{**small, "num_attention_heads": 2, **changes})


def _random_shape(rng: np.random.Generator, size: int) -> Case:
    kv_heads, group, head_dim, layers = (int(n) for n in rng.integers(1, 5, size=4))
    heads = kv_heads * group
    return case(
        _shape(
            hidden_size=heads * head_dim * 2, num_attention_heads=heads, num_key_value_heads=kv_heads,
            num_hidden_layers=layers, intermediate_size=int(rng.integers(1, 50)), tie_word_embeddings=bool(size % 2),
        ),
        2 * size,
    )  # fmt: skip


def _scores(*probabilities: float) -> np.ndarray:
    """Logits of one row with these probabilities."""
    return np.log(np.array([probabilities]))


def _random_scores(rng: np.random.Generator, size: int) -> Case:
    return case(rng.normal(scale=2, size=(2, size)), float(rng.uniform(0.05, 0.95)))


def my_gate(gate: Tensor, up: Tensor) -> Tensor:
    """ReLU of the one, and nothing of the other: the block of the first transformers, without a gate."""
    return ops.relu(gate)


def _gates(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    signs = np.where(np.arange(12).reshape(1, 3, 4) % 3, 1.0, -1.0)
    return rng.uniform(0.3, 2, (1, 3, 4)) * signs, rng.uniform(0.3, 2, (1, 3, 4))


def _returns_the_same_shape(function: Any) -> None:
    gate, up = (Tensor(a.astype(np.float32)) for a in _gates(0))
    out = function(gate, up)
    if not isinstance(out, Tensor):
        wrong("expected a Tensor, so that gradients can flow", given="two Tensors (1, 3, 4)", got=out)
    if out.shape != gate.shape or out.dtype != gate.dtype:
        expected = f"a Tensor {gate.shape} of {gate.dtype}"
        got = f"{out.shape} {out.dtype}"
        wrong("shape or dtype changed", given="two Tensors (1, 3, 4)", expected=expected, got=got)


def _is_bent(function: Any) -> None:
    gate, up = (Tensor(a) for a in _gates(1))
    once = function(gate, up).numpy()
    if all(np.allclose(function(by * gate, by * up).numpy(), by * once) for by in (2, -1)):
        wrong("it is a straight line: layers with nothing bent between them are no more than one", given=gate, got=once)


def _is_no_swiglu(function: Any) -> None:
    gate, up = (Tensor(a) for a in _gates(2))
    if np.allclose(function(gate, up).numpy(), ops.swiglu(gate, up).numpy()):
        wrong("that is SwiGLU itself; there would be nothing to compare", given=gate, got=function(gate, up))


def _has_gradients(function: Any) -> None:
    """Against finite differences of the function itself."""
    gate, up = (Tensor(a, requires_grad=True) for a in _gates(3))
    out = function(gate, up)
    if not out.requires_grad:
        wrong("no gradient reaches `gate`: compute with the Tensors, not with their .data or .numpy()", got=out)
    upstream = np.random.default_rng(4).normal(size=out.shape)
    out.backward(upstream)
    for name, tensor in (("gate", gate), ("up", up)):
        slope = np.zeros(tensor.shape)
        for where in np.ndindex(tensor.shape):
            ends = []
            for step in (1e-5, -1e-5):
                tensor.data[where] += step
                ends.append(float((function(gate, up).numpy() * upstream).sum()))
                tensor.data[where] -= step
            slope[where] = (ends[0] - ends[1]) / 2e-5
        got = np.zeros(tensor.shape) if tensor.grad is None else np.asarray(tensor.grad)
        if not np.allclose(got, slope, rtol=1e-4, atol=1e-6):
            wrong(f"the gradient of {name} is not its slope", given=tensor, expected=slope, got=got)


EXERCISES = [
    Exercise(
        id="03.attention_weights",
        title="Who looks at whom",
        target="nn/attention.py::attention_weights",
        checks=[
            matches("one token", [case(*_queries_and_keys(1, 1, 1, 1, 1), 1.0)]),
            matches("three tokens", [case(*_queries_and_keys(1, 3, 3, 1, 1), 1.0)]),
            matches("the scale", [case(*_queries_and_keys(1, 3, 3, 1, 1), 0.25)]),
            matches("two heads", [case(*_queries_and_keys(1, 3, 3, 2, 2), 0.5)]),
            matches("two query heads share a key head", [case(*_queries_and_keys(1, 3, 3, 4, 2), 0.5)]),
            matches("two new tokens after three old ones", [case(*_queries_and_keys(1, 2, 5, 1, 1), 0.5)]),
            matches("large scores", [case(*_queries_and_keys(1, 3, 3, 1, 1), 2000.0)]),
            matches("two texts in one row", [case(*_queries_and_keys(1, 4, 4, 1, 1), 0.5, **_TWO_TEXTS)]),
            matches("any shapes", _random_attention, count=12),
        ],
        hints=[
            "Scores: for each head, a matrix product of the queries (T, D) with the keys turned over (D, S). "
            "`q.transpose(0, 2, 1, 3)` is (B, H, T, D), and `k.transpose(0, 2, 3, 1)` is (B, H, D, S).",
            "The queries are the last T of the S positions: query number t stands at position S - T + t. It may see "
            "the keys whose position is not larger: compare `np.arange(S)` with a column of query positions.",
            "scores = q.transpose(0, 2, 1, 3) @ k.transpose(0, 2, 3, 1) * scale;   "
            "allowed = np.arange(S) <= np.arange(S - T, S)[:, None];   "
            "the last line: current().softmax(np.where(allowed, scores, -np.inf))",
        ],
    ),
    Exercise(
        id="03.attention",
        title="Attention and its vjp",
        target="ops.py::attention",
        reference=attention,
        checks=[
            matches("one token", [case(*_with_values(1, 1, 1, 1, 1), scale=1.0, **_ONE_TEXT)]),
            matches("three tokens", [case(*_with_values(1, 3, 3, 1, 1), scale=0.5, **_ONE_TEXT)]),
            matches("two heads, two texts", [case(*_with_values(1, 4, 4, 2, 2), scale=0.5, **_TWO_TEXTS)]),
            gradients("its vjp, two tokens", [case(*_with_values(1, 2, 2, 1, 1), scale=0.5)]),
            gradients("its vjp, two heads", [case(*_with_values(1, 3, 3, 2, 2), scale=0.7)]),
            gradients("its vjp, four heads share two", [case(*_with_values(1, 2, 2, 4, 2), scale=0.7)]),
        ],
        hints=[
            "The forward pass is one matrix product: each row of weights (T, S) mixes the values (S, D).",
            "The vjp of a product C = A B is in chapter 02: dA = g Bᵀ and dB = Aᵀ g. It gives dvalues and dweights "
            "here, and dqueries and dkeys, since scores = queries keysᵀ. `x.swapaxes(-1, -2)` is xᵀ for every head.",
            "The vjp of softmax is in chapter 02, too: p * (g - (g * p).sum(axis=-1, keepdims=True)). Then times "
            "`scale`, because the softmax was taken of scale · queries keysᵀ.",
            "dvalues = weights.swapaxes(-1, -2) @ g;   dweights = g @ values.swapaxes(-1, -2);   dscores = weights * "
            "(dweights - (dweights * weights).sum(axis=-1, keepdims=True)) * scale;   dqueries = dscores @ keys;   "
            "dkeys = dscores.swapaxes(-1, -2) @ queries",
        ],
    ),
    Exercise(
        id="03.rope",
        title="Turning pairs of channels",
        target="ops.py::rope",
        reference=rope,
        checks=[
            matches("position 0 is not turned", [case(np.array([[[[1.0, 2.0]]]]), **_angles([0.0]))]),
            matches("a quarter turn", [case(np.array([[[[1.0, 0.0]]]]), **_angles([np.pi / 2]))]),
            matches("two pairs", [case(np.array([[[[1.0, 2.0, 3.0, 4.0]]]]), **_angles([0.5, 0.1]))]),
            matches("two positions", [case(np.array([[[[1.0, 0.0]], [[1.0, 0.0]]]]), **_angles([0.5], [1.0]))]),
            matches("any shapes", _random_rotation, count=12),
            gradients("its vjp", [case(np.array([[[[1.0, 2.0, 3.0, 4.0]]]]), **_angles([0.5, 2.0]))]),
        ],
        hints=[
            "In Llama's layout the partner of channel i is channel i + D/2: split x into its first and second half.",
            "cos and sin have no axis for the heads. `cos[:, :, None, :]` gives them one, and broadcasting does the "
            "rest.",
            "A pair (a, b) turned by an angle is (a cos - b sin, b cos + a sin). Join the halves again with "
            "`ctx.xp.concatenate([...], axis=-1)`.",
            "A rotation is undone by turning back: the vjp turns g with -sin in place of sin.",
        ],
    ),
    Exercise(
        id="03.rms_norm",
        title="Root-mean-square norm and its vjp",
        target="ops.py::rms_norm",
        reference=rms_norm,
        checks=[
            matches("two channels", [case(np.array([[3.0, 4.0]]), np.ones(2), eps=0.0)]),
            matches("a weight", [case(np.array([[3.0, 4.0]]), np.array([2.0, -1.0]), eps=0.0)]),
            matches("a row of zeros", [case(np.zeros((1, 3)), np.ones(3), eps=1e-6)]),
            matches("eps stands inside the root", [case(np.array([[0.3, 0.4]]), np.ones(2), eps=0.5)]),
            matches("any shapes", _random_norm, count=8),
            gradients("its vjp, one row", [case(np.array([[1.0, -2.0, 0.5]]), np.ones(3), eps=0.0)]),
            gradients(
                "its vjp, a weight", [case(np.array([[[1.0, -2.0], [0.3, 0.8]]]), np.array([0.5, 2.0]), eps=0.1)]
            ),
        ],
        hints=[
            "The mean is over the last axis only: `(x * x).mean(axis=-1, keepdims=True)`.",
            "The gradient of the weight: it is used in every row, so its gradients add up over all axes but the last.",
            "If the root were a constant, dx would be g * weight * inverse. But a larger x also makes the root larger, "
            "and that takes back the part of g * weight that points along x.",
            "With normed = x * inverse and scaled = g * weight:   dx = inverse * (scaled - normed * (scaled * normed)"
            ".mean(axis=-1, keepdims=True));   dweight = (g * normed).sum(axis=tuple(range(x.ndim - 1)))",
        ],
    ),
    Exercise(
        id="03.flops_per_token",
        title="What does a token cost?",
        reference=flops_per_token,
        checks=[
            matches("one layer, hardly any context", [case(_shape(), 2)]),
            matches("a longer context", [case(_shape(), 100)]),
            matches("three layers", [case(_shape(num_hidden_layers=3), 100)]),
            matches("one table for both ends", [case(_shape(tie_word_embeddings=True), 2)]),
            matches("fewer key/value heads", [case(_shape(num_attention_heads=4, num_key_value_heads=2), 100)]),
            matches("heads of their own width", [case(_shape(head_dim=6), 100)]),
            matches("any shape", _random_shape, count=20),
            matches("Llama 2 70B", [case(Config(
                vocab_size=32000, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80,
                num_attention_heads=64, num_key_value_heads=8,
            ), 4096)]),
        ],
        hints=[
            "First the weights that a token is multiplied with: in each layer q_proj, k_proj, v_proj, o_proj and the "
            "MLP's three; then the output layer. Two operations for each.",
            "q_proj: hidden_size × (num_attention_heads · head_dim). k_proj and v_proj have num_key_value_heads "
            "instead. o_proj has the shape of q_proj, turned over.",
            "Attention, in each layer: num_attention_heads · head_dim multiply-adds with each key, and as many with "
            "each value; context / 2 keys. Two operations for each multiply-add.",
        ],
    ),
    Exercise(
        id="03.top_p_filter",
        title="Nucleus sampling",
        target="generate/sampling.py::top_p_filter",
        checks=[
            matches("the likeliest alone is enough", [case(_scores(0.7, 0.2, 0.1), 0.6)]),
            matches("two are needed", [case(_scores(0.5, 0.3, 0.2), 0.6)]),
            matches("not in order", [case(_scores(0.1, 0.5, 0.15, 0.25), 0.6)]),
            matches("all of them", [case(_scores(0.5, 0.3, 0.2), 0.99)]),
            matches("a very small p keeps one", [case(_scores(0.3, 0.4, 0.3), 0.01)]),
            matches("each row for itself", [case(np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])), 0.65)]),
            matches("any scores", _random_scores, count=20),
        ],
        hints=[
            "`np.argsort(-logits, axis=-1)` gives the tokens from the likeliest down; `np.take_along_axis` puts the "
            "scores in that order, and `np.cumsum(probabilities, axis=-1)` adds up the probabilities.",
            "A token stays while the tokens *before* it have not reached p: cumulative - own < p. Then the one that "
            "crosses p still belongs to the nucleus, and the first always stays.",
            "What was decided in sorted order has to go back to the tokens' own order: "
            "`np.put_along_axis(dropped, order, outside, axis=-1)`. Then `np.where(dropped, -np.inf, logits)`.",
        ],
    ),
    Exercise(
        id="03.my_gate",
        title="Another feed-forward block",
        reference=my_gate,
        checks=[
            holds("a Tensor of the same shape", _returns_the_same_shape),
            holds("it is bent", _is_bent),
            holds("it is not SwiGLU", _is_no_swiglu),
            holds("gradients reach what it uses", _has_gradients),
        ],
        hints=[
            "`ops.relu`, `ops.silu`, `ops.sigmoid`, `ops.tanh` work on Tensors, and so do + and *.",
            "Three classics: `ops.relu(gate)` alone (2017); `ops.relu(gate) * up`, called ReGLU; "
            "`ops.sigmoid(gate) * up`, the first gated unit, GLU.",
            "Or the square of a ReLU, which did best in a search by machine (So et al. 2021): r = ops.relu(gate), "
            "then r * r.",
        ],
    ),
]
