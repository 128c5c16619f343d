"""`generate`: what a model makes of a prompt, or answers to it."""

from __future__ import annotations

import argparse
import codecs
import io
import random
import sys
from pathlib import Path

from .command import Command, say
from .folders import end_ids, load_with_tokenizer, read_request


def generate(options: argparse.Namespace) -> int:
    """`generate`: the prompt, and what the model makes of it, printed as it comes; with --chat the answer."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack some characters
    return _answer(options) if options.chat else _continue(options)


def _continue(options: argparse.Namespace) -> int:
    from ..generate import stream

    for name in ("template", "tools"):
        if getattr(options, name):
            raise ValueError(f"--{name}: it needs --chat")
    model, tokenizer = load_with_tokenizer(options.model)
    ends = end_ids(model)
    ids = tokenizer.encode(options.prompt) or ends[:1]
    if not ids:
        raise ValueError("--prompt: got an empty text, and this model has no token to begin with; give some text")
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # a character may span several tokens
    print(options.prompt, end="", flush=True)
    for step in stream(model, [ids], **{name: getattr(options, name) for name in names}):
        token = int(step.tokens[0])
        if token in ends:
            break
        print(decode(tokenizer.tokens([token])[0]), end="", flush=True)
    print(decode(b"", final=True))
    return 0


def _answer(options: argparse.Namespace) -> int:
    """Talk to a tuned model: its thoughts and calls of tools on stderr, its reply on stdout."""
    from ..posttrain import agents, tools
    from ..text import chat

    for name, neutral in {"top_k": None, "top_p": None, "min_p": None, "repetition_penalty": 1.0}.items():
        if getattr(options, name) != neutral:
            raise ValueError(f"--{name.replace('_', '-')}: it does not go together with --chat")
    model, _ = load_with_tokenizer(options.model)
    template = options.template or read_request(Path(options.model)).get("template")
    if template is None:
        raise ValueError(
            f"--template: got none, and {options.model} names none; expected {', '.join(chat.templates())}"
        )
    shown = [tool for tool in tools.DEFINITIONS if tool["function"]["name"] == options.tools]
    talk = agents.Talk([{"role": "user", "content": options.prompt}], {"calculator": tools.calculator} if shown else {})
    chat.render(talk.messages, template, tools=shown)  # an error where it has no place for tools
    policy = agents.model_policy(
        model,
        template,
        max_new_tokens=min(options.max_new_tokens, model.config.max_position_embeddings // 2),
        temperature=options.temperature,
        seed=random.randrange(2**31) if options.seed is None else options.seed,
        tools=shown,
    )
    agents.converse(policy, [talk], template=template)
    if talk.ended == "no reply":
        raise ValueError("--prompt: it leaves the model no room to answer")
    for message in talk.messages[1:]:
        if message["role"] == "tool":
            say(f"[{message['name']}] {message['content']}")
        if thoughts := message.get("reasoning_content"):
            say(f"[thinks] {thoughts}")
    print(talk.messages[-1]["content"])
    return 0


def add_generate_flags(command: argparse.ArgumentParser) -> None:
    """The flags of `generate`."""
    command.add_argument("--model", required=True, metavar="DIR", help="a trained model's folder")
    command.add_argument("--prompt", required=True, metavar="TEXT", help="what to go on from; with --chat, what to say")
    command.add_argument("--chat", action="store_true", help="answer the prompt, in the chat template of the model")
    command.add_argument("--template", metavar="NAME", help="with --chat: another template, as chatml or qwen3")
    command.add_argument("--tools", choices=["calculator"], help="with --chat: what the model may call")
    command.add_argument("--max-new-tokens", type=int, default=200, metavar="N")
    command.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest token")
    command.add_argument("--top-k", type=int, metavar="K", help="only the K likeliest tokens")
    command.add_argument("--top-p", type=float, metavar="P", help="only the likeliest tokens that make up P")
    command.add_argument("--min-p", type=float, metavar="P", help="only tokens at least P times the likeliest")
    command.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is none")
    command.add_argument("--seed", type=int, metavar="S", help="the same seed gives the same text")


COMMANDS = (Command("generate", "continue a text, or talk to a tuned model", add_generate_flags, generate),)
