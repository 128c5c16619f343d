"""Sparse attention: a small indexer chooses, for each query, the few tokens that latent attention then looks at.

    B batch   T tokens (queries)   S keys   t and s those of a block   J index heads   D index_head_dim   n keys chosen
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import Array, AttentionRules, _group, _query_blocks
from ..ops import Result, op
from ..tensor import OPS, Context, Tensor, no_grad
from .attention import Places
from .cache import LayerCache
from .config import Config
from .latent import LatentAttention
from .module import Linear, Module, Parameter, part
from .norm import LayerNorm
from .recorder import contribute, record


@op
def index_scores(ctx: Context, q: Array, k: Array, weights: Array) -> Result:
    """How much each query wants each key: the sum over index heads j of weight_j relu(q_j . k), (B, t, s).

    q (B, t, J, D), k (B, s, D), weights (B, t, J). Equation 1 of the DeepSeek-V3.2 paper (2025).
    """
    B, t, J, D = q.shape
    rows = q.reshape(B, t * J, D)
    matches = ctx.xp.maximum(rows @ k.swapaxes(-1, -2), 0).reshape(B, t, J, -1)  # (B, t, J, s)

    def vjp(g: Array) -> tuple[Array, Array, Array]:
        dmatches = (weights[..., None] * g[:, :, None] * (matches > 0)).reshape(B, t * J, -1)
        dweights = (matches @ g[..., None])[..., 0]
        return (dmatches @ k).reshape(q.shape), dmatches.swapaxes(-1, -2) @ rows, dweights

    return (weights[:, :, None] @ matches)[:, :, 0], vjp


def top_keys(scores: Array, k: int) -> Array:
    """The numbers of the k best keys of each query, in order of place: scores (B, t, s) -> (B, t, min(k, s)).

    A score of -inf marks a key that may not be seen; where fewer than k may be, -1 fills up. Of keys with equal scores
    the nearest to the end win, so that the choice does not depend on what else is compared.
    """
    xp, k = current().xp, min(k, scores.shape[-1])
    least = xp.partition(scores, -k, axis=-1)[..., -k, None]  # the k-th best score of each query
    better, equal = scores > least, scores == least
    place = xp.cumsum(equal[..., ::-1], axis=-1)[..., ::-1]  # 1 for the last of the equal ones, 2 for the one before
    chosen = better | (equal & (place <= k - better.sum(axis=-1, keepdims=True)))
    keys = xp.nonzero(chosen)[-1].reshape(*scores.shape[:-1], k)
    return xp.where(xp.take_along_axis(scores, keys, axis=-1) > -math.inf, keys, -1)


def select(q: Array, k: Array, weights: Array, count: int, rules: AttentionRules) -> Array:
    """The `count` keys with the highest index scores for each query, of those the rules let it see: (B, T, n).

    q (B, T, J, D), k (B, S, D), weights (B, T, J); n is min(count, S). Scores exist for a block of queries at a time.
    """
    T, S = q.shape[1], k.shape[1]
    selected = current().xp.full((len(q), T, min(count, S)), -1)
    for rows, seen in _query_blocks(T, S):
        allowed, _ = current().visible(rows, seen, S - T, rules)
        with no_grad():
            scores = index_scores(q[:, rows], k[:, seen], weights[:, rows]).data
        best = top_keys(current().xp.where(allowed, scores, -math.inf), count)
        selected[:, rows, : best.shape[-1]] = best
    return selected


def attention_target(q: Array, k: Array, rows: slice, seen: slice, rules: AttentionRules) -> tuple[Array, Array]:
    """What the indexer should foresee: where a block's queries look, on average over the heads, (B, t, s).

    q (B, T, H, ·), k (B, S, K, ·): attention's own. The average is the paper's sum over heads, normalised to 1.
    Also returns which keys may be seen, (B or 1, t, s).
    """
    B, T, H, _ = q.shape
    S, K = k.shape[1:3]
    scores = _group(q[:, rows], K) @ k[:, seen].transpose(0, 2, 3, 1)  # (B, K, H / K * t, s)
    allowed, distance = current().visible(rows, seen, S - T, rules)
    scores = scores.reshape(B, K, H // K, *distance.shape)
    weights, _ = current().masked_softmax(scores, rules, allowed, distance, None)
    return weights.mean(axis=(1, 2)), allowed


@op
def index_kl(ctx: Context, scores: Array, *, target: Array) -> Result:
    """KL(target || softmax(scores)), the sum over all queries: scores and target (B, t, s).

    Nats that the softmax is off by: 0 where both agree. Each query's target adds up to 1, and is 0 where its score is
    -inf: a key not to be seen.
    """
    xp = ctx.xp
    foreseen = ctx.backend.log_softmax(scores)
    counts = target > 0
    nats = xp.log(xp.where(counts, target, 1)) - xp.where(counts, foreseen, 0)
    return (target * nats).sum(), lambda g: (g * (xp.exp(foreseen) - target),)


@op
def indexer_loss(
    ctx: Context, q: Array, k: Array, weights: Array, *, queries: Array, keys: Array, rules: AttentionRules
) -> Result:
    """Mean over the queries of `index_kl`, from the index scores to where attention looks by its rules.

    q (B, T, J, D), k (B, S, D), weights (B, T, J) are the indexer's; queries (B, T, H, ·) and keys (B, S, K, ·) are
    attention's, and get no gradient. Gradients are found on the way forward, block by block, and only scaled later.
    """
    (B, T), S = q.shape[:2], k.shape[1]
    loss, share = q.dtype.type(0), q.dtype.type(1 / (B * T))
    dq, dk, dweights = ctx.xp.empty_like(q), ctx.xp.zeros_like(k), ctx.xp.empty_like(weights)
    for rows, seen in _query_blocks(T, S):
        target, allowed = attention_target(queries, keys, rows, seen, rules)
        scores, scores_vjp = OPS["index_scores"](ctx, q[:, rows], k[:, seen], weights[:, rows])
        kl, kl_vjp = OPS["index_kl"](ctx, ctx.xp.where(allowed, scores, -math.inf), target=target)
        dq[:, rows], dk_block, dweights[:, rows] = scores_vjp(*kl_vjp(share))
        dk[:, seen] += dk_block
        loss = loss + kl * share
    return loss, lambda g: (g * dq, g * dk, g * dweights)


class LightningIndexer(Module):
    """A few small heads that foresee which tokens attention will want (DeepSeek-V3.2, 2025, section 2.1).

    All heads share one key a token; each query has its own weight for every head. Rope turns the first channels.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        self.heads, self.head_dim, self.topk, q_lora_rank = index_sizes(config)
        linear = partial(Linear, bias=False, rng=rng, std=config.initializer_range)
        self.wq_b = linear(q_lora_rank, self.heads * self.head_dim)
        self.wk = linear(config.hidden_size, self.head_dim)
        self.k_norm = LayerNorm(self.head_dim, eps=1e-6)
        self.weights_proj = linear(config.hidden_size, self.heads)

    def __call__(self, x: Tensor, q_latent: Tensor, places: Places) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, hidden_size), q_latent (B, T, q_lora_rank) -> what `index_scores` takes.

        Queries (B, T, J, D), keys (B, T, D), and weights (B, T, J) with the scale, 1 / sqrt(J D), in them.
        """
        q = self.wq_b(q_latent).reshape(*x.shape[:2], self.heads, self.head_dim)
        k = self.k_norm(self.wk(x)).reshape(*x.shape[:2], 1, self.head_dim)
        q, k = (ops.rope(vectors, cos=places.cos, sin=places.sin) for vectors in (q, k))
        weights = self.weights_proj(x) * (1 / math.sqrt(self.heads * self.head_dim))
        return q, k.reshape(*x.shape[:2], self.head_dim), weights


@dataclass(frozen=True)
class IndexedRules(AttentionRules):
    """Rules, and what the indexer made to find the selected keys: queries, keys and weights, for its loss."""

    index: tuple[Tensor, ...] = ()


class IndexedCache(LayerCache):
    """A cache of latents, and beside it the index keys."""

    def __init__(self) -> None:
        super().__init__()
        self.index = LayerCache()

    @property
    def nbytes(self) -> int:
        """Bytes held by the tokens read so far, index keys included."""
        return super().nbytes + self.index.nbytes


@part("attention", "sparse")
class SparseLatentAttention(LatentAttention):
    """Latent attention in which each query sees only the `index_topk` keys that the indexer scores highest.

    DeepSeek Sparse Attention (DeepSeek-V3.2, 2025; also GLM-5, 2026). The indexer learns from a loss of its own, and
    no gradient of it reaches the rest of the model; nor can the choice of keys carry one back to the indexer.
    """

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        super().__init__(config, index, rng)
        self.indexer = LightningIndexer(config, rng)
        self.dense = False  # True during the warm-up

    def rules(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, q_latent: Tensor, places: Places, cache: IndexedCache | None
    ) -> IndexedRules:
        """The rules of latent attention and, once there are more than `index_topk` keys, the selected ones."""
        q, k, weights = self.indexer(x.detach(), q_latent.detach(), places)
        if cache is not None:
            k = Tensor(cache.index.append(k.data, k.data[..., :0])[0])  # (B, S, D)
        rules = IndexedRules(self.scale, places.q_documents, places.k_documents, index=(q, k, weights))
        record("index_scores", lambda: index_scores(q, k, weights).data)
        if self.dense or k.shape[1] <= self.indexer.topk:
            return rules
        selected = select(q.data, k.data, weights.data, self.indexer.topk, rules)
        record("selected", lambda: selected)
        return replace(rules, selected=selected)

    def mix(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, q: Tensor, k: Tensor, v: Tensor, rules: IndexedRules
    ) -> Tensor:
        """Each query's mix of the selected values: (B, T, H, E). Few queries fetch their keys; many share a mask."""
        contribute(lambda: indexer_loss(*rules.index, queries=q.data, keys=k.data, rules=rules))
        if rules.selected is None or q.shape[1] * rules.selected.shape[-1] > k.shape[1]:
            return super().mix(q, k, v, rules)
        return gathered_attention(q, k, v, rules.selected, self.scale)

    def new_cache(self) -> LayerCache:
        """An empty cache for this layer, with room for the index keys."""
        return IndexedCache()

    def work(self, seen: int) -> int:
        """The indexer's work over all `seen` tokens, and attention's over the selected ones."""
        return 2 * self.indexer.heads * (self.indexer.head_dim + 1) * seen + super().work(min(seen, self.indexer.topk))

    def cached(self, length: int) -> int:
        """As in `LatentAttention`, and one index key a token."""
        return super().cached(length) + self.indexer.head_dim * length


def gathered_attention(q: Tensor, k: Tensor, v: Tensor, selected: Array, scale: float) -> Tensor:
    """Attention in which each query fetches its selected keys and looks at no others: (B, T, H, E).

    q (B, T, H, D), k (B, S, K, D), v (B, S, K, E), selected (B, T, n), with -1 for none. The work grows with n, not S.
    """
    xp = current().xp
    B, T, n = selected.shape
    texts = xp.arange(B)[:, None, None]
    k, v = (kept[texts, selected].reshape(B * T, n, *kept.shape[2:]) for kept in (k, v))
    missing = (selected < 0).reshape(B * T, n)  # fetched the last key instead: put it into another document
    rules = AttentionRules(scale, xp.zeros((B * T, 1), dtype=bool), missing)
    out = ops.ruled_attention(q.reshape(B * T, 1, *q.shape[2:]), k, v, None, rules=rules)
    return out.reshape(B, T, *out.shape[2:])


@contextmanager
def warming_up(model: Module) -> Iterator[list[Parameter]]:
    """The first stage of training: attention is dense, and only the indexers record gradients. Yields their parameters.

    Raises ValueError for a model without sparse attention.
    """
    layers: list[Any] = [module for module in model.modules() if isinstance(module, SparseLatentAttention)]
    if not layers:
        raise ValueError("model: got one without sparse attention, so there is no indexer to warm up")
    trained = [p for layer in layers for p in layer.indexer.parameters()]
    indexers = {id(p) for p in trained}
    resting = [p for p in model.parameters() if p.requires_grad and id(p) not in indexers]
    for layer in layers:
        layer.dense = True
    for p in resting:
        p.requires_grad = False
    try:
        yield trained
    finally:
        for layer in layers:
            layer.dense = False
        for p in resting:
            p.requires_grad = True


def index_sizes(config: Config) -> tuple[int, int, int, int]:
    """index_n_heads, index_head_dim, index_topk and q_lora_rank. Raises ValueError naming one that does not fit."""
    sizes = []
    for name in ("index_n_heads", "index_head_dim", "index_topk", "q_lora_rank"):
        size = getattr(config, name)
        if not size:
            raise ValueError(f"{name}: got {size}, expected at least 1, for sparse attention")
        sizes.append(size)
    if sizes[1] < (config.qk_rope_head_dim or 0):
        raise ValueError(
            f"index_head_dim: got {sizes[1]}, expected at least qk_rope_head_dim "
            f"({config.qk_rope_head_dim}), the channels that rope turns"
        )
    return tuple(sizes)
