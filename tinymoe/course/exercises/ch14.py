"""Exercises of chapter 14: a template, what is learned of a row, calls read safely, packing, and a judge."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinymoe.posttrain import shop
from tinymoe.text.chat_templates import Conversation, Piece

from ..checks import Case, case, holds, matches, wrong
from ..registry import Exercise


def read_calls(text: str) -> tuple[list[tuple[str, dict]], int]:
    """The calls in a reply, each (name, arguments), and how many more are not well formed. Nothing raises."""
    calls, broken = [], 0
    for part in text.split("<tool_call>")[1:]:
        inside, end, _ = part.partition("</tool_call>")
        try:
            call = json.loads(inside)
            name, arguments = call["name"], call["arguments"]
        except (ValueError, TypeError, KeyError, RecursionError):
            end = ""
        if end and isinstance(name, str) and isinstance(arguments, dict):
            calls.append((name, arguments))
        else:
            broken += 1
    return calls, broken


def accepts(goal: shop.Goal, talk: shop.Visit) -> bool:
    """Whether a talk may be learned from."""
    return not shop.complaints(goal, talk)


def _runs(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces with their neighbors joined: how a text is cut into pieces of one kind is free."""
    grouped = itertools.groupby((piece for piece in pieces if piece[0]), key=lambda piece: bool(piece[1]))
    return [("".join(text for text, _ in run), mine) for mine, run in grouped]


def _talk(*contents: str, system: str = "", prompt: bool = False) -> Case:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    first = [{"role": "system", "content": system}] if system else []
    return case(Conversation([*first, *turns], [], add_generation_prompt=prompt))


def _masked_rows(rng: np.random.Generator, size: int) -> Case:
    shape = int(rng.integers(1, 3)), int(rng.integers(2, 3 + size))
    return case(rng.integers(0, 50, size=shape), rng.random(shape) < 0.5)


def _lengths(rng: np.random.Generator, size: int) -> Case:
    width = int(rng.integers(4, 30))
    return case({number: int(rng.integers(1, width + 1)) for number in range(size)}, width)


def _call(name: Any = "calculator", arguments: Any = None) -> str:
    value = {"name": name, "arguments": {"expression": "2+2"} if arguments is None else arguments}
    return f"<tool_call>\n{json.dumps(value)}\n</tool_call>"


def _never_runs_it(function: Any) -> None:
    """Python where JSON should stand: whoever evaluates it gets a call, or an exit."""
    for text in ("{'name': 'calculator', 'arguments': {}}", "{'name': exit(), 'arguments': {}}"):
        text = f"<tool_call>{text}</tool_call>"
        calls, broken = function(text)
        if calls or broken != 1:
            wrong("this is no JSON, so it is no call", given=f"text = {text!r}", expected=([], 1), got=(calls, broken))


def _accepts_what_is_right(function: Any) -> None:
    _judged(function, 0.0, "everything here was done right")


def _rejects_a_wrong_cart(function: Any) -> None:
    _judged(function, 0.5, "look at the cart: it should hold just what was wanted", "the cart")


def _rejects_a_wrong_sum(function: Any) -> None:
    _judged(function, 0.5, "the last number that is said should be count times price", "the sum")


def _rejects_the_rest(function: Any) -> None:
    _judged(function, 0.5, "look at calls that failed, and at what was asked")


def _judged(function: Any, mistakes: float, problem: str, flaw: str = "") -> None:
    """Talks without a flaw have to be accepted, and those with this one rejected."""
    goals = shop.goals("train", seed=14, count=60)
    for goal, talk in zip(goals, shop.visit(shop.noisy_teacher(mistakes, seed=14), goals), strict=True):
        flaws = "; ".join(shop.complaints(goal, talk))
        expected, got = not flaws, bool(function(goal, talk))
        if got != expected and flaw in flaws:
            said = "\n".join(f"{m['role']}: {m['content'] or m['tool_calls'][0]['function']}" for m in talk.messages)
            wrong(problem, given=f"{goal}\n{said}\ncart = {talk.cart}", expected=str(expected), got=str(got))


EXERCISES = [
    Exercise(
        id="14.chatml",
        title="ChatML",
        target="text/chat_templates.py::chatml",
        checks=[
            matches("a question", [_talk("2 + 2?")], read=_runs),
            matches("a question and its answer", [_talk("2 + 2?", "4")], read=_runs),
            matches("a prompt", [_talk("2 + 2?", prompt=True)], read=_runs),
            matches("several turns", [_talk("2 + 2?", "4", "Sure?", "Yes.", system="Be brief.")], read=_runs),
            matches("empty and odd texts", [_talk("", " \n", "<|im_end|>", "")], read=_runs),
        ],
        hints=[
            "Three pieces a message: the line with the role, the text with <|im_end|>, and a line feed.",
            "Only the second of them is ever learned, and only where the role is assistant.",
            'yield message["content"] + "<|im_end|>", message["role"] == "assistant"; at the end, where '
            'chat.add_generation_prompt is set, "<|im_start|>assistant\\n".',
        ],
    ),
    Exercise(
        id="14.completion_targets",
        title="What is learned of a row",
        target="posttrain/sft.py::completion_targets",
        checks=[
            matches("one answer", [case(np.array([[5, 6, 7, 8]]), np.array([[0, 0, 1, 1]]))]),
            matches("two answers", [case(np.array([[5, 6, 7, 8, 9]]), np.array([[0, 1, 0, 0, 1]]))]),
            matches("nothing to learn", [case(np.array([[5, 6]]), np.array([[0, 0]]))]),
            matches("any rows", _masked_rows, count=10),
        ],
        hints=[
            "A token is learned at the place before it. What does the model read at the last place, and what for?",
            "np.where(mask, ids, -100) keeps the tokens to learn. Then move everything by one.",
            "ids[:, :-1] is read; np.where(mask, ids, -100)[:, 1:] is to be written. (IGNORE is -100.)",
        ],
    ),
    Exercise(
        id="14.best_fit",
        title="Packing by best fit",
        target="text/instructions.py::best_fit",
        checks=[
            matches("two that fit together", [case({0: 3, 1: 5}, 8)]),
            matches("the longest first", [case({0: 2, 1: 6, 2: 3, 3: 5}, 8)]),
            matches("where the least room is left", [case({0: 5, 1: 6, 2: 2, 3: 3}, 8)]),
            matches("none", [case({}, 8)]),
            matches("any lengths", _lengths, count=15),
        ],
        hints=[
            "sorted(lengths, key=lambda number: -lengths[number]) has the longest first, and of equals the earliest.",
            "For each: of the rows with room enough, the one with the least room. Where there is none, a new row.",
            "min((room, row) for row, room in enumerate(rooms) if room >= length) finds it; of equal rooms the first.",
        ],
    ),
    Exercise(
        id="14.read_calls",
        title="Calls, read safely",
        reference=read_calls,
        checks=[
            matches("no call", [case("It is 4."), case("")]),
            matches("one call", [case(_call()), case(f"Let me see.\n{_call()}")]),
            matches("two calls", [case(f"{_call()}\n{_call('lookup', {'key': 'pen'})}")]),
            matches("no JSON", [case(_call().replace("}}", "}")), case("<tool_call></tool_call>")]),
            matches("cut off", [case(_call().removesuffix("</tool_call>")), case("<tool_call>")]),
            matches("a broken one before a good one", [case(f"<tool_call>oops</tool_call>{_call()}")]),
            matches(
                "JSON that is no call",
                [
                    case(_call(name=7)),
                    case(_call(arguments=[1])),
                    *(case(f"<tool_call>{x}</tool_call>") for x in ("3", "[]", "null", "{}")),
                ],
            ),
            matches("nested deeply", [case("<tool_call>" + "[" * 100_000 + "</tool_call>")]),
            holds("it runs nothing", _never_runs_it),
        ],
        hints=[
            'text.split("<tool_call>")[1:] has what follows each sign; partition("</tool_call>") finds the end.',
            "json.loads reads JSON, and raises ValueError for anything else. What may its value be, apart from a dict?",
            "Catch ValueError, TypeError, KeyError and RecursionError around json.loads and the two fields; then ask "
            "whether the name is a str and the arguments are a dict. Never use eval.",
        ],
    ),
    Exercise(
        id="14.accepts",
        title="A judge for trajectories",
        reference=accepts,
        checks=[
            holds("it accepts what is right", _accepts_what_is_right),
            holds("it rejects a wrong cart", _rejects_a_wrong_cart),
            holds("it rejects a wrong sum", _rejects_a_wrong_sum),
            holds("it rejects whatever else is wrong", _rejects_the_rest),
        ],
        hints=[
            "talk.cart is a dict of what was ordered; the goal has item, count and price.",
            'The sum is the last number in talk.messages[-1]["content"]: re.findall(r"\\d+", …)[-1:].',
            'A failed call is followed by a message that begins with "Error:". The question shop.QUESTION has to be '
            'asked once of the persona "vague", and of nobody else.',
        ],
    ),
]
