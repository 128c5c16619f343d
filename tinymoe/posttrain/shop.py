"""A simulated shop with simulated users: data for agents, made in the way of Kimi K2 (2025, arXiv:2507.20534, 3.1.1).

    from tinymoe.posttrain import shop
    goals = shop.goals("train", seed=0, count=500)
    talks = shop.visit(shop.noisy_teacher(0.2, seed=0), goals)      # a teacher that makes mistakes serves them
    kept = [talk for goal, talk in zip(goals, talks) if not shop.complaints(goal, talk)]

A user wants to buy some number of a thing, and says so as the persona does: the vague one has to be asked how many. The
assistant orders through a tool, which tells the price, computes the sum with another, and says it. Whether it did can
be checked: by what is in the cart at the end, and by the sum.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..text.facts import ITEMS
from ..text.grammar import pick
from ..text.replies import Message, reply
from . import tools
from .agents import Policy, Talk, calls_made, converse, write_reply
from .functional import check_between, check_choice
from .tasks import SPLITS, split_of

PERSONAS = {
    "curt": "{count} {item}s.",
    "polite": "May I have {count} {item}s, please?",
    "chatty": "My aunt loves a good {item}. I take {count}!",
    "vague": "I need {item}s.",
}
QUESTION = "How many?"

DEFINITIONS = [
    tools.definition("order", "Puts things into the cart.", item="the name of a thing", count="how many"),
    tools.DEFINITIONS[0],  # the calculator
]


@dataclass(frozen=True)
class Goal:
    """What a user wants: so many of a thing. `price` is what one costs, which only the shop knows."""

    persona: str
    item: str
    count: int
    price: int

    @property
    def opening(self) -> str:
        """What the user says first."""
        return PERSONAS[self.persona].format(item=self.item, count=self.count)


@dataclass
class Shop:
    """A shop with one thing on sale and a cart: the world that the tools look at, and change."""

    goal: Goal
    cart: dict[str, int] = field(default_factory=dict)

    def order(self, item: str, count: str) -> str:
        """Put things into the cart. The price of one; ValueError for a thing or a number that cannot be ordered."""
        if item not in ITEMS:
            raise ValueError(f"there is no {str(item)[:20]!r}")
        if not re.fullmatch("[1-9][0-9]?", str(count)):
            raise ValueError(f"the count is {str(count)[:20]!r}, expected 1 to 99")
        self.cart[item] = self.cart.get(item, 0) + int(count)
        # Things that nobody asked for have a price too.
        return str(self.goal.price if item == self.goal.item else self.goal.price % 97 + 2)

    def tools(self) -> tools.Tools:
        """What an assistant in this shop may call."""
        return {"order": self.order, "calculator": tools.calculator}


def goals(split: str = "train", *, seed: int = 0, count: int = 1) -> list[Goal]:
    """Goals of users, the same for the same arguments. What is bought, and how many, is in one split only.

    ValueError for an unknown split, and for a count below 1.
    """
    check_choice("split", split, SPLITS)
    check_between("count", count, 1, float("inf"))
    rng = random.Random(f"shop/{split}/{seed}")
    found: list[Goal] = []
    while len(found) < count:
        goal = Goal(pick(list(PERSONAS), rng), pick(ITEMS, rng), 2 + int(rng.random() * 98), 2 + int(rng.random() * 98))
        if split_of(f"{goal.count} {goal.item}") == split:
            found.append(goal)
    return found


@dataclass
class User:
    """A simulated user: says how many when asked, once, and otherwise takes what is said for the end."""

    goal: Goal
    told: bool = False

    def __call__(self, message: Message) -> str | None:
        asked = message["content"].strip() == QUESTION and not self.told
        self.told = True
        return str(self.goal.count) if asked else None


@dataclass
class Visit(Talk):
    """A talk in a shop, whose cart says at the end what was really done."""

    cart: Mapping[str, int] = field(default_factory=dict)


def enter(goal: Goal) -> Visit:
    """A user with a goal enters a shop of its own, and says something."""
    place = Shop(goal)
    return Visit([{"role": "user", "content": goal.opening}], place.tools(), User(goal), cart=place.cart)


def visit(policy: Policy, goals: Sequence[Goal]) -> list[Visit]:
    """Let a policy serve the users, all at once, to the end."""
    talks = [enter(goal) for goal in goals]
    converse(policy, talks)
    return talks


def complaints(goal: Goal, talk: Visit) -> list[str]:
    """What is wrong with a talk, by rules; nothing where it may be learned from.

    Kimi K2 has a model judge each trajectory by the rubric of its task. Here rules suffice.
    """
    said = talk.messages[-1]
    errors = [message for message in talk.messages if message["content"].startswith("Error:")]
    questions = sum(message["content"] == QUESTION for message in talk.messages if message["role"] == "assistant")
    found = {
        f"the talk ended with: {talk.ended}": talk.ended != "answered",
        "a call failed": bool(errors) or None in calls_made(talk.messages),
        f"the cart holds {dict(talk.cart)}, not {goal.count} of {goal.item}": talk.cart != {goal.item: goal.count},
        "a question too many, or too few": questions != (goal.persona == "vague"),
        "the sum is wrong": re.findall(r"\d+", said["content"])[-1:] != [str(goal.count * goal.price)],
    }
    return [text for text, holds in found.items() if holds]


def noisy_teacher(mistakes: float, seed: int = 0) -> Policy:
    """A policy of rules that knows how to serve a user, but makes a mistake at a step with this probability.

    It stands for a model that writes the data: able, and not to be trusted. ValueError for no probability.
    """
    check_between("mistakes", mistakes, 0, 1)
    rng = random.Random(seed)

    def speak(messages: list[Message]) -> str:
        slips = rng.random() < mistakes
        wanted = re.findall(r"\d+", " ".join(m["content"] for m in messages if m["role"] == "user"))
        item = next((item for item in ITEMS if re.search(rf"\b{item}", messages[0]["content"])), ITEMS[0])
        results = [message["content"] for message in messages if message["role"] == "tool"]
        if not wanted and not slips:
            return write_reply(reply(QUESTION))
        count = wanted[0] if wanted else str(2 + int(rng.random() * 98))
        if not results:
            return _order(item, count, slips and bool(wanted), rng)
        if len(results) == 1 and not slips:
            return write_reply(_call("calculator", expression=f"{count}*{results[0]}"))
        if len(results) == 1:  # in the head, and nearly right
            return write_reply(reply(f"{count} {item}s cost {_near(count, results[0], rng)}."))
        return write_reply(reply(f"{count} {item}s cost {results[0] if slips else results[-1]}."))

    return lambda conversations: [speak(messages) for messages in conversations]


def _order(item: str, count: str, slips: bool, rng: random.Random) -> str:
    """An order; with a slip one more, another thing, or a call that is not well formed."""
    kind = pick(("count", "item", "form"), rng) if slips else ""
    count = str(int(count) % 98 + 1) if kind == "count" else count
    item = pick([other for other in ITEMS if other != item], rng) if kind == "item" else item
    text = write_reply(_call("order", item=item, count=count))
    return text.replace("}}", "}") if kind == "form" else text


def _near(count: str, price: str, rng: random.Random) -> int:
    """A product worked out in the head, with a slip of the carry. Other results, as of errors, are read as 1."""
    return int(count) * (int(price) if price.isdigit() else 1) + pick((-10, 10), rng)


def _call(name: str, **arguments: str) -> Message:
    return reply("", calls=[{"type": "function", "function": {"name": name, "arguments": arguments}}])
