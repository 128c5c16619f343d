"""Wrong answers to the exercises of chapter 11, each of a kind that people write."""

from __future__ import annotations

import numpy as np

from tinymoe.course.exercises.ch11 import heron_tables
from tinymoe.models.families.base import QKV, Stacked, rows_in_turn

from .runner import exercise_tests


def _steps(name, old, new):
    return f".{name}.".replace(f".{old}.", f".{new}.")[1:-1]


def _without_prefix(name, prefix):
    return "model" + name[len(prefix) :] if name.startswith(f"{prefix}.") else name


def parts_of_steps(name, names, prefix):
    name = _without_prefix(name, prefix)
    for theirs, ours in names.items():
        name = name.replace(theirs, ours)
    return name


def prefix_anywhere(name, names, prefix):
    name = _steps(name, prefix, "model")
    for theirs, ours in names.items():
        name = _steps(name, theirs, ours)
    return name


def only_single_steps(name, names, prefix):
    return ".".join(names.get(step, step) for step in _without_prefix(name, prefix).split("."))


def only_the_first_that_fits(name, names, prefix):
    name = _without_prefix(name, prefix)
    for theirs, ours in names.items():
        if _steps(name, theirs, ours) != name:
            return _steps(name, theirs, ours)
    return name


def forgets_the_prefix(name, names, prefix):
    for theirs, ours in names.items():
        name = _steps(name, theirs, ours)
    return name


def one_below_the_other(config):
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return rows_in_turn(queries, keys, keys)


def head_after_head(config):
    rows = np.arange(3 * config.num_attention_heads * config.head_dim).reshape(-1, 3, config.head_dim)
    return [rows[:, i].reshape(-1) for i in range(3)]


def key_first(config):
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    rows = np.arange(heads * config.head_dim).reshape(config.num_key_value_heads, -1, config.head_dim)
    return [part.reshape(-1) for part in (rows[:, 2:], rows[:, 0], rows[:, 1])]


def channel_by_channel(config):
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    rows = np.arange(heads * config.head_dim).reshape(config.num_key_value_heads, config.head_dim, -1)
    return [part.reshape(-1) for part in (rows[..., :-2], rows[..., -2], rows[..., -1])]


def not_flat(config):
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    rows = np.arange(heads * config.head_dim).reshape(config.num_key_value_heads, -1, config.head_dim)
    return [rows[:, :-2], rows[:, -2], rows[:, -1]]


def _numbers(config):
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return 2 * (config.get("num_key_value_heads") or heads) * head_dim * config["num_hidden_layers"]


def heads_for_latents(config, bytes_per_number=2):
    return _numbers(config) * bytes_per_number


def a_key_and_a_value_of_the_latent(config, bytes_per_number=2):
    if config.get("kv_lora_rank") is None:
        return _numbers(config) * bytes_per_number
    return 2 * (config["kv_lora_rank"] + config["qk_rope_head_dim"]) * config["num_hidden_layers"] * bytes_per_number


def forgets_the_rope_key(config, bytes_per_number=2):
    if config.get("kv_lora_rank") is None:
        return _numbers(config) * bytes_per_number
    return config["kv_lora_rank"] * config["num_hidden_layers"] * bytes_per_number


def never_a_head_dim(config, bytes_per_number=2):
    if config.get("kv_lora_rank") is not None:
        return (config["kv_lora_rank"] + config["qk_rope_head_dim"]) * config["num_hidden_layers"] * bytes_per_number
    return _numbers({**config, "head_dim": None}) * bytes_per_number


def null_is_a_number(config, bytes_per_number=2):
    if "kv_lora_rank" in config:
        return (config["kv_lora_rank"] + config["qk_rope_head_dim"]) * config["num_hidden_layers"] * bytes_per_number
    return _numbers(config) * bytes_per_number


def _mixture(config, per_layer, active):
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    keys = config["num_key_value_heads"] * (width // config["num_attention_heads"])
    expert = 3 * width * config["intermediate_size"]
    others = layers * (2 * width * width + 2 * width * keys + 2 * width + per_layer) + width
    others += 2 * config["vocab_size"] * width
    return others + layers * config["num_local_experts"] * expert, others + layers * active * expert


def no_router(config):
    return _mixture(config, 0, config["num_experts_per_tok"])


def all_are_active(config):
    return _mixture(config, config["hidden_size"] * config["num_local_experts"], config["num_local_experts"])


def two_matrices(config):
    total, active = _mixture(
        config, config["hidden_size"] * config["num_local_experts"], config["num_experts_per_tok"]
    )
    matrix = config["hidden_size"] * config["intermediate_size"] * config["num_hidden_layers"]
    return total - config["num_local_experts"] * matrix, active - config["num_experts_per_tok"] * matrix


def eight_times_seven(config):
    total, active = _mixture({**config, "num_local_experts": 1}, config["hidden_size"], 1)
    return config["num_local_experts"] * total, config["num_experts_per_tok"] * active


def the_router_of_the_chosen(config):
    total, _ = _mixture(config, config["hidden_size"] * config["num_local_experts"], 0)
    chosen = config["num_experts_per_tok"]
    return total, _mixture(config, config["hidden_size"] * chosen, chosen)[1]


def no_default():
    return {**heron_tables(), "absent": {}}


def any_activation():
    return {**heron_tables(), "fixed": {}, "neutral": frozenset({"activation"})}


def no_norms_of_queries():
    return {**heron_tables(), "parts": {"tie_word_embeddings": True}}


def an_output_layer_of_its_own():
    return {**heron_tables(), "parts": {"attention": "variant", "qk_norm": "rms_norm"}}


def stacked_in_turn():
    def rows(config):
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        return rows_in_turn(queries, keys, keys)

    return {**heron_tables(), "stacked": (Stacked("attention.qkv", QKV, rows),)}


def llamas_names():
    return {**heron_tables(), "names": {}}


def ours_to_theirs():
    tables = heron_tables()
    return {**tables, "fields": {ours: theirs for theirs, ours in tables["fields"].items()}}


def another_table():
    return {**heron_tables(), "weights": {}}


def a_list():
    return list(heron_tables().items())


TestExercises = exercise_tests(
    "11",
    {
        "11.rename": [
            parts_of_steps, prefix_anywhere, only_single_steps, only_the_first_that_fits, forgets_the_prefix
        ],
        "11.rows_by_group": [one_below_the_other, head_after_head, key_first, channel_by_channel, not_flat],
        "11.kv_bytes": [
            heads_for_latents, a_key_and_a_value_of_the_latent, forgets_the_rope_key, never_a_head_dim, null_is_a_number
        ],
        "11.active_parameters": [
            no_router, all_are_active, two_matrices, eight_times_seven, the_router_of_the_chosen
        ],
        "11.heron_tables": [
            no_default, any_activation, no_norms_of_queries, an_output_layer_of_its_own, stacked_in_turn, llamas_names,
            ours_to_theirs, another_table, a_list
        ],
    },
)  # fmt: skip
