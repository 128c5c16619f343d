"""StarCoder2 (Lozhkov et al. 2024): GPT-2's norms, biases and plain block; Llama's rotary, grouped heads; a window.

The published models have a window of 4096 tokens on every layer.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .base import same
from .mistral import Mistral


class Starcoder2(Mistral):
    """Config fields and weights of `Starcoder2ForCausalLM`; a window works as in Mistral."""

    model_type = "starcoder2"
    architecture = "Starcoder2ForCausalLM"
    fields: ClassVar[dict[str, str]] = {
        **same(
            "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
            "hidden_act max_position_embeddings rope_theta rope_scaling sliding_window tie_word_embeddings "
            "initializer_range bos_token_id eos_token_id pad_token_id"
        ),
        "norm_epsilon": "rms_norm_eps",
        "use_bias": "attention_bias mlp_bias",
    }
    fixed: ClassVar[dict[str, Any]] = {"mlp_type": "default", "norm_type": "layer_norm"}
    absent: ClassVar[dict[str, Any]] = {
        "num_key_value_heads": 2,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 4096,
        "sliding_window": None,
        "norm_epsilon": 1e-5,
        "use_bias": True,
        "initializer_range": 0.018042,
        "tie_word_embeddings": True,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    }
    parts: ClassVar[dict[str, Any]] = {"attention": "variant", "mlp": "plain", "norm": "layer_norm"}
    names: ClassVar[dict[str, str]] = {"mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}
