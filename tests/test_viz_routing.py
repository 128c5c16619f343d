"""The views of routing: numbers against the package's routers, figures, and pages without a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")
pytest.importorskip("matplotlib", reason="the figures need matplotlib: pip install matplotlib")

import matplotlib

matplotlib.use("agg")

from test_viz import _page, _scripts, chromium, needs_node, node  # noqa: F401 - two are fixtures

from tinymoe import ops, viz
from tinymoe.nn import Config
from tinymoe.nn.balance import bias_step, load_entropy, max_violation
from tinymoe.nn.module import make
from tinymoe.nn.routers import expert_capacity, within_capacity
from tinymoe.tensor import Tensor
from tinymoe.viz.routes import TOKEN_KINDS

TOKENS = ["The", " fox", " saw", " a", " crow", ".", "\n", "x", " = ", "12"]
N, E, K = len(TOKENS), 8, 2


def trace(layers: int = 3, tokens: int = N, experts: int = E, k: int = K) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """As `model.trace` gives them: router (1, T, E) and experts (1, T, k) a layer."""
    logits = np.random.default_rng(0).normal(size=(layers, 1, tokens, experts))
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return list(scores), [np.argsort(-layer, axis=-1)[..., :k] for layer in scores]


# Numbers


def test_loads():
    experts = np.array([[0, 1], [0, 2], [0, 1], [3, 0]])
    loads = viz.expert_loads(experts, 4)
    assert loads.tolist() == [4, 2, 1, 1]
    both = viz.expert_loads([experts, np.array([[0], [-1]])], 4)  # -1 is none
    assert both.tolist() == [[4, 2, 1, 1], [1, 0, 0, 0]]


def test_expert_domain_table_counts_every_choice():
    experts = np.array([[[0, 1], [0, 2]], [[1, 2], [2, 1]]])  # two texts of two tokens
    by_text = viz.expert_domain_table(experts, [0, 1], 3)
    assert by_text.tolist() == [[2, 0], [1, 2], [1, 2]]
    by_token = viz.expert_domain_table(experts, [[0, 1], [1, 0]], 3, 3)
    assert by_token.tolist() == [[1, 1, 0], [2, 1, 0], [1, 2, 0]]
    assert viz.expert_domain_table([[0, -1], [-1, -1]], [1, 0], 2).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (" fox", "word"), ("ing", "part of a word"), (" The", "capitalized"), ("42", "number"), (" +", "punctuation"),
        ("\n  ", "blank"), ("", "blank"), ("ß", "not ASCII"), (b"\xff", "not ASCII"), (b" fox", "word"),
    ],
)  # fmt: skip
def test_token_kinds(token, kind):
    assert viz.token_kind(token) == kind and kind in TOKEN_KINDS


def test_expert_kind_table():
    table = viz.expert_kind_table(np.arange(N)[None, :, None] % 3, TOKENS, 3)
    assert table.shape == (3, len(TOKEN_KINDS)) and table.sum() == N
    assert table[:, TOKEN_KINDS.index("number")].tolist() == [1, 0, 0]  # "12" is token 9


def test_mutual_information():
    assert viz.mutual_information(np.eye(4)) == pytest.approx(2)
    assert viz.mutual_information(np.outer([1, 2, 3], [4, 5])) == pytest.approx(0, abs=1e-12)
    joint = np.array([[3.0, 1.0], [0.0, 4.0]]) / 8
    independent = np.outer(joint.sum(1), joint.sum(0))
    expected = sum(p * np.log2(p / q) for p, q in zip(joint.flat, independent.flat, strict=True) if p)
    assert viz.mutual_information(8 * joint) == pytest.approx(expected)


def test_information_is_compared_with_shuffled_labels():
    rng = np.random.default_rng(0)
    domains = np.repeat(np.arange(4), 10)  # forty texts
    experts = ((domains[:, None] + (rng.random((40, 30)) < 0.2)) % 4)[..., None]  # mostly the domain's own
    of_texts = viz.expert_information(experts, domains, 4)
    assert of_texts.bits > 1 > 8 * of_texts.shuffled > 0 and of_texts.deviation > 0
    of_tokens = viz.expert_information(experts, np.repeat(domains[:, None], 30, axis=1), 4)
    assert of_tokens.bits == pytest.approx(of_texts.bits)
    assert of_tokens.shuffled < of_texts.shuffled  # whole texts that change places look less like noise
    nothing = viz.expert_information(rng.integers(0, 4, (40, 30, 1)), domains, 4)
    assert abs(nothing.bits - nothing.shuffled) < 5 * nothing.deviation


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.expert_loads([[0, 4]], 4), "experts: got numbers from 0 to 4, expected -1 to 3"),
        (lambda: viz.expert_loads(np.zeros((2, 2)), 4), r"experts: got shape \(2, 2\) of float64"),
        (
            lambda: viz.expert_domain_table([[0], [1]], [0], 2),
            r"domains: got shape \(1,\) of int\d+, expected .* \(2,\)",
        ),
        (lambda: viz.expert_domain_table([[0], [1]], [0.0, 1.0], 2), "domains: got shape .* of float64"),
        (
            lambda: viz.expert_domain_table([[0], [1]], [0, 2], 2, 2),
            "domains: got numbers from 0 to 2, expected 0 to 1",
        ),
        (lambda: viz.expert_kind_table([[0], [1]], ["a"], 2), r"experts: got shape \(2, 1\), expected \(1, k\)"),
        (lambda: viz.mutual_information([1, 2]), r"table: got shape \(2,\), expected counts"),
        (lambda: viz.mutual_information(np.zeros((2, 2))), "not all of them zero"),
    ],
)
def test_bad_counts(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Figures


def history(layers: int, experts: int = 4, steps: int = 12) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    loads = rng.random((steps, layers, experts)) if layers else rng.random((steps, experts))
    rows = [{"step": 5 * i + 1, "loss": 1.0, "expert_load": load.tolist()} for i, load in enumerate(loads)]
    return [{"step": 0, "loss": 2.0}, *rows]


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_load_over_training(layers):
    rows = history(layers)
    figure = viz.expert_load(rows, title="Load of $x$")
    balance, table, entropy, _ = figure.axes
    loads = np.array([row["expert_load"] for row in rows[1:]]).reshape(12, -1, 4)
    np.testing.assert_allclose(
        balance.lines[0].get_ydata(), [np.mean([max_violation(load) for load in step]) for step in loads]
    )
    np.testing.assert_allclose(
        entropy.lines[0].get_ydata(), [np.mean([load_entropy(load) for load in step]) for step in loads]
    )
    drawn = table.collections[0].get_array()
    np.testing.assert_allclose(drawn, (loads / loads.mean(-1, keepdims=True)).reshape(12, -1).T)
    assert table.get_xlabel() == "step" and balance.get_ylabel() and entropy.get_ylabel()
    assert table.get_xlim() == (-1.5, 58.5)
    figure.canvas.draw()
    matplotlib.pyplot.close(figure)


def test_load_of_one_step_and_of_named_layers():
    figure = viz.expert_load(history(2, steps=1), layers=[1, 3])
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["layer 1", "layer 3"]
    matplotlib.pyplot.close(figure)


@pytest.mark.parametrize("panels", [1, 4, 5])
def test_specialization_draws_shares_over_the_equal_one(panels):
    counts = np.array([[8, 1, 0], [2, 1, 0]] * 2)  # 4 experts, 3 domains, one of which has no token
    figure = viz.specialization(
        np.stack([counts] * panels) if panels > 1 else counts, ["tales", "code", "none"], title="x"
    )
    drawn = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn[:, :2], [[1.6, 1], [0.4, 1]] * 2)
    assert np.ma.getmaskarray(drawn)[:, 2].all()
    assert sum(bool(ax.images) for ax in figure.axes) == panels
    figure.canvas.draw()
    matplotlib.pyplot.close(figure)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.expert_load([{"step": 1}]), r"history: got loads 'expert_load' of shapes \[\]"),
        (lambda: viz.expert_load(history(1) + history(2)), r"of shapes \[\(1, 4\), \(2, 4\)\]"),
        (lambda: viz.expert_load([{"step": 1, "expert_load": [0, 0]}]), "not all of them zero"),
        (lambda: viz.expert_load(history(2), layers=[1]), "layers: got 1 names, expected 2"),
        (lambda: viz.specialization(np.ones((4, 3)), ["a"]), r"table: got shape \(4, 3\), expected \(experts, 1\)"),
        (lambda: viz.specialization(np.ones((2, 4, 1)), ["a"], layers=[0]), "layers: got 1 names, expected 2"),
    ],
)
def test_bad_figures(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Arguments of the widgets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router": trace()[0][:1] + trace(1, tokens=4)[0]}, r"router: got layers of shapes .* for 10 tokens"),
        ({"router": trace(tokens=4)[0]}, r"router: got layers of shapes \[\(4, 8\)\], expected \(10, n\)"),
        ({"router": [5 * layer for layer in trace()[0]]}, "router: expected scores from 0 to 1"),
        ({"experts": trace(2)[1]}, "experts: got 2 layers, expected 3"),
        ({"experts": trace(experts=9)[1]}, "experts: expected whole numbers from -1 to 7"),
        ({"experts": trace()[0]}, "experts: expected whole numbers"),
        ({"layers": [1, 2]}, "layers: got 2 names, expected 3"),
        ({"layer": 3}, "layer: got 3, expected 0 to 2"),
        ({"token": 10}, "token: got 10, expected 0 to 9"),
        ({"expert": 8}, "expert: got 8, expected 0 to 7"),
    ],
)
def test_bad_traces(changes, message):
    router, experts = trace()
    with pytest.raises(ValueError, match=message):
        viz.RoutingExplorer(TOKENS, **{"router": router, "experts": experts, **changes})


def test_bad_flow():
    with pytest.raises(ValueError, match="experts: got 1 layer, expected at least 2"):
        viz.RoutingFlow(TOKENS, trace(1)[1], E)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": np.zeros((3, 4))}, r"logits: got shape \(3, 4\), expected \(6, experts\)"),
        ({"logits": np.zeros((6, 9))}, "2 to 8 experts"),
        ({"logits": np.full((6, 4), np.nan)}, "logits: expected finite numbers from -4 to 4"),
        ({"k": 5}, "k: got 5, expected 1 to 4"),
        ({"capacity": 0}, "capacity: got 0, expected None, or a factor above 0"),
        ({"scoring": "relu"}, "scoring: got 'relu', expected 'softmax' or 'sigmoid'"),
        ({"chooser": "users"}, "chooser: got 'users', expected 'tokens' or 'experts'"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        viz.RouteIt(**changes)


def test_summaries():
    router, experts = trace()
    assert repr(viz.RoutingExplorer(TOKENS, router, experts)) == (
        "<RoutingExplorer: 10 tokens through 3 layers of 8 experts>"
    )
    assert repr(viz.RoutingFlow(TOKENS, experts, E)) == "<RoutingFlow: 10 tokens between 3 layers of 8 experts>"
    assert repr(viz.RouteIt()) == "<RouteIt: 6 tokens to 4 experts>"


def test_a_trace_is_packed():
    router, experts = trace(8, tokens=512, experts=64, k=6)
    view = viz.RoutingExplorer(["a"] * 512, router, experts)
    assert len(view.scores) == 8 * 512 * 64 * 2 and len(view.choices) == 8 * 512 * 6 * 2
    scores = np.frombuffer(view.scores, "<u2").reshape(8, 1, 512, 64) / 65535
    np.testing.assert_allclose(scores, router, atol=1e-5)


def test_choices_of_experts_are_put_in_order():
    router = [np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])]
    kept = [np.array([[0, 1, -1], [-1, 1, -1]])]  # as ExpertChoiceRouter gives them
    view = viz.RoutingExplorer(["a", "b"], router, kept)
    assert view.shape == {"experts": 3, "k": 2}
    assert np.frombuffer(view.choices, "<i2").tolist() == [1, 0, 1, -1]


# The scripts' arithmetic


def routed(logits: np.ndarray, rules: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, choices and weights by the package's own router, whose matrix is the identity."""
    experts = logits.shape[1]
    config = Config(
        vocab_size=9, hidden_size=experts, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_experts=experts, num_experts_per_tok=rules["k"], norm_topk_prob=rules["normalize"], router=rules["scoring"],
    )  # fmt: skip
    router = make("router", rules["scoring"], config, np.random.default_rng(0))
    router.weight = Tensor(np.eye(experts))
    if rules["scoring"] == "sigmoid":
        router.e_score_correction_bias = Tensor(np.array(rules["bias"]))
    routing = router(Tensor(logits))
    return routing.scores.numpy(), np.asarray(routing.choices), routing.weights.numpy()


@needs_node
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("scoring", "bias"), [("softmax", 0.0), ("sigmoid", 0.0), ("sigmoid", 0.3)])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_script_routes_as_the_package_does(scoring, bias, k, normalize):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(7, 5))
    logits[2] = 0.5  # ties
    rules = {"scoring": scoring, "k": k, "normalize": normalize, "capacity": None}
    rules["bias"] = (bias * rng.normal(size=5)).tolist()
    code = 'import { route } from "./routingplay.js"; answer(route(data.logits, data.rules));'
    got = node(code, logits=logits.tolist(), rules=rules)
    scores, choices, weights = routed(logits, rules)
    np.testing.assert_allclose(got["scores"], scores, atol=1e-6)
    assert got["choices"] == choices.tolist()
    np.testing.assert_allclose(got["weights"], weights, atol=1e-6)
    loads = viz.expert_loads(choices, 5)
    assert got["load"] == loads.tolist() and all(map(all, got["kept"]))
    assert got["violation"] == pytest.approx(max_violation(loads))
    assert got["entropy"] == pytest.approx(load_entropy(loads))


@needs_node
@pytest.mark.parametrize(("k", "capacity"), [(1, None), (2, 0.75), (2, 1.5), (3, 2.0)])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_script_lets_the_experts_choose_as_the_package_does(scoring, k, capacity):
    logits = np.random.default_rng(3).normal(size=(7, 4))
    logits[:, 2] = 0.5  # with sigmoids, this expert likes all tokens alike
    rules = {"scoring": scoring, "k": k, "normalize": True, "capacity": capacity, "bias": [9.0, 0, 0, 0]}
    code = 'import { route } from "./routingplay.js"; answer(route(data.logits, data.rules));'
    got = node(code, logits=logits.tolist(), rules=rules | {"chooser": "experts"})
    config = Config(
        vocab_size=9, hidden_size=4, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_experts=4,
        num_experts_per_tok=k, capacity_factor=capacity,
    )  # fmt: skip
    router = make("router", "expert_choice", config, np.random.default_rng(0))
    router.weight = Tensor(np.eye(4))
    if scoring == "sigmoid":
        router.scores = ops.sigmoid
    routing = router(Tensor(logits))
    weights = np.zeros((7, 4))
    for token, (mine, shares) in enumerate(zip(got["choices"], got["weights"], strict=True)):
        weights[token, mine] = shares
        assert shares == sorted(shares, reverse=True)
    np.testing.assert_allclose(weights, np.where(routing.kept, routing.weights.numpy(), 0), atol=1e-6)
    assert got["load"] == routing.kept.sum(axis=0).tolist() == [got["room"]] * 4
    assert all(map(all, got["kept"])) and got["violation"] == 0


@needs_node
@pytest.mark.parametrize("capacity", [0.25, 0.75, 1.0, 1.5])
def test_script_drops_what_the_formula_drops(capacity):
    logits = np.random.default_rng(2).normal([1.0, 0, 0, 0], 1.0, (9, 4))
    rules = {"scoring": "softmax", "k": 2, "normalize": True, "capacity": capacity, "bias": [0.0] * 4}
    code = 'import { route } from "./routingplay.js"; answer(route(data.logits, data.rules));'
    got = node(code, logits=logits.tolist(), rules=rules)
    choices = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    assert got["room"] == expert_capacity(2 * 9, 4, capacity)
    assert got["kept"] == within_capacity(choices, got["room"]).tolist()
    assert not all(map(all, got["kept"])) or capacity > 1


@needs_node
def test_script_nudges_biases_and_counts_flows():
    code = """
        import { nudged } from "./routingplay.js";
        import { flows, ribbons } from "./routingflow.js";
        const counts = flows(data.first, data.second, 2, 3);
        const biases = [[0, 0, 0, 0], [0, 0, -1, 1]].map((bias) => nudged(bias, data.load, 0.05));
        answer([...biases, Array.from(counts), ribbons(counts, 3)]);
    """
    first, second = [[0, 1], [0, 2]], [[1, 2], [1, 0]]
    load = np.array([6, 3, 5, 2])
    biases, ended, counts, ribbons = node(
        code, load=load.tolist(), first=np.ravel(first).tolist(), second=np.ravel(second).tolist()
    )
    np.testing.assert_allclose(biases, bias_step(load, 0.05))
    assert ended == [-0.05, 0.05, -1, 1]  # where the sliders end
    expected = np.zeros((3, 3), int)
    for mine, others in zip(first, second, strict=True):
        for a in mine:
            for b in others:
                expected[a, b] += 1
    assert counts == expected.reshape(-1).tolist()
    assert [ribbon["n"] for ribbon in ribbons] == sorted(expected[expected > 0].tolist(), reverse=True)
    assert {(ribbon["a"], ribbon["b"], ribbon["left"], ribbon["right"]) for ribbon in ribbons} >= {
        (0, 0, 0, 0), (0, 1, 1, 0), (0, 2, 3, 0), (1, 1, 0, 2), (2, 1, 1, 3)
    }  # fmt: skip


# In a page without a kernel


def opened(chromium: Any, tmp_path: Path, view: Any, problems: list[str]) -> Any:  # noqa: F811
    (tmp_path / "page.html").write_text(_page({"view": view}), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 900})
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready", timeout=20_000)
    return page


def closed(page: Any, problems: list[str]) -> None:
    assert page.evaluate("(() => { models.view.leave(); return models.view.left(); })()") == 0
    assert not problems
    page.close()


def test_a_text_is_explored(chromium: Any, tmp_path: Path):  # noqa: F811
    problems: list[str] = []
    router, experts = trace(experts=16)
    page = opened(chromium, tmp_path, viz.RoutingExplorer(TOKENS, router, experts, layers=[1, 2, 3], token=4), problems)
    words, columns, said = page.locator(".tm-word"), page.locator(".tm-column"), page.locator(".tm-said")
    first, second = experts[0][0, 4]
    assert [word.get_attribute("data-e") for word in words.all()] == [str(e) for e in experts[0][0, :, 0]]
    assert f"·crow (number 5) goes to expert {first}" in said.first.inner_text()
    assert page.locator(".tm-taken .tm-name").all_inner_texts() == sorted([str(first), str(second)], key=int)

    page.get_by_role("radio", name="layer 3").click()
    loads = viz.expert_loads(experts[2], 16)
    assert f"load in layer 3: max violation {max_violation(loads):.2f}" in page.locator(".tm-second").inner_text()
    assert f"The busiest, expert {loads.argmax()} has {loads.max()} of 10" in said.last.inner_text()
    page.get_by_role("radio", name="2nd choice").click()
    assert [word.get_attribute("data-e") for word in words.all()] == [str(e) for e in experts[2][0, :, 1]]

    page.evaluate("models.view.get = (get => (key) => key === 'layer' ? 0 : get(key))(models.view.get)")
    page.evaluate("models.view.emit('change:layer')")  # as when Python sets it
    assert page.get_by_role("radio", name="layer 1").get_attribute("aria-checked") == "true"
    page.get_by_role("radio", name="layer 3").click()
    columns.nth(int(loads.argmax())).click()
    its = (experts[2][0] == loads.argmax()).any(axis=-1)
    assert page.locator(".tm-away").count() == N - its.sum()
    page.get_by_role("button", name="show all").click()
    assert page.locator(".tm-away").count() == 0

    page.locator(".tm-columns").focus()
    page.keyboard.press("End")
    assert page.locator(".tm-picked .tm-name").inner_text() == "15"
    page.keyboard.press("Escape")
    assert page.locator(".tm-picked").count() == 0
    page.locator(".tm-words").focus()
    page.keyboard.press("End")
    assert "12 (number 10)" in said.first.inner_text()
    words.nth(1).hover()
    assert "·fox (number 2)" in said.first.inner_text()
    closed(page, problems)


def test_dropped_choices_are_nobodys(chromium: Any, tmp_path: Path):  # noqa: F811
    problems: list[str] = []
    router = [np.full((3, 4), 0.25)] * 2
    experts = [np.array([[0, 1], [-1, 1], [-1, -1]]), np.array([[2, -1], [2, 3], [3, 2]])]
    page = opened(chromium, tmp_path, viz.RoutingExplorer(["a", "b", "c"], router, experts, token=2), problems)
    assert page.locator(".tm-away").count() == 2
    assert "c (number 3) goes to no expert." in page.locator(".tm-said").first.inner_text()
    assert page.locator(".tm-went").all_inner_texts() == ["none", "3\n2"]
    assert page.locator(".tm-column > :last-child .tm-amount").all_inner_texts() == ["33 %", "67 %", "0 %", "0 %"]
    closed(page, problems)
    flow = opened(chromium, tmp_path, viz.RoutingFlow(["a", "b", "c"], experts, 4), problems)
    flow.wait_for_function("document.querySelectorAll('.tm-node').length")
    ways = flow.evaluate("[...document.querySelectorAll('.tm-ways path')].map((p) => p.dataset.a + p.dataset.b).sort()")
    assert ways == ["02", "12", "13"]
    closed(flow, problems)


def test_a_large_trace_draws_only_what_is_shown(chromium: Any, tmp_path: Path):  # noqa: F811
    problems: list[str] = []
    router, experts = trace(8, tokens=512, experts=64, k=6)
    view = viz.RoutingExplorer([f" t{i}" for i in range(512)], router, experts)
    page = opened(chromium, tmp_path, view, problems)
    assert page.locator(".tm-word").count() == 512 and page.locator(".tm-column").count() == 64
    assert page.evaluate("document.querySelectorAll('.tm *').length") < 2500
    # Color and pattern together are one expert's alone.
    marks = {column.get_attribute("class") for column in page.locator(".tm-column:not(.tm-taken)").all()}
    assert len(marks) == 64 - 6
    closed(page, problems)


def test_ways_between_layers(chromium: Any, tmp_path: Path):  # noqa: F811
    problems: list[str] = []
    experts = trace()[1]
    page = opened(chromium, tmp_path, viz.RoutingFlow(TOKENS, experts, E), problems)
    page.wait_for_function("document.querySelectorAll('.tm-node').length")
    said, note = page.locator(".tm-said"), page.locator(".tm-note")
    assert page.locator(".tm-node").count() == 2 * E
    assert "expert in layer 0 tells" in note.inner_text() and "of 3.00 at most" in note.inner_text()
    page.get_by_role("radio", name="1 → 2").click()
    ways = {(a, b) for one, two in zip(experts[1][0], experts[2][0], strict=True) for a in one for b in two}
    assert page.locator(".tm-ways path").count() == len(ways)

    expert = int(experts[1][0, 0, 0])
    page.locator(f"[data-side='0'][data-e='{expert}'] .tm-load").click()
    count = (experts[1][0] == expert).any(axis=-1).sum()
    assert f"Expert {expert} of layer 1 has {count} of 10 tokens" in said.inner_text()
    assert page.locator(".tm-lit path").count() == sum(a == expert for a, _ in ways)
    page.locator("svg").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".tm-marked").get_attribute("data-side") == "1"
    page.keyboard.press("Escape")
    assert page.locator(".tm-lit path").count() == 0 and "Point at an expert" in said.inner_text()
    closed(page, problems)


def test_a_router_is_set_by_hand(chromium: Any, tmp_path: Path):  # noqa: F811
    problems: list[str] = []
    logits = np.array([[2.0, 0, 0, 0]] * 4)
    page = opened(chromium, tmp_path, viz.RouteIt([" a", " b", " c", " d"], logits, k=1), problems)
    facts = lambda: page.locator(".tm-facts dd").all_inner_texts()  # noqa: E731
    assert facts() == ["3.00", "0 %", "0 of 4", "0 of 4"]
    assert page.locator(".tm-in").count() == 4
    slide = lambda name, value: page.get_by_role("slider", name=name, exact=True).fill(value)  # noqa: E731
    slide("capacity", "3")  # 1 × the average: one token each
    assert facts()[2:] == ["3 of 4", "3 of 4"] and page.locator(".tm-late").count() == 3
    slide("logit of ·b for expert 2", "3")
    assert facts()[0] == "2.00" and facts()[2:] == ["2 of 4", "2 of 4"]
    slide("bias of expert 0", "-0.8")  # under the others: all but b go to expert 1
    assert page.locator("tr").nth(1).locator(".tm-in .tm-verdict").inner_text() == "weight 1.00"
    page.get_by_role("button", name="no bias").click()
    page.get_by_role("button", name="one step").click()
    assert page.locator(".tm-biases .tm-logit").all_inner_texts() == ["−0.05", "+0.05", "0.00", "+0.05"]
    slide("k, experts a token", "4")
    page.get_by_role("radio", name="as scored").click()
    assert facts()[0] == "0.00" and facts()[2] == "0 of 16"
    slide("logit of ·a for expert 3", "-0.04")  # rounded, but never to a zero with a sign
    assert page.locator("tr").nth(1).locator(".tm-logit").last.inner_text() == "0.0"
    page.get_by_role("button", name="start again").click()
    assert facts()[0] == "3.00" and facts()[2] == "0 of 4"

    page.get_by_role("radio", name="the experts").click()  # each takes one token, all of them the first
    assert facts() == ["0.00", "100 %", "0 of 4", "3 of 4"]
    assert "3 tokens that nobody wants get none" in page.locator(".tm-said").inner_text()
    assert page.get_by_role("slider", name="bias of expert 0").is_disabled()
    slide("logit of ·c for expert 0", "3")
    assert page.locator("tr").nth(3).locator(".tm-in").count() == 1 and facts()[3] == "2 of 4"
    page.get_by_role("button", name="start again").click()
    assert page.get_by_role("slider", name="bias of expert 0").is_enabled() and facts()[0] == "3.00"
    closed(page, problems)


@pytest.mark.parametrize("view", ["RoutingExplorer", "RoutingFlow", "RouteIt"])
def test_all_that_can_be_set_is_reached_by_tab(chromium: Any, tmp_path: Path, view: str):  # noqa: F811
    problems: list[str] = []
    router, experts = trace()
    shown = {
        "RoutingExplorer": lambda: viz.RoutingExplorer(TOKENS, router, experts, expert=3),
        "RoutingFlow": lambda: viz.RoutingFlow(TOKENS, experts, E),
        "RouteIt": viz.RouteIt,
    }[view]()
    page = opened(chromium, tmp_path, shown, problems)
    stops = "[role=radiogroup], [role=listbox], input, svg[tabindex], button:not([role])"
    count = page.locator(stops).count()
    assert count >= 2
    page.evaluate("(stops) => (window.stops = [...document.querySelectorAll(stops)])", stops)
    reached = set()
    for _ in range(count):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("stops.findIndex((stop) => stop.contains(document.activeElement))"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"  # and seen
    assert reached == set(range(count))
    closed(page, problems)


def test_experts_of_one_color_differ_in_pattern(chromium: Any, tmp_path: Path):  # noqa: F811
    problems: list[str] = []
    experts = trace(2, tokens=300, experts=64, k=6)[1]
    page = opened(chromium, tmp_path, viz.RoutingFlow(["a"] * 300, experts, 64), problems)
    page.wait_for_function("document.querySelectorAll('.tm-node').length")
    looks = page.evaluate(
        "[...document.querySelectorAll('[data-side=\"0\"] .tm-load')].map((bar) => "
        "[getComputedStyle(bar).fill, bar.getAttribute('mask') ?? ''])"
    )
    assert len({tuple(look) for look in looks}) == 64
    masks = {mask[5:-1] for _, mask in looks if mask}
    assert len(masks) == 7 and all(page.locator(f"mask#{mask}").count() == 1 for mask in masks)
    closed(page, problems)
