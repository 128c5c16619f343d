"""Chat templates: the text, the assistant's part of it, and replies read back. Transformers checks them live."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymoe import Tokenizer
from tinymoe.text import chat
from tinymoe.text.harmony import typescript_type
from tinymoe.text.tokenizer import CharTokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "2 + 2?"}
FOUR = {"role": "assistant", "content": "4"}
ADD = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}}}
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "add", "arguments": {"a": 2}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "4", "tool_call_id": "abcdefghi"}

RENDERED = {
    "chatml": "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n",
    "llama2": "<s>[INST] 2 + 2? [/INST] 4 </s>",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n2 + 2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n4<|eot_id|>",
    "llama3.1": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n2 + 2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n4<|eot_id|>",
    "mistral": "<s>[INST] 2 + 2?[/INST] 4</s>",
    "gemma": "<bos><start_of_turn>user\n2 + 2?<end_of_turn>\n<start_of_turn>model\n4<end_of_turn>\n",
    "gemma3": "<bos><start_of_turn>user\n2 + 2?<end_of_turn>\n<start_of_turn>model\n4<end_of_turn>\n",
    "qwen3": "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n4<|im_end|>\n",
    "deepseek-r1": "<｜begin▁of▁sentence｜><｜User｜>2 + 2?<｜Assistant｜>4<｜end▁of▁sentence｜>",
    "gpt-oss": "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2025-08-05\n\nReasoning: medium\n\n# Valid channels: analysis, "
    "commentary, final. Channel must be included for every message.<|end|><|start|>user<|message|>2 + 2?<|end|>"
    "<|start|>assistant<|channel|>final<|message|>4<|return|>",
}
CALLED = {
    "llama3.1": '{"name": "add", "parameters": {"a": 2}}<|eot_id|>',
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 2}, "id": "abcdefghi"}]</s>',
    "qwen3": '<think>\n\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>',
    "deepseek-r1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n"
    '```json\n{"a": 2}\n```<｜tool▁call▁end｜>',
    "gpt-oss": ' to=functions.add<|channel|>commentary json<|message|>{"a": 2}<|call|>',
}
ALTERNATING = [name for name in chat.templates() if chat.TEMPLATES[name].alternates]


def said(messages, template, **options):
    """The assistant's parts of the rendered text."""
    text = chat.render(messages, template, **options)
    return [text[start:end] for start, end in chat.spans(messages, template, **options)]


# Rendering


def test_what_transformers_renders():
    """System messages, several turns, thoughts, tools, calls, empty content, with and without a prompt."""
    lines = (Path(__file__).parent / "goldens" / "chat.jsonl").read_text(encoding="utf-8").split("\n")
    golden = [json.loads(line) for line in lines if line]
    assert {case["template"] for case in golden} == set(chat.templates())
    for case in golden:
        assert chat.render(case["messages"], case["template"], **case["options"]) == case["text"]


@pytest.mark.parametrize("template", chat.templates())
def test_render(template):
    assert chat.render([USER, FOUR], template) == RENDERED[template]


def test_templates_and_their_tokens():
    assert set(chat.templates()) == set(RENDERED)
    for template, text in RENDERED.items():
        assert any(token in text for token in chat.special_tokens(template))
        assert text.rstrip("\n").endswith(tuple(chat.stop_tokens(template)))


@pytest.mark.parametrize("template", CALLED)
def test_calls(template):
    assert said([USER, CALLING], template) == [CALLED[template]]
    parsed = chat.parse(CALLED[template], template)
    assert parsed["content"] == "" and parsed["tool_calls"][0]["function"] == CALL["function"]
    assert said([USER, parsed | {"tool_calls": [CALL]}], template) == [CALLED[template]]


def test_thoughts_of_earlier_turns_are_dropped_unless_kept():
    thinking = FOUR | {"reasoning_content": "Easy."}
    talk = [USER, thinking, USER, thinking]
    thought = "<think>\nEasy.\n</think>\n\n4<|im_end|>"
    assert said(talk, "qwen3") == ["4<|im_end|>", thought]
    assert said(talk, "qwen3", keep_thinking=True) == [thought, thought]
    thought = thought.replace("<|im_end|>", "<｜end▁of▁sentence｜>")
    assert said(talk, "deepseek-r1") == ["4<｜end▁of▁sentence｜>"] * 2
    thought = thought.removeprefix("<think>\n")  # the prompt brings it
    assert said(talk, "deepseek-r1", keep_thinking=True) == [thought, thought]
    prompt = chat.render([USER], "deepseek-r1", add_generation_prompt=True)
    assert chat.render([USER, thinking], "deepseek-r1", keep_thinking=True) == prompt + thought
    assert chat.parse(thought, "deepseek-r1") == thinking
    assert "Easy" not in "".join(said(talk, "chatml"))


def test_thoughts_inside_the_content():
    assert said([USER, FOUR | {"content": "<think>\nEasy.\n</think>\n\n4"}], "qwen3") == [
        "<think>\nEasy.\n</think>\n\n4<|im_end|>"
    ]
    assert said([USER, FOUR | {"content": "Easy.</think>4"}], "deepseek-r1") == ["4<｜end▁of▁sentence｜>"]
    wrapped = {"role": "user", "content": "<tool_response>\n4\n</tool_response>"}  # is no question
    thinking = FOUR | {"reasoning_content": "Easy."}
    assert said([USER, thinking, wrapped, FOUR], "qwen3")[0] == "<think>\nEasy.\n</think>\n\n4<|im_end|>"
    assert said([wrapped, thinking], "qwen3") == ["4<|im_end|>"]


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({}, "any"),
        ({"type": "null"}, "any"),
        ({"type": "integer"}, "number"),
        ({"type": "string", "nullable": True}, "string | null"),
        ({"type": "string", "enum": ["kg", "lb"]}, '"kg" | "lb"'),
        ({"type": ["string", "null"]}, "string | null"),
        ({"type": "array"}, "any[]"),
        ({"type": "array", "items": {"type": "integer"}, "nullable": True}, "number[] | null"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "string[][]"),
        ({"type": "array", "items": {"type": "string", "enum": ["kg"]}}, "string[]"),
        ({"type": "object"}, "object"),
        ({"oneOf": [{"type": "string"}, {"type": "boolean", "description": "Or not"}]}, "string | \nboolean// Or not"),
    ],
)
def test_a_schema_as_typescript(schema, written):
    assert typescript_type(schema) == written


def test_the_switch_for_thinking_brings_the_empty_thoughts_into_the_prompt():
    prompt = chat.render([USER], "qwen3", add_generation_prompt=True, enable_thinking=False)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert chat.render([USER, FOUR], "qwen3", enable_thinking=False) == prompt + "4<|im_end|>\n"
    assert said([USER, FOUR], "qwen3", enable_thinking=False) == ["4<|im_end|>"]
    assert said([USER, FOUR], "qwen3") == ["<think>\n\n</think>\n\n4<|im_end|>"]


def test_mistral_loses_the_system_message_behind_a_reply():
    assert "Be brief." in chat.render([SYSTEM, USER], "mistral")
    assert "Be brief." not in chat.render([SYSTEM, USER, FOUR], "mistral")


def test_options():
    day = datetime.date(2031, 2, 3)
    assert "Today Date: 03 Feb 2031\n" in chat.render([USER], "llama3.1", date=day)
    assert "Current date: 2031-02-03\n" in chat.render([USER], "gpt-oss", date=day)
    assert "Reasoning: high\n" in chat.render([USER], "gpt-oss", reasoning_effort="high")
    for options, message in [
        ({"tools": [ADD]}, "template 'chatml' has no place for tools; these have: llama3.1, mistral, qwen3, gpt-oss"),
        ({"enable_thinking": False}, "no place for enable_thinking; these have: qwen3"),
        ({"date": day}, "no place for date; these have: llama3.1, gpt-oss"),
    ]:
        with pytest.raises(ValueError, match=message):
            chat.render([USER], "chatml", **options)
    with pytest.raises(ValueError, match=r"date is '2031', expected a datetime\.date"):
        chat.render([USER], "gpt-oss", date="2031")
    with pytest.raises(ValueError, match="reasoning_effort is 'huge', expected 'low', 'medium' or 'high'"):
        chat.render([USER], "gpt-oss", reasoning_effort="huge")
    with pytest.raises(TypeError, match="color"):
        chat.render([USER], "gpt-oss", color="")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"messages: got \[\], expected a list of at least one"),
        ("hi", "messages: got 'hi', expected a list"),
        (["hi"], r"messages\[0\] is of type str, expected a dict"),
        ([{"content": "hi"}], r"messages\[0\]\.role is missing, expected a str"),
        ([USER, {"role": "bot", "content": ""}], r"messages\[1\]\.role is 'bot'; expected one of system, user"),
        ([{"role": "user"}], r"messages\[0\]\.content is missing, expected a str"),
        ([USER, {"role": "assistant", "content": None}], r"messages\[1\]\.content is missing"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"messages\[0\]\.content is of type list, expected a str"),
        ([USER, SYSTEM], r"messages\[1\]: a system message has to be the first"),
        ([USER, RESULT], r"messages\[1\]: the result of a tool has to follow the assistant's call"),
        ([USER, FOUR, RESULT], r"messages\[2\]: the result of a tool has to follow"),
        ([USER, FOUR | {"tool_calls": {}}], r"messages\[1\]\.tool_calls is of type dict, expected a list"),
        ([USER, FOUR | {"tool_calls": [{}]}], r"messages\[1\]\.tool_calls\[0\]\.function is missing"),
        (
            [USER, FOUR | {"tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}],
            r"messages\[1\]\.tool_calls\[0\]\.function\.arguments is of type str, expected a dict",
        ),
        ([USER, FOUR | {"reasoning_content": 4}], r"messages\[1\]\.reasoning_content is of type int"),
    ],
)
def test_bad_messages(messages, message):
    for function in (chat.render, chat.spans):
        with pytest.raises(ValueError, match=message):
            function(messages, "qwen3")


@pytest.mark.parametrize("template", ALTERNATING)
def test_broken_order(template):
    for messages, number in [([FOUR], 0), ([USER, USER], 1), ([USER, FOUR, FOUR], 2), ([USER, FOUR, USER, USER], 3)]:
        with pytest.raises(ValueError, match=rf"messages\[{number}\]\.role is .*'{template}' expects"):
            chat.render(messages, template)


def test_what_one_template_refuses():
    for template, messages, message in [
        ("gemma", [SYSTEM, USER], r"messages\[0\]: template 'gemma' has no place for a system message"),
        ("chatml", [USER, CALLING], r"messages\[1\]: template 'chatml' has no place for calls"),
        ("llama3.1", [USER, CALLING | {"tool_calls": [CALL, CALL]}], "a place for one call in a message, got 2"),
        ("gpt-oss", [USER, CALLING | {"tool_calls": [CALL, CALL]}], "a place for one call"),
        ("gpt-oss", [USER, CALLING | {"content": "a", "reasoning_content": "b"}], "thoughts and content are two"),
        ("gpt-oss", [USER, FOUR | {"content": "<|channel|>final<|message|>"}], "turn 1 holds the signs of channels"),
        ("mistral", [USER, {"role": "assistant", "tool_calls": [CALL | {"id": "1"}]}], "id of a tool call is '1'"),
        ("mistral", [USER, CALLING, {"role": "tool", "content": ""}], "tool_call_id of a tool call is None"),
        ("deepseek-r1", [USER, CALLING | {"content": "Wait."}], "no place for content beside calls"),
    ]:
        with pytest.raises(ValueError, match=message):
            chat.render(messages, template)
    with pytest.raises(ValueError, match=r"first turn, which has to be the user's"):
        chat.render([FOUR], "llama3.1", tools=[ADD])
    with pytest.raises(ValueError, match=r"no chat template 'qwen'\. Did you mean 'qwen3'\? The templates are: chatml"):
        chat.render([USER], "qwen")
    for tool, message in [("add", r"tools\[0\] is of type str"), ({"function": {"name": "add"}}, "description is")]:
        with pytest.raises(ValueError, match=message):
            chat.render([USER], "qwen3", tools=[tool])


# Reading replies

BAD_CALLS = [
    "{",
    "[]",
    "4",
    "{bad}",
    "NaN",
    '{"name": 4}',
    '{"name": ""}',
    '{"name": "add"}',
    '{"name": "add", "arguments": "2"}',
    '{"name": "add", "arguments": [2]}',
    '{"name": "add", "arguments": {"a": NaN}}',
    '{"name": "add", "arguments": {"a": 1e999}}',
    '{"name": "add", "arguments": {"a": "\\ud800"}}',
    '{"name": "add", "arguments": {"a": ' + "9" * 5000 + "}}",
    "[" * 100_000,
    "__import__('os').abort()",
]


@pytest.mark.parametrize("bad", BAD_CALLS, ids=lambda bad: bad[:20])
def test_an_ill_formed_call_is_told_and_stays_in_the_text(bad):
    for template, text in [
        ("qwen3", f"So:\n<tool_call>\n{bad}\n</tool_call>"),
        ("qwen3", f"<tool_call>\n{bad}"),
        ("mistral", f"[TOOL_CALLS] [{bad}]"),
        ("mistral", f"[TOOL_CALLS] {bad}"),
        ("llama3.1", f'{{"name": {bad}'),
        ("gpt-oss", f" to=functions.add<|channel|>commentary json<|message|>{bad}<|call|>"),
        ("deepseek-r1", f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{bad}\n```"),
        ("deepseek-r1", f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{bad}<｜tool▁calls▁end｜>"),
    ]:
        if template == "gpt-oss" and bad.startswith('{"name"'):
            continue  # there the JSON is the arguments alone
        message = chat.parse(text, template)
        assert "tool_calls" not in message
        (malformed,) = message["malformed_calls"]
        assert malformed["error"] and malformed["text"] in message["content"] and bad in malformed["text"]


def test_good_calls_beside_bad_ones():
    good = '<tool_call>\n{"name": "add", "arguments": {"a": "</tool_call>"}}\n</tool_call>'
    message = chat.parse(f"First\n{good}\n<tool_call>no</tool_call>{good}<|im_end|>{good}", "qwen3")
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == [{"a": "</tool_call>"}] * 2
    assert message["content"] == "First\n<tool_call>no</tool_call>"
    assert message["malformed_calls"][0]["error"].startswith("not JSON: Expecting value")


@pytest.mark.parametrize(
    ("text", "thoughts", "content"),
    [
        ("<think>\nHm.\n</think>\n\n4", "Hm.", "4"),
        ("Hm.\n</think>\n\n4", "Hm.", "4"),
        ("<think>\nHm", "Hm", ""),
        ("4", None, "4"),
        ("\n<think></think>4", None, "4"),
        ("Well, <think>Hm.</think>4</think>", "Hm.", "Well, 4</think>"),
    ],
)
def test_thoughts(text, thoughts, content):
    for template in ("qwen3", "deepseek-r1"):
        message = chat.parse(text + chat.stop_tokens(template)[0], template)
        assert (message.get("reasoning_content"), message["content"]) == (thoughts, content)


def test_channels():
    """What GPT-OSS itself writes is a little different from what its template does."""
    call = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 2}<|call|>'
    message = chat.parse(f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{call}", "gpt-oss")
    assert message["reasoning_content"] == "Hm." and message["content"] == ""
    assert message["tool_calls"] == [{"type": "function", "function": CALL["function"]}]
    assert chat.parse("no channel at all", "gpt-oss") == {"role": "assistant", "content": "no channel at all"}
    assert chat.parse("<|channel|>final<|message|>4<|return|> rest", "gpt-oss")["content"] == "4"


def test_a_call_of_llama_is_the_whole_reply():
    assert chat.parse('{"a": 2}', "llama3.1") == {"role": "assistant", "content": '{"a": 2}'}
    call = '{"name": "add", "parameters": {"a": 2}}'
    assert chat.parse(f"<|python_tag|>{call}<|eot_id|>", "llama3.1")["tool_calls"][0]["function"] == CALL["function"]
    assert "text after the call" in chat.parse(f"{call} {call}", "llama3.1")["malformed_calls"][0]["error"]


plain = st.text("ab {}\n<>é日0", max_size=12)
trimmed = plain.map(str.strip)
arguments = st.dictionaries(plain, st.integers() | plain | st.none() | st.lists(st.booleans(), max_size=2), max_size=3)


@pytest.mark.parametrize("template", chat.templates())
@settings(max_examples=40)
@given(data=st.data())
def test_what_is_rendered_is_read_back(template, data):
    message = {"role": "assistant", "content": data.draw(plain if template == "chatml" else trimmed)}
    if template in ("qwen3", "gpt-oss") and (thoughts := data.draw(trimmed)):
        message["reasoning_content"] = thoughts
    if template in CALLED and data.draw(st.booleans()):
        most = 3 if template in ("qwen3", "mistral") else 1
        function = st.fixed_dictionaries({"name": st.sampled_from(["add", "search"]), "arguments": arguments})
        calls = data.draw(st.lists(function, min_size=1, max_size=most))
        message |= {"content": "", "tool_calls": [{"type": "function", "function": call} for call in calls]}
        if template == "mistral":
            message["tool_calls"] = [call | {"id": "abcdefghi"} for call in message["tool_calls"]]
    (text,) = said([USER, message], template)
    assert chat.parse(text, template) == message


SIGNS = "<tool_call> </tool_call> <think> </think> [TOOL_CALLS] <|message|> <|end|> <|channel|> final [ ] {}".split()
SIGNS += [" to=", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "\n```json\n", '{"name": ', " "]


@given(text=st.text(max_size=40) | st.lists(st.sampled_from(SIGNS), max_size=9).map("".join))
def test_nothing_that_a_model_says_raises(text):
    for template in chat.templates():
        message = chat.parse(text, template)
        assert isinstance(message["content"], str) and set(message) >= {"role", "content"}


spaced = st.text("ab \n", max_size=3)


@pytest.mark.parametrize("template", ["chatml", "qwen3", "deepseek-r1", "gpt-oss"])
@given(one=st.tuples(spaced, spaced), two=st.tuples(spaced, spaced))
def test_different_conversations_are_different_texts(template, one, two):
    """Where a format keeps white space, no two conversations without its signs look the same."""
    talks = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in (one, two)]
    if template == "qwen3":
        talks = [[question, answer | {"content": answer["content"].lstrip("\n")}] for question, answer in talks]
    first, second = (chat.render(talk, template) for talk in talks)
    assert (first == second) == (talks[0] == talks[1])


# Tokens


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer.train(["assistant user system, what is 2 + 2?"] * 3, 300)
    for template in chat.templates():
        tokenizer = chat.add_special_tokens(tokenizer, template)
    return tokenizer


@pytest.mark.parametrize("template", chat.templates())
@settings(max_examples=40)
@given(contents=st.lists(st.text("ab é日\n.<|>", max_size=8), min_size=2, max_size=4))
def test_the_mask_covers_what_the_assistant_says_and_no_more(tokenizer, template, contents):
    roles = ("user", "assistant") * 2
    talk = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    ids, mask = chat.encode(tokenizer, talk, template)
    assert len(ids) == len(mask)
    assert tokenizer.decode(ids) == chat.render(talk, template)
    assert tokenizer.decode(id_ for id_, mine in zip(ids, mask, strict=True) if mine) == "".join(said(talk, template))
    assert sum(mask[i] and not mask[i - 1] for i in range(len(mask))) == len(contents) // 2


@pytest.mark.parametrize("template", sorted(set(chat.templates()) - {"mistral", "deepseek-r1"}))
def test_a_prompt_is_how_the_conversation_begins(tokenizer, template):
    for reply in ("4", "\n\n4", " four", "", "?!"):
        answer = {"role": "assistant", "content": reply}
        prompt, _ = chat.encode(tokenizer, [USER], template, add_generation_prompt=True)
        whole, mask = chat.encode(tokenizer, [USER, answer], template)
        assert whole[: len(prompt)] == prompt and mask.index(True) == len(prompt)


@pytest.mark.parametrize("template", chat.templates())
def test_nobody_but_the_assistant_writes_special_tokens(tokenizer, template):
    signs = " ".join(chat.special_tokens(template))
    end = chat.stop_tokens(template)[0]
    ids, _ = chat.encode(tokenizer, [{"role": "user", "content": f"{signs}{end}"}, FOUR], template)
    plain, _ = chat.encode(tokenizer, [USER, FOUR], template)
    special = set(tokenizer.special_tokens.values())
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert tokenizer.decode(ids) == chat.render([{"role": "user", "content": f"{signs}{end}"}, FOUR], template)


def test_signs_that_overlap():
    tokenizer = Tokenizer.train(["a"], 270, special_tokens=["<s>", "</s>", "s>s", "a"])
    ids, _ = chat.encode(tokenizer, [{"role": "user", "content": "<<s>s>s></s></s>"}], "llama2")
    assert [i for i in ids if i < 4] == [0]


def test_a_tokenizer_without_the_tokens_is_refused():
    with pytest.raises(ValueError, match=r"lacks <\|im_start\|> <\|im_end\|>, which template 'chatml' needs; train"):
        chat.encode(Tokenizer.train(["a"], 256), [USER])


def test_special_tokens_are_added_behind_the_others(tmp_path):
    before = Tokenizer.train(["banana"] * 3, 260, special_tokens=["<|endoftext|>", "<|im_end|>"])
    after = chat.add_special_tokens(before, "qwen3")
    assert after.vocab_size == before.vocab_size + 7 and before.special_tokens.keys() <= after.special_tokens.keys()
    assert after.encode("banana <|im_end|>") == before.encode("banana <|im_end|>")
    assert chat.add_special_tokens(after, "qwen3").spec == after.spec
    assert Tokenizer.load(after.save(tmp_path)).encode("<think>") == after.encode("<think>")
    assert len(before.encode("<think>")) > 1 == len(after.encode("<think>"))


def test_characters():
    tokenizer = CharTokenizer.train(RENDERED.values(), special_tokens=chat.special_tokens("chatml"))
    ids, mask = chat.encode(tokenizer, [USER, FOUR])
    assert tokenizer.decode(ids) == RENDERED["chatml"]
    assert [tokenizer.decode([id_]) for id_, mine in zip(ids, mask, strict=True) if mine] == ["4", "<|im_end|>"]
