"""Sparse attention of DeepSeek V3.2 and GLM-5, in every configuration: the tokens that Transformers selects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_families import CASES, tokens

import tinymoe as tm
from tinymoe.nn.recorder import recording
from tinymoe.tensor import no_grad

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
SPARSE = [case for case in CASES if case.kind in ("deepseek_v32", "glm_moe_dsa")]


def selected_there(theirs: Any, ids: np.ndarray) -> list[np.ndarray]:
    """For each indexer the numbers of the keys it selects, (B, T, n), in ascending order."""
    found: list[np.ndarray] = []
    hooks = [
        layer.self_attn.indexer.register_forward_hook(lambda *call: found.append(np.sort(call[2].numpy())))
        for layer in theirs.model.layers
        if layer.self_attn.indexer is not None
    ]
    with torch.no_grad():
        theirs(torch.tensor(ids))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("case", SPARSE, ids=lambda case: f"{case.kind}: {case.variant}")
def test_the_same_tokens_are_selected(backend, case, tmp_path):
    """Of queries with more tokens before them than are selected; before, all are."""
    theirs, ids = case.build(), tokens(2, 150)
    theirs.save_pretrained(tmp_path)
    ours = tm.from_pretrained(tmp_path)
    with no_grad(), recording() as records:
        ours(ids)
    expected, topk = selected_there(theirs, ids), case.settings()["index_topk"]
    assert len(expected) == (ours.config.indexer_types or ("full",) * len(ours.model.layers)).count("full")
    assert len(records["selected"]) == (len(expected) if topk < 150 else 0)
    for got, wanted in zip(records["selected"], expected, strict=False):
        np.testing.assert_array_equal(got[:, topk:], wanted[:, topk:])
