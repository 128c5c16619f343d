"""From scores to a token: the choices that turn a distribution into text."""

from __future__ import annotations

import numpy as np


def repetition_penalty(logits: np.ndarray, ids: np.ndarray, penalty: float) -> np.ndarray:
    """Make tokens that have occurred less likely (Keskar et al. 2019, section 4.1).

    logits (B, V), ids (B, T) of the tokens so far: positive scores are divided by the penalty, negative ones
    multiplied, so that a penalty above 1 always lowers them.
    """
    seen = np.take_along_axis(logits, ids, axis=-1)
    logits = logits.copy()
    np.put_along_axis(logits, ids, np.where(seen > 0, seen / penalty, seen * penalty), axis=-1)
    return logits


def top_k_filter(logits: np.ndarray, k: int) -> np.ndarray:
    """Keep the k highest scores (Fan et al. 2018), and all that tie with the last of them; the others become -inf."""
    k = min(k, logits.shape[-1])
    least = np.partition(logits, -k, axis=-1)[..., -k, None]
    return np.where(logits < least, -np.inf, logits)


def top_p_filter(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep the fewest tokens whose probabilities reach p: nucleus sampling (Holtzman et al. 2020)."""
    ordered = np.sort(logits, axis=-1)[..., ::-1]
    probabilities = softmax(ordered)
    # A token stays while those before it have not reached p yet, so the first always stays.
    kept = (np.cumsum(probabilities, axis=-1) - probabilities < p).sum(axis=-1, keepdims=True)
    least = np.take_along_axis(ordered, kept - 1, axis=-1)
    # Of several that are as likely as the last one, only the first may stay.
    equal = logits == least
    room = kept - (logits > least).sum(axis=-1, keepdims=True)
    return np.where((logits < least) | equal & (np.cumsum(equal, axis=-1) > room), -np.inf, logits)


def min_p_filter(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep tokens at least p times as likely as the likeliest (Nguyen et al. 2024)."""
    return np.where(logits < logits.max(axis=-1, keepdims=True) + np.log(p), -np.inf, logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64, so that they sum to one as exactly as sampling needs."""
    e = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sample(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One token a row, (B, V) -> (B,): where a uniform number falls in the cumulative probabilities."""
    cumulative = np.cumsum(probabilities, axis=-1)
    cumulative /= cumulative[:, -1:]
    return (rng.random((len(probabilities), 1)) >= cumulative).sum(axis=-1)
