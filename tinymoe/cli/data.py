"""What post-training learns from: the built-in tasks, or files of conversations, problems and pairs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..posttrain.answers import RewardFunction
    from ..posttrain.preferences import Pair
    from ..posttrain.tasks import Problem
    from ..text.replies import Message

Asked = TypeVar("Asked", "Problem", "Pair")
_MOST, _HELD_OUT = 1000, 100  # problems to train on, and to be tested on, where a task has as many


def is_task(data: str) -> bool:
    """Whether --data names a built-in task, as arithmetic or arithmetic:2."""
    from ..posttrain.tasks import TASKS

    return data.partition(":")[0] in TASKS


def read_problems(data: str, count: int | None, seed: int, tools: bool = False) -> tuple[list[Problem], list[Problem]]:
    """Problems to train on, and others to be tested on: of a task, TASK[:LEVEL], or of a file of JSON.

    A file's records have the fields of a `Problem`: "prompt", and "answer", "steps", "given" and "target" where they
    apply. Every tenth is held out. Raises ValueError, naming the record, for a field that is missing or of another
    type, and for a task of calls to tools unless `tools` are at hand.
    """
    if is_task(data):
        task, _, level = data.partition(":")
        if task == "tools" and not tools:
            raise ValueError("--data: got the task tools, whose calls only sft with a --template can learn")
        if level and not level.isdecimal():
            raise ValueError(f"--data: got the level {level!r}, expected a number, as in {task}:2")
        return _draw(task, "train", level, seed, count), _draw(task, "test", level, seed, None)
    if not Path(data).exists():
        from ..posttrain.tasks import TASKS

        raise FileNotFoundError(f"--data: got {data!r}, expected a file, or a task: {', '.join(TASKS)}")
    return split_tenth([_problem(record, where) for where, record in _records(data)][:count])


def read_talks(data: str) -> list[list[Message]]:
    """The conversations of a file. Raises as `instructions.conversations`."""
    from ..text.instructions import conversations

    return list(conversations(data))


def read_pairs(data: str, template: str | None) -> list[Pair]:
    """The pairs of a file, their prompts as users' turns where there is a template.

    Raises as `preferences.read_pairs`, and ValueError where there is none.
    """
    from ..posttrain import preferences

    pairs = preferences.read_pairs(data)
    if not pairs:
        raise ValueError(f"--data: {data} holds no pairs")
    return [in_template(pair, template) for pair in pairs]


def split_tenth(items: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """All but every tenth, to train on, and every tenth: none where there are fewer than ten."""
    return [item for i, item in enumerate(items) if i % 10 != 9], list(items[9::10])


def in_template(asked: Asked, template: str | None) -> Asked:
    """A problem or a pair whose prompt is a user's turn, up to where the assistant begins to speak."""
    from ..text import chat

    if template is None:
        return asked
    talk: list[Message] = [{"role": "user", "content": asked.prompt}]
    return dataclasses.replace(asked, prompt=chat.render(talk, template, add_generation_prompt=True))


def talk_of(problem: Problem, template: str) -> list[Message]:
    """A problem and its solution as a conversation; its steps are thoughts, or said aloud where there are none."""
    from ..text import chat

    talk = problem.messages
    if problem.steps and problem.steps[0] not in chat.render(talk, template, **options_of(template)):
        talk[-1] = {"role": "assistant", "content": problem.solution}
    return talk


def options_of(template: str) -> dict[str, Any]:
    """How a template is to be rendered to train on it: with all thoughts."""
    from ..text import chat

    return {"keep_thinking": True} if "keep_thinking" in chat.TEMPLATES[template].takes else {}


def solved(problem: Problem, template: str | None) -> dict[str, str]:
    """The texts of a problem's prompt, "prompt", and of its solution, "solution", up to where it ends."""
    from ..text import chat

    if template is None:
        return {"prompt": problem.prompt, "solution": problem.tagged}
    prompt = in_template(problem, template).prompt
    text = chat.render(talk_of(problem, template), template, **options_of(template)).removeprefix(prompt)
    stops = "|".join(map(re.escape, chat.stop_tokens(template)))
    return {"prompt": prompt, "solution": re.split(stops, text, maxsplit=1)[0]}


def reward_functions(
    text: str, problems: Sequence[Problem], template: str | None
) -> tuple[list[RewardFunction], tuple[float, ...]]:
    """The functions that --reward names, and their weights: "correct,format:0.1", or folders of reward models.

    Raises ValueError for another name, and for "correct" where problems have no answer; FileNotFoundError for a folder
    without a reward model.
    """
    functions, weights = [], []
    for part in text.split(","):
        name, _, number = part.rpartition(":")
        weighted = bool(name) and _is_number(number)
        functions.append(_reward(name if weighted else part, problems, template))
        weights.append(float(number) if weighted else 1.0)
    return functions, tuple(weights)


def _reward(name: str, problems: Sequence[Problem], template: str | None) -> RewardFunction:
    from ..posttrain import rewards

    if name == "correct":
        if not all(problem.answer or problem.target is not None for problem in problems):
            raise ValueError("--reward: got 'correct', but some problems have neither an answer nor a target")

        def correct(prompts: list[str], completions: list[str], problems: list[Any]) -> list[float]:
            return [rewards.correct(text, problem) for text, problem in zip(completions, problems, strict=True)]

        return correct
    if name == "format":
        style = "tags" if template is None else "lines"

        def form(prompts: list[str], completions: list[str], problems: list[Any]) -> list[float]:
            return [rewards.format_reward(text, style) for text in completions]

        form.__name__ = "format"
        return form
    if not Path(name).is_dir():
        raise ValueError(f"--reward: got {name!r}, expected correct, format, or the folder of a reward model")
    return _reward_model(Path(name))


def _reward_model(folder: Path) -> RewardFunction:
    from ..posttrain import ScalarModel
    from ..posttrain.reward import reward_function
    from ..text.tokenizer import Tokenizer

    if not (folder / "tokenizer.json").exists():
        raise FileNotFoundError(f"--reward: {folder} has no tokenizer.json; a finished run of `reward` has one")
    return reward_function(ScalarModel.from_pretrained(folder), Tokenizer.load(folder), name=folder.name)


def _draw(task: str, split: str, level: str, seed: int, count: int | None) -> list[Problem]:
    """As many problems as were asked for, or else as many as there are, up to a limit."""
    from ..posttrain import tasks

    chosen = {"level": int(level)} if level else {}
    wanted = count or (_MOST if split == "train" else _HELD_OUT)
    while True:
        try:
            return tasks.problems(task, split, seed=seed, count=wanted, **chosen)
        except ValueError:
            if count or wanted < 10:
                raise
            wanted = wanted * 3 // 4


def _records(data: str) -> Iterator[tuple[str, Any]]:
    from ..text.instructions import _records

    return _records(Path(data))


def _problem(record: Any, where: str) -> Problem:
    from ..posttrain.tasks import Problem

    fields = record if isinstance(record, dict) else {}
    prompt, answer = fields.get("prompt", ""), fields.get("answer", "")
    given, target, steps = fields.get("given", []), fields.get("target"), fields.get("steps", [])
    for name, value, fits, expected in (
        ("prompt", prompt, isinstance(prompt, str) and prompt, "a text"),
        ("answer", answer, isinstance(answer, str | int | float), "a text or a number"),
        ("given", given, isinstance(given, list) and all(isinstance(x, int) for x in given), "a list of whole numbers"),
        ("target", target, target is None or isinstance(target, int), "a whole number"),
        ("steps", steps, isinstance(steps, list) and all(isinstance(x, str) for x in steps), "a list of texts"),
    ):
        if not fits:
            raise ValueError(f"--data: {where} has the {name} {value!r}, expected {expected}")
    return Problem("file", 1, prompt, prompt, str(answer), tuple(steps), tuple(given), target)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
