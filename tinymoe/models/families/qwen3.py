"""Qwen3 (Yang et al. 2025), dense: Qwen2 with QK-norm, head by head, in place of the biases."""

from __future__ import annotations

from typing import Any, ClassVar

from .qwen2 import Qwen2


class Qwen3(Qwen2):
    """Config fields of `Qwen3ForCausalLM`, beyond those of Qwen2."""

    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    fields: ClassVar[dict[str, str]] = {**Qwen2.fields, "attention_bias": "attention_bias"}
    absent: ClassVar[dict[str, Any]] = {**Qwen2.absent, "head_dim": 128}
    parts: ClassVar[dict[str, Any]] = {"attention": "variant", "qk_norm": "rms_norm"}
