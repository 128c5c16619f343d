"""GPT-OSS's format, harmony (OpenAI, 2025, arXiv:2508.10925): replies in channels, tools written as TypeScript.

A reply is a chain of messages of their own: thoughts in the channel "analysis", calls in "commentary", the answer in
"final". Only the last ends with <|return|>, or with <|call|> where a tool has to run.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Any

from .chat_templates import Conversation, Piece, Tool, calls_of, to_json
from .replies import Message, read_call, read_json, reply

_IDENTITY = "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
_CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
_COMMENTARY = "\nCalls to these tools must go to the commentary channel: 'functions'."


def read_harmony(text: str) -> Message:
    """Read a reply of GPT-OSS. It begins behind <|start|>assistant, which is the prompt."""
    thoughts, content, calls, malformed = "", "", [], []
    for part in re.split(r"<\|end\|>(?:<\|start\|>assistant)?", text):
        header, sign, body = part.partition("<|message|>")
        channel = re.search(r"<\|channel\|>(\w+)", header) if sign else None
        recipient = re.search(r"\bto=([^\s<]+)", header) if channel else None
        if recipient:
            try:
                arguments, _ = read_json(body)
                calls.append(read_call(recipient[1].removeprefix("functions."), arguments))
            except ValueError as error:
                malformed.append({"text": part, "error": str(error)})
                content += part
        elif channel and channel[1] == "analysis":
            thoughts += body
        else:
            content += body if channel else part
    return reply(content, thoughts, calls, malformed)


def harmony(chat: Conversation) -> Iterator[Piece]:
    """Write a conversation. What other formats call system is the developer's message here; harmony has its own.

    The date is 5 Aug 2025, when GPT-OSS was published, unless `date` says another; `reasoning_effort` is "medium"
    unless it says "low" or "high". Thoughts are kept for the last reply, and for calls until an answer is given.
    """
    date, effort = chat.date or datetime.date(2025, 8, 5), chat.reasoning_effort or "medium"
    text = f"{_IDENTITY}Current date: {date.isoformat()}\n\nReasoning: {effort}\n\n{_CHANNELS}"
    yield f"<|start|>system<|message|>{text}{_COMMENTARY if chat.tools else ''}<|end|>", False
    if chat.system or chat.tools:
        instructions = f"# Instructions\n\n{chat.system}\n\n" if chat.system else ""
        tools = "# Tools\n\n" + tool_namespace("functions", chat.tools) if chat.tools else ""
        yield f"<|start|>developer<|message|>{instructions}{tools}<|end|>", False
    called = None
    for index, message in enumerate(chat.turns):
        if message["role"] == "user":
            yield f"<|start|>user<|message|>{message['content']}<|end|>", False
        elif message["role"] == "tool":
            result = to_json(message["content"])
            yield f"<|start|>functions.{called} to=assistant<|channel|>commentary<|message|>{result}<|end|>", False
        else:
            called = calls_of(message)[0]["name"] if calls_of(message) else called
            yield "<|start|>assistant", False
            yield harmony_reply(chat, index), True
    if chat.add_generation_prompt:
        yield "<|start|>assistant", False


def harmony_reply(chat: Conversation, index: int) -> str:
    """The assistant's turn of this number, behind its <|start|>assistant: thoughts, then a call or the answer."""
    message, later = chat.turns[index], chat.turns[index + 1 :]
    text, thoughts, calls = message["content"], message.get("reasoning_content"), calls_of(message)
    if any(f"<|channel|>{name}<|message|>" in text + (thoughts or "") for name in ("analysis", "final")):
        raise ValueError(f"turn {index} holds the signs of channels; expected thoughts in reasoning_content")
    if not calls:
        last = not later and not chat.add_generation_prompt
        kept = thoughts if last else None
        answer = f"<|channel|>final<|message|>{text}{'<|return|>' if last else '<|end|>'}"
        return answer if kept is None else f"<|channel|>analysis<|message|>{kept}<|end|><|start|>assistant{answer}"
    if len(calls) > 1 or (text and thoughts):
        raise ValueError(f"gpt-oss has a place for one call and one text in turn {index}; thoughts and content are two")
    kept = text or thoughts
    if any(turn["role"] == "assistant" and not calls_of(turn) for turn in later):
        kept = None
    name, arguments = calls[0]["name"], to_json(calls[0]["arguments"])
    call = f" to=functions.{name}<|channel|>commentary json<|message|>{arguments}<|call|>"
    return f"<|channel|>analysis<|message|>{kept}<|end|><|start|>assistant{call}" if kept else call


def tool_namespace(name: str, tools: list[Tool]) -> str:
    """The definitions of tools as types of TypeScript."""
    types = "".join(_function(tool["function"]) for tool in tools)
    return f"## {name}\n\nnamespace {name} {{\n\n{types}}} // namespace {name}"


def _function(function: dict[str, Any]) -> str:
    parameters = function.get("parameters") or {}
    lines = [
        _parameter(name, spec, name in (parameters.get("required") or ()))
        for name, spec in (parameters.get("properties") or {}).items()
    ]
    arguments = f"_: {{\n{''.join(lines)}}}" if lines else ""
    return f"// {function['description']}\ntype {function['name']} = ({arguments}) => any;\n\n"


def _parameter(name: str, spec: dict[str, Any], required: bool) -> str:
    comment = f"// {spec['description']}\n" if spec.get("description") else ""
    default = ""
    if "default" in spec:
        value = spec["default"] if spec.get("enum") or spec.get("oneOf") else to_json(spec["default"])
        default = f"{'' if spec.get('oneOf') and not spec.get('enum') else ', '}// default: {value}"
    return f"{comment}{name}{'' if required else '?'}: {typescript_type(spec)}{default},\n"


def typescript_type(spec: dict[str, Any]) -> str:
    """A JSON schema as a type of TypeScript, with the line feeds and spaces that the published template leaves in."""
    kind, null = spec.get("type"), " | null" if spec.get("nullable") else ""
    if kind == "array":
        return _array(spec.get("items")) + null
    if isinstance(kind, list) and kind:
        return " | ".join(kind)
    if spec.get("oneOf"):
        return " | \n".join(map(_variant, spec["oneOf"]))
    if kind == "string":
        return '"' + '" | "'.join(spec["enum"]) + '"' if spec.get("enum") else "string" + null
    if kind == "object" and spec.get("properties"):
        required = spec.get("required") or ()
        fields = (
            f"{name}{'' if name in required else '?'}: \n                {typescript_type(inner)}"
            for name, inner in spec["properties"].items()
        )
        return "{\n" + ", ".join(fields) + "}"
    return {"number": "number", "integer": "number", "boolean": "boolean", "object": "object"}.get(str(kind), "any")


def _array(items: dict[str, Any] | None) -> str:
    if not items:
        return "any[]"
    simple = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean"}
    if str(items.get("type")) in simple:
        return simple[items["type"]] + "[]"
    inner = typescript_type(items)
    return "any[]" if len(inner) > 50 else inner + "[]"


def _variant(spec: dict[str, Any]) -> str:
    comment = f"// {spec['description']}" if spec.get("description") else ""
    default = f"                    // default: {to_json(spec['default'])}" if "default" in spec else ""
    return typescript_type(spec) + comment + default
