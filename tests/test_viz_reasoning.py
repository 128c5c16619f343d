"""The bag of answers: the page's rules against the package's, and a page without a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.generate.reasoning import best_of_n, by_budget, majority_vote, pass_at_k


def problem(rng: np.random.Generator, right: float, n: int = 12) -> dict[str, Any]:
    """Answers to a made-up problem, of which about a share is right."""
    answers = [None if x > 0.93 else "42" if x < right else str(int(100 * x)) for x in rng.random(n)]
    samples = [
        {
            "answer": answer,
            "right": answer == "42",
            "logp": float(-rng.random()),
            "score": float(rng.integers(3)) / 2,
            "tokens": int(rng.integers(5, 20)),
            "text": f"thoughts {i}",
        }
        for i, answer in enumerate(answers)
    ]
    return {"question": "6*7=?", "answer": "42", "samples": samples}


def some_problems() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [problem(rng, right) for right in (0.1, 0.3, 0.5, 0.8)]


@needs_node
def test_script_votes_and_ranks_as_the_package_does():
    code = """
        import { best, majority } from "./reasoning.js";
        answer(data.problems.map(({ samples }) => [majority(samples), best(samples, "logp"), best(samples, "score")]
          .map((sample) => sample && sample.answer)));
    """
    problems = some_problems()
    problems.append({**problems[0], "samples": [{**problems[0]["samples"][0], "answer": None}]})
    for one, got in zip(problems, node(code, problems=problems), strict=True):
        answers = [sample["answer"] for sample in one["samples"]]
        expected = [majority_vote(answers)]
        expected += [best_of_n(answers, [sample[figure] for sample in one["samples"]]) for figure in ("logp", "score")]
        assert got == expected


@needs_node
def test_script_averages_over_deals():
    code = """
        import { curves, deal } from "./reasoning.js";
        answer([curves(data.problems, [1, 4, 12]), deal(50, 1), deal(50, 1), deal(50, 2)]);
    """
    problems = some_problems() * 12  # each problem is dealt anew, so that means have little noise
    got, first, again, other = node(code, problems=problems)
    assert sorted(first) == list(range(50)) and first == again != other
    any_right, voted = np.zeros(3), np.zeros(3)
    for one in problems[:4]:
        right = np.array([sample["right"] for sample in one["samples"]])
        answers = [sample["answer"] for sample in one["samples"]]
        any_right += [pass_at_k(12, int(right.sum()), k) / 4 for k in (1, 4, 12)]

        def chosen(rows, answers=answers):
            return majority_vote([answers[row] for row in rows]) == "42"

        voted += by_budget(chosen, 12, (1, 4, 12), rounds=400) / 4
    np.testing.assert_allclose(got[4], any_right, atol=0.05)
    np.testing.assert_allclose(got[2][:2], voted[:2], atol=0.05)
    np.testing.assert_allclose(got[0], got[0][0], atol=1e-9)  # the first stays the first


@needs_node
def test_script_groups_answers_by_frequency():
    code = """
        import { grouped } from "./reasoning.js";
        answer(grouped(data.answers.map((answer) => ({ answer }))).map(([answer, some]) => [answer, some.length]));
    """
    assert node(code, answers=["7", None, "8", None, None, "8"]) == [["8", 2], ["7", 1], [None, 3]]


def _without(field: str) -> list[dict[str, Any]]:
    one = some_problems()[0]
    return [{**one, "samples": [{name: value for name, value in one["samples"][0].items() if name != field}]}]


@pytest.mark.parametrize(
    ("problems", "changes", "message"),
    [
        ([], {}, "problems: got none, expected at least one"),
        ([{"question": "?", "answer": "1", "samples": []}], {}, r"problems\[0\]: got no samples"),
        (_without("logp"), {}, r"problems\[0\], samples\[0\]: got 'nothing' as 'logp', expected float"),
        (some_problems(), {"problem": 4}, "problem: got 4, expected 0 to 3"),
        (some_problems(), {"drawn": 13}, "drawn: got 13, expected 1 to 12"),
    ],
    ids=str,
)
def test_bad_settings(problems, changes, message):
    with pytest.raises(ValueError, match=message):
        viz.AnswersPlay(problems, **changes)


def test_summary():
    assert repr(viz.AnswersPlay(some_problems())) == "<AnswersPlay: 48 answers to 4 problems>"


def test_more_answers_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    (tmp_path / "page.html").write_text(_page({"bag": viz.AnswersPlay(some_problems(), drawn=2)}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#bag .tm-chart path').length", timeout=20_000)

    bag = page.locator("#bag")
    drawn, votes = bag.locator(".tm-one"), bag.locator(".tm-votes")
    assert drawn.count() == 2
    bag.get_by_role("slider", name="answers drawn").focus()
    page.keyboard.press("End")
    assert drawn.count() == 12 and sum(map(int, votes.all_inner_texts())) == 12
    tokens = sum(sample["tokens"] for sample in some_problems()[0]["samples"])
    assert f"{tokens} tokens for this problem" in bag.locator(".tm-spent").inner_text()
    drawn.first.hover()
    assert "thoughts" in bag.locator(".tm-thoughts").inner_text()
    bag.get_by_role("slider", name="problem").focus()
    page.keyboard.press("End")
    assert bag.locator(".tm-right .tm-one").count() > 6
    assert bag.locator(".tm-rules tbody tr").nth(2).locator("td").nth(2).inner_text() == "✓"
    for name in ("problem", "answers drawn"):
        bag.get_by_role("slider", name=name).focus()
        page.keyboard.press("Home")
    seen = set()
    for _ in range(8):
        bag.get_by_role("button", name="Deal again").click()
        seen.add(bag.locator(".tm-given").inner_text())
    assert len(seen) > 2
    assert page.evaluate("(() => { models.bag.leave(); return models.bag.left(); })()") == 0
    assert not problems
    page.close()
