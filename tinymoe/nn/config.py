"""Config: the one description that a decoder is built from, under the names of Hugging Face's config files.

The fields of a plain Llama stand in `Config`; what later chapters add stands in groups of its own, all off by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PositionFields:
    """How a model knows where a token stands.

    position: "rope", "learned", "alibi" or "none". `partial_rotary_factor` is the share of each head's channels that
    rope turns. `rope_scaling` stretches it to longer texts: {"rope_type": "yarn", "factor": 4.0, …}, with the names of
    Hugging Face. `rope_local_base_freq` is a theta of its own for layers with a sliding window, never stretched.
    `no_rope_layers` has a 0 for each layer that goes without positions (Hugging Face's odd sense of the name).
    `scale_alibi`: ALiBi's slopes are divided by sqrt(head_dim) like the scores (Falcon).
    """

    position: str = "rope"
    partial_rotary_factor: float = 1.0
    rope_scaling: Mapping[str, Any] | None = None
    rope_local_base_freq: float | None = None
    no_rope_layers: tuple[int, ...] = ()
    scale_alibi: bool = False


@dataclass(frozen=True, kw_only=True)
class AttentionFields:
    """What attention does besides comparing queries and keys.

    `layer_types` names each layer's reach: "full_attention" or "sliding_attention", whose queries see the last
    `sliding_window` tokens, themselves included. `query_pre_attn_scalar` replaces head_dim under the root in the scale.
    `attention_out_bias` is the bias of o_proj where it differs from that of the other three. qk_norm: None, or the
    "norm" kind that queries and keys go through, head by head.
    """

    layer_types: tuple[str, ...] = ()
    sliding_window: int | None = None
    attn_logit_softcapping: float | None = None
    query_pre_attn_scalar: float | None = None
    qk_norm: str | None = None
    attention_sinks: bool = False
    attention_out_bias: bool | None = None


@dataclass(frozen=True, kw_only=True)
class BlockFields:
    """How a layer is wired, and what stands at the two ends of the model.

    `mlp_types` names each layer's feed-forward part where they are not all the config's `mlp`.
    `parallel_norms`: norms of a parallel layer, one for both branches or one each. `inputs` names what the embedded
    tokens go through before the first layer: "learned_positions", "scale", "norm".
    """

    hidden_act: str = "silu"
    mlp_types: tuple[str, ...] = ()
    parallel_norms: int = 1
    inputs: tuple[str, ...] = ()
    lm_head_bias: bool = False
    final_logit_softcapping: float | None = None


@dataclass(frozen=True, kw_only=True)
class LatentFields:
    """Multi-head latent attention (DeepSeek V2): the ranks of its projections, and the two parts of a head."""

    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int | None = None
    qk_rope_head_dim: int | None = None
    v_head_dim: int | None = None


@dataclass(frozen=True, kw_only=True)
class SparseFields:
    """The lightning indexer of DeepSeek V3.2, which keeps `index_topk` tokens for each query."""

    index_n_heads: int | None = None
    index_head_dim: int | None = None
    index_topk: int | None = None


@dataclass(frozen=True, kw_only=True)
class ChunkFields:
    """Llama 4's attention for long texts.

    Layers of the type "chunked_attention" see only the tokens of their own chunk of `attention_chunk_size`. With
    `attn_temperature_tuning`, queries of layers without positions grow by `attn_scale` times the logarithm of how many
    `floor_scale` tokens came before them, plus one.
    """

    attention_chunk_size: int | None = None
    attn_temperature_tuning: bool = False
    floor_scale: int = 8192
    attn_scale: float = 0.1


@dataclass(frozen=True, kw_only=True)
class SharingFields:
    """Sparse attention that chooses once for several layers (GLM-5.2).

    `indexer_types` says for each layer whether it has an indexer of its own, "full", or looks at the tokens that the
    last such layer chose, "shared".
    """

    indexer_types: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ScaleFields:
    """Grok-1's fixed factor: logits are multiplied by `output_multiplier_scale`."""

    output_multiplier_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ExpertFields:
    """Mixture of experts: what the feed-forward parts named "moe" in `mlp_types` are made of.

    Each token goes to `num_experts_per_tok` of the `num_experts`, which are `moe_intermediate_size` wide (by default
    intermediate_size), and to a part that all tokens share, `shared_expert_intermediate_size` wide, behind a gate of
    its own if `shared_expert_gate`. `router` names the part that chooses, `experts` what they are. With
    `norm_topk_prob` the weights of the chosen add up to `routed_scaling_factor`, else they are the router's scores
    times that factor. The experts stand in `n_group` groups, of which a token may use `topk_group`. With a
    `capacity_factor` an expert takes no more than its fair share of the tokens times that factor. `swiglu_limit` and
    `swiglu_alpha` are of the experts "clamped".

    For training alone: what losses of the routers are multiplied by before they are added, 0 for not adding them
    (`router_aux_loss_coef`: load balance of all layers together, `layer_aux_loss_coef`: of each layer,
    `sequence_loss_coef`: within each text, `router_z_loss_coef`: the size of logits), and `bias_update_speed`, by which
    the router "sigmoid" moves its biases after each step.
    """

    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = None
    shared_expert_gate: bool = False
    router: str = "softmax"
    experts: str = "swiglu"
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    capacity_factor: float | None = None
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702
    router_aux_loss_coef: float = 0.0
    layer_aux_loss_coef: float = 0.0
    sequence_loss_coef: float = 0.0
    router_z_loss_coef: float = 0.0
    bias_update_speed: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Config(
    PositionFields,
    AttentionFields,
    BlockFields,
    LatentFields,
    SparseFields,
    ChunkFields,
    SharingFields,
    ScaleFields,
    ExpertFields,
):
    """A decoder's shape. The fields here are those of a Llama; the groups above belong to later chapters.

    `layer`, `attention`, `mlp` and `norm` name the parts it is made of (see `part`). `num_key_value_heads` defaults to
    `num_attention_heads` (multi-head attention), `head_dim` to `hidden_size / num_attention_heads`.
    Raises ValueError for numbers that do not fit together.
    """

    model_type: str = "llama"
    layer: str = "pre_norm"
    attention: str = "grouped"
    mlp: str = "swiglu"
    norm: str = "rms_norm"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int = 0
    head_dim: int = 0
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not self.num_key_value_heads:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        if not self.head_dim:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size: got {self.hidden_size}, expected a multiple of num_attention_heads "
                    f"({self.num_attention_heads}), or a head_dim of its own"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads: got {self.num_key_value_heads}, expected a divisor of num_attention_heads "
                f"({self.num_attention_heads})"
            )
        for name, default in (("layer_types", "full_attention"), ("mlp_types", self.mlp)):
            types = tuple(getattr(self, name)) or (default,) * self.num_hidden_layers
            if len(types) != self.num_hidden_layers:
                raise ValueError(f"{name}: got {len(types)} names, expected one a layer, {self.num_hidden_layers}")
            object.__setattr__(self, name, types)
