"""Conversations as the text and the tokens that a model is trained on.

    from tinymoe.text import chat
    talk = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    chat.templates()                                       # the formats there are
    chat.render(talk, "qwen3")                             # the text of Transformers' apply_chat_template
    tokenizer = chat.add_special_tokens(tokenizer, "qwen3")
    ids, mask = chat.encode(tokenizer, talk, "qwen3")      # mask: which tokens are the assistant's
    chat.parse("<think>Easy.</think>4<|im_end|>", "qwen3") # what a reply says

Messages are those of Transformers and of OpenAI's API: dictionaries with a "role" ("system", "user", "assistant" or
"tool") and a "content". An assistant's may have "reasoning_content", its thoughts, and "tool_calls", a list of
{"type": "function", "function": {"name": …, "arguments": {…}}}.
"""

from __future__ import annotations

import datetime
import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any, TypedDict, Unpack

from . import chat_templates as formats
from . import replies
from .chat_templates import Conversation, Piece, Tool
from .harmony import harmony, read_harmony
from .pipeline import AddedToken
from .replies import Message
from .tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "tool")
_NEVER_TEXT = "\ufdd0"  # no character, now or ever, as Unicode promises


class Template:
    """A format: how it is written and read, the tokens it needs, those that end a reply, and what it has a place for.

    `takes` may name "system", "tools" (their definitions), "calls" (and results), and options of `Conversation`.
    In a format that `alternates`, a user's turn comes first, then an assistant's, and so on.
    """

    def __init__(
        self,
        write: Callable[[Conversation], Iterator[Piece]],
        read: Callable[[str], Message],
        tokens: str,
        stop: str,
        takes: str = "system",
        alternates: bool = False,
    ) -> None:
        self.write, self.read, self.alternates = write, read, alternates
        self.tokens, self.stop, self.takes = tokens.split(), stop.split(), takes.split()


_THINK = "<think> </think>"
_CHATML = "<|im_start|> <|im_end|>"
_QWEN = f"{_CHATML} {_THINK} <tool_call> </tool_call> <tool_response> </tool_response>"
_LLAMA3 = "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>"
_MISTRAL = "<s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS]"
_GEMMA = "<bos> <start_of_turn> <end_of_turn>"
_DEEPSEEK = (
    f"<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> {_THINK} "
    "<｜tool▁calls▁begin｜> <｜tool▁calls▁end｜> <｜tool▁call▁begin｜> <｜tool▁call▁end｜> <｜tool▁sep｜> "
    "<｜tool▁outputs▁begin｜> <｜tool▁outputs▁end｜> <｜tool▁output▁begin｜> <｜tool▁output▁end｜>"
)
_HARMONY = "<|start|> <|message|> <|channel|> <|constrain|> <|end|> <|return|> <|call|>"
_TOOLS = "system tools calls"
TEMPLATES = {
    "chatml": Template(formats.chatml, replies.plain, _CHATML, "<|im_end|>"),
    "llama2": Template(formats.llama2, replies.trimmed, "<s> </s>", "</s>", alternates=True),
    "llama3": Template(formats.llama3, replies.trimmed, _LLAMA3, "<|eot_id|>"),
    "llama3.1": Template(formats.llama3_1, replies.bare_call, _LLAMA3, "<|eot_id|>", f"{_TOOLS} date"),
    "mistral": Template(formats.mistral, replies.listed_calls, _MISTRAL, "</s>", _TOOLS, alternates=True),
    "gemma": Template(formats.gemma, replies.trimmed, _GEMMA, "<end_of_turn>", takes="", alternates=True),
    "gemma3": Template(formats.gemma3, replies.trimmed, _GEMMA, "<end_of_turn>", alternates=True),
    "qwen3": Template(
        formats.qwen3, replies.tagged_calls, _QWEN, "<|im_end|>", f"{_TOOLS} enable_thinking keep_thinking"
    ),
    "deepseek-r1": Template(
        formats.deepseek_r1, replies.fenced_calls, _DEEPSEEK, "<｜end▁of▁sentence｜>", "system calls keep_thinking"
    ),
    "gpt-oss": Template(harmony, read_harmony, _HARMONY, "<|return|> <|call|>", f"{_TOOLS} date reasoning_effort"),
}


class Options(TypedDict, total=False):
    """How to write a conversation down. An option that the template has no place for is refused.

    `tools` are JSON schemas of functions. `add_generation_prompt` ends the text with what the assistant speaks after.
    `enable_thinking=False` is Qwen3's switch. `keep_thinking` keeps the thoughts of all replies, to train on them,
    where the template would drop them. `date` and `reasoning_effort` go into the system's text.
    """

    tools: Sequence[Tool] | None
    add_generation_prompt: bool
    enable_thinking: bool | None
    keep_thinking: bool
    date: datetime.date | None
    reasoning_effort: str | None


def templates() -> list[str]:
    """The names of all formats."""
    return list(TEMPLATES)


def special_tokens(template: str) -> list[str]:
    """The tokens that a format needs: to be given to `Tokenizer.train`, or added by `add_special_tokens`."""
    return list(_template(template).tokens)


def stop_tokens(template: str) -> list[str]:
    """The tokens that end a reply: generation stops at any of them."""
    return list(_template(template).stop)


def render(messages: Sequence[Message], template: str = "chatml", **options: Unpack[Options]) -> str:
    """The text of a conversation, as Transformers' `apply_chat_template` gives it with the published template.

    ValueError, naming the message and the field, for whatever the template has no place for: a role, an order, a
    field that is missing. What a template leaves out without harm to its model, such as old thoughts, is left out.
    """
    chosen, chat = _conversation(messages, template, options)
    return "".join(text for text, _ in chosen.write(chat))


def spans(messages: Sequence[Message], template: str = "chatml", **options: Unpack[Options]) -> list[tuple[int, int]]:
    """Where in the rendered text the assistant speaks: (start, end) of each reply, with the sign that ends it."""
    chosen, chat = _conversation(messages, template, options)
    found, start = [], 0
    for text, mine in _runs(chosen.write(chat)):
        if mine:
            found.append((start, start + len(text)))
        start += len(text)
    return found


def encode(
    tokenizer: Tokenizer, messages: Sequence[Message], template: str = "chatml", **options: Unpack[Options]
) -> tuple[list[int], list[bool]]:
    """The ids of a conversation, and of each whether the assistant says it.

    A reply is encoded apart from what stands before it, as it is when a model generates it; so no token is partly
    the assistant's. Special tokens that another than the assistant wrote in a message are read as plain text: nobody
    ends a turn from within. ValueError as `render`, and where the tokenizer lacks tokens of the template.
    """
    chosen, chat = _conversation(messages, template, options)
    if missing := _missing(tokenizer, chosen):
        raise ValueError(
            f"the tokenizer lacks {' '.join(missing)}, which template {template!r} needs; train it with "
            f"special_tokens=chat.special_tokens({template!r}), or use chat.add_special_tokens"
        )
    chat = replace(chat, messages=[_without_signs(message, tokenizer) for message in chat.messages])
    ids: list[int] = []
    mask: list[bool] = []
    for text, mine in _runs(chosen.write(chat)):
        for part in text.split(_NEVER_TEXT):
            ids += tokenizer.encode(part)
        mask += [mine] * (len(ids) - len(mask))
    return ids, mask


def parse(text: str, template: str = "chatml") -> Message:
    """The message in a reply: what a model generated after the prompt, up to a token that ends it.

    It has "content", and where there are any "reasoning_content", "tool_calls", and "malformed_calls": calls that
    cannot be read, each with its "text" and the "error" in it; they stay in the content. Nothing in the text raises.
    Decode with the special tokens. Where the prompt opens the thoughts, as DeepSeek R1's does, put "<think>" first.
    """
    chosen = _template(template)
    return chosen.read(re.split("|".join(map(re.escape, chosen.stop)), text, maxsplit=1)[0])


def add_special_tokens(tokenizer: Tokenizer, template: str) -> Tokenizer:
    """A tokenizer that also has the tokens of a format. The ids of the others stay; the new ones follow them.

    A model needs as many rows more in its embeddings for them. A tokenizer that is trained with them spares that, as
    Llama 3 kept some in reserve.
    """
    spec = deepcopy(tokenizer.spec)
    spec["added_tokens"] = spec.get("added_tokens") or []
    known = tokenizer.vocab | {token.content: token.id for token in tokenizer.pipeline.added_tokens}
    for token in _missing(tokenizer, _template(template)):
        spec["added_tokens"].append(asdict(AddedToken(known.setdefault(token, len(known)), token)))
    return type(tokenizer)(spec)


def _missing(tokenizer: Tokenizer, chosen: Template) -> list[str]:
    known = {token.content for token in tokenizer.pipeline.added_tokens}
    return [token for token in chosen.tokens if token not in known]


def _runs(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join neighboring pieces that are both the assistant's, or both not. None of them is empty."""
    for mine, run in itertools.groupby((piece for piece in pieces if piece[0]), key=lambda piece: piece[1]):
        yield "".join(text for text, _ in run), mine


def _without_signs(message: Message, tokenizer: Tokenizer) -> Message:
    """Break up special tokens in a message that is not the assistant's, so that they are encoded as plain text."""
    if message["role"] == "assistant" or not tokenizer.special_tokens:
        return message
    some = "|".join(map(re.escape, tokenizer.special_tokens))
    return {**message, "content": re.sub(f"(?={some})(.)", rf"\1{_NEVER_TEXT}", message["content"], flags=re.DOTALL)}


def _template(name: str) -> Template:
    if name in TEMPLATES:
        return TEMPLATES[name]
    near = difflib.get_close_matches(str(name), TEMPLATES, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"there is no chat template {name!r}.{guess} The templates are: {', '.join(TEMPLATES)}")


def _conversation(messages: Sequence[Message], name: str, options: Options) -> tuple[Template, Conversation]:
    chosen = _template(name)
    _check_options(options, chosen, name)
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError(f"messages: got {messages!r}, expected a list of at least one message")
    checked = [_check_message(message, f"messages[{number}]", chosen, name) for number, message in enumerate(messages)]
    _check_order(checked, chosen, name)
    return chosen, Conversation(**{**options, "messages": checked, "tools": list(options.get("tools") or ())})


def _check_options(options: Options, chosen: Template, name: str) -> None:
    for option, value in options.items():
        given = value is not None if option == "enable_thinking" else bool(value)
        if given and option not in ("add_generation_prompt", *chosen.takes):
            able = ", ".join(other for other, entry in TEMPLATES.items() if option in entry.takes)
            raise ValueError(f"template {name!r} has no place for {option}; these have: {able or 'none'}")
    if not isinstance(date := options.get("date"), datetime.date | None):
        raise ValueError(f"date is {date!r}, expected a datetime.date")
    if (effort := options.get("reasoning_effort")) not in (None, "low", "medium", "high"):
        raise ValueError(f"reasoning_effort is {effort!r}, expected 'low', 'medium' or 'high'")
    for number, tool in enumerate(options.get("tools") or ()):
        function = _field(tool, "function", dict, f"tools[{number}]")
        for field in ("name", "description"):
            _field(function, field, str, f"tools[{number}].function")
        _field(function, "parameters", dict, f"tools[{number}].function", {})


def _check_message(message: Any, where: str, chosen: Template, name: str) -> Message:
    role = _field(message, "role", str, where)
    if role not in ROLES:
        raise ValueError(f"{where}.role is {role!r}; expected one of {', '.join(ROLES)}")
    if role == "system" and "system" not in chosen.takes:
        raise ValueError(f"{where}: template {name!r} has no place for a system message")
    calls = _field(message, "tool_calls", list, where, []) if role == "assistant" else []
    if (calls or role == "tool") and "calls" not in chosen.takes:
        raise ValueError(f"{where}: template {name!r} has no place for calls of tools and their results")
    for number, call in enumerate(calls):
        place = f"{where}.tool_calls[{number}]"
        function = _field(call, "function", dict, place)
        _field(function, "name", str, f"{place}.function")
        _field(function, "arguments", dict, f"{place}.function")
    _field(message, "reasoning_content", str, where, "")
    return {**message, "content": _field(message, "content", str, where, "" if calls else None)}


def _check_order(messages: list[Message], chosen: Template, name: str) -> None:
    before, turns = {}, 0
    for number, message in enumerate(messages):
        role, where = message["role"], f"messages[{number}]"
        if role == "system" and number:
            raise ValueError(f"{where}: a system message has to be the first")
        if role == "tool" and before.get("role") != "tool" and not before.get("tool_calls"):
            raise ValueError(f"{where}: the result of a tool has to follow the assistant's call")
        if chosen.alternates and role in ("user", "assistant") and not message.get("tool_calls"):
            expected = ("user", "assistant")[turns % 2]
            if role != expected:
                raise ValueError(f"{where}.role is {role!r}; template {name!r} expects {expected!r} here")
            turns += 1
        before = message


def _field(value: Any, name: str, kind: type, where: str, default: Any = None) -> Any:
    """A field of a message. A missing one is its default; ValueError where there is none, or it is of another type."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} is of type {type(value).__name__}, expected a dict")
    found = value.get(name)
    if found is None and default is not None:
        return default
    if not isinstance(found, kind):
        got = "missing" if found is None else f"of type {type(found).__name__}"
        raise ValueError(f"{where}.{name} is {got}, expected a {kind.__name__}")
    return found
