"""Exercises of chapter 11: renaming weights, fused rows, what a config costs, and the tables of a new family."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinymoe.models.decoder import CausalLM
from tinymoe.models.families.base import QKV, Family, Stacked, rows_by_group, same
from tinymoe.nn.config import Config

from ..checks import Case, case, holds, matches, wrong
from ..registry import Exercise

# A model that nobody has published. Its files leave out kv_heads where there are two.
HERON = {
    "model_type": "heron",
    "architectures": ["HeronForCausalLM"],
    "vocab_size": 96,
    "width": 32,
    "ffn_width": 80,
    "depth": 2,
    "heads": 4,
    "context": 128,
    "rope_theta": 10000.0,
    "norm_eps": 1e-5,
    "activation": "silu",
}


def rename(name: str, names: Mapping[str, str], prefix: str) -> str:
    """A weight's published name in ours: first the prefix becomes "model", then each entry of the table takes its turn.

    An entry replaces whole steps of the path, one or more: "h" is a step of "transformer.h.0", but not of "lm_head".
    """
    name = re.sub(rf"^{re.escape(prefix)}\.", "model.", name)
    for theirs, ours in names.items():
        name = re.sub(rf"(?<![^.]){re.escape(theirs)}(?![^.])", ours, name)
    return name


_GPT2 = {"wte": "embed_tokens", "h": "layers", "ln_1": "input_layernorm", "attn.c_proj": "self_attn.o_proj",
         "mlp.c_proj": "mlp.down_proj", "ln_f": "norm"}  # fmt: skip


def kv_bytes(config: Mapping[str, Any], bytes_per_number: int = 2) -> int:
    """Bytes that one token leaves in the cache of all layers, from a config file; no layer has a window."""
    heads = config["num_attention_heads"]
    if config.get("kv_lora_rank") is not None:
        numbers = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    else:
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        numbers = 2 * (config.get("num_key_value_heads") or heads) * head_dim
    return numbers * config["num_hidden_layers"] * bytes_per_number


_HEADS = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8}
_LATENT = {**_HEADS, "num_key_value_heads": 8, "kv_lora_rank": 20, "qk_rope_head_dim": 6, "qk_nope_head_dim": 10,
           "v_head_dim": 10, "q_lora_rank": 12}  # fmt: skip


def _random_cache(rng: np.random.Generator, size: int) -> Case:
    heads, head_dim = int(2 ** rng.integers(0, 4)), int(2 * rng.integers(1, 9))
    config: dict[str, Any] = {
        "hidden_size": heads * head_dim,
        "num_hidden_layers": int(rng.integers(1, 2 + size)),
        "num_attention_heads": heads,
    }
    if rng.random() < 0.6:
        config["num_key_value_heads"] = int(rng.choice([n for n in (1, 2, 4, 8) if n <= heads]))
    if rng.random() < 0.4:
        config["head_dim"] = int(2 * rng.integers(1, 9))
    if rng.random() < 0.3:
        config |= {"kv_lora_rank": int(rng.integers(4, 40)), "qk_rope_head_dim": int(2 * rng.integers(1, 5))}
    return case(config, int(rng.choice([1, 2, 4])))


def active_parameters(config: Mapping[str, Any]) -> tuple[int, int]:
    """All parameters of a model like Mixtral, and those that a token uses, from its config file.

    A token uses all that is no expert, the whole router and both tables included, and of the experts of each layer
    `num_experts_per_tok`.
    """
    width, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    keys = config["num_key_value_heads"] * (width // heads)
    attention = 2 * width * width + 2 * width * keys
    expert, experts = 3 * width * config["intermediate_size"], config["num_local_experts"]
    others = layers * (attention + width * experts + 2 * width) + width + 2 * config["vocab_size"] * width
    return others + layers * experts * expert, others + layers * config["num_experts_per_tok"] * expert


MIXTRAL = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
_TINY = {"vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 2, "num_local_experts": 1, "num_experts_per_tok": 1}  # fmt: skip


def _random_mixture(rng: np.random.Generator, size: int) -> Case:
    heads = int(2 ** rng.integers(0, 4))
    experts = int(rng.integers(1, 3 + size))
    return case({
        "vocab_size": int(rng.integers(5, 100)),
        "hidden_size": heads * int(rng.integers(1, 9)),
        "intermediate_size": int(rng.integers(1, 50)),
        "num_hidden_layers": int(rng.integers(1, 2 + size)),
        "num_attention_heads": heads,
        "num_key_value_heads": int(rng.choice([n for n in (1, 2, 4, 8) if n <= heads])),
        "num_local_experts": experts,
        "num_experts_per_tok": int(rng.integers(1, experts + 1)),
    })  # fmt: skip


def _fused(heads: int, kv_heads: int, head_dim: int) -> Case:
    return case(
        Config(
            vocab_size=8,
            hidden_size=heads * head_dim,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
        )
    )


def _random_fused(rng: np.random.Generator, size: int) -> Case:
    kv_heads = int(rng.integers(1, 5))
    return _fused(kv_heads * int(rng.integers(1, 5)), kv_heads, int(rng.integers(1, 2 + size)))


def heron_tables() -> dict[str, Any]:
    """The tables of Heron's family: fields, fixed, absent, parts, prefix, names and stacked."""
    return {
        "fields": {
            **same("vocab_size rope_theta"),
            "width": "hidden_size",
            "ffn_width": "intermediate_size",
            "depth": "num_hidden_layers",
            "heads": "num_attention_heads",
            "kv_heads": "num_key_value_heads",
            "context": "max_position_embeddings",
            "norm_eps": "rms_norm_eps",
        },
        "fixed": {"activation": "silu"},
        "absent": {"kv_heads": 2},
        "parts": {"attention": "variant", "qk_norm": "rms_norm", "tie_word_embeddings": True},
        "prefix": "heron",
        "names": {
            "tokens": "embed_tokens",
            "blocks": "layers",
            "norm_1": "input_layernorm",
            "norm_2": "post_attention_layernorm",
            "attention.out": "self_attn.o_proj",
            "attention.norm_q": "self_attn.q_norm",
            "attention.norm_k": "self_attn.k_norm",
            "ffn.gate": "mlp.gate_proj",
            "ffn.up": "mlp.up_proj",
            "ffn.down": "mlp.down_proj",
            "norm_last": "norm",
        },
        "stacked": (Stacked("attention.qkv", QKV, rows_by_group),),
    }


_TABLES = ("fields", "fixed", "absent", "parts", "prefix", "names", "stacked", "transposed", "ignored", "neutral")


def family_of(tables: Mapping[str, Any]) -> Family:
    """A family made of tables. Raises ValueError for tables that a family does not have."""
    if unknown := sorted(tables.keys() - set(_TABLES)):
        raise ValueError(f"{unknown[0]!r} is none of a family's tables: {', '.join(_TABLES)}")
    names = {"model_type": HERON["model_type"], "architecture": "HeronForCausalLM"}
    return type("Heron", (Family,), {**names, "fields": {}, **tables})()


def heron_weights() -> dict[str, np.ndarray]:
    """A Heron's weights under the names, and in the layout, of its publisher."""
    kind = family_of(heron_tables())
    config = kind.config_from_hf(HERON)
    weights = {name: p.numpy() for name, p in CausalLM(config, seed=11).named_parameters()}
    return kind.weights_to_hf(weights, config)


def _heron(function: Callable[[], Any]) -> Family:
    tables = function()
    if not isinstance(tables, Mapping):
        wrong("expected a dict of tables", got=tables)
    try:
        return family_of(tables)
    except ValueError as error:
        wrong(str(error))


def _config(kind: Family, published: Mapping[str, Any]) -> Config:
    try:
        return kind.config_from_hf(published)
    except (ValueError, TypeError, AttributeError) as error:
        wrong(f"your tables do not read this config: {error}", given=dict(published))


def _reads_configs(function: Callable[[], Any]) -> None:
    mine, right = _heron(function), family_of(heron_tables())
    for published in (HERON, {**HERON, "kv_heads": 4}, {**HERON, "kv_heads": 1, "norm_eps": 1e-6}):
        got, expected = _config(mine, published), right.config_from_hf(published)
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta"):  # fmt: skip
            if getattr(got, name) != getattr(expected, name):
                means, reads = getattr(expected, name), getattr(got, name)
                wrong(f"{name} is not what the file means", given=dict(published), expected=means, got=reads)


def _knows_the_parts(function: Callable[[], Any]) -> None:
    got, expected = _config(_heron(function), HERON), family_of(heron_tables()).config_from_hf(HERON)
    if got.qk_norm != expected.qk_norm or got.attention != expected.attention:
        wrong("queries and keys go through an RMSNorm, head by head: which part of attention does that?",
              expected={"attention": expected.attention, "qk_norm": expected.qk_norm},
              got={"attention": got.attention, "qk_norm": got.qk_norm})  # fmt: skip
    if not got.tie_word_embeddings:
        wrong("the weights have no output layer: it is the embedding table again, which parts have to say")


def _refuses(function: Callable[[], Any]) -> None:
    published = {**HERON, "activation": "gelu"}
    try:
        _heron(function).config_from_hf(published)
    except ValueError as error:
        if "activation" in str(error):
            return
        wrong("the error does not name the activation", given=published, got=str(error))
    wrong("a config with another activation is read as if it were silu", given=published)


def _reads_weights(function: Callable[[], Any]) -> None:
    mine, right, published = _heron(function), family_of(heron_tables()), heron_weights()
    config = right.config_from_hf(HERON)
    expected = right.weights_from_hf(right.parameters_in(published, config), config)
    try:
        got = mine.weights_from_hf(mine.parameters_in(published, config), config)
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        wrong(f"your tables cannot take the weights apart: {type(error).__name__}: {error}")
    missing, extra = sorted(expected.keys() - got.keys()), sorted(got.keys() - expected.keys())
    if missing or extra:
        problem = f"no weight is called {missing[0]}" if missing else f"there is no {extra[0]} in the model"
        wrong(problem, expected=missing, got=extra)
    for name, array in expected.items():
        if got[name].shape != array.shape or not np.array_equal(got[name], array):
            wrong(f"{name} does not hold the right rows", expected=array.shape, got=got[name].shape)


EXERCISES = [
    Exercise(
        id="11.rename",
        title="The same weight by another name",
        reference=rename,
        checks=[
            matches("the prefix alone", [case("transformer.0.weight", {}, "transformer")]),
            matches("a step of the path", [case("model.h.3.weight", {"h": "layers"}, "model")]),
            matches("not a part of a step", [case("lm_head.weight", {"h": "layers", "head": "top"}, "transformer")]),
            matches("the prefix only at the beginning", [case("h.model.weight", {}, "h"), case("a.h.b", {}, "h")]),
            matches("two steps at once", [case("transformer.h.0.attn.c_proj.bias", _GPT2, "transformer")]),
            matches(
                "entries in turn",
                [case("model.a.weight", {"a": "b", "b": "c"}, "model"), case("model.b.a", {"b": "c", "a": "b"}, "x")],
            ),
            matches(
                "all of GPT-2",
                [
                    case(f"transformer.{name}.weight", _GPT2, "transformer")
                    for name in ("wte", "h.11.ln_1", "h.0.mlp.c_proj", "ln_f", "h.2.attn.bias")
                ],
            ),
        ],
        hints=[
            "A step is what stands between two dots, or at an end. With a dot put before and after the name, and "
            "before and after the entry, str.replace sees whole steps alone.",
            'f".{name}.".replace(f".{theirs}.", f".{ours}.")[1:-1] replaces whole steps.',
            'The prefix: if name.startswith(prefix + "."), the rest goes behind "model".',
        ],
    ),
    Exercise(
        id="11.rows_by_group",
        title="Taking a fused matrix apart",
        target="models/families/base.py::rows_by_group",
        checks=[
            matches("one head", [_fused(1, 1, 2)]),
            matches("two heads, each with its own key and value", [_fused(2, 2, 1)]),
            matches("one key head for all (StarCoder, Falcon 7B)", [_fused(3, 1, 2)]),
            matches("groups (Falcon 40B)", [_fused(4, 2, 2)]),
            matches("any heads", _random_fused, count=12),
        ],
        hints=[
            "Number the rows 0, 1, 2, … and think of the numbers as a table (groups, heads in a group, head_dim).",
            "A group has G query heads, then a key head, then a value head: G + 2, with G = num_attention_heads // "
            "num_key_value_heads.",
            "rows = np.arange(…).reshape(num_key_value_heads, G + 2, head_dim); queries are rows[:, :-2], keys "
            "rows[:, -2], values rows[:, -1]; each flattened.",
        ],
    ),
    Exercise(
        id="11.kv_bytes",
        title="A token's cache, read from config.json",
        reference=kv_bytes,
        checks=[
            matches("multi-head: no num_key_value_heads", [case(_HEADS, 1)]),
            matches("two bytes unless told", [case(_HEADS)]),
            matches("grouped", [case({**_HEADS, "num_key_value_heads": 2}, 1)]),
            matches("null means absent", [case({**_HEADS, "num_key_value_heads": None, "head_dim": None}, 1)]),
            matches("a head_dim of its own", [case({**_HEADS, "num_key_value_heads": 2, "head_dim": 32}, 1)]),
            matches("latent", [case(_LATENT, 1)]),
            matches("a file that says it has no latent", [case({**_HEADS, "kv_lora_rank": None}, 1)]),
            matches("any config", _random_cache, count=20),
        ],
        hints=[
            "Heads: a key and a value for each key/value head, of head_dim numbers, in every layer. Fields that are "
            "absent: head_dim is hidden_size // num_attention_heads, num_key_value_heads is num_attention_heads.",
            "A latent cache holds kv_lora_rank + qk_rope_head_dim numbers a layer, whatever the number of heads "
            "(chapter 07). Those files give num_key_value_heads too; it counts for nothing.",
            'config.get("num_key_value_heads") or heads takes care of both absent and null.',
        ],
    ),
    Exercise(
        id="11.active_parameters",
        title="46.7 billion, of which a token meets 12.9",
        reference=active_parameters,
        checks=[
            matches("one expert: all is active", [case(_TINY)]),
            matches("four experts, one used", [case({**_TINY, "num_local_experts": 4})]),
            matches("two layers, grouped heads", [case({**_TINY, "num_hidden_layers": 2, "num_key_value_heads": 1})]),
            matches("Mixtral 8x7B", [case(MIXTRAL)]),
            matches("any mixture", _random_mixture, count=12),
        ],
        hints=[
            "Outside of the layers: the embedding, the output layer (vocab_size × hidden_size each), and the last norm "
            "(hidden_size).",
            "In a layer: q and o are hidden × hidden; k and v are hidden × (num_key_value_heads × head_dim); two "
            "norms; the router, num_local_experts × hidden; and experts of three matrices, hidden × intermediate each.",
            "Total and active differ only in how many experts a layer counts.",
        ],
    ),
    Exercise(
        id="11.heron_tables",
        title="A family of your own",
        reference=heron_tables,
        checks=[
            holds("it reads the config", _reads_configs),
            holds("it knows what Heron is made of", _knows_the_parts),
            holds("it refuses what it cannot compute", _refuses),
            holds("it reads the weights", _reads_weights),
        ],
        hints=[
            "Start with `fields`: a published name for each key, ours as the value. Those that are the same in both: "
            'same("vocab_size rope_theta"). Run it, and read what the check says is missing.',
            '`absent`: {"kv_heads": 2}. `fixed`: {"activation": "silu"}. `parts` are fields of ours that no file of '
            "Heron's mentions: look at Qwen3's, and at what an output layer tied to the embedding is called.",
            '`prefix` is "heron". `names` go from theirs to ours, several steps at once where needed: '
            '"attention.out": "self_attn.o_proj".',
            '`stacked`: (Stacked("attention.qkv", QKV, rows_by_group),). It gives full names, so `names` needs no '
            "entry for these three.",
        ],
    ),
]
