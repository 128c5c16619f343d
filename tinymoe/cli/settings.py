"""Flags made from the fields of a trainer's configuration, so that the two cannot differ."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection
from typing import Any, get_args, get_type_hints

# What the fields of configurations mean; where they differ in that, the name of the configuration comes first.
HELP: dict[str, str] = {
    # training
    "steps": "optimizer steps",
    "batch_size": "rows, pairs or problems a step",
    "context": "tokens a row",
    "lr": "peak learning rate",
    "min_lr": "final learning rate; a tenth of --lr where that is given",
    "warmup": "steps of linear warm-up",
    "schedule": "cosine, wsd (warm-up, stable, decay) or constant",
    "decay": "steps of wsd's decay; a fifth of the run unless given",
    "decay_shape": "of wsd: linear or 1-sqrt",
    "weight_decay": "decay of matrices, decoupled",
    "beta1": "AdamW's first moment",
    "beta2": "AdamW's second moment",
    "grad_clip": "largest norm of the gradient; 0 is off",
    "accumulate": "batches whose gradients make one step",
    "cuda_graph": "on a GPU, capture a step once and replay it",
    "eval_every": "steps between evaluations",
    "eval_batches": "batches in an evaluation; the last one takes the whole validation text",
    "checkpoint_every": "steps between checkpoints",
    "keep": "checkpoints to keep",
    "seed": "of all that is drawn at random",
    "learning_rate": "learning rate, after warm-up",
    "max_grad_norm": "largest norm of the gradient; 0 is off",
    # pairs of answers
    "DPOConfig.beta": "the price of straying from the model at the start",
    "DPOConfig.loss_type": "sigmoid, or ipo",
    "rpo_alpha": "times the loss of the chosen answers, added to it",
    "center_rewards_coefficient": "times the mean squared sum of a pair's rewards, added to the loss",
    # a model's own answers
    "num_generations": "answers to a problem",
    "generation_batch_size": "answers a step",
    "max_completion_length": "tokens of an answer",
    "temperature": "of what is sampled",
    "top_p": "sample only the likeliest tokens that make up P",
    "num_completions_to_print": "answers a step that metrics.jsonl keeps",
    "GRPOConfig.beta": "the price of straying from the model at the start; 0 is none, and needs no copy of it",
    "GRPOConfig.loss_type": "what answers are averaged over: grpo (each), dapo (all tokens), dr_grpo (a fixed length)",
    "epsilon": "how far the ratio of probabilities counts",
    "epsilon_high": "the same upwards; that of --epsilon unless given",
    "importance_sampling_level": "ratios of each token, or of a sequence (GSPO)",
    "scale_rewards": "divide advantages by the spread of rewards in their group",
    "num_iterations": "times that a step learns from its answers",
    "steps_per_generation": "parts that it learns from one after the other",
    "mask_truncated_completions": "learn nothing from answers that were cut off",
    "dynamic_sampling": "more draws that a step may take to find groups whose rewards differ",
    "overlong_cache": "tokens before the limit over which a penalty of the length grows",
    "critic_learning_rate": "learning rate of the critic; the model's unless given",
    "critic_warmup": "first steps, in which only the critic learns",
    "num_ppo_epochs": "times that a step learns from its answers",
    "num_mini_batches": "parts that it learns from one after the other",
    "cliprange": "how far the ratio of probabilities counts",
    "cliprange_value": "how far the critic's change counts",
    "vf_coef": "weight of the critic's loss",
    "gamma": "how much a reward counts one token earlier",
    "lam": "of generalized advantage estimation",
    "whiten_rewards": "scale the rewards of a batch to a spread of 1",
    "kl_coef": "the price of straying from the model at the start, in reward per nat",
    "target": "divergence of an answer, in nats, that --kl-coef is adapted to",
    "horizon": "answers over which it is adapted",
    "missing_eos_penalty": "taken from the reward of an answer that was cut off",
    # distillation
    "lmbda": "share of the batches that the student writes itself",
    "DistillConfig.beta": "of the divergence: 0 forward KL, 1 reverse KL, Jensen-Shannon between them",
    "max_new_tokens": "tokens of a text that is sampled",
    "seq_kd": "learn the teacher's own texts, in place of the problems' solutions",
}
_ALIASES = {"lr": "learning_rate", "learning_rate": "lr"}  # the same flag under another name


def add_settings(
    command: argparse.ArgumentParser, config: type, hidden: Collection[str] = (), show_defaults: bool = True
) -> None:
    """Give a command a flag for each field of a configuration, but for the hidden ones. Those not given are None."""
    for field, kind in _fields(config).items():
        if field in hidden:
            continue
        flags = [f"--{name.replace('_', '-')}" for name in (field, _ALIASES.get(field, "")) if name]
        how: dict[str, Any] = {"type": kind, "metavar": field[0].upper()}
        if kind is bool:
            how = {"action": argparse.BooleanOptionalAction}
        default = getattr(config, field)
        shown = f" (default: {default})" if show_defaults and default is not None else ""
        text = HELP.get(f"{config.__name__}.{field}") or HELP[field]
        command.add_argument(*flags, dest=field, help=text + shown, **how)


def given_settings(options: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields of a configuration that were given as flags."""
    fields = _fields(config)
    given = {field: getattr(options, field, None) for field in fields}
    given = {field: value for field, value in given.items() if value is not None}
    if "lr" in given and "min_lr" in fields:
        given.setdefault("min_lr", given["lr"] / 10)
    return given


def _fields(config: type) -> dict[str, Any]:
    """The fields with the type that a text is read as: that of the annotation, without None."""
    hints = get_type_hints(config)
    kinds = {field.name: hints[field.name] for field in dataclasses.fields(config)}
    return {name: (get_args(kind) or (kind,))[0] for name, kind in kinds.items()}
