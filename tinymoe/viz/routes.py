"""What routers chose, counted: loads, balance, and how much an expert has to do with what a token is.

Experts are given by their numbers, (..., k), as `model.trace` gives them: -1 is none, for a choice that was dropped.

    T tokens   E experts   k experts a token   D domains
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

TOKEN_KINDS = ("word", "capitalized", "part of a word", "number", "punctuation", "blank", "not ASCII")


def expert_loads(experts: Any, num_experts: int) -> np.ndarray:
    """How often each expert was chosen, (E,), from experts of any shape; of a list of layers, (layers, E).

    Raises ValueError for numbers of experts that are not -1 to num_experts - 1.
    """
    if isinstance(experts, list) and isinstance(experts[0], np.ndarray):
        return np.stack([expert_loads(layer, num_experts) for layer in experts])
    return np.bincount(_checked(experts, num_experts).reshape(-1) + 1, minlength=num_experts + 1)[1:]


def expert_domain_table(experts: Any, domains: Any, num_experts: int, num_domains: int | None = None) -> np.ndarray:
    """How often the tokens of each domain chose each expert: (E, D).

    experts (..., k); domains, numbers from 0, have its shape without k, or only its first axes: (B,) gives a domain
    to each text of experts (B, T, k).

    Raises ValueError for shapes that do not fit, and numbers out of range.
    """
    experts = _checked(experts, num_experts)
    domains = _labels(domains, experts.shape[:-1])
    size = int(domains.max()) + 1 if num_domains is None else num_domains
    if domains.min() < 0 or domains.max() >= size:
        raise ValueError(f"domains: got numbers from {domains.min()} to {domains.max()}, expected 0 to {size - 1}")
    pairs = (experts * size + domains[..., None])[experts >= 0]
    return np.bincount(pairs, minlength=num_experts * size).reshape(num_experts, size)


def token_kind(token: str | bytes) -> str:
    """The kind of a token, one of TOKEN_KINDS, by its text alone; a word is what begins with a space."""
    text = token if isinstance(token, str) else token.decode("utf-8", errors="replace")
    core = text.strip()
    if not core:
        return "blank"
    if not core.isascii():
        return "not ASCII"
    if core.isdigit():
        return "number"
    if not any(character.isalpha() for character in core):
        return "punctuation"
    if core[0].isupper():
        return "capitalized"
    return "word" if text[0].isspace() else "part of a word"


def expert_kind_table(experts: Any, tokens: Sequence[str | bytes], num_experts: int) -> np.ndarray:
    """How often the tokens of each kind chose each expert: (E, kinds), in the order of TOKEN_KINDS.

    experts (T, k) or (1, T, k), and the texts of the T tokens. Raises ValueError as `expert_domain_table`.
    """
    kinds = np.array([TOKEN_KINDS.index(token_kind(token)) for token in tokens])
    experts = np.asarray(experts)
    experts = experts[0] if experts.ndim == 3 and len(experts) == 1 else experts
    if experts.ndim != 2 or len(experts) != len(kinds):
        raise ValueError(f"experts: got shape {experts.shape}, expected ({len(kinds)}, k) for {len(kinds)} tokens")
    return expert_domain_table(experts, kinds, num_experts, len(TOKEN_KINDS))


def mutual_information(table: Any) -> float:
    """What the row tells about the column in a table of counts (rows, columns), in bits: 0 where they are independent.

    Small tables of few counts show some by chance: compare with `expert_information`'s shuffled labels.
    """
    table = np.asarray(table, dtype=float)
    if table.ndim != 2 or table.sum() <= 0 or table.min() < 0:
        raise ValueError(f"table: got shape {table.shape}, expected counts (rows, columns), not all of them zero")
    return float(max(_entropy(table.sum(0)) + _entropy(table.sum(1)) - _entropy(table.reshape(-1)), 0))


class Information(NamedTuple):
    """Mutual information in bits: of the labels as they are, of shuffled ones on average, and their deviation."""

    bits: float
    shuffled: float
    deviation: float


def expert_information(
    experts: Any, domains: Any, num_experts: int, *, repeats: int = 20, seed: int = 0
) -> Information:
    """How much a token's expert tells about its domain, beside what shuffled domains give by chance.

    Arguments as `expert_domain_table`. Shuffled is what `domains` holds: with one domain for each text, whole texts
    change their domain, the fairer comparison, since neighboring tokens are alike.
    """
    domains, generator = np.asarray(domains), np.random.default_rng(seed)

    def bits(labels: np.ndarray) -> float:
        return mutual_information(expert_domain_table(experts, labels, num_experts))

    def shuffled() -> np.ndarray:
        return generator.permutation(domains.reshape(-1)).reshape(domains.shape)

    chance = [bits(shuffled()) for _ in range(repeats)]
    return Information(bits(domains), float(np.mean(chance)), float(np.std(chance)))


def _entropy(counts: np.ndarray) -> Any:
    """In bits, over the last axis."""
    shares = counts / counts.sum(axis=-1, keepdims=True)
    return -np.sum(shares * np.log2(shares, where=shares > 0, out=np.zeros_like(shares)), axis=-1)


def _checked(experts: Any, num_experts: int) -> np.ndarray:
    experts = np.asarray(experts)
    if experts.size == 0 or experts.dtype.kind not in "iu":
        raise ValueError(f"experts: got shape {experts.shape} of {experts.dtype}, expected numbers of experts (..., k)")
    if experts.min() < -1 or experts.max() >= num_experts:
        raise ValueError(
            f"experts: got numbers from {experts.min()} to {experts.max()}, expected -1 to {num_experts - 1}"
        )
    return experts.astype(np.intp)


def _labels(domains: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of domains, brought to the shape of the tokens."""
    domains = np.asarray(domains)
    if domains.dtype.kind not in "iu" or domains.ndim < 1 or domains.shape != shape[: domains.ndim]:
        raise ValueError(
            f"domains: got shape {domains.shape} of {domains.dtype}, expected whole numbers {shape}, or one for each "
            "entry of the first axes"
        )
    return np.broadcast_to(domains.astype(np.intp).reshape(domains.shape + (1,) * (len(shape) - domains.ndim)), shape)
