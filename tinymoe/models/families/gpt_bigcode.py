"""StarCoder and SantaCoder (Li et al. 2023; Ben Allal et al. 2023): GPT-2 with a single key/value head.

Unlike GPT-2's, the matrices are stored (out, in). `multi_query` false gives each query head its own key/value head; the
fused q, k and v then stand head after head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ...nn.config import Config
from .base import QKV, Stacked, rows_by_group
from .gpt2 import GPT2


class GPTBigCode(GPT2):
    """Config fields and weights of `GPTBigCodeForCausalLM`."""

    model_type = "gpt_bigcode"
    architecture = "GPTBigCodeForCausalLM"
    fields: ClassVar[dict[str, str]] = {**GPT2.fields, "multi_query": "", "num_key_value_heads": ""}
    fixed: ClassVar[dict[str, Any]] = {"scale_attn_weights": True, "add_cross_attention": False}
    # Where 16-bit numbers are widened, and settings of inference code that is gone.
    neutral = GPT2.neutral | frozenset(
        "attention_softmax_in_fp32 scale_attention_softmax_in_fp32 inference_runner max_batch_size "
        "max_sequence_length pad_key_length pre_allocate_kv_cache validate_runner_input".split()
    )
    absent: ClassVar[dict[str, Any]] = {
        **GPT2.absent,
        "activation_function": "gelu_pytorch_tanh",
        "multi_query": True,
    }
    stacked = (Stacked("attn.c_attn", QKV, rows_by_group),)
    transposed = ()

    def derived(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """One key/value head, or as many as query heads; `num_key_value_heads` only repeats that."""
        return {"num_key_value_heads": 1 if published["multi_query"] else published["n_head"]}

    def denormalize(self, published: dict[str, Any], config: Config) -> dict[str, Any]:
        """The inverse of `derived`."""
        return {**published, "multi_query": config.num_key_value_heads == 1}
