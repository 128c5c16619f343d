"""Small problems whose answers can be checked: what a nano model learns to reason on.

    from tinymoe.posttrain import tasks
    train = tasks.problems("arithmetic", "train", seed=0, count=1000, level=2)
    test = tasks.problems("arithmetic", "test", seed=0, count=200, level=2)

A problem belongs to one split by a hash of what it asks, in a canonical form: the order of what is added, the names of
people and things, the seed and the level do not matter. So the splits share no problem, whatever they are drawn with.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ..text.facts import ITEMS
from ..text.grammar import pick
from ..text.replies import Message, reply
from . import expressions

SPLITS = ("train", "test")
_PATIENCE = 2000  # draws in a row that bring nothing new


@dataclass(frozen=True)
class Problem:
    """A question, its answer and the steps to it, one a line.

    `key` is the canonical form. Countdown has the `given` numbers and the `target`; its answer is one of many. Tool use
    has the right `calls`, each a name and arguments, with their `results`, and the `table` to look things up in.
    """

    task: str
    level: int
    key: str
    prompt: str
    answer: str
    steps: tuple[str, ...] = ()
    given: tuple[int, ...] = ()
    target: int | None = None
    calls: tuple[tuple[str, Mapping[str, str]], ...] = ()
    results: tuple[str, ...] = ()
    table: Mapping[str, str] = field(default_factory=dict)

    @property
    def solution(self) -> str:
        """The steps, and "Answer: …" on a line of its own."""
        return "\n".join([*self.steps, f"Answer: {self.answer}"])

    @property
    def tagged(self) -> str:
        """The same as DeepSeek-R1-Zero was asked to write it: <think>…</think><answer>…</answer>."""
        thoughts = "\n".join(self.steps)
        return f"<think>{thoughts}</think><answer>{self.answer}</answer>"

    @property
    def messages(self) -> list[Message]:
        """The problem as a conversation, with the calls of tools and their results, for `chat.encode`."""
        talk: list[Message] = [{"role": "user", "content": self.prompt}]
        for (name, arguments), result in zip(self.calls, self.results, strict=True):
            call = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
            talk += [reply("", calls=[call]), {"role": "tool", "name": name, "content": result}]
        return [*talk, reply(f"Answer: {self.answer}", "\n".join(self.steps))]


def split_of(key: str) -> str:
    """The split of a canonical form: one in five is for the test."""
    return SPLITS[int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 5 == 0]


def problems(task: str, split: str = "train", *, seed: int = 0, count: int = 1, level: int = 2) -> list[Problem]:
    """`count` different problems of one of TASKS, the same for the same arguments on every machine.

    ValueError for an unknown task or split, a level that the task has not, and where it has no `count` problems.
    """
    if task not in TASKS:
        raise ValueError(f"task: got {task!r}, expected one of {', '.join(TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(SPLITS)}")
    if not 1 <= level <= LEVELS[task]:
        raise ValueError(f"level: got {level}, expected 1 to {LEVELS[task]} for the task {task!r}")
    rng = random.Random(f"{task}/{split}/{seed}/{level}")
    found: dict[str, Problem] = {}
    waited = 0
    while len(found) < count:
        problem = TASKS[task](rng, level)
        waited += 1
        if split_of(problem.key) == split and problem.key not in found:
            found[problem.key], waited = problem, 0
        if waited > _PATIENCE:
            raise ValueError(f"count: got {count}, but {split} of {task!r} has about {len(found)} at level {level}")
    return list(found.values())


def arithmetic(rng: random.Random, level: int) -> Problem:
    """A calculation, worked out one operation a line.

    Level 1: two operations, + and - of digits. 2: three operations, one a product of digits. 3: the same with numbers
    up to 99. 4: four operations, with parentheses. What comes out on the way is never negative.
    """
    most = 9 if level < 3 else 99
    while True:
        terms = [str(_between(rng, 1, most)) for _ in range(3)]
        if level > 1:
            factor = str(_between(rng, 2, 9))
            if level > 3:
                factor = f"({_between(rng, 1, 9)}{pick('+-', rng)}{_between(rng, 1, 9)})"
            terms[_between(rng, 0, 2)] = f"{factor}*{_between(rng, 2, 9)}"
        text = terms[0] + "".join(pick("+-", rng) + term for term in terms[1:])
        steps = expressions.steps(expressions.parse(text))
        if not any("=-" in step for step in steps):
            return _calculation("arithmetic", level, f"{text}=?", text)


def countdown(rng: random.Random, level: int) -> Problem:
    """Reach a number with some others, each used once at most: the game of the TV show, and of TinyZero (Pan, 2025).

    Level 1 gives two numbers, 2 three, 3 four. The target is a whole number up to 99 that no fewer of them reach, and
    can be reached without fractions or negative numbers on the way.
    """
    while True:
        numbers = tuple(_between(rng, 1, 10) for _ in range(level + 1))
        targets = _targets(tuple(sorted(numbers)))
        if targets:
            target, text = pick(targets, rng)
            key = f"countdown {target} of {sorted(numbers)}"
            prompt = f"{target} from {' '.join(map(str, numbers))}?"
            steps = tuple(expressions.steps(expressions.parse(text)))
            return Problem("countdown", level, key, prompt, text, steps, given=numbers, target=target)


def letters(rng: random.Random, level: int) -> Problem:
    """How often a letter occurs in a word. The steps spell the word and count. Level n: words of 2n + 2 letters.

    The words are made up, of few letters, so that some occur often; a word is in one split, whichever letter is asked.
    """
    some = [pick("bdfgklmnprst", rng) for _ in range(3)], [pick("aeiou", rng) for _ in range(2)]
    word = "".join(pick(some[place % 2], rng) for place in range(2 * level + 2))
    letter = pick(word, rng) if rng.random() < 0.9 else pick("bdfgklmnprst", rng)
    spelled = " ".join(f"{here}{word[: place + 1].count(letter)}" for place, here in enumerate(word))
    prompt = f"Count {letter} in {word}."
    return Problem("letters", level, f"letters of {word}", prompt, str(word.count(letter)), (spelled,))


def words(rng: random.Random, level: int) -> Problem:
    """A word problem with as many operations as its level, 1 to 3. The names and the things are not part of the key."""
    text, calculation, holds = pick(_STORIES[level], rng)
    while True:
        a, b, c = _between(rng, 2, 30), _between(rng, 2, 9), _between(rng, 2, 9)
        if holds(a, b, c):
            break
    name = pick(_NAMES, rng)
    scene = {"name": name, "friend": pick([other for other in _NAMES if other != name], rng)}
    scene |= {"thing": pick(_THINGS, rng), "a": a, "b": b, "c": c, "ab": a * b}
    return _calculation("words", level, text.format_map(scene), calculation.format_map(scene))


def tool_use(rng: random.Random, level: int) -> Problem:
    """A question for tools. Level 1: one call, of the calculator or of a price list. 2: a price, then what several
    cost. 3: two prices, then what a basket costs. 4: what the others have too little of to learn from, which is numbers
    of one to four digits, and baskets with a single thing beside several.

    The prices are drawn anew for each problem, so nothing but a look into its `table` can tell them.
    """
    if level in (1, 4) and rng.random() < 0.5:
        text = f"{_operand(rng, level)}{pick('+-*', rng)}{_operand(rng, level)}"
        return _tool_problem(level, expressions.canonical(expressions.parse(text)), f"{text}=?", {}, [], text)
    table = {item: str(_between(rng, 2, 99)) for item in ITEMS}
    first = pick(ITEMS, rng)
    second = pick([item for item in ITEMS if item != first], rng)
    if level == 1:
        return _tool_problem(level, f"price of {first}", f"Price of a {first}?", table, [first], "")
    m, n = _between(rng, 2, 99), _between(rng, 2, 99)
    if level == 2:
        return _tool_problem(level, f"price of {m} {first}", f"Price of {m} {first}s?", table, [first], f"{m}*{{0}}")
    if level == 4:
        m, n = pick(((1, n), (m, 1)), rng)
    key = "price of " + " ".join(sorted((f"{m} {first}", f"{n} {second}")))
    prompt = f"Price of {_some(m, first)} and {_some(n, second)}?"
    return _tool_problem(level, key, prompt, table, [first, second], f"{m}*{{0}}+{n}*{{1}}")


def _operand(rng: random.Random, level: int) -> int:
    if level < 4:
        return _between(rng, 11, 999)
    digits = _between(rng, 1, 4)
    return _between(rng, 10 ** (digits - 1), 10**digits - 1)


def _some(count: int, thing: str) -> str:
    return f"a {thing}" if count == 1 else f"{count} {thing}s"


def solve(given: tuple[int, ...], target: int) -> str | None:
    """An expression in some of the given numbers that comes to the target, or None where there is none.

    It tries everything, with exact fractions. ValueError for more than 4 numbers, and for none.
    """
    if not 1 <= len(given) <= 4:
        raise ValueError(f"given: got {len(given)} numbers, expected 1 to 4")
    number = Fraction(target)
    ways = [reached[number] for reached in _reach(tuple(sorted(given))).values() if number in reached]
    return min(ways)[-1] if ways else None


_Way = tuple[int, int, int, str]  # awkward steps, length, rank of the last sign, the expression: the best is the least


def _reach(given: tuple[int, ...]) -> dict[int, dict[Fraction, _Way]]:
    """For each set of places, as the bits of a number, what its numbers come to, all used, and the best way there."""
    found: dict[int, dict[Fraction, _Way]] = {}
    for places in range(1, 2 ** len(given)):
        reached = found[places] = {}
        if places & (places - 1) == 0:  # a single number
            number = given[places.bit_length() - 1]
            reached[Fraction(number)] = (0, len(str(number)), 2, str(number))
        for part in range(1, places):
            if part & places == part:
                for left, one in found[part].items():
                    for right, other in found[places ^ part].items():
                        _try_signs(reached, left, one, right, other, part < places ^ part)
    return found


def _try_signs(reached: dict[Fraction, _Way], left: Fraction, a: _Way, right: Fraction, b: _Way, first: bool) -> None:
    """Both orders of two numbers come along here; a sum and a product are the same in the second."""
    for sign in "+-*/" if first else "-/":
        if sign == "/" and not right:
            continue
        result = expressions.compute(sign, left, right)
        awkward = a[0] + b[0] + (result.denominator > 1 or result < 0)
        best = reached.get(result)
        if best is None or (awkward, a[1] + b[1] + 1) < best[:2]:
            reached[result] = _join(awkward, sign, a, b)


def _join(awkward: int, sign: str, a: _Way, b: _Way) -> _Way:
    rank = "+-*/".index(sign) // 2
    left = a[3] if a[2] >= rank else f"({a[3]})"
    right = b[3] if b[2] > rank or (b[2] == rank and sign in "+*") else f"({b[3]})"
    return awkward, len(left + sign + right), rank, left + sign + right


@lru_cache(maxsize=2048)
def _targets(given: tuple[int, ...]) -> tuple[tuple[int, str], ...]:
    found = _reach(given)
    whole = found.pop(2 ** len(given) - 1)
    fewer = set().union(*found.values())
    wanted = {number: way for number, way in whole.items() if not way[0] and 0 < number < 100 and number not in fewer}
    return tuple((int(number), way[3]) for number, way in sorted(wanted.items()))


def _between(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _calculation(task: str, level: int, prompt: str, text: str) -> Problem:
    tree = expressions.parse(text)
    answer = str(expressions.value(tree))
    return Problem(task, level, expressions.canonical(tree), prompt, answer, tuple(expressions.steps(tree)))


def _tool_problem(
    level: int, key: str, prompt: str, table: Mapping[str, str], items: list[str], calculation: str
) -> Problem:
    calls: list[tuple[str, Mapping[str, str]]] = [("lookup", {"key": item}) for item in items]
    results = [table[item] for item in items]
    if calculation:
        calculation = calculation.format(*results)
        calls.append(("calculator", {"expression": calculation}))
        results.append(str(expressions.value(expressions.parse(calculation))))
    answer, done = results[-1], tuple(results)
    return Problem("tools", level, key, prompt, answer, calls=tuple(calls), results=done, table=table)


_NAMES = tuple("Mia Omar Lena Ravi Sofia Kenji Amara Tom Yuki Diego Nora Ben".split())
_THINGS = tuple("apples marbles shells stamps cookies coins cards buttons".split())


_Story = tuple[str, str, Callable[[int, int, int], Any]]  # the text, the calculation, what has to hold
_STORIES: dict[int, list[_Story]] = {
    1: [
        ("{name} has {a} {thing} and finds {b}. How many now?", "{a}+{b}", lambda a, b, c: True),
        ("{name} has {a} {thing} and loses {b}. How many are left?", "{a}-{b}", lambda a, b, c: a > b),
        ("{name} has {a} bags of {b} {thing}. How many in all?", "{a}*{b}", lambda a, b, c: a < 10),
        ("{name} shares {ab} {thing} among {a} friends. How many each?", "{ab}/{a}", lambda a, b, c: a < 10),
    ],
    2: [
        ("{name} has {a} {thing}, finds {b} and loses {c}. How many now?", "{a}+{b}-{c}", lambda a, b, c: True),
        ("{name} has {b} bags of {c} {thing} and {a} more. How many in all?", "{b}*{c}+{a}", lambda a, b, c: True),
        ("{name} has {a} {thing}. {friend} has {b} more. How many together?", "{a}+({a}+{b})", lambda a, b, c: True),
        ("{b} pens cost {c} each. {name} pays with 90. What is the change?", "90-{b}*{c}", lambda a, b, c: True),
    ],
    3: [
        (
            "{name} has {a} {thing}, finds {b} and loses {c}. {friend} has {b} more. How many has {friend}?",
            "{a}+{b}-{c}+{b}",
            lambda a, b, c: True,
        ),
        (
            "{name} buys {b} pens for {c} each and {c} cups for {a} each. What is the cost?",
            "{b}*{c}+{c}*{a}",
            lambda a, b, c: a < 10,
        ),
        (
            "{name} shares {a} {thing}, but for {b}, among {c} friends. Then {friend}, one of them, finds {b}. "
            "How many has {friend}?",
            "({a}-{b})/{c}+{b}",
            lambda a, b, c: a > b and (a - b) % c == 0,
        ),
    ],
}

TASKS: dict[str, Callable[[random.Random, int], Problem]] = {
    "arithmetic": arithmetic,
    "countdown": countdown,
    "letters": letters,
    "words": words,
    "tools": tool_use,
}
LEVELS = {"arithmetic": 4, "countdown": 3, "letters": 6, "words": 3, "tools": 4}
