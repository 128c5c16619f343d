"""How published models write a conversation down: one function for each format.

A model sees one string. Each family has signs of its own for who speaks and where a turn ends, and a model does well
only with those that it was trained on. The publishers ship them as Jinja programs beside the weights; here they are
generators in Python that give the same text, with the oddities of the published ones.

A generator yields pieces of text, each with True or False: whether the assistant says it, and training is on it.
That is what a model has to generate after the prompt, with the sign that ends its turn. What the program around it
writes (the header of a turn, a line feed after its end) is not.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .replies import Message

Piece = tuple[str, bool]
Tool = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """What a format writes down: checked messages, the definitions of tools, and options."""

    messages: list[Message]
    tools: list[Tool]
    add_generation_prompt: bool = False
    enable_thinking: bool | None = None
    keep_thinking: bool = False
    date: datetime.date | None = None
    reasoning_effort: str | None = None

    @property
    def system(self) -> str | None:
        """The text of the system message, if there is one. It comes first."""
        first = self.messages[0]
        return first["content"] if first["role"] == "system" else None

    @property
    def turns(self) -> list[Message]:
        """The messages after the system message."""
        return self.messages[self.system is not None :]


def calls_of(message: Message) -> list[Message]:
    """The functions that a message calls, each with its name and arguments."""
    return [call["function"] for call in message.get("tool_calls") or ()]


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON as Transformers' `tojson` writes it: other scripts as they are, a space after each comma."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def chatml(chat: Conversation) -> Iterator[Piece]:
    """ChatML (OpenAI, 2023), the plainest: a line with the role, the text, a sign for the end."""
    for message in chat.messages:
        yield f"<|im_start|>{message['role']}\n", False
        yield message["content"] + "<|im_end|>", message["role"] == "assistant"
        yield "\n", False
    if chat.add_generation_prompt:
        yield "<|im_start|>assistant\n", False


def llama2(chat: Conversation) -> Iterator[Piece]:
    """Llama 2 (Touvron et al., 2023, arXiv:2307.09288): the system's text stands inside the first question.

    Only <s> and </s> are tokens; [INST] and <<SYS>> are spelled out. There is no prompt for the assistant: it speaks
    after [/INST].
    """
    system = chat.system
    for message in chat.turns:
        text = message["content"]
        if message["role"] == "assistant":
            yield f" {text.strip()} </s>", True
            continue
        if system is not None:
            text, system = f"<<SYS>>\n{system}\n<</SYS>>\n\n{text}", None
        yield f"<s>[INST] {text.strip()} [/INST]", False


def llama3_header(role: str) -> str:
    """What announces a turn of Llama 3."""
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def llama3(chat: Conversation) -> Iterator[Piece]:
    """Llama 3 (April 2024): each turn has a header with the role, and its text is trimmed."""
    yield "<|begin_of_text|>", False
    for message in chat.messages:
        yield llama3_header(message["role"]), False
        yield message["content"].strip() + "<|eot_id|>", message["role"] == "assistant"
    if chat.add_generation_prompt:
        yield llama3_header("assistant"), False


_LLAMA3_TOOLS = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that "
    'best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
    "argument name and its value}.Do not use variables.\n\n"
)


def llama3_1(chat: Conversation) -> Iterator[Piece]:
    """Llama 3.1 (Grattafiori et al., 2024, arXiv:2407.21783): tools stand in the first question, the date in system.

    A reply is a text or one call; a text beside a call is dropped. The date is 26 Jul 2024 unless `date` says another.
    """
    date = chat.date or datetime.date(2024, 7, 26)
    today = f"{date.day:02} {_MONTHS[date.month - 1]} {date.year}"
    tools = "".join(to_json(tool, indent=4) + "\n\n" for tool in chat.tools)
    yield "<|begin_of_text|>" + llama3_header("system") + ("Environment: ipython\n" if tools else ""), False
    yield f"Cutting Knowledge Date: December 2023\nToday Date: {today}\n\n", False
    yield (chat.system or "").strip() + "<|eot_id|>", False
    for index, message in enumerate(chat.turns):
        text, calls = message["content"].strip(), calls_of(message)
        if message["role"] == "tool":
            yield llama3_header("ipython") + to_json(message["content"]) + "<|eot_id|>", False
            continue
        if tools and index == 0:
            if message["role"] != "user":
                raise ValueError("llama3.1 writes the tools into the first turn, which has to be the user's")
            text = _LLAMA3_TOOLS + tools + text
        if len(calls) > 1:
            raise ValueError(f"llama3.1 has a place for one call in a message, got {len(calls)}")
        for call in calls:
            text = f'{{"name": "{call["name"]}", "parameters": {to_json(call["arguments"])}}}'
        yield llama3_header(message["role"]), False
        yield text + "<|eot_id|>", message["role"] == "assistant"
    if chat.add_generation_prompt:
        yield llama3_header("assistant"), False


_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def mistral(chat: Conversation) -> Iterator[Piece]:
    """Mistral 7B Instruct v0.3 (May 2024). Tools and the system's text stand at the last question, to be near.

    As published, the system's text is written only where the last message is the user's: with the reply behind it,
    it is gone.
    """
    yield "<s>", False
    users = [message for message in chat.turns if message["role"] == "user"]
    for message in chat.turns:
        text = message["content"]
        if message["role"] == "user":
            if chat.tools and message == users[-1]:
                yield f"[AVAILABLE_TOOLS] [{', '.join(map(mistral_tool, chat.tools))}][/AVAILABLE_TOOLS]", False
            if chat.system is not None and message is chat.turns[-1]:
                text = f"{chat.system}\n\n{text}"
            yield f"[INST] {text}[/INST]", False
        elif message["role"] == "tool":
            result = f'{{"content": {text}, "call_id": "{mistral_id(message, "tool_call_id")}"}}'
            yield f"[TOOL_RESULTS] {result}[/TOOL_RESULTS]", False
        elif calls := message.get("tool_calls"):
            listed = (f'{to_json(call["function"])[:-1]}, "id": "{mistral_id(call, "id")}"}}' for call in calls)
            yield f"[TOOL_CALLS] [{', '.join(listed)}]</s>", True
        else:
            yield f" {text.strip()}</s>", True


def mistral_tool(tool: Tool) -> str:
    """A definition as Mistral's template writes it: JSON, but for texts, in which nothing is escaped."""
    fields = {name: value for name, value in tool["function"].items() if name != "return"}
    written = (
        f'"{name}": "{value}"' if isinstance(value, str) else f'"{name}": {to_json(value)}'
        for name, value in fields.items()
    )
    return f'{{"type": "function", "function": {{{", ".join(written)}}}}}'


def mistral_id(part: Message, name: str) -> str:
    """The id of a call, by which its result is known: nine letters or digits. ValueError for another."""
    value = part.get(name)
    if not isinstance(value, str) or len(value) != 9:
        raise ValueError(f"{name} of a tool call is {value!r}; mistral expects nine letters or digits")
    return value


def gemma(chat: Conversation) -> Iterator[Piece]:
    """Gemma and Gemma 2 (2024, arXiv:2403.08295): the assistant is called "model", and there is no system message."""
    yield "<bos>", False
    for message in chat.turns:
        mine = message["role"] == "assistant"
        yield f"<start_of_turn>{'model' if mine else message['role']}\n", False
        yield message["content"].strip() + "<end_of_turn>", mine
        yield "\n", False
    if chat.add_generation_prompt:
        yield "<start_of_turn>model\n", False


def gemma3(chat: Conversation) -> Iterator[Piece]:
    """Gemma 3 (2025, arXiv:2503.19786): as Gemma, with the system's text before the first question."""
    for index, (text, mine) in enumerate(gemma(chat)):
        yield text, mine
        if index == 1 and chat.system is not None:
            yield f"{chat.system}\n\n", False


_QWEN_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>\n{}\n</tools>\n\nFor each function call, return a json "
    'object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{{"name": '
    '<function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)
_NO_THOUGHTS = "<think>\n\n</think>\n\n"


def qwen3(chat: Conversation) -> Iterator[Piece]:
    """Qwen3 (Yang et al., 2025, arXiv:2505.09388): ChatML with thoughts and calls.

    Thoughts are kept only after the last question; `keep_thinking` keeps all, to train on them. With
    `enable_thinking=False` the prompt has empty thoughts already, and the model goes on with its answer.
    """
    system = [] if chat.system is None else [chat.system]
    tools = [_QWEN_TOOLS.format("\n".join(map(to_json, chat.tools)))] if chat.tools else []
    if system or tools:
        yield "<|im_start|>system\n" + "\n\n".join(system + tools) + "<|im_end|>\n", False
    question = qwen3_last_question(chat.turns)
    for index, (before, message, after) in enumerate(neighbors(chat.turns)):
        if message["role"] == "user":
            yield f"<|im_start|>user\n{message['content']}<|im_end|>\n", False
        elif message["role"] == "assistant":
            yield from qwen3_reply(chat, message, index > question)
        else:  # the results of several calls share a turn, which is the user's
            yield "<|im_start|>user" if before != "tool" else "", False
            yield f"\n<tool_response>\n{message['content']}\n</tool_response>", False
            yield "<|im_end|>\n" if after != "tool" else "", False
    if chat.add_generation_prompt:
        yield "<|im_start|>assistant\n" + (_NO_THOUGHTS if chat.enable_thinking is False else ""), False


def neighbors(turns: Sequence[Message]) -> Iterator[tuple[str | None, Message, str | None]]:
    """Each message between the roles of the one before and the one after it, or None."""
    roles = [None, *(message["role"] for message in turns), None]
    return zip(roles, turns, roles[2:], strict=False)


def qwen3_reply(chat: Conversation, message: Message, after_question: bool) -> Iterator[Piece]:
    """An assistant's turn of Qwen3: thoughts, where they are kept, then text, then calls."""
    thoughts, content = qwen3_thoughts(message)
    yield "<|im_start|>assistant\n", False
    body = content
    if chat.keep_thinking or (after_question and (thoughts or message is chat.turns[-1])):
        block = "<think>\n" + thoughts.strip("\n") + "\n</think>\n\n"
        yield block, block != _NO_THOUGHTS or chat.enable_thinking is not False  # else the prompt has them
        body = content.lstrip("\n")
    for number, call in enumerate(calls_of(message)):
        body += "\n" if content or number else ""
        body += f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {to_json(call["arguments"])}}}\n</tool_call>'
    yield body + "<|im_end|>", True
    yield "\n", False


def qwen3_thoughts(message: Message) -> tuple[str, str]:
    """Thoughts and content of a message: "reasoning_content", or what stands before </think> in the content."""
    thoughts, content = message.get("reasoning_content"), message["content"]
    if thoughts is None and "</think>" in content:
        head, tail = content.split("</think>")[0], content.split("</think>")[-1]
        return head.rstrip("\n").split("<think>")[-1].lstrip("\n"), tail.lstrip("\n")
    return thoughts or "", content


def qwen3_last_question(turns: Sequence[Message]) -> int:
    """The number of the user's last turn. A turn that only wraps the result of a tool is no question."""
    for index in reversed(range(len(turns))):
        text = turns[index]["content"]
        wrapped = text.startswith("<tool_response>") and text.endswith("</tool_response>")
        if turns[index]["role"] == "user" and not wrapped:
            return index
    return len(turns) - 1


def deepseek_r1(chat: Conversation) -> Iterator[Piece]:
    """DeepSeek R1 and its distilled models (DeepSeek-AI, 2025, arXiv:2501.12948): the prompt opens the thoughts.

    Thoughts are dropped; `keep_thinking` keeps them, to train on them. As published, the first call is not closed,
    and the signs that open a list of calls or of results are written once in a conversation.
    """
    yield "<｜begin▁of▁sentence｜>" + (chat.system or ""), False
    calls_begun = outputs_begun = False
    for before, message, _ in neighbors(chat.turns):
        text = message["content"]
        if message["role"] == "user":
            yield f"<｜User｜>{text}", False
        elif message["role"] == "tool":
            yield "\n" if outputs_begun else "<｜tool▁outputs▁begin｜>", False
            yield f"<｜tool▁output▁begin｜>{text}<｜tool▁output▁end｜>", False
            outputs_begun = True
        elif calls := calls_of(message):
            if text:
                raise ValueError("deepseek-r1 has no place for content beside calls")
            for call in calls:
                yield from deepseek_r1_call(call, calls_begun)
                calls_begun = True
        else:
            yield from deepseek_r1_reply(chat, message, before == "tool")
    if chat.messages[-1]["role"] == "tool":
        yield "<｜tool▁outputs▁end｜>", False
    elif chat.add_generation_prompt:
        yield "<｜Assistant｜><think>\n", False


def deepseek_r1_reply(chat: Conversation, message: Message, after_tool: bool) -> Iterator[Piece]:
    """A reply: with its thoughts, which the prompt has opened, or what stands behind them."""
    text, thoughts = message["content"], message.get("reasoning_content")
    if chat.keep_thinking and thoughts:
        text = f"<think>\n{thoughts}\n</think>\n\n{text}"
    elif not chat.keep_thinking and not after_tool:
        text = text.split("</think>")[-1]
    opening = "<｜tool▁outputs▁end｜>" if after_tool else "<｜Assistant｜>"
    if text.startswith("<think>\n") and not after_tool:
        opening, text = opening + "<think>\n", text.removeprefix("<think>\n")
    yield opening, False
    yield text + "<｜end▁of▁sentence｜>", True


def deepseek_r1_call(call: Message, begun: bool) -> Iterator[Piece]:
    """One call: its arguments are JSON between fences, as in Markdown."""
    yield "" if begun else "<｜Assistant｜>", False
    yield "\n" if begun else "<｜tool▁calls▁begin｜>", True
    yield f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{call['name']}\n```json\n{to_json(call['arguments'])}\n```", True
    yield "<｜tool▁call▁end｜>" + ("<｜tool▁calls▁end｜><｜end▁of▁sentence｜>" if begun else ""), True
