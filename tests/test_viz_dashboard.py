"""The dashboard of reinforcement learning: what it keeps of a run, and what a page shows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

from test_viz import _page, _scripts, chromium, needs_node, node, sent_by  # noqa: F401 - two are fixtures

from tinymoe import viz
from tinymoe.models import zoo
from tinymoe.posttrain import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from tinymoe.text.tokenizer import CharTokenizer


def rollouts(groups: int = 2, right: int = 3) -> list[dict[str, Any]]:
    """Groups of four answers, of which `right` are right."""
    return [
        {
            "group": group,
            "prompt": f"{group}+2=?",
            "completion": f"<think>{group}+2=\n</think><answer>{group + 2 if i < right else i}</answer>",
            "reward": float(i < right),
            "advantage": 0.5 if i < right else -1.5,
        }
        for group in range(groups)
        for i in range(4)
    ]


def grpo_metrics(step: int, **more: Any) -> dict[str, Any]:
    curves = {"reward": step / 20, "completions/mean_length": 30.0, "entropy": 0.1, "frac_reward_zero_std": 0.25}
    return {"step": step, **curves, "tokens_per_s": 900.0, "loss": 0.1, "rollouts": rollouts(), **more}


def test_keeps_curves_and_groups_with_equal_answers_once():
    dash = viz.Dashboard(groups=1)
    dash.update(grpo_metrics(1, eval_reward=0.5, kl=float("nan")))
    dash.finish()
    (step,) = dash.steps
    assert step["groups"] == [
        {
            "prompt": "0+2=?",
            "answers": [
                ["<think>0+2=\n</think><answer>2</answer>", 1.0, 0.5, 3],
                ["<think>0+2=\n</think><answer>3</answer>", 0.0, -1.5, 1],
            ],
        }
    ]
    curves = {name: value for name, value in step.items() if name not in ("step", "groups")}
    assert curves == {"reward": 0.05, "held_out": 0.5, "length": 30, "entropy": 0.1, "idle": 0.25, "speed": 900}
    assert not dash.running
    json.dumps(dash.steps)


def test_reads_answers_without_groups_and_advantages():
    dash = viz.Dashboard()
    rollouts = [{"prompt": prompt, "completion": "2", "reward": 1} for prompt in ("1+1=?", "4-2=?")]
    dash.update({"step": 1, "kl": 0.02, "entropy": 1.5, "rollouts": rollouts})
    dash.finish()
    groups = [{"prompt": one["prompt"], "answers": [["2", 1.0, None, 1]]} for one in rollouts]
    assert dash.steps == [{"step": 1, "groups": groups, "entropy": 1.5, "kl": 0.02}]


def test_lets_answers_go_evenly_but_never_the_newest():
    dash = viz.Dashboard(kept=4)
    for step in range(1, 15):
        dash.update(grpo_metrics(step))
        kept = [one["step"] for one in dash._steps if one["groups"]]
        assert len(kept) <= 4 and kept[-1] == step
        assert len(set(np.diff(kept[:-1]))) <= 1
    assert kept == [1, 9, 14] and len(dash._steps) == 14


def test_sends_new_steps_and_now_and_then_all(monkeypatch):
    dash = viz.Dashboard()
    messages = sent_by(dash, monkeypatch)
    dash._refresh.seconds = 0
    for step in range(1, 4):
        dash.update(grpo_metrics(step))
    assert dash.running and [one["step"] for one in dash.steps] == [1]  # the first is sent whole
    assert [(content["from"], [one["step"] for one in content["steps"]]) for content, _ in messages] == [
        (1, [2]),
        (2, [3]),
    ]
    dash._full.seconds = 0
    dash.update(grpo_metrics(4))
    assert [one["step"] for one in dash.steps] == [1, 2, 3, 4] and len(messages) == 2


@pytest.mark.parametrize("step", [{}, {"step": 2}, {"step": 1}], ids=str)
def test_steps_go_forwards(step):
    dash = viz.Dashboard()
    dash.update(grpo_metrics(2))
    with pytest.raises(ValueError, match=r"metrics: got the step .* after 2, expected one that is larger"):
        dash.update(step)


@pytest.mark.parametrize("name", ["groups", "kept"])
def test_bad_settings(name):
    with pytest.raises(ValueError, match=f"{name}: got 0, expected 1 or more"):
        viz.Dashboard(**{name: 0})


def test_summary():
    dash = viz.Dashboard()
    assert repr(dash) == "<Dashboard: no steps yet>"
    dash.update(grpo_metrics(1))
    assert repr(dash) == "<Dashboard: 1 steps>"


@needs_node
def test_script_takes_completions_apart_and_sums_groups_up():
    code = """
        import { curve, pieces, summary } from "./dashboard.js";
        const { x, y } = curve(data.steps, "reward");
        answer({ pieces: data.texts.map(pieces), summaries: data.groups.map(summary), curve: [[...x], [...y]] });
    """
    texts = ["<think>1<2\n</think><answer>7</answer>", "no tags", "<answer>", ""]
    groups = [{"answers": [["a", 1.0, 0.5, 3], ["b", 0.0, -1.5, 1]]}, {"answers": [["a", 0.1, 0.0, 4]]}]
    got = node(code, texts=texts, groups=groups, steps=[{"step": 1}, {"step": 2, "reward": 0.5}])
    tags = [["<think>", "tag"], ["1<2\n", "text"], ["</think>", "tag"], ["<answer>", "tag"], ["7", "answer"]]
    assert got["pieces"] == [[*tags, ["</answer>", "tag"]], [["no tags", "text"]], [["<answer>", "tag"]], []]
    assert got["summaries"] == [
        {"size": 4, "mean": 0.75, "differ": True},
        {"size": 4, "mean": pytest.approx(0.1), "differ": False},
    ]
    assert got["curve"] == [[2], [0.5]]


def test_a_run_can_be_read_step_by_step_without_a_kernel(chromium: Any, tmp_path: Path):  # noqa: F811
    dash = viz.Dashboard("Run", total_steps=12, groups=2)
    for step in range(1, 13):
        right = 4 if step > 6 else 3
        dash.update(grpo_metrics(step, rollouts=rollouts(right=right), **({"eval_reward": 0.5} if step == 10 else {})))
    dash.finish()
    (tmp_path / "page.html").write_text(_page({"dash": dash}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#dash .tm-chart path').length", timeout=20_000)

    view = page.locator("#dash")
    assert "12 / 12" in view.locator(".tm-tiles").inner_text()
    shown = [box.inner_text() for box in view.locator(".tm-small h4").all() if box.is_visible()]
    assert shown == ["Length of an answer", "Entropy", "Groups that teach nothing"]  # there is no KL in this run
    picker, groups = view.get_by_role("slider"), view.locator(".tm-group")
    assert picker.get_attribute("aria-valuetext") == "12"
    assert groups.count() == 2 and "nothing to learn" in groups.first.inner_text()
    assert "×4" in groups.first.inner_text()
    picker.focus()
    page.keyboard.press("Home")
    assert picker.get_attribute("aria-valuetext") == "1" and "mean 0.75" in groups.first.inner_text()
    assert view.get_by_role("img", name="advantage −1.50").count() == 2
    assert view.get_by_role("button", name="step back").is_disabled()
    view.get_by_role("button", name="step forth").click()
    assert picker.get_attribute("aria-valuetext") == "2"
    view.locator(".tm-chart").first.focus()
    page.keyboard.press("ArrowRight")  # the cross-hair comes up at the last step
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert picker.get_attribute("aria-valuetext") == "11"

    box = view.locator(".tm-chart").first.bounding_box()
    page.mouse.click(box["x"] + 60, box["y"] + 100)
    assert int(picker.get_attribute("aria-valuetext")) <= 2

    late = {"kind": "steps", "from": 12, "steps": [{"step": 13, "reward": 0.9, "groups": []}]}
    page.evaluate("message => models.dash.emit('msg:custom', message)", late)
    assert "13 / 12" in view.locator(".tm-tiles").inner_text()
    page.set_viewport_size({"width": 390, "height": 900})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("(() => { models.dash.leave(); return models.dash.left(); })()") == 0
    assert not problems
    page.close()


def test_a_running_view_follows_the_newest_step(chromium: Any, tmp_path: Path):  # noqa: F811
    dash = viz.Dashboard("Run", groups=1)
    dash.update(grpo_metrics(1))
    (tmp_path / "page.html").write_text(_page({"dash": dash}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 700, "height": 700})
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready", timeout=20_000)
    picker = page.get_by_role("slider")
    assert picker.get_attribute("aria-valuetext") == "1"
    for step in (2, 3):
        dash.update(grpo_metrics(step))
        message = {"kind": "steps", "from": step - 1, "steps": [dash._steps[-1]]}
        page.evaluate("message => models.dash.emit('msg:custom', message)", message)
    assert picker.get_attribute("aria-valuetext") == "3"
    page.get_by_role("button", name="step back").click()
    page.evaluate(
        "message => models.dash.emit('msg:custom', message)",
        {**message, "from": 3, "steps": [{**message["steps"][0], "step": 4}]},
    )
    assert picker.get_attribute("aria-valuetext") == "2"  # who reads an older step is left in peace
    page.close()


def test_follows_both_trainers():
    texts = ["1+1=?2", "2+2=?4"]
    tokenizer = CharTokenizer.train(texts, special_tokens=["<end>"])
    problems = [{"prompt": text[:4], "answer": text[4:]} for text in texts]

    def right(prompts, completions, problems):
        return [float(text == problem["answer"]) for text, problem in zip(completions, problems, strict=True)]

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    common = {
        "steps": 2,
        "generation_batch_size": 8,
        "max_completion_length": 3,
        "num_completions_to_print": 8,
        "stop": 0,
    }
    for trainer, config in (
        (GRPOTrainer, GRPOConfig(num_generations=4, beta=0.1, **common)),
        (PPOTrainer, PPOConfig(**common)),
    ):
        model = zoo.build("llama-nano", vocab_size=tokenizer.vocab_size, max_position_embeddings=16, **shape)
        model.tokenizer = tokenizer
        dash = viz.Dashboard(total_steps=2)
        trainer(model, problems, [right], config, held_out=problems).run(on_step=dash.update, progress=False)
        dash.finish()
        names = {"step", "groups", "reward", "length", "entropy", "kl", "idle", "speed"}
        assert set(dash.steps[0]) == names and set(dash.steps[1]) == {*names, "held_out"}
        answers = [answer for group in dash.steps[-1]["groups"] for answer in group["answers"]]
        assert answers and all(isinstance(advantage, float) for _, _, advantage, _ in answers)
