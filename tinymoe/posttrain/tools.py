"""Tools that a model may call, and a way to call them that never stops a run.

    from tinymoe.posttrain import tools
    at_hand = {"calculator": tools.calculator, "lookup": tools.lookup({"pen": "7"})}
    tools.call(at_hand, "calculator", {"expression": "12 * (3 + 4)"})   # Result(text='84', ok=True)
    tools.call(at_hand, "calculator", {"expression": "9**9**9"})        # ok=False: the result is too large
    tools.respond(at_hand, chat.parse(reply))                           # the messages that answer a reply's calls
"""

from __future__ import annotations

import difflib
import inspect
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..text.replies import Message
from . import expressions
from .functional import check_positive

Tools = Mapping[str, Callable[..., Any]]

_LONGEST = 1000  # characters of a result that a model gets to read


@dataclass(frozen=True)
class Result:
    """What a tool gave, as text, or, where it is not `ok`, what went wrong."""

    text: str
    ok: bool = True


def calculator(expression: str) -> str:
    """The value of an arithmetic expression: a whole number, else a fraction such as 7/2. ValueError for no expression.

    >>> calculator("2 * (3 + 4)"), calculator("7 / 2")
    ('14', '7/2')
    """
    if not isinstance(expression, str):
        raise ValueError(f"expression: got {type(expression).__name__}, expected a text")
    return str(expressions.value(expressions.parse(expression)))


def lookup(table: Mapping[str, str]) -> Callable[[str], str]:
    """A tool that looks a key up in a table. Its ValueError for an unknown key names one that is like it."""

    def look_up(key: str) -> str:
        if isinstance(key, str) and key in table:
            return table[key]
        near = difflib.get_close_matches(str(key)[:50], table, n=1)
        raise ValueError(f"there is no {str(key)[:50]!r} in the table" + (f"; there is {near[0]!r}" if near else ""))

    return look_up


def call(tools: Tools, name: Any, arguments: Any, seconds: float = 1.0) -> Result:
    """Call a tool by its name. Whatever goes wrong is a Result that says so; nothing that a model asks for raises.

    A tool runs in a thread of its own. One that is not back after `seconds` is stopped at its next line of Python; one
    that has no next line, because it waits, is left behind. ValueError for seconds that are not above 0.
    """
    check_positive("seconds", seconds)
    if not isinstance(name, str) or name not in tools:
        return Result(f"there is no tool {_cut(name)!r}; there are: {', '.join(tools) or 'none'}", ok=False)
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        return Result(f"{name}: the arguments are no object with names", ok=False)
    try:
        inspect.signature(tools[name]).bind(**arguments)
    except (TypeError, ValueError) as error:
        return Result(_cut(f"{name}: {error}"), ok=False)
    return _within(seconds, name, tools[name], dict(arguments))


def respond(tools: Tools, message: Message, seconds: float = 1.0) -> list[Message]:
    """The messages of role "tool" that answer the calls in a reply, as `chat.parse` reads it: none where none was made.

    A malformed call is answered by its error. Where there are none but those, the answer is a user's: templates want
    results only after calls. Raises as `call`.
    """
    answers = []
    for asked in message.get("tool_calls", ()):
        function = asked["function"]
        result = call(tools, function["name"], function["arguments"], seconds)
        content = result.text if result.ok else f"Error: {result.text}"
        answer = {"role": "tool", "name": function["name"], "content": content}
        answers.append(answer | ({"tool_call_id": asked["id"]} if "id" in asked else {}))
    wrong = "\n".join(f"Error: {_cut(call['error'])}" for call in message.get("malformed_calls", ()))
    if wrong:
        speaker = {"role": "tool", "name": ""} if answers else {"role": "user"}
        answers.append({**speaker, "content": wrong})
    return answers


def definition(name: str, description: str, **parameters: str) -> dict[str, Any]:
    """A tool as chat templates show it to a model: parameters are texts, each with what it is, all required."""
    properties = {parameter: {"type": "string", "description": about} for parameter, about in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


DEFINITIONS = [
    definition("calculator", "Computes.", expression="numbers with + - * / and parentheses"),
    definition("lookup", "Looks up a price.", key="the name of a thing"),
]


def _within(seconds: float, name: str, tool: Callable[..., Any], arguments: dict[str, Any]) -> Result:
    results: list[Result] = []
    over, alone = threading.Event(), sys.platform == "emscripten"  # a browser has no threads
    end = time.monotonic() + seconds
    late = Result(f"{name}: no result after {seconds:g} seconds", ok=False)

    def watch(frame: Any, event: str, argument: Any) -> Any:
        """Python asks this before each line of the tool. An exception here is the one safe way to end a thread."""
        if over.is_set() or (alone and time.monotonic() > end):
            raise TimeoutError
        return watch

    def work() -> None:
        sys.settrace(watch)  # of this thread alone
        try:
            results.append(Result(_cut(tool(**arguments))))
        except BaseException as error:  # a tool may even try to leave the program
            results.append(Result(f"{name}: {_cut(error) or type(error).__name__}", ok=False))

    if alone:
        work()
        sys.settrace(None)
        return results[0] if results[0].ok or time.monotonic() < end else late
    thread = threading.Thread(target=work, daemon=True, name=f"tool {name}")
    try:
        thread.start()
    except RuntimeError as error:  # the system has no more threads
        return Result(f"{name}: {error}", ok=False)
    thread.join(seconds)
    if results:
        return results[0]
    over.set()
    return late


def _cut(value: Any) -> str:
    """A value as text that can be written in any encoding, and is not too long."""
    try:
        text = str(value)
    except Exception:  # as for a whole number with more digits than Python writes
        text = f"a value of type {type(value).__name__} that cannot be written"
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
