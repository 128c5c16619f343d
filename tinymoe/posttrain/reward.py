"""Reward models: a number that says how good an answer is, learned from which of two people prefer.

Bradley and Terry (1952) turned strengths into odds of winning; Christiano et al. (2017) and Ouyang et al. (2022) learn
the strengths with a network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .. import ops
from ..backend import current
from ..files import write_atomically
from ..models.decoder import CausalLM, Decoder, _document_numbers
from ..models.families import family
from ..models.pretrained import _read_json, load_weights, save_weights
from ..nn.config import Config
from ..nn.module import Linear, Module, shapes_only
from ..tensor import Tensor, no_grad
from ..text.tokenizer import Tokenizer
from .answers import RewardFunction
from .functional import check_ids, check_shape, constant, log_sigmoid
from .preferences import answer_rows, end_token


class ScalarModel(Module):
    """A decoder that gives each token one number in place of a score for every word.

    As a reward model, its number at the last token of a text says how good the text is. As the critic of PPO, its
    number at each token says what reward is still to be expected. Its weights and file are those of Transformers'
    `…ForSequenceClassification` with one label.
    """

    def __init__(self, config: Config, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.config = config
        self.model = Decoder(config, rng)
        self.score = Linear(config.hidden_size, 1, bias=False, rng=rng, std=config.initializer_range)

    @classmethod
    def from_causal_lm(cls, model: CausalLM, seed: int = 0) -> ScalarModel:
        """A copy of a language model's decoder under a new, random head."""
        scalar = cls(model.config, seed)
        for mine, theirs in zip(scalar.model.parameters(), model.model.parameters(), strict=True):
            mine.data = theirs.data.copy()
        return scalar

    def __call__(self, ids: Any, *, attention_mask: Any = None, documents: Any = None) -> Tensor:
        """A number for each token, given it and those before: ids (B, T) -> (B, T)."""
        ids = check_ids(ids, self.config.vocab_size)
        hidden = self.model(ids, documents=_document_numbers(ids, attention_mask, documents))
        return self.score(hidden).reshape(ids.shape)

    def rewards(self, ids: Any, *, attention_mask: Any = None) -> Tensor:
        """The number at the last token of each text: ids (B, T) -> (B,). attention_mask (B, T) is 0 for padding.

        Raises ValueError for a text that is all padding.
        """
        scores = self(ids, attention_mask=attention_mask)
        xp, (rows, length) = current().xp, scores.shape
        real = xp.ones((rows, length), dtype=bool) if attention_mask is None else current().asarray(attention_mask) > 0
        if not real.any(axis=1).all():
            raise ValueError("attention_mask: got a text that is all padding, expected a token or more in each")
        last = length - 1 - xp.argmax(real[:, ::-1], axis=1)
        return ops.take_along_axis(scores, indices=last[:, None]).reshape(rows)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors: a folder that Transformers loads as a sequence classifier."""
        folder, kind = Path(folder), family(self.config.model_type)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self, self.config, folder)
        kinds = [kind.architecture.replace("ForCausalLM", "ForSequenceClassification")]
        config = {**kind.config_to_hf(self.config), "architectures": kinds, "id2label": {"0": "reward"}}
        write_atomically(folder / "config.json", json.dumps({**config, "dtype": "float32"}, indent=2).encode())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ScalarModel:
        """Read what `save_pretrained` wrote. Raises as `models.from_pretrained` does."""
        folder = Path(folder)
        published = _read_json(folder / "config.json")
        kind = family(published.get("model_type", ""))
        with shapes_only():
            model = cls(kind.config_from_hf(published))
        load_weights(model, model.config, folder)
        return model


def reward_function(
    model: ScalarModel, tokenizer: Tokenizer, batch_size: int = 64, name: str = "reward_model"
) -> RewardFunction:
    """A reward model as a reward function of that name, for trainers that sample answers.

    The reward of an answer is the model's number at the token that closes it, as in `RewardTrainer`: one that was cut
    off is judged as if it had ended there.
    """
    end = end_token(model.config)

    def judge(prompts: list[str], completions: list[str], problems: list[Any]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            rows = answer_rows(tokenizer, prompts[part], completions[part], end)
            with no_grad():
                numbers = model.rewards(rows.ids, attention_mask=rows.attention_mask)
            found += numbers.numpy().tolist()
        return found

    judge.__name__ = name
    return judge


def reward_loss(
    chosen: Tensor, rejected: Tensor, margin: Any = None, center_rewards_coefficient: float | None = None
) -> Tensor:
    """Mean of -log sigmoid(chosen - rejected - margin): how surprised the rewards, (B,) each, are by who won.

    margin (B,), for pairs that people graded, is by how much the better is to win (Llama 2, Touvron et al. 2023,
    section 3.2.2). Only differences count, so rewards may drift away together; center_rewards_coefficient times the
    mean of (chosen + rejected)^2 holds them at zero (Eisenstein et al. 2023).

    Raises ValueError for shapes that differ.
    """
    check_shape("rejected", rejected, chosen.shape)
    gap = chosen - rejected
    if margin is not None:
        gap = gap - constant("margin", margin, gap)
    loss = -log_sigmoid(gap).mean()
    if center_rewards_coefficient is not None:
        loss = loss + ((chosen + rejected) ** 2).mean() * center_rewards_coefficient
    return loss


def reward_figures(chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """What to watch while training, named as in TRL: how often the right one wins, by how much, and the range."""
    wins, losses = chosen.data, rejected.data
    return {
        "accuracy": float((wins > losses).mean()),
        "margin": float((wins - losses).mean()),
        "min_reward": float(min(wins.min(), losses.min())),
        "mean_reward": float((wins.mean() + losses.mean()) / 2),
        "max_reward": float(max(wins.max(), losses.max())),
    }
