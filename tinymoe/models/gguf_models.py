"""A model of ours as a GGUF file, for llama.cpp: what it calls the settings, the weights and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import current
from ..files import write_atomically
from ..nn.config import Config
from ..nn.position import rope_frequencies, rotary
from ..text.bpe import byte_alphabet
from ..text.pipeline import SPLIT_PATTERNS, Splitter
from ..text.tokenizer import CharTokenizer, Tokenizer
from .decoder import CausalLM
from .families import family
from .gguf_files import DTYPES, Value, serialize
from .pretrained import is_whole


class Architecture(NamedTuple):
    """What llama.cpp calls a family, and whether it reads biases of attention there.

    neighbors: whether it turns channels (0, 1), (2, 3), … of queries and keys. We turn channels half a head apart, and
    so the rows of their matrices change places.
    """

    name: str
    neighbors: bool
    biases: bool


# Our families that llama.cpp computes as we do. In its "llama" are all whose layers are Llama's.
ARCHITECTURES = {
    "llama": Architecture("llama", neighbors=True, biases=True),
    "mistral": Architecture("llama", neighbors=True, biases=True),
    "mixtral": Architecture("llama", neighbors=True, biases=True),
    "qwen2": Architecture("qwen2", neighbors=False, biases=True),
    "qwen3": Architecture("qwen3", neighbors=False, biases=False),
}

# The steps of a parameter's name, ours and theirs.
_STEPS = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v",
    "o_proj": "attn_output", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "gate_proj": "ffn_gate",
    "up_proj": "ffn_up", "down_proj": "ffn_down", "gate": "ffn_gate_inp",
}  # fmt: skip
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # kinds of tokens
_FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}


def save_gguf(model: CausalLM, file: str | Path, dtype: str = "float32") -> None:
    """Write a model and its tokenizer, if it has one, to a file; it is complete before it gets its name.

    Matrices are stored as `dtype`, float32, float16 or bfloat16; vectors, and the router of experts, stay float32, as
    llama.cpp wants them. Where layers see through a window, the context is told to be no longer than that: llama.cpp
    has no windows for these families. Raises ValueError, naming it, for what llama.cpp would compute in another way.
    """
    config = model.config
    _architecture(config)  # raises for other families
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, expected one of {', '.join(DTYPES)}")
    if not is_whole(model):
        raise ValueError("model: it has adapters or quantized matrices; merge and unload them first")
    family(config.model_type).config_to_hf(config)  # raises for what is not of the family
    tensors = gguf_tensors(model)
    narrow = {name: dtype for name, tensor in tensors.items() if tensor.ndim > 1 and "ffn_gate_inp" not in name}
    entries = {**settings(config), "general.file_type": _FILE_TYPES[dtype], **vocabulary(model)}
    write_atomically(file, serialize(entries, tensors, narrow))


def settings(config: Config) -> dict[str, Value]:
    """What llama.cpp has to know to build the model. Raises ValueError for settings that it does not know."""
    c, (name, _, biases) = config, _architecture(config)
    if c.attention_bias and not biases:
        raise ValueError(f"attention_bias: got True, expected False: llama.cpp's {name} has none")
    windows = [c.sliding_window] if c.sliding_window and "sliding_attention" in c.layer_types else []
    entries: dict[str, Value] = {
        "context_length": min([c.max_position_embeddings, *windows]),
        "embedding_length": c.hidden_size,
        "block_count": c.num_hidden_layers,
        "feed_forward_length": c.intermediate_size,
        "vocab_size": c.vocab_size,
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": c.num_key_value_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.layer_norm_rms_epsilon": float(c.rms_norm_eps),
        "rope.dimension_count": c.head_dim,
        "rope.freq_base": float(c.rope_theta),
    }
    if c.num_experts and c.num_experts_per_tok:
        entries |= {"expert_count": c.num_experts, "expert_used_count": c.num_experts_per_tok}
    kind = (c.rope_scaling or {}).get("rope_type")
    if c.rope_scaling and kind == "linear":
        entries |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(c.rope_scaling["factor"])}
    elif kind and (kind, name) != ("llama3", "llama"):
        raise ValueError(f"rope_scaling: got {kind!r} in a {c.model_type}, expected none, linear, or llama3 in a Llama")
    return {"general.architecture": name, **{f"{name}.{key}": value for key, value in entries.items()}}


def gguf_tensors(model: CausalLM) -> dict[str, np.ndarray]:
    """A model's weights by the names of llama.cpp, and in its layout."""
    c, tensors = model.config, {}
    for name, parameter in model.named_parameters():
        values = parameter.numpy()
        if name.split(".")[-2] in ("q_proj", "k_proj") and _architecture(c).neighbors:
            halves = values.reshape(-1, 2, c.head_dim // 2, *values.shape[1:])  # (heads, 2, D / 2, …)
            values = halves.swapaxes(1, 2).reshape(values.shape)
        tensors[_their_name(name)] = values
    if (c.rope_scaling or {}).get("rope_type") == "llama3":  # by what each clock is slower
        plain, scaled = rope_frequencies(c.head_dim, c.rope_theta), rotary(c, "full_attention").frequencies
        tensors["rope_freqs.weight"] = plain / current().to_numpy(scaled)
    return tensors


def vocabulary(model: CausalLM) -> dict[str, Value]:
    """The tokenizer, with a filler for each row of the embedding that has no token.

    Raises ValueError for a tokenizer that llama.cpp would not follow.
    """
    tokenizer, c = model.tokenizer, model.config
    if tokenizer is None:
        return {"tokenizer.ggml.model": "no_vocab"}
    if tokenizer.vocab_size > c.vocab_size:
        raise ValueError(f"tokenizer: got {tokenizer.vocab_size} tokens, expected at most the model's {c.vocab_size}")
    added = {token.id: token for token in tokenizer.pipeline.added_tokens}
    texts, kinds = [], []
    for index in range(c.vocab_size):
        text = _their_token(tokenizer, index, index in added)
        special = _CONTROL if index in added and added[index].special else _USER_DEFINED
        texts.append(f"[PAD{index}]" if text is None else text)
        kinds.append(_UNUSED if text is None else special if index in added else _NORMAL)
    entries: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",  # byte-level BPE
        "tokenizer.ggml.pre": _splitting(tokenizer),
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": kinds,
    }
    merges = [f"{tokenizer.id_to_token(left)} {tokenizer.id_to_token(right)}" for left, right in tokenizer.ranks]
    entries["tokenizer.ggml.merges"] = merges
    ends = {"bos": c.bos_token_id, "eos": c.eos_token_id, "padding": c.pad_token_id}
    for name, ids in ends.items():
        first = ids if isinstance(ids, int) else next(iter(ids or ()), None)
        if first is not None:
            entries[f"tokenizer.ggml.{name}_token_id"] = first
    return {**entries, "tokenizer.ggml.add_bos_token": _begins_with_a_token(tokenizer)}


def _architecture(config: Config) -> Architecture:
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        raise ValueError(f"model: got a {config.model_type}, expected one of the families {', '.join(ARCHITECTURES)}")
    return found


def _their_name(name: str) -> str:
    """Our name of a parameter as llama.cpp has it: blk.0.attn_q.weight, blk.0.ffn_up_exps.weight, output.weight."""
    steps = name.removeprefix("model.").split(".")
    layer = f"blk.{steps[1]}." if steps[0] == "layers" else ""
    if "experts" in steps:
        return f"{layer}{_STEPS[steps[-1]]}_exps.weight"
    return f"{layer}{_STEPS[steps[-2]]}.{steps[-1]}"


def _their_token(tokenizer: Tokenizer, index: int, added: bool) -> str | None:
    """A token as llama.cpp has it. One that is a character is the same as one that is a byte, for those of ASCII."""
    text = tokenizer.id_to_token(index)
    if text is None or added or not isinstance(tokenizer, CharTokenizer):
        return text
    if not text.isascii():
        raise ValueError(f"tokenizer: got one of characters, with {text!r}, expected ASCII only: llama.cpp reads bytes")
    return byte_alphabet()[ord(text)]


def _splitting(tokenizer: Tokenizer) -> str:
    """What llama.cpp calls the way in which a text is cut into words."""
    stages, form = tokenizer.pipeline.stages, tokenizer.pipeline.form
    whole = bool(tokenizer.spec["model"].get("ignore_merges"))
    if isinstance(tokenizer, CharTokenizer):
        return "gpt-2"  # any: there is nothing to merge
    if form not in (None, "NFC"):  # published Qwen2 has NFC, which most texts are in; llama.cpp takes them as they are
        raise ValueError(f"tokenizer: got the normalizer {form}, expected none or NFC")
    pattern = _one_pattern(stages)
    names = {("gpt2", False): "gpt-2", ("llama3", False): "smaug-bpe", ("llama3", True): "llama-bpe"}
    names[("qwen2", False)] = "qwen2"
    kind = next((name for name, known in SPLIT_PATTERNS.items() if known == pattern), "another pattern")
    if (kind, whole) not in names:
        merges = " with ignore_merges" if whole else ""
        raise ValueError(f"tokenizer: it splits by {kind}{merges}, expected the pattern of gpt2, llama3 or qwen2")
    return names[kind, whole]


def _one_pattern(stages: Sequence[Callable[[str], list[str]]]) -> str | None:
    splitters = [stage for stage in stages if isinstance(stage, Splitter) and stage.gaps]
    return splitters[0].pattern if len(stages) == len(splitters) == 1 else None


def _begins_with_a_token(tokenizer: Tokenizer) -> bool:
    """Whether the file of a tokenizer says to put a token before each text, as that of Llama 3 does."""
    last: Any = tokenizer.spec.get("post_processor") or {}
    parts = [part for step in last.get("processors", [last]) for part in step.get("single") or ()]
    return bool(parts) and "SpecialToken" in parts[0]
