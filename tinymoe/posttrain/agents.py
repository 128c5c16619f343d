"""Agents: a policy that talks with users and calls tools, over several turns and in many conversations at once.

    from tinymoe.posttrain import agents, tools
    talk = agents.Talk([{"role": "user", "content": "12*34=?"}], {"calculator": tools.calculator})
    agents.converse(agents.model_policy(model), [talk])
    talk.ended, talk.messages[-1]["content"]          # ('answered', 'Answer: 408')

A policy is a function from conversations to replies, each the text that a model would generate. Whatever it writes, and
whatever a tool does, the loop goes on: what is wrong becomes a message that the policy reads next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.decoder import CausalLM
from ..text import chat
from ..text.replies import Message
from ..text.tokenizer import Tokenizer
from . import tools
from .functional import check_between
from .rollout import rollouts
from .tasks import Problem

Policy = Callable[[Sequence[list[Message]]], Sequence[str | None]]


def leave(message: Message) -> None:
    """The user of a single question: whatever the answer is, nothing more is said."""


@dataclass
class Talk:
    """A conversation under way: its messages, the tools at hand, and who says what follows an answer.

    `user` gets each reply that calls no tool, and gives what the user says to it, or None where that was all. `ended`
    is empty as long as the talk goes on, then one of "answered", "no reply" and "too many turns".
    """

    messages: list[Message]
    tools: tools.Tools = field(default_factory=dict)
    user: Callable[[Message], str | None] = leave
    ended: str = ""


def take_turn(talk: Talk, text: str | None, template: str = "qwen3", seconds: float = 1.0) -> None:
    """Put the assistant's reply into a talk, and what comes back: the results of its calls, or the user's answer.

    None stands for a policy that has nothing to say, as where the talk has become too long for it.
    """
    if text is None:
        talk.ended = "no reply"
        return
    message = chat.parse(text, template)
    answers = tools.respond(talk.tools, message, seconds)
    talk.messages.append(message)
    if not answers:
        said = talk.user(message)
        talk.ended = "answered" if said is None else ""
        answers = [] if said is None else [{"role": "user", "content": said}]
    talk.messages += answers


def converse(
    policy: Policy, talks: Sequence[Talk], *, template: str = "qwen3", max_turns: int = 8, seconds: float = 1.0
) -> None:
    """Let a policy speak in all talks, turn by turn, until each of them has ended; they are changed in place.

    In each turn it is asked once, for all talks that go on. A tool may take so many `seconds`; an ill-formed call, an
    exception and a time-out are answered by what was wrong. ValueError for settings out of their range.
    """
    check_between("max_turns", max_turns, 1, float("inf"))
    for _ in range(max_turns):
        going = [talk for talk in talks if not talk.ended]
        if not going:
            return
        for talk, text in zip(going, policy([talk.messages for talk in going]), strict=True):
            take_turn(talk, text, template, seconds)
    for talk in talks:
        talk.ended = talk.ended or "too many turns"


def model_policy(
    model: CausalLM,
    template: str = "qwen3",
    *,
    max_new_tokens: int = 96,
    temperature: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """A model, with its tokenizer, as a policy. The replies of all conversations are sampled together.

    The options are those of `chat.render`. None is said where a conversation leaves no room for `max_new_tokens`, or
    the template no way to write it down; characters that the tokenizer has not are read as "?". ValueError for a model
    without a tokenizer, or whose tokenizer lacks tokens of the template.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("model: has no tokenizer; set model.tokenizer, or load it with one")
    chat.encode(tokenizer, [{"role": "user", "content": ""}], template)
    stop = [tokenizer.special_tokens[token] for token in chat.stop_tokens(template)]
    room = model.config.max_position_embeddings - max_new_tokens

    def prompt(messages: list[Message]) -> list[int] | None:
        try:
            ids, _ = chat.encode(
                tokenizer, _readable(messages, tokenizer), template, add_generation_prompt=True, **options
            )
        except ValueError:
            return None
        return ids if len(ids) <= room else None

    def reply(conversations: Sequence[list[Message]]) -> list[str | None]:
        prompts = [prompt(messages) for messages in conversations]
        texts: list[str | None] = [None] * len(prompts)
        if said := [number for number, ids in enumerate(prompts) if ids is not None]:
            settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "stop": stop, "seed": seed}
            batch = rollouts(model, [prompts[number] for number in said], **settings)
            for number, ids in zip(said, batch.completions(), strict=True):
                texts[number] = tokenizer.decode(ids)
        return texts

    return reply


def write_reply(message: Message, template: str = "qwen3") -> str:
    """The text that a model would have generated for a message of the assistant: what `chat.parse` reads it from."""
    talk = [{"role": "user", "content": ""}, message]
    start, end = chat.spans(talk, template)[-1]
    return chat.render(talk, template)[start:end]


def calls_made(messages: Sequence[Message]) -> list[tuple[str, Mapping[str, Any]] | None]:
    """All calls in a conversation, each a name and arguments, in their order; None for a malformed one."""
    made: list[tuple[str, Mapping[str, Any]] | None] = []
    for message in messages:
        made += [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
        made += [None for _ in message.get("malformed_calls", ())]
    return made


def right_calls(problem: Problem, messages: Sequence[Message]) -> tuple[int, int, int]:
    """How many calls were to be made for a problem of tool use, were made well-formed, and were the right ones.

    Of calls too many, each counts as one more to be made, so that none is for free.
    """
    made = calls_made(messages)
    count = max(len(made), len(problem.calls))
    right = sum(
        call is not None and call == (name, dict(arguments))
        for call, (name, arguments) in zip(made, problem.calls, strict=False)
    )
    return count, sum(call is not None for call in made), right


def _readable(value: Any, tokenizer: Tokenizer) -> Any:
    """A message without the characters that a tokenizer lacks: tools may bring any, and so may the JSON of a call."""
    if isinstance(value, str):
        return value if _encodes(value, tokenizer) else "".join(c if _encodes(c, tokenizer) else "?" for c in value)
    if isinstance(value, dict):
        return {_readable(key, tokenizer): _readable(inner, tokenizer) for key, inner in value.items()}
    return [_readable(inner, tokenizer) for inner in value] if isinstance(value, list) else value


def _encodes(text: str, tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.encode(text)
    except ValueError:
        return False
    return True
