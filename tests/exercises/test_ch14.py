"""Wrong answers to the exercises of chapter 14, each of a kind that people write."""

from __future__ import annotations

import json
import re

import numpy as np

from tinymoe.posttrain import shop

from .runner import exercise_tests


def learns_its_own_header(chat):
    for message in chat.messages:
        mine = message["role"] == "assistant"
        yield f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>", mine
        yield "\n", False
    if chat.add_generation_prompt:
        yield "<|im_start|>assistant\n", False


def never_learns_to_stop(chat):
    for message in chat.messages:
        yield f"<|im_start|>{message['role']}\n", False
        yield message["content"], message["role"] == "assistant"
        yield "<|im_end|>\n", False
    if chat.add_generation_prompt:
        yield "<|im_start|>assistant\n", False


def no_prompt(chat):
    for message in chat.messages:
        yield f"<|im_start|>{message['role']}\n", False
        yield message["content"] + "<|im_end|>", message["role"] == "assistant"
        yield "\n", False


def trims(chat):
    for message in chat.messages:
        yield f"<|im_start|>{message['role']}\n", False
        yield message["content"].strip() + "<|im_end|>", message["role"] == "assistant"
        yield "\n", False
    if chat.add_generation_prompt:
        yield "<|im_start|>assistant\n", False


def not_moved(ids, mask):
    return ids[:, :-1], np.where(mask, ids, -100)[:, :-1]


def mask_of_the_reader(ids, mask):
    return ids[:, :-1], np.where(mask[:, :-1], ids[:, 1:], -100)


def zero_for_ignored(ids, mask):
    return ids[:, :-1], (ids * np.asarray(mask, dtype=ids.dtype))[:, 1:]


def hides_the_question(ids, mask):
    return np.where(mask, ids, 0)[:, :-1], np.where(mask, ids, -100)[:, 1:]


def first_fit(lengths, width):
    rows, rooms = [], []
    for number in sorted(lengths, key=lambda number: -lengths[number]):
        fits = [row for row, room in enumerate(rooms) if room >= lengths[number]]
        row = fits[0] if fits else len(rows)
        if not fits:
            rows.append([])
            rooms.append(width)
        rows[row].append(number)
        rooms[row] -= lengths[number]
    return rows


def in_the_order_given(lengths, width):
    rows, rooms = [], []
    for number in lengths:
        fits = [(room, row) for row, room in enumerate(rooms) if room >= lengths[number]]
        row = min(fits)[1] if fits else len(rows)
        if not fits:
            rows.append([])
            rooms.append(width)
        rows[row].append(number)
        rooms[row] -= lengths[number]
    return rows


def a_row_each(lengths, width):
    return [[number] for number in sorted(lengths, key=lambda number: -lengths[number])]


def never_full(lengths, width):
    rows, rooms = [], []
    for number in sorted(lengths, key=lambda number: -lengths[number]):
        fits = [(room, row) for row, room in enumerate(rooms) if room > lengths[number]]
        row = min(fits)[1] if fits else len(rows)
        if not fits:
            rows.append([])
            rooms.append(width)
        rows[row].append(number)
        rooms[row] -= lengths[number]
    return rows


def trusts_the_json(text):
    found = re.findall("<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    return [(call["name"], call["arguments"]) for call in map(json.loads, found)], 0


def evaluates(text):
    calls, broken = [], 0
    for part in text.split("<tool_call>")[1:]:
        try:
            call = eval(part.split("</tool_call>")[0], {"exit": lambda: "lookup"})
            calls.append((call["name"], call["arguments"]))
        except Exception:
            broken += 1
    return calls, broken


def forgets_the_broken(text):
    calls = []
    for part in text.split("<tool_call>")[1:]:
        try:
            call = json.loads(part.split("</tool_call>")[0])
            calls.append((call["name"], call["arguments"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return calls, 0


def any_json_is_a_call(text):
    calls, broken = [], 0
    for part in text.split("<tool_call>")[1:]:
        try:
            call = json.loads(part.split("</tool_call>")[0])
            calls.append((call["name"], call["arguments"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            broken += 1
    return calls, broken


def only_the_cart(goal, talk):
    return talk.cart == {goal.item: goal.count}


def only_the_sum(goal, talk):
    return str(goal.count * goal.price) in talk.messages[-1]["content"]


def everything(goal, talk):
    return True


def cart_and_sum(goal, talk):
    return only_the_cart(goal, talk) and only_the_sum(goal, talk)


def nobody_may_be_asked(goal, talk):
    asked = any(message["content"] == shop.QUESTION for message in talk.messages)
    return not shop.complaints(goal, talk) and not asked


TestExercises = exercise_tests(
    "14",
    {
        "14.chatml": [learns_its_own_header, never_learns_to_stop, no_prompt, trims],
        "14.completion_targets": [not_moved, mask_of_the_reader, zero_for_ignored, hides_the_question],
        "14.best_fit": [first_fit, in_the_order_given, a_row_each, never_full],
        "14.read_calls": [trusts_the_json, evaluates, forgets_the_broken, any_json_is_a_call],
        "14.accepts": [only_the_cart, only_the_sum, everything, cart_and_sum, nobody_may_be_asked],
    },
)
