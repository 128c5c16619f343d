"""Agents: the loop of turns and tools goes on whatever a policy says, and the judge of the shop misses nothing."""

from __future__ import annotations

import random
import string
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymoe as tm
from tinymoe.posttrain import agents, shop, tasks, tools
from tinymoe.posttrain.agents import Talk, converse, model_policy, write_reply
from tinymoe.text import chat, facts
from tinymoe.text.instructions import pack_masked
from tinymoe.text.replies import reply
from tinymoe.text.tokenizer import CharTokenizer

STOP = threading.Event()  # lets go of what is left behind
CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "2*21"}}\n</tool_call><|im_end|>'
TINY = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 96}


@pytest.fixture(autouse=True, scope="module")
def _let_go():
    yield
    STOP.set()


def tiny_model(positions=128, **shape):
    known = CharTokenizer.train([string.printable[:95] + "\n"], special_tokens=chat.special_tokens("qwen3"))
    shape = {"hidden_size": 32, "max_position_embeddings": positions, "tie_word_embeddings": True, **TINY, **shape}
    model = tm.zoo.build("llama-nano", known.vocab_size, seed=0, **shape)
    model.tokenizer = known
    return model


def question(text="2*21?", **at_hand):
    return Talk([{"role": "user", "content": text}], {"calculator": tools.calculator, **at_hand})


def script(*replies):
    """A policy that says these things in turn, the same in all talks, and the last of them ever after."""
    return lambda talks: [replies[min(sum(m["role"] == "assistant" for m in t), len(replies) - 1)] for t in talks]


def test_calls_are_answered_and_the_answer_ends_the_talk():
    talk = question()
    converse(script(CALL, "Answer: 42<|im_end|>"), [talk])
    assert talk.ended == "answered"
    assert [m["role"] for m in talk.messages] == ["user", "assistant", "tool", "assistant"]
    assert talk.messages[2]["content"] == "42" and talk.messages[3] == reply("Answer: 42")


def test_a_user_may_go_on():
    said = iter(["And half of it?", None])
    talk = question()
    talk.user = lambda message: next(said)
    converse(script("42", "21"), [talk])
    assert [m["content"] for m in talk.messages] == ["2*21?", "42", "And half of it?", "21"]


def test_talks_end_each_in_its_time_and_are_asked_together():
    asked = []

    def policy(talks):
        asked.append(len(talks))
        return [CALL if "2*21?" in t[0]["content"] and len(t) == 1 else "Done." for t in talks]

    talks = [question("Hello."), question(), question("Hello again.")]
    converse(policy, talks)
    assert asked == [3, 1] and all(talk.ended == "answered" for talk in talks)


def test_too_many_turns_and_no_reply():
    talks = [question(), question()]
    converse(lambda going: [CALL] * len(going), talks, max_turns=3)
    assert [talk.ended for talk in talks] == ["too many turns"] * 2
    assert sum(m["role"] == "tool" for m in talks[0].messages) == 3
    silent = question()
    converse(lambda going: [None], [silent])
    assert silent.ended == "no reply" and len(silent.messages) == 1
    with pytest.raises(ValueError, match="max_turns: got 0"):
        converse(script(CALL), [question()], max_turns=0)


def leave_the_program():
    raise SystemExit


BAD_TOOLS = {
    "leave": leave_the_program,
    "wait": lambda: STOP.wait(100),
    "huge": lambda: "x" * 10**6,
    "odd": lambda: "é…",
}
SCRAPS = [*'{}[]":,1\n', "<tool_call>", "</tool_call>", '"name"', '"arguments"', '"calculator"', "<think>"]
ILL_FORMED = [
    CALL.replace("}}", "}"),
    CALL.replace("calculator", "toaster"),
    CALL.replace("expression", "text"),
    CALL.replace("2*21", "9**9**9"),
    CALL.replace("2*21", "\\ud800"),
    CALL.replace("</tool_call>", ""),
    "<tool_call>" + "[" * 10_000,
    "<tool_call>null</tool_call>",
    "</think></tool_call><tool_call><tool_call>",
    *(f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>' for name in BAD_TOOLS),
    CALL + CALL,
    "\x00",
    "",
]


@pytest.mark.parametrize("text", ILL_FORMED, ids=lambda text: repr(text[:40]))
@pytest.mark.parametrize("template", ["qwen3", "llama3.1", "mistral", "gpt-oss"])
def test_nothing_that_a_policy_says_stops_a_run(text, template):
    """The talk goes on, the policy is told what was wrong, and the next reply is written and read as if nothing was."""
    talk, beside = question(**BAD_TOOLS), question("Hello.")

    def policy(talks):
        return [text if len(messages) == 1 and messages[0]["content"] == "2*21?" else "42" for messages in talks]

    converse(policy, [talk, beside], template=template, seconds=0.05)
    assert talk.ended == beside.ended == "answered"
    if len(talk.messages) > 2:  # else it was read as an answer
        assert talk.messages[-1]["content"] == "42" and talk.messages[-2]["role"] in ("tool", "user")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(SCRAPS), max_size=12).map("".join), max_size=4))
def test_any_text_is_a_turn(texts):
    talk = question()
    converse(script(*texts, "Done."), [talk], max_turns=6)
    assert talk.ended in ("answered", "too many turns")
    assert chat.render(talk.messages, "qwen3")


def test_a_models_talks_do_not_depend_on_each_other():
    model = tiny_model()
    texts = ["2*21?", "Hello, how are you today?", "7"]
    alone, together = [question(text) for text in texts], [question(text) for text in texts]
    policy = model_policy(model, max_new_tokens=8)
    for talk in alone:
        converse(policy, [talk], max_turns=2)
    converse(policy, together, max_turns=2)
    assert [talk.messages for talk in alone] == [talk.messages for talk in together]


def test_a_model_says_what_generate_says():
    model = tiny_model()
    ids, _ = chat.encode(
        model.tokenizer, question().messages, "qwen3", add_generation_prompt=True, enable_thinking=False
    )
    expected = np.asarray(model.generate([ids], max_new_tokens=8, temperature=0))[0, len(ids) :]
    (said,) = model_policy(model, max_new_tokens=8, enable_thinking=False)([question().messages])
    assert said == model.tokenizer.decode(expected.tolist())


def test_a_model_reads_what_it_has_no_tokens_for():
    model = tiny_model()
    policy = model_policy(model, max_new_tokens=4)
    odd = [
        *question().messages,
        chat.parse(CALL.replace("2*21", "\\u00e9"), "qwen3"),
        {"role": "tool", "content": "é…"},
    ]
    plain = [*question().messages, chat.parse(CALL.replace("2*21", "?"), "qwen3"), {"role": "tool", "content": "??"}]
    assert policy([odd]) == policy([plain])


def test_a_model_has_nothing_to_say_where_there_is_no_room_or_no_way_to_write():
    model = tiny_model(positions=64)
    talks = [question("x" * 40), question(), question("x" * 80)]
    converse(model_policy(model, max_new_tokens=16), talks, max_turns=1)
    assert [talk.ended == "no reply" for talk in talks] == [True, False, True]
    broken = [{"role": "tool", "content": "4"}]
    assert model_policy(model, max_new_tokens=4)([broken]) == [None]


def test_a_model_without_a_fitting_tokenizer():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"the tokenizer lacks .*needs"):
        model_policy(model, "llama3")
    model.tokenizer = None
    with pytest.raises(ValueError, match="model: has no tokenizer"):
        model_policy(model)


def test_a_model_learns_to_call_a_tool():
    """One talk by heart: the loop, the mask and the template agree, or the answer is not 42."""
    model = tiny_model(positions=256, hidden_size=48)
    (problem,) = [p for p in tasks.problems("tools", "train", seed=1, count=20, level=1) if "*" in p.prompt][:1]
    options = {"enable_thinking": False, "keep_thinking": True}
    rows = pack_masked([chat.encode(model.tokenizer, problem.messages, "qwen3", **options)], context=160)
    ids, targets, _ = rows.batch([0])
    optimizer = tm.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(ids, targets).backward()
        tm.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
    talk = question(problem.prompt)
    converse(model_policy(model, **options), [talk])
    assert talk.messages[-1]["content"] == f"Answer: {problem.answer}"
    assert agents.right_calls(problem, talk.messages) == (1, 1, 1)


@pytest.mark.parametrize("template", ["qwen3", "gpt-oss", "llama3.1"])
def test_replies_are_written_as_they_are_read(template):
    call = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": "1+1"}}}
    for message in (reply("Answer: 2"), reply("", calls=[call])):
        read = chat.parse(write_reply(message, template), template)
        assert read["content"] == message["content"]
        assert [c["function"] for c in read.get("tool_calls", ())] == [
            c["function"] for c in message.get("tool_calls", ())
        ]


def test_calls_are_counted():
    (problem,) = tasks.problems("tools", "train", seed=0, count=1, level=2)
    assert agents.right_calls(problem, problem.messages) == (2, 2, 2)
    assert agents.right_calls(problem, problem.messages[:1]) == (2, 0, 0)
    assert agents.right_calls(problem, problem.messages + problem.messages) == (4, 4, 2)
    broken = chat.parse(CALL.replace("}}", "}"), "qwen3")
    assert agents.right_calls(problem, [broken, *problem.messages]) == (3, 2, 0)
    assert agents.calls_made([broken]) == [None]


GOALS = shop.goals("train", seed=3, count=200)


def test_goals_are_split():
    test = shop.goals("test", seed=4, count=200)
    assert not {(g.count, g.item) for g in GOALS} & {(g.count, g.item) for g in test}
    assert shop.goals("train", seed=3, count=200) == GOALS
    assert {g.persona for g in GOALS} == set(shop.PERSONAS)
    with pytest.raises(ValueError, match="split: got 'dev'"):
        shop.goals("dev")
    with pytest.raises(ValueError, match="count: got 0"):
        shop.goals(count=0)


def test_a_teacher_without_mistakes_is_always_right():
    talks = shop.visit(shop.noisy_teacher(0.0), GOALS)
    assert [shop.complaints(goal, talk) for goal, talk in zip(GOALS, talks, strict=True)] == [[]] * len(GOALS)
    assert all(talk.cart == {goal.item: goal.count} for goal, talk in zip(GOALS, talks, strict=True))


def test_a_noisy_teacher_makes_every_mistake():
    talks = shop.visit(shop.noisy_teacher(0.3, seed=1), GOALS)
    flaws = [shop.complaints(goal, talk) for goal, talk in zip(GOALS, talks, strict=True)]
    assert 0.2 < np.mean([not found for found in flaws]) < 0.5
    said = {text.split(" holds")[0] for found in flaws for text in found}
    assert said >= {"a call failed", "the cart", "a question too many, or too few", "the sum is wrong"}
    again = shop.visit(shop.noisy_teacher(0.3, seed=1), GOALS)
    assert [talk.messages for talk in again] == [talk.messages for talk in talks]
    with pytest.raises(ValueError, match="mistakes: got 2"):
        shop.noisy_teacher(2)


def served(goal, *replies):
    talk = shop.enter(goal)
    converse(script(*replies), [talk], max_turns=4)
    return shop.complaints(goal, talk)


def test_complaints_name_what_is_wrong():
    goal = shop.Goal("curt", "pen", 3, 7)

    def order(item="pen", count="3"):
        return f'<tool_call>{{"name": "order", "arguments": {{"item": "{item}", "count": "{count}"}}}}</tool_call>'

    assert served(goal, order(), "3 pens cost 21.") == []
    assert served(goal, order(), "3 pens cost 22.") == ["the sum is wrong"]
    assert served(goal, order(), "That is 21, for 3 pens.") == ["the sum is wrong"]  # the sum comes last
    assert served(goal, "3 pens cost 21.") == ["the cart holds {}, not 3 of pen"]
    assert served(goal, order(), order(), "21")[0] == "the cart holds {'pen': 6}, not 3 of pen"
    assert served(goal, order("cup"), order(), "21") == ["the cart holds {'cup': 3, 'pen': 3}, not 3 of pen"]
    assert served(goal, order("dragon"), order(), "21") == ["a call failed"]
    assert served(goal, order(count="0"), order(), "21") == ["a call failed"]
    assert served(goal, order().replace("}}", "}"), order(), "21") == ["a call failed"]
    assert served(goal, shop.QUESTION, order(), "21") == ["a question too many, or too few"]
    assert "the talk ended with: too many turns" in served(goal, order())
    vague = shop.Goal("vague", "pen", 3, 7)
    assert served(vague, shop.QUESTION, order(), "21") == []
    assert served(vague, order(), "21") == ["a question too many, or too few"]


def test_articles_and_answers_state_the_same_facts():
    assert len(facts.ANIMALS) > 50
    rng = random.Random(0)
    for name, animal in facts.ANIMALS.items():
        articles = [facts.article(animal, rng) for _ in range(40)]
        assert len(set(articles)) > 10 and all(name in article for article in articles)
        asked = facts.questions(animal)
        assert len(asked) == 4
        for question, answer in asked:
            assert name in question and name in answer
            assert any(answer in article for article in articles)
    assert facts.questions(facts.ANIMALS["owl"])[3] == ("What is a young owl?", "A young owl is an owlet.")
