"""What a model said, taken apart: thoughts, text and tool calls.

A model may write anything, and a call that is not well formed must not stop a run. So nothing here raises for what
the text holds: such a call stays in the text, and `malformed_calls` says what is wrong with it. Arguments are read as
JSON and nothing else; no text of a model is ever evaluated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from .nesting import check_nesting

Message = dict[str, Any]


def reply(text: str, thoughts: str = "", calls: Sequence[Message] = (), malformed: Sequence[Message] = ()) -> Message:
    """The message of an assistant. What is empty is left out, but for the content.

    `tool_calls` are as Transformers takes them; each of `malformed_calls` has its "text" and the "error" in it.
    """
    message: Message = {"role": "assistant", "content": text}
    extras = {"reasoning_content": thoughts, "tool_calls": list(calls), "malformed_calls": list(malformed)}
    return message | {name: value for name, value in extras.items() if value}


def split_thoughts(text: str) -> tuple[str, str]:
    """Thoughts and answer of "<think>…</think>answer".

    Thoughts without an end, as in a reply cut short, go on to the end; those without a beginning begin the text.
    """
    head, end, answer = text.partition("</think>")
    before, begin, thoughts = head.partition("<think>")
    if not begin:
        before, thoughts = ("", head) if end else (head, "")
    return thoughts.strip("\n"), before.lstrip("\n") * bool(before.strip()) + answer.lstrip("\n")


def read_call(name: Any, arguments: Any) -> Message:
    """A tool call in Transformers' form. ValueError for a name that is no text, or arguments that are no object."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of the tool is {name!r}, expected a text")
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments are of type {type(arguments).__name__}, expected a JSON object")
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def read_json(text: str) -> tuple[Any, str]:
    """The JSON value that a text begins with, and what follows it.

    ValueError where there is none. Also for NaN, for numbers as large as 1e999, for half of a surrogate pair and for
    what is nested too deeply: what is read has to be written again.
    """
    text = text.lstrip()
    try:
        check_nesting(text)
        value, end = _DECODER.raw_decode(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("not JSON: half of a surrogate pair") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    return value, text[end:].lstrip()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def plain(text: str) -> Message:
    """A format without thoughts or calls: the text is the content."""
    return reply(text)


def trimmed(text: str) -> Message:
    """A format that trims the content."""
    return reply(text.strip())


def tagged_calls(text: str) -> Message:
    """Qwen's: <think>thoughts</think>, text, and calls of the form <tool_call>{"name": …, "arguments": …}</tool_call>.

    The form of calls is that of Hermes 2 Pro (Nous Research, 2024).
    """
    thoughts, rest = split_thoughts(text)
    content, calls, malformed = "", [], []
    while "<tool_call>" in rest:
        before, _, rest = rest.partition("<tool_call>")
        content += before.removesuffix("\n")
        try:
            value, after = read_json(rest)
            if not after.startswith("</tool_call>"):
                raise ValueError("</tool_call> is missing after the JSON")
            value = value if isinstance(value, dict) else {"arguments": value}
            calls.append(read_call(value.get("name"), value.get("arguments")))
            rest = after.removeprefix("</tool_call>")
        except ValueError as error:
            inner, end, rest = rest.partition("</tool_call>")
            malformed.append({"text": f"<tool_call>{inner}{end}", "error": str(error)})
            content += before[len(before.removesuffix("\n")) :] + malformed[-1]["text"]
    return reply(content + rest, thoughts, calls, malformed)


def bare_call(text: str) -> Message:
    """Llama 3.1's: the whole reply is one JSON object with "name" and "parameters", or it is text."""
    text = text.strip()
    if not re.match(r'(<\|python_tag\|>\s*)?\{\s*"name"', text):
        return reply(text)
    try:
        value, after = read_json(text.removeprefix("<|python_tag|>"))
        if after:
            raise ValueError(f"there is text after the call: {after[:20]!r}")
        return reply("", calls=[read_call(value.get("name"), value.get("parameters"))])
    except ValueError as error:
        return reply(text, malformed=[{"text": text, "error": str(error)}])


def listed_calls(text: str) -> Message:
    """Mistral's: text, or [TOOL_CALLS] and a JSON list of objects with "name", "arguments" and an "id"."""
    content, sign, rest = text.partition("[TOOL_CALLS]")
    if not sign:
        return reply(text.strip())
    try:
        values, _ = read_json(rest)
        if not isinstance(values, list) or not values:
            raise ValueError(f"the calls are of type {type(values).__name__}, expected a list of at least one")
        calls = []
        for value in values:
            value = value if isinstance(value, dict) else {"arguments": value}
            call = read_call(value.get("name"), value.get("arguments"))
            calls.append(call | {"id": value["id"]} if isinstance(value.get("id"), str) else call)
    except ValueError as error:
        return reply(text.strip(), malformed=[{"text": sign + rest, "error": str(error)}])
    return reply(content.strip(), calls=calls)


_FENCED = re.compile(r"[^<]*<｜tool▁sep｜>(?P<name>[^\n]*)\n```json\n")


def fenced_calls(text: str) -> Message:
    """DeepSeek R1's: thoughts that end with </think>, text, and calls whose arguments stand between ``` fences."""
    thoughts, rest = split_thoughts(text)
    content, _, rest = rest.partition("<｜tool▁calls▁begin｜>")
    calls, malformed = [], []
    for part in rest.partition("<｜tool▁calls▁end｜>")[0].split("<｜tool▁call▁begin｜>")[1:]:
        try:
            head = _FENCED.match(part)
            if not head:
                raise ValueError("a call begins with function<｜tool▁sep｜>name, a new line and ```json")
            arguments, after = read_json(part[head.end() :])
            if not after.startswith("```<｜tool▁call▁end｜>"):
                raise ValueError("```<｜tool▁call▁end｜> is missing after the JSON")
            calls.append(read_call(head["name"], arguments))
        except ValueError as error:
            malformed.append({"text": f"<｜tool▁call▁begin｜>{part}", "error": str(error)})
    return reply(content + "".join(call["text"] for call in malformed), thoughts, calls, malformed)
