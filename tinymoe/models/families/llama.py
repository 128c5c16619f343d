"""Llama (Touvron et al. 2023a, 2023b; Grattafiori et al. 2024), and what copied its shape: TinyLlama, Yi, CodeLlama.

The family that the others are compared with. Each layer is

    x = x + Attention(RMSNorm(x))     rotary positions, grouped key/value heads from Llama 2 70B on
    x = x + MLP(RMSNorm(x))           SwiGLU

followed by one last RMSNorm and the output layer. Hugging Face's names for the weights are ours too:

    model.embed_tokens.weight                       (vocab_size, hidden_size)
    model.layers.N.input_layernorm.weight           (hidden_size,)
    model.layers.N.self_attn.q_proj.weight          (num_attention_heads * head_dim, hidden_size)
    model.layers.N.self_attn.k_proj.weight, v_proj  (num_key_value_heads * head_dim, hidden_size)
    model.layers.N.self_attn.o_proj.weight          (hidden_size, num_attention_heads * head_dim)
    model.layers.N.post_attention_layernorm.weight  (hidden_size,)
    model.layers.N.mlp.gate_proj.weight, up_proj    (intermediate_size, hidden_size)
    model.layers.N.mlp.down_proj.weight             (hidden_size, intermediate_size)
    model.norm.weight                               (hidden_size,)
    lm_head.weight                                  (vocab_size, hidden_size), absent when tied to the embedding
"""

from __future__ import annotations

from typing import Any, ClassVar

from .base import Family, same


class Llama(Family):
    """Config fields of `LlamaForCausalLM`; the weights keep their names."""

    model_type = "llama"
    architecture = "LlamaForCausalLM"
    fields: ClassVar[dict[str, str]] = same(
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "max_position_embeddings rms_norm_eps rope_theta rope_scaling tie_word_embeddings attention_bias mlp_bias "
        "initializer_range bos_token_id eos_token_id pad_token_id"
    )
    fixed: ClassVar[dict[str, Any]] = {"hidden_act": "silu"}
    absent: ClassVar[dict[str, Any]] = {"bos_token_id": 1, "eos_token_id": 2}
    neutral = frozenset({"max_sequence_length"})
