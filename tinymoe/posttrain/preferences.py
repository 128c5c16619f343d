"""Preferences: pairs of answers of which one is better, files of them, and who says which one.

    n pairs: a prompt, a first and a second answer each, all texts

A judge gives the probability that the first answer is the better one. People are judges; so is a list of written
principles (Constitutional AI, Bai et al. 2022), and a model that finds one answer likelier than the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import write_atomically
from ..models.decoder import CausalLM
from ..nn.config import Config
from ..tensor import no_grad
from ..text.tokenizer import Tokenizer
from .dpo import sequence_logps
from .functional import check_positive
from .logps import token_logps

# How good n answers are: prompts, answers -> (n,). What the numbers are compared to, the judges below say.
Score = Callable[[Sequence[str], Sequence[str]], np.ndarray]
# Prompts, first answers, second answers -> (n,): the probability that the first one is the better.
Judge = Callable[[Sequence[str], Sequence[str], Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, of which one was preferred. All are texts."""

    prompt: str
    chosen: str
    rejected: str


def read_pairs(file: str | Path) -> list[Pair]:
    """Pairs from JSON lines, {"prompt": …, "chosen": …, "rejected": …}, TRL's form; other fields are left out.

    Raises ValueError, naming the line, where one is no JSON, or a field is missing or no text.
    """
    pairs = []
    for number, line in enumerate(Path(file).read_text("utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}: line {number} is no JSON ({error})") from error
        for field in (field.name for field in fields(Pair)):
            value = entry.get(field) if isinstance(entry, dict) else None
            if not isinstance(value, str):
                raise ValueError(f"{file}: line {number} has {field} {value!r}, expected a text")
        pairs.append(Pair(entry["prompt"], entry["chosen"], entry["rejected"]))
    return pairs


def write_pairs(pairs: Iterable[Pair], file: str | Path) -> None:
    """Write pairs as JSON lines, for `read_pairs`."""
    lines = (json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    write_atomically(Path(file), "".join(lines).encode())


def bradley_terry(score: Score, temperature: float = 1.0) -> Judge:
    """A judge who sees how good two answers are, and still errs: P(first wins) = sigmoid(difference / temperature).

    That is how Bradley and Terry (1952) explain results of games. The smaller the temperature, the surer the judge.
    Raises ValueError for a temperature of 0 or less.
    """
    check_positive("temperature", temperature)

    def judge(prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> np.ndarray:
        gap = np.asarray(score(prompts, firsts)) - np.asarray(score(prompts, seconds))
        return 1 / (1 + np.exp(-gap / temperature))

    return judge


def constitution(principles: Sequence[Score]) -> Judge:
    """A judge who draws one of the principles and prefers the answer that keeps it better; a tie is a coin toss.

    A principle scores answers. That is Constitutional AI's way to label (Bai et al. 2022, section 4.1).
    Raises ValueError where there are no principles.
    """
    if not principles:
        raise ValueError("principles: got none, expected at least one")

    def judge(prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> np.ndarray:
        gaps = [np.asarray(p(prompts, firsts)) - np.asarray(p(prompts, seconds)) for p in principles]
        return np.mean([(1 + np.sign(gap)) / 2 for gap in gaps], axis=0)

    return judge


def likelihood(model: CausalLM, batch_size: int = 64) -> Score:
    """How likely a model finds answers: the mean log-probability of a token, the one that ends the answer included.

    With `bradley_terry` it makes a judge of a model. Raises ValueError for a model without a tokenizer.
    """
    if model.tokenizer is None:
        raise ValueError("model: got one without a tokenizer, expected one, to read answers with")
    tokenizer, end = model.tokenizer, end_token(model.config)

    def score(prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        found = [np.zeros(0)]
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            rows = answer_rows(tokenizer, prompts[part], answers[part], end)
            with no_grad():
                logps = token_logps(model, rows.ids, rows.mask).logps
                found.append(sequence_logps(logps, rows.mask[:, 1:], average=True).numpy())
        return np.concatenate(found)

    return score


def label(
    judge: Judge,
    prompts: Sequence[str],
    firsts: Sequence[str],
    seconds: Sequence[str],
    rng: np.random.Generator | None = None,
) -> list[Pair]:
    """Pairs as a judge sees them: which answer wins is drawn with its probability, or, without rng, the likelier one.

    A tie goes to the first then. Raises ValueError where the lists differ in length.
    """
    if not len(prompts) == len(firsts) == len(seconds):
        raise ValueError(
            f"prompts, firsts, seconds: got {len(prompts)}, {len(firsts)} and {len(seconds)}, expected as many of each"
        )
    wins = judge(prompts, firsts, seconds) > (rng.random(len(prompts)) if rng else 0.5 - 1e-9)
    return [
        Pair(prompt, first, second) if won else Pair(prompt, second, first)
        for prompt, first, second, won in zip(prompts, firsts, seconds, wins, strict=True)
    ]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """How often two judges prefer the same answer, from their probabilities (n,). A judge without a view tosses a coin.

    0.5 is what chance gives.
    """
    verdicts = np.sign(np.asarray(one) - 0.5), np.sign(np.asarray(other) - 0.5)
    return float((1 + verdicts[0] * verdicts[1]).mean() / 2)


class AnswerRows(NamedTuple):
    """Prompts with their answers as tokens, all (n, T): ids, a mask that is True for those of the answer, its end
    included, and an attention_mask that is True for all but the padding."""

    ids: np.ndarray
    mask: np.ndarray
    attention_mask: np.ndarray


def answer_rows(tokenizer: Tokenizer, prompts: Sequence[str], answers: Sequence[str], end: int | None) -> AnswerRows:
    """Texts as tokens, a prompt and its answer a row, closed by the token `end`.

    Padding stands behind, where causal attention does not look: only who asks for the last token needs its mask.
    """
    tail = [] if end is None else [end]
    starts = tokenizer.encode_batch(prompts)
    rows = [start + answer + tail for start, answer in zip(starts, tokenizer.encode_batch(answers), strict=True)]
    ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    mask, real = np.zeros(ids.shape, dtype=bool), np.zeros(ids.shape, dtype=bool)
    for i, (start, row) in enumerate(zip(starts, rows, strict=True)):
        ids[i, : len(row)], mask[i, len(start) : len(row)], real[i, : len(row)] = row, True, True
    return AnswerRows(ids, mask, real)


def end_token(config: Config) -> int | None:
    """The token that closes an answer: the model's eos_token_id, or the first of them; None where it has none."""
    end = config.eos_token_id
    return end if end is None or isinstance(end, int) else end[0]
