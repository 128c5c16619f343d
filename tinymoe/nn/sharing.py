"""Sparse attention that chooses once for several layers.

Neighboring layers want nearly the same tokens, and over a long text the indexer is the costly part: with four layers to
one choice, three quarters of that work are saved.
"""

from __future__ import annotations

import numpy as np

from ..backend.reference import AttentionRules
from ..tensor import Tensor
from .attention import Places
from .cache import LayerCache
from .config import Config
from .latent import LatentAttention
from .module import part
from .sparse import IndexedCache, IndexedRules, SparseLatentAttention, gathered_attention


@part("attention", "shared_sparse")
def shared_sparse_attention(config: Config, index: int, rng: np.random.Generator) -> LatentAttention:
    """Attention of a layer that chooses its keys, or of one that takes them over (`indexer_types`; GLM-5.2, 2026).

    Raises ValueError for other types than these, for too few, and for a first layer with nothing to take over.
    """
    types = config.indexer_types
    if len(types) != config.num_hidden_layers or not {*types} <= {"full", "shared"}:
        raise ValueError(f"indexer_types: got {types}, expected 'full' or 'shared' for each layer")
    if types[0] != "full":
        raise ValueError("indexer_types: got 'shared' for the first layer, which has no layer to share with")
    kind = LendingAttention if types[index] == "full" else BorrowingAttention
    return kind(config, index, rng)


class LendingAttention(SparseLatentAttention):
    """Sparse attention that leaves what it chose to the layers after it."""

    def rules(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, q_latent: Tensor, places: Places, cache: IndexedCache | None
    ) -> IndexedRules:
        """As in `SparseLatentAttention`."""
        rules = super().rules(x, q_latent, places, cache)
        places.selected = rules.selected
        return rules


class BorrowingAttention(LatentAttention):
    """Sparse attention without an indexer: it looks at the keys that an earlier layer chose."""

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        super().__init__(config, index, rng)
        self.topk = config.index_topk or 0

    def rules(self, x: Tensor, q_latent: Tensor | None, places: Places, cache: LayerCache | None) -> AttentionRules:
        """As in `LatentAttention`, with the selected keys."""
        return AttentionRules(self.scale, places.q_documents, places.k_documents, selected=places.selected)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> Tensor:
        """As in `SparseLatentAttention`: few queries fetch their keys; many share a mask."""
        if rules.selected is None or q.shape[1] * rules.selected.shape[-1] > k.shape[1]:
            return super().mix(q, k, v, rules)
        return gathered_attention(q, k, v, rules.selected, self.scale)

    def work(self, seen: int) -> int:
        """Attention's work over the selected tokens."""
        return super().work(min(seen, self.topk))
