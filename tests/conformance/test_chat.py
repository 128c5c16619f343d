"""Chat templates against Transformers, which renders the published Jinja templates.

Those of Llama 3 and 3.1, Gemma, Gemma 3, Qwen3, DeepSeek R1's distilled models and GPT-OSS are read from the installed
TRL, which carries them as their publishers ship them. ChatML, Llama 2 and Mistral 7B Instruct v0.3 are not among them:
their templates below are our own, after the formats as documented.

    PYTHONPATH=. .venv-conformance/bin/python tests/conformance/test_chat.py     # writes tests/goldens/chat.jsonl
"""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path

import pytest
import tokenizers
import trl
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from tinymoe import Tokenizer
from tinymoe.text import chat

GOLDEN = Path(__file__).parents[1] / "goldens" / "chat.jsonl"

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA2 = """
{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' %}
    {%- elif message.role == 'user' %}
        {{- bos_token + '[INST] ' + (ns.system + message.content) | trim + ' [/INST]' }}
        {%- set ns.system = '' %}
    {%- else %}
        {{- ' ' + message.content | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL = """
{%- macro signature(function) %}
    {%- for name, value in function.items() if name != 'return' %}
        {{- '"' + name + '": ' + ('"' + value + '"' if value is string else value | tojson) }}
        {{- '' if loop.last else ', ' }}
    {%- endfor %}
{%- endmacro %}
{%- set system = messages[0].content if messages[0].role == 'system' else none %}
{%- set question = messages | selectattr('role', 'equalto', 'user') | list | last %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools and message == question %}
            {{- '[AVAILABLE_TOOLS] [' }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' + signature(tool.function) + '}}' }}
                {{- '' if loop.last else ', ' }}
            {%- endfor %}
            {{- '][/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + (system + '\\n\\n' if loop.last and system is not none else '') + message.content + '[/INST]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
            {{- '' if loop.last else ', ' }}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content + ', "call_id": "' }}
        {{- message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""


def published(name: str) -> str:
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


SENTENCE = {"bos_token": "<s>", "eos_token": "</s>"}
TODAY = re.compile(r"(?<=Current date: )[\d-]+")  # GPT-OSS's template asks the clock
ORACLES = {
    "chatml": (CHATML, {}),
    "llama2": (LLAMA2, SENTENCE),
    "llama3": (published("llama3"), {"bos_token": "<|begin_of_text|>"}),
    "llama3.1": (published("llama3_1"), {"bos_token": "<|begin_of_text|>"}),
    "mistral": (MISTRAL, SENTENCE),
    "gemma": (published("gemma"), {"bos_token": "<bos>"}),
    "gemma3": (published("gemma3"), {"bos_token": "<bos>"}),
    "qwen3": (published("qwen3"), {}),
    "deepseek-r1": (published("deepseek_r1_distill"), {"bos_token": "<｜begin▁of▁sentence｜>"}),
    "gpt-oss": (published("gptoss"), {}),
}


def as_published(template, conversation):
    """DeepSeek's template wants arguments as text, and a call without a content."""
    if template != "deepseek-r1":
        return conversation
    conversation = json.loads(json.dumps(conversation))
    for message in conversation:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            message["content"] = None
    return conversation


def theirs(template, conversation, jinja=None, **options):
    text, names = ORACLES[template]
    conversation = as_published(template, conversation)
    rendered, _ = render_jinja_template([conversation], chat_template=jinja or text, **names, **options)
    return TODAY.sub("2025-08-05", rendered[0])


def assert_same(template, conversation, **options):
    assert chat.render(conversation, template, **options) == theirs(template, conversation, **options)


def takes(template, feature):
    return feature in chat.TEMPLATES[template].takes


# Strategies: any texts, and conversations that a template has a place for

PIECES = ["", " ", "\n", "\n\n", "a", "Hello", "é", "日本", "😀", '"', "{", "}", "\\", "<think>", "</think>", "<|x|>"]
PIECES += ["<tool_response>", "</tool_response>", "\u2028", "\t", "<s>", "0.5", "null"]
texts = st.lists(st.sampled_from(PIECES), max_size=5).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=10
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
names = st.sampled_from(["add", "get_weather", "search"])


def call(name, arguments):
    return {"type": "function", "id": "abcdefghi", "function": {"name": name, "arguments": arguments}}


calls = st.builds(call, names, st.dictionaries(st.sampled_from(["a", "city", "n"]), values, max_size=2))


@st.composite
def rounds(draw, template):
    """What the assistant does between two questions: calls with their results, then an answer."""
    messages = []
    if takes(template, "calls"):
        for _ in range(draw(st.integers(0, 2))):
            most = 1 if template in ("llama3.1", "gpt-oss") else 3
            made = draw(st.lists(calls, min_size=1, max_size=most))
            content = "" if template in ("deepseek-r1", "gpt-oss") else draw(texts)
            message = {"role": "assistant", "content": content, "tool_calls": made}
            if template in ("qwen3", "gpt-oss") and draw(st.booleans()):
                message["reasoning_content"] = draw(texts)
            messages.append(message)
            messages += [{"role": "tool", "content": draw(texts), "tool_call_id": "abcdefghi"} for _ in made]
    message = {"role": "assistant", "content": draw(texts)}
    if draw(st.booleans()):
        message["reasoning_content"] = draw(texts)
    return [*messages, message]


@st.composite
def conversations(draw, template):
    messages = []
    if takes(template, "system") and draw(st.booleans()):
        messages.append({"role": "system", "content": draw(texts)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(texts)})
        messages += draw(rounds(template))
    cut = draw(st.integers(0, 2))
    if cut and len(messages) > cut + 1:
        messages = messages[:-cut]
    return messages


schemas = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "number", "integer", "boolean", "array", "object", ["string", "null"]]),
            "description": texts,
            "enum": st.lists(st.sampled_from(["red", "blue"]), min_size=1, max_size=2),
            "nullable": st.booleans(),
            "default": st.sampled_from(["red", "x y"]),
        },
    ),
    lambda inner: (
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3)},
            optional={"required": st.lists(st.sampled_from("abc"), max_size=2), "description": texts},
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"nullable": st.booleans()})
        | st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=3)}, optional={"default": st.just("a")})
    ),
    max_leaves=6,
)
parameters = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from("acn"), schemas, max_size=3)},
    optional={"required": st.lists(st.sampled_from("an"), max_size=2)},
)
tools = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": names, "description": texts}, optional={"parameters": parameters, "return": schemas}
            ),
        }
    ),
    min_size=1,
    max_size=3,
)


@pytest.mark.parametrize("template", ORACLES)
@settings(max_examples=60)
@given(data=st.data())
def test_any_conversation(template, data):
    conversation = data.draw(conversations(template))
    options = {"add_generation_prompt": data.draw(st.booleans())}
    if takes(template, "tools") and data.draw(st.booleans()):
        options["tools"] = data.draw(tools)
        if template == "llama3.1":
            conversation = [message for message in conversation if message["role"] != "system"] or conversation
    if takes(template, "enable_thinking"):
        options["enable_thinking"] = data.draw(st.sampled_from([None, True, False]))
    if takes(template, "reasoning_effort"):
        options["reasoning_effort"] = data.draw(st.sampled_from(["low", "medium", "high"]))
    assert_same(template, conversation, **options)


# One conversation with everything

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "number", "description": "One of them.", "default": 1.5},
                "b": {"type": "integer", "enum": [1, 2]},
                "unit": {"type": "string", "enum": ["kg", "lb"], "default": "kg"},
                "tags": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "string"}}}},
                "how": {"oneOf": [{"type": "string", "description": "Its name", "default": "x"}, {"type": "number"}]},
            },
            "required": ["a"],
        },
        "return": {"type": "number"},
    },
}
SYSTEM = {"role": "system", "content": " Be brief.\n"}
ADDING = [call("add", {"a": 40, "b": 2})]
TALK = [
    {"role": "user", "content": " What is 2 + 3? "},
    {"role": "assistant", "content": "5", "reasoning_content": "Easy."},
    {"role": "user", "content": ""},
    {"role": "assistant", "content": "", "reasoning_content": "Nothing was asked.\n"},
]
CALLS = [
    {"role": "user", "content": "Add 40 and 2."},
    {"role": "assistant", "content": "", "reasoning_content": "A tool.", "tool_calls": ADDING},
    {"role": "tool", "content": "42", "tool_call_id": "abcdefghi"},
    {"role": "assistant", "content": "It is 42.", "reasoning_content": "Done."},
]


@pytest.mark.parametrize("prompt", [False, True], ids=["", "prompt"])
@pytest.mark.parametrize("template", ORACLES)
def test_system_turns_thoughts_tools_and_empty_content(template, prompt):
    system = [SYSTEM] if takes(template, "system") else []
    for conversation in (TALK, TALK[:3], [*system, *TALK], [*system, *TALK[:1]]):
        assert_same(template, conversation, add_generation_prompt=prompt)
    if takes(template, "calls"):
        unanswered = [] if chat.TEMPLATES[template].alternates else TALK
        for conversation in (CALLS, CALLS[:2], [*system, *TALK, *CALLS, *CALLS], [*CALLS[:3], *unanswered]):
            assert_same(template, conversation, add_generation_prompt=prompt)
    if takes(template, "tools"):
        for conversation in (TALK, CALLS, CALLS[:1], [*system, *TALK, *CALLS, *TALK[:1]]):
            assert_same(template, conversation, add_generation_prompt=prompt, tools=[ADD, ADD])
    if takes(template, "enable_thinking"):
        for thinking in (True, False):
            assert_same(template, [*TALK, *CALLS], add_generation_prompt=prompt, enable_thinking=thinking)


def golden() -> str:
    """What Transformers says of two conversations with all that a template has a place for, for `make test`."""
    lines = []
    for template in ORACLES:
        whole = [SYSTEM] * takes(template, "system") + TALK + CALLS * takes(template, "calls")
        options = {"tools": [ADD]} if takes(template, "tools") else {}
        prompted = options | {"add_generation_prompt": True}
        if takes(template, "enable_thinking"):
            prompted["enable_thinking"] = False
        for talk, given_options in [(whole, options), (whole[:-1], prompted)]:
            case = {"template": template, "messages": talk, "options": given_options}
            case["text"] = theirs(template, talk, **given_options)
            lines.append(json.dumps(case, ensure_ascii=False))
    return "\n".join(lines) + "\n"


def test_the_golden_file_is_what_transformers_says():
    assert GOLDEN.read_text(encoding="utf-8") == golden()


def test_dates():
    day = datetime.date(2031, 2, 3)
    expected = theirs("llama3.1", TALK, date_string="03 Feb 2031")
    assert chat.render(TALK, "llama3.1", date=day) == expected != chat.render(TALK, "llama3.1")
    assert TODAY.sub("2031-02-03", theirs("gpt-oss", TALK)) == chat.render(TALK, "gpt-oss", date=day)


@pytest.mark.parametrize("template", ["llama2", "mistral", "gemma", "gemma3"])
def test_what_the_published_refuse_is_refused(template):
    wrong = [TALK[:1] * 2, TALK[1:], [TALK[0], TALK[1], TALK[1]]]
    wrong += [[SYSTEM, *TALK]] if template == "gemma" else [[SYSTEM, *TALK[1:]]]
    for conversation in wrong:
        with pytest.raises(ValueError, match=r"messages\[\d\]"):
            chat.render(conversation, template)
        if template.startswith("gemma"):
            with pytest.raises(Exception, match=r"alternate|System role"):
                theirs(template, conversation)


# The assistant's part

TRAINING = {
    "llama3": ("llama3_training", "", ""),
    "gemma": ("gemma_training", "", "\n"),
    "gemma3": ("gemma3_training", "", "\n"),
    "qwen3": ("qwen3_training", "", "\n"),
    "deepseek-r1": ("deepseek_r1_distill_training", r"<｜Assistant｜>(<think>\n)?|<｜tool▁outputs▁end｜>", ""),
    "gpt-oss": ("gptoss_training", r"<\|start\|>assistant", ""),
}


@pytest.mark.parametrize("template", TRAINING)
@settings(max_examples=60)
@given(data=st.data())
def test_the_assistants_part_is_trls(template, data):
    """TRL's templates for training mark it: some with the line feed after it, or with the signs before it."""
    name, before, after = TRAINING[template]
    conversation = data.draw(conversations(template))
    options = {"keep_thinking": True} if takes(template, "keep_thinking") else {}
    if template == "deepseek-r1":  # TRL's reads thoughts in the content only
        conversation = [{k: v for k, v in message.items() if k != "reasoning_content"} for message in conversation]
    rendered, marked = render_jinja_template(
        [as_published(template, conversation)],
        chat_template=published(name),
        return_assistant_tokens_mask=True,
        **ORACLES[template][1],
    )
    if day := TODAY.search(rendered[0]):
        options["date"] = datetime.date.fromisoformat(day[0])
    text = chat.render(conversation, template, **options)
    assert text == rendered[0]
    expected = [re.sub(f"^({before})", "", text[start:end].removesuffix(after)) for start, end in marked[0]]
    assert [text[start:end] for start, end in chat.spans(conversation, template, **options)] == expected


TEXTS = ["The cat sat on the mat.", "assistant user system", "What is 2 + 3? It is 5!", "(Hm)\n\nWell,  then", ""]


def both(template, pattern):
    """The same tokenizer, here and in Transformers."""
    ours = Tokenizer.train([text.lower() + text for text in TEXTS] * 9, 420, pattern, chat.special_tokens(template))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(ours.spec))
    return ours, PreTrainedTokenizerFast(tokenizer_object=theirs, **ORACLES[template][1])


@pytest.mark.parametrize("pattern", ["gpt2", "llama3", "qwen2"])
@pytest.mark.parametrize("template", ORACLES)
def test_ids(template, pattern):
    ours, hf = both(template, pattern)
    for number, reply in enumerate(TEXTS):
        talk = [{"role": "user", "content": TEXTS[number - 1]}, {"role": "assistant", "content": reply}] * 2
        for prompt, conversation in ((False, talk), (True, talk[:3])):
            jinja, options = ORACLES[template][0], {}
            expected = hf.apply_chat_template(conversation, chat_template=jinja, add_generation_prompt=prompt)
            if day := TODAY.search(hf.decode(expected["input_ids"])):
                options["date"] = datetime.date.fromisoformat(day[0])
            ids, _ = chat.encode(ours, conversation, template, add_generation_prompt=prompt, **options)
            assert ids == expected["input_ids"]


@pytest.mark.parametrize("pattern", ["gpt2", "llama3", "qwen2"])
def test_mask(pattern):
    ours, hf = both("llama3", pattern)
    for number, reply in enumerate(TEXTS):
        talk = [{"role": "user", "content": TEXTS[number - 1]}, {"role": "assistant", "content": reply}] * 2
        jinja = published("llama3_training")
        expected = hf.apply_chat_template(
            talk, chat_template=jinja, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = chat.encode(ours, talk, "llama3")
        assert (ids, mask) == (expected["input_ids"], [bool(said) for said in expected["assistant_masks"]])


if __name__ == "__main__":
    GOLDEN.write_text(golden(), encoding="utf-8")
