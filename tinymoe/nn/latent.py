"""Multi-head latent attention: all heads' keys and values come from one short vector a token, and only that is cached.

    B batch   T tokens (queries)   S keys   H heads   R qk_rope_head_dim   N qk_nope_head_dim   E v_head_dim
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from .. import ops
from ..backend import current
from ..backend.reference import AttentionRules
from ..tensor import Tensor
from .attention import Places
from .cache import LayerCache
from .config import Config
from .module import Linear, Module, make, part
from .recorder import record
from .variants import weights_by_rules


@part("attention", "latent")
class LatentAttention(Module):
    """Multi-head latent attention with decoupled rope (DeepSeek-V2, 2024, section 2.1).

    A token leaves behind a vector of R + kv_lora_rank numbers: a rope key that all heads share, and a latent from
    which kv_b_proj makes each head's keys (N) and values (E). Without a cache they are made, and compared in the usual
    way. With one they never are: both halves of kv_b_proj move to the queries' side of attention, which then has a
    single key/value head, the cached vector itself. The results are the same.

    Rope turns the first R channels of a head here; the published matrices have them last.
    """

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        c = config
        self.num_heads = H = c.num_attention_heads
        self.rank, self.nope_dim, self.rope_dim, self.v_head_dim = latent_sizes(c)
        self.qk_head_dim = self.rope_dim + self.nope_dim
        self.scale = latent_scale(self.qk_head_dim, c.rope_scaling)
        linear = partial(Linear, rng=rng, std=c.initializer_range)
        norm = partial(make, "norm", c.norm, eps=1e-6)  # whatever the model's own eps is
        if c.q_lora_rank is None:
            self.q_proj = linear(c.hidden_size, H * self.qk_head_dim, bias=False)
        else:
            self.q_a_proj = linear(c.hidden_size, c.q_lora_rank, bias=c.attention_bias)
            self.q_a_layernorm = norm(c.q_lora_rank)
            self.q_b_proj = linear(c.q_lora_rank, H * self.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = linear(c.hidden_size, self.rope_dim + self.rank, bias=c.attention_bias)
        self.kv_a_layernorm = norm(self.rank)
        self.kv_b_proj = linear(self.rank, H * (self.nope_dim + self.v_head_dim), bias=False)
        self.o_proj = linear(H * self.v_head_dim, c.hidden_size, bias=c.attention_bias)

    def __call__(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        """x (B, T, hidden_size) -> the same shape. With a cache, x holds only the tokens not yet read."""
        q, q_latent = self.queries(x, places)
        rules = self.rules(x, q_latent, places, cache)
        latents = self.latents(x, places)
        if cache is None:
            out = self.mix(q, *self.expand(latents), rules)
        else:
            kept = Tensor(cache.append(latents.data, latents.data[..., :0])[0])  # no values: they are part of it
            out = self.lift(self.mix(self.absorb(q), kept, kept[..., self.rope_dim :], rules))
        return self.o_proj(out.reshape(*x.shape[:2], -1))

    def queries(self, x: Tensor, places: Places) -> tuple[Tensor, Tensor | None]:
        """Queries (B, T, H, R + N), turned by their positions, and the latent they were made from, or None."""
        latent = self.q_a_layernorm(self.q_a_proj(x)) if hasattr(self, "q_a_proj") else None
        q = self.q_proj(x) if latent is None else self.q_b_proj(latent)
        q = q.reshape(*x.shape[:2], self.num_heads, self.qk_head_dim)
        return ops.rope(q, cos=places.cos, sin=places.sin), latent

    def latents(self, x: Tensor, places: Places) -> Tensor:
        """What a token leaves behind, (B, T, 1, R + kv_lora_rank): the rope key, turned, and the latent, normalised."""
        both = self.kv_a_proj_with_mqa(x).reshape(*x.shape[:2], 1, -1)
        key = ops.rope(both[..., : self.rope_dim], cos=places.cos, sin=places.sin)
        return ops.concatenate(key, self.kv_a_layernorm(both[..., self.rope_dim :]), axis=-1)

    def expand(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Each head's keys (B, S, H, R + N) and values (B, S, H, E), from the latents (B, S, 1, R + kv_lora_rank)."""
        shape = (*latents.shape[:2], self.num_heads, -1)
        shared, latent = latents[..., : self.rope_dim], latents[..., self.rope_dim :]
        keys, values = (ops.linear(latent, half.reshape(-1, self.rank)).reshape(shape) for half in self.halves())
        copies = current().xp.ones((self.num_heads, 1), dtype=latents.dtype)
        return ops.concatenate(shared * copies, keys, axis=-1), values

    def absorb(self, q: Tensor) -> Tensor:
        """Queries that can be compared with latents: (B, T, H, R + N) -> (B, T, H, R + kv_lora_rank).

        A head's score q . (W latent) is (W^T q) . latent, with the key half of kv_b_proj for W.
        """
        to_keys, _ = self.halves()
        nope = q[..., self.rope_dim :].transpose(0, 2, 1, 3) @ to_keys  # (B, H, T, kv_lora_rank)
        return ops.concatenate(q[..., : self.rope_dim], nope.transpose(0, 2, 1, 3), axis=-1)

    def lift(self, mixed: Tensor) -> Tensor:
        """Mixes of latents (B, T, H, kv_lora_rank) -> mixes of values (B, T, H, E), by the value half of kv_b_proj."""
        _, to_values = self.halves()
        return (mixed.transpose(0, 2, 1, 3) @ to_values.transpose(0, 2, 1)).transpose(0, 2, 1, 3)

    def halves(self) -> tuple[Tensor, Tensor]:
        """kv_b_proj taken apart: what makes keys, (H, N, kv_lora_rank), and what makes values, (H, E, kv_lora_rank)."""
        weight = self.kv_b_proj.weight.reshape(self.num_heads, self.nope_dim + self.v_head_dim, self.rank)
        return weight[:, : self.nope_dim], weight[:, self.nope_dim :]

    def rules(self, x: Tensor, q_latent: Tensor | None, places: Places, cache: LayerCache | None) -> AttentionRules:
        """Which keys each query may see; made before the cache takes in x."""
        return AttentionRules(self.scale, places.q_documents, places.k_documents)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Tensor:
        """Each query's mix of the values: q (B, T, H, D), k (B, S, K, D), v (B, S, K, E) -> (B, T, H, E)."""
        record("attention", lambda: weights_by_rules(q, k, None, rules))
        return ops.ruled_attention(q, k, v, None, rules=rules)

    def new_cache(self) -> LayerCache:
        """An empty cache for this layer."""
        return LayerCache()

    def work(self, seen: int) -> int:
        """As in `Attention`, with keys and values expanded."""
        return 2 * self.num_heads * (self.qk_head_dim + self.v_head_dim) * seen

    def cached(self, length: int) -> int:
        """Numbers that the cache holds for a text of `length` tokens."""
        return (self.rope_dim + self.rank) * length


def latent_sizes(config: Config) -> tuple[int, int, int, int]:
    """kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim and v_head_dim. Raises ValueError naming one that is missing."""
    sizes = []
    for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        size = getattr(config, name)
        if not size:
            raise ValueError(f"{name}: got {size}, expected at least 1, for latent attention")
        sizes.append(size)
    return tuple(sizes)


def latent_scale(qk_head_dim: int, rope_scaling: Mapping[str, Any] | None) -> float:
    """What scores are multiplied by: 1 / sqrt(qk_head_dim), times the square of YaRN's mscale where that is set.

    `mscale_all_dim` spreads YaRN's temperature over all channels of queries and keys, turned or not.
    """
    scaling, scale = rope_scaling or {}, 1 / math.sqrt(qk_head_dim)
    if not scaling.get("mscale_all_dim") or scaling["factor"] <= 1:
        return scale
    return scale * (0.1 * scaling["mscale_all_dim"] * math.log(scaling["factor"]) + 1) ** 2
