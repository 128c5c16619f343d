"""Tools: whatever a model asks of them, the run goes on."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymoe.posttrain import tools
from tinymoe.posttrain.tools import Result, call
from tinymoe.text import chat

PRICES = {"pen": "7", "cup": "12"}
STOP = threading.Event()  # lets go of what is left behind
PATIENT = 30.0


@pytest.fixture(autouse=True, scope="module")
def _let_go():
    yield
    STOP.set()


def loop() -> None:
    while not STOP.is_set():
        time.sleep(0)


def stubborn() -> None:
    while not STOP.is_set():
        try:
            loop()
        except BaseException:
            continue


def fail(kind: type[BaseException] = ValueError, *arguments: object):
    raise kind(*arguments)


class UnwritableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


AT_HAND = {
    "calculator": tools.calculator,
    "lookup": tools.lookup(PRICES),
    "loop": loop,
    "stubborn": stubborn,
    "sleep": lambda: STOP.wait(100),
    "leave": lambda: fail(SystemExit),
    "interrupt": lambda: fail(KeyboardInterrupt),
    "silent": lambda: fail(ValueError),
    "unwritable": lambda: fail(UnwritableError),
    "huge": lambda: "x" * 10**6,
    "digits": lambda: 10**10000,
    "surrogate": lambda: "\ud800",
    "nothing": lambda: None,
    "deep": lambda: AT_HAND["deep"](),
}

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("expression", "result"),
    [("12 * (3 + 4)", "84"), ("7/2", "7/2"), ("6/3", "2"), ("0.1+0.2", "3/10"), ("2**10", "1024"), ("-5+2", "-3")],
)
def test_the_calculator_computes(expression, result):
    assert call(AT_HAND, "calculator", {"expression": expression}, PATIENT) == Result(result)


def test_tools_are_functions():
    assert tools.calculator("12 * (3 + 4)") == "84"
    assert tools.lookup(PRICES)("pen") == "7"
    with pytest.raises(ValueError, match="expression: got int, expected a text"):
        tools.calculator(7)  # pyright: ignore
    with pytest.raises(ValueError, match="there is no 'pens' in the table; there is 'pen'"):
        tools.lookup(PRICES)("pens")


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("9**9**9", "calculator: the result is too large"),
        ("1/0", "calculator: division by zero"),
        ("(" * 10**6, "calculator: the expression has 1000000 characters; at most 400 are read"),
        ("", "calculator: the expression ends too early"),
        ("٣+٤", "calculator: '٣+٤' is no number, sign or parenthesis"),
        ("__import__('os').system('ls')", "calculator: '__import__' is no number"),
        ("inf", "calculator: 'inf' is no number"),
        (7, "calculator: expression: got int, expected a text"),
        (None, "calculator: expression: got NoneType"),
    ],
)
def test_what_cannot_be_computed_is_told(expression, error):
    result = call(AT_HAND, "calculator", {"expression": expression}, PATIENT)
    assert not result.ok and result.text.startswith(error)


@pytest.mark.parametrize(
    ("key", "result"),
    [
        ("pen", Result("7")),
        ("pens", Result("lookup: there is no 'pens' in the table; there is 'pen'", ok=False)),
        ("zebra", Result("lookup: there is no 'zebra' in the table", ok=False)),
        (["pen"], Result("""lookup: there is no "['pen']" in the table; there is 'pen'""", ok=False)),
    ],
)
def test_lookup_finds_or_says_what_is_near(key, result):
    assert call(AT_HAND, "lookup", {"key": key}, PATIENT) == result


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("calc", {}, "there is no tool 'calc'; there are: calculator, lookup"),
        (None, {}, "there is no tool 'None'"),
        (["loop"], {}, "there is no tool \"['loop']\""),
        ("x" * 10**6, {}, "there is no tool 'xxx"),
        ("calculator", {}, "calculator: missing a required argument: 'expression'"),
        ("calculator", {"expression": "1", "mode": "fast"}, "calculator: got an unexpected keyword argument 'mode'"),
        ("calculator", "1+1", "calculator: the arguments are no object with names"),
        ("calculator", ["1+1"], "calculator: the arguments are no object with names"),
        ("calculator", None, "calculator: the arguments are no object with names"),
        ("calculator", {1: "1+1"}, "calculator: the arguments are no object with names"),
        ("leave", {}, "leave: SystemExit"),
        ("interrupt", {}, "interrupt: KeyboardInterrupt"),
        ("silent", {}, "silent: ValueError"),
        ("unwritable", {}, "unwritable: a value of type UnwritableError that cannot be written"),
        ("deep", {}, "deep: maximum recursion depth exceeded"),
    ],
)
def test_an_ill_formed_call_is_told(name, arguments, error):
    result = call(AT_HAND, name, arguments, PATIENT)
    assert not result.ok and result.text.startswith(error) and len(result.text) < 1500


def test_no_tools_is_no_tool():
    assert call({}, "calculator", {}).text == "there is no tool 'calculator'; there are: none"


def test_results_are_text_of_bounded_length():
    assert call(AT_HAND, "huge", {}, PATIENT) == Result("x" * 999 + "…")
    assert call(AT_HAND, "digits", {}, PATIENT) == Result("a value of type int that cannot be written")
    assert call(AT_HAND, "surrogate", {}, PATIENT) == Result("?")
    assert call(AT_HAND, "nothing", {}, PATIENT) == Result("None")


@pytest.mark.parametrize("name", ["loop", "stubborn", "sleep"])
def test_a_tool_that_does_not_come_back_is_left(name):
    assert call(AT_HAND, name, {}, seconds=0.2) == Result(f"{name}: no result after 0.2 seconds", ok=False)
    assert call(AT_HAND, "calculator", {"expression": "1+1"}, PATIENT) == Result("2")


def test_a_loop_is_really_ended():
    """Else each would cost the run a part of its processor."""
    ended = threading.Event()

    def watched() -> None:
        try:
            loop()
        finally:
            ended.set()

    assert not call({"watched": watched}, "watched", {}, seconds=0.2).ok
    assert ended.wait(PATIENT) and not STOP.is_set()


def test_a_system_without_more_threads_is_an_error(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda self: fail(RuntimeError, "can't start new thread"))
    assert call(AT_HAND, "nothing", {}) == Result("nothing: can't start new thread", ok=False)


def test_seconds_have_to_be_above_zero():
    with pytest.raises(ValueError, match="seconds: got 0, expected above 0"):
        call(AT_HAND, "nothing", {}, seconds=0)


@given(st.one_of(st.sampled_from(["calculator", "lookup"]), json_values), json_values)
def test_no_call_raises(name, arguments):
    result = call(AT_HAND, name, arguments, PATIENT)
    assert isinstance(result.text, str) and result.text.encode()


@given(st.dictionaries(st.sampled_from(["expression", "key", "x"]), json_values, max_size=2))
def test_no_argument_raises(arguments):
    for name in ("calculator", "lookup"):
        assert isinstance(call(AT_HAND, name, arguments, PATIENT).ok, bool)


# -- in a conversation


def said(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def test_calls_in_a_reply_are_answered_in_turn():
    reply = chat.parse(said("lookup", '{"key": "pen"}') + said("calculator", '{"expression": "1/0"}'), "qwen3")
    answers = tools.respond(AT_HAND, reply, PATIENT)
    assert answers == [
        {"role": "tool", "name": "lookup", "content": "7"},
        {"role": "tool", "name": "calculator", "content": "Error: calculator: division by zero"},
    ]
    assert tools.respond(AT_HAND, chat.parse("Answer: 7", "qwen3")) == []


def test_a_call_keeps_its_id():
    reply = chat.parse('[TOOL_CALLS][{"name": "lookup", "arguments": {"key": "cup"}, "id": "123456789"}]', "mistral")
    (answer,) = tools.respond(AT_HAND, reply, PATIENT)
    assert answer["tool_call_id"] == "123456789" and answer["content"] == "12"


@pytest.mark.parametrize("good", [0, 1, 2])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_whatever_was_called_the_conversation_goes_on(good, bad):
    text = said("lookup", '{"key": "pen"}') * good + said("lookup", "{key: pen}") * bad
    reply = chat.parse(text, "qwen3")
    answers = tools.respond(AT_HAND, reply, PATIENT)
    assert len(answers) == good + bool(bad)
    talk = [{"role": "user", "content": "Price of a pen?"}, reply, *answers]
    rendered = chat.render(talk, "qwen3", tools=tools.DEFINITIONS, add_generation_prompt=True)
    assert rendered.count("Error: not JSON") == bad


def test_definitions_fit_the_tools():
    for definition in tools.DEFINITIONS:
        function = definition["function"]
        arguments = dict.fromkeys(function["parameters"]["required"], "1")
        assert "argument" not in call(AT_HAND, function["name"], arguments, PATIENT).text
