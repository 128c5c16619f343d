"""The widget of chat templates: what it marks is what the package trains on, and it is chosen in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.posttrain.tools import DEFINITIONS
from tinymoe.text import chat

CALL = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "2+2"}}}
PLAIN = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
TOOLS = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "calculator", "content": "4"},
    {"role": "assistant", "content": "It is 4."},
]


def view(**settings: Any) -> viz.ChatTemplates:
    return viz.ChatTemplates({"plain": PLAIN, "tools": TOOLS}, options={"tools": {"tools": DEFINITIONS}}, **settings)


@pytest.mark.parametrize("template", chat.templates())
def test_pieces_are_the_text_its_signs_and_what_is_learned(template):
    (rendering,) = viz.ChatTemplates({"plain": PLAIN}, templates=[template]).renderings[0]
    pieces = rendering["pieces"]
    text = chat.render(PLAIN, template)
    assert "".join(piece for piece, _ in pieces) == text
    learned = "".join(piece for piece, kind in pieces if "m" in kind)
    assert learned == "".join(text[start:end] for start, end in chat.spans(PLAIN, template))
    signs = [piece for piece, kind in pieces if "s" in kind]
    assert signs and set(signs) <= set(chat.special_tokens(template))
    assert not any(sign in piece for piece, kind in pieces if "s" not in kind for sign in chat.special_tokens(template))


def test_what_a_template_has_no_place_for():
    renderings = dict(zip(chat.templates(), view().renderings[1], strict=True))
    assert renderings["gemma"]["error"].startswith("messages[1]: template 'gemma' has no place for calls")
    assert renderings["qwen3"]["left"] == [] and renderings["deepseek-r1"]["left"] == ["tools"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "talks: got none"),
        (({"plain": PLAIN}, {}, []), "templates: got none"),
        (({"plain": PLAIN}, {}, ["qwen"]), "got 'qwen', expected one of chatml, llama2"),
        (({"plain": PLAIN}, {"other": {}}), "got 'other', expected one of plain"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    talks, options, templates = (*arguments, None, None)[:3]
    with pytest.raises(ValueError, match=message):
        viz.ChatTemplates(talks, options=options, templates=templates)


def test_summary():
    assert repr(view(templates=["qwen3", "gemma"])) == "<ChatTemplates: 2 conversations in 2 templates>"


@needs_node
def test_script_measures():
    code = """
        import { measure, shown } from "./chats.js";
        answer({ ...measure(data.pieces), shown: shown("a\\nb") });
    """
    pieces = [["<|im_start|>", "s"], ["user\n", ""], ["4", "m"], ["<|im_end|>", "sm"]]
    assert node(code, pieces=pieces) == {"characters": 6, "signs": 2, "learned": 0.25, "shown": "a↵\nb"}


def test_templates_are_chosen_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    (tmp_path / "page.html").write_text(_page({"chats": view()}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#chats .tm-text .tm-piece').length")

    chats = page.locator("#chats")
    text, note = chats.locator(".tm-text"), chats.locator(".tm-note")
    assert chats.locator(".tm-text .tm-mine").all_inner_texts() == ["4", "<|im_end|>"]
    assert "characters of text and 4 special tokens" in note.inner_text() and "ends at <|im_end|>" in note.inner_text()
    chats.get_by_role("radio", name="gemma", exact=True).click()
    assert "<start_of_turn>model" in text.text_content().replace("↵", "")
    chats.get_by_role("radio", name="tools", exact=True).click()
    assert "has no place for calls" in text.inner_text() and "tm-failed" in text.get_attribute("class")
    chats.get_by_role("radio", name="deepseek-r1").click()
    assert "Left out, as this format has no place for it: tools." in note.inner_text()
    chats.get_by_role("radio", name="gpt-oss").click()
    assert "<|call|>" in text.inner_text() and "tm-failed" not in text.get_attribute("class")
    assert not problems
    page.close()
