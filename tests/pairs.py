"""What the tests of training on pairs share: a model so small that a step takes a millisecond, and a toy preference."""

from __future__ import annotations

from typing import Any

from tinymoe import zoo
from tinymoe.models import CausalLM
from tinymoe.posttrain import Pair
from tinymoe.text.tokenizer import CharTokenizer

DIGITS = "0123456789"
PAIRS = [Pair(f"{digit}=", digit, str(9 - int(digit))) for digit in DIGITS]  # the same digit beats its complement


def nano(seed: int = 0, **settings: Any) -> CausalLM:
    """A model of digits, whose texts end with token 0."""
    tokenizer = CharTokenizer.train([DIGITS + "="], special_tokens=["<end>"])
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "max_position_embeddings": 32}
    model = zoo.build("llama-pico", vocab_size=len(tokenizer), seed=seed, eos_token_id=0, **{**shape, **settings})
    model.tokenizer = tokenizer
    return model
