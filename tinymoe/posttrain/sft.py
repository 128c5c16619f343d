"""Supervised fine-tuning: learn to write the answers of examples, and nothing else of them (Ouyang et al. 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import current
from ..models.decoder import CausalLM
from ..tensor import Tensor
from ..text.packing import IGNORE
from .functional import as_mask


def completion_targets(ids: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a model reads and what it is to write next, both (B, T - 1), for `CausalLM.loss`.

    ids (B, T); mask (B, T) is 1 for tokens to be learned: the assistant's, with the token that ends its turn. The
    targets of all others are -100.
    """
    ids = np.asarray(ids)
    mask = current().to_numpy(as_mask(mask, ids.shape))
    return ids[:, :-1], np.where(mask, ids, IGNORE)[:, 1:]


def sft_loss(
    model: CausalLM,
    ids: Any,
    mask: Any,
    *,
    attention_mask: Any = None,
    documents: Any = None,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Mean cross-entropy of the tokens of ids (B, T) where mask (B, T) is 1, as in TRL's `assistant_only_loss`.

    Every token has the same weight, in a long answer or a short one. Where a batch is taken in parts, the loss of each
    part is divided by `num_items_in_batch`, the tokens to learn in the whole batch, so that the parts add up to its
    mean. attention_mask and documents, (B, T), are those of the model's call.

    Raises ValueError for shapes that differ, and where the mask selects no token that follows another.
    """
    inputs, targets = completion_targets(ids, mask)
    count = int((targets != IGNORE).sum())
    if count == 0:
        raise ValueError("mask: got no token to learn, expected at least one after the first of its row")
    rules = {"attention_mask": attention_mask, "documents": documents}
    rules = {name: None if given is None else np.asarray(given)[:, :-1] for name, given in rules.items()}
    loss = model.loss(inputs, targets, **rules)
    return loss if num_items_in_batch is None else loss * (count / num_items_in_batch)
