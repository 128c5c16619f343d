"""Mixture of experts against a loop over tokens and experts, and the routers by their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradients
from hypothesis import given
from hypothesis import strategies as st

from tinymoe.backend import current
from tinymoe.models import CausalLM, Config
from tinymoe.nn.moe import Experts, MoE, sort_by_expert
from tinymoe.nn.recorder import recording
from tinymoe.nn.routers import Routing, expert_capacity, within_capacity, within_groups
from tinymoe.tensor import Tensor

SHAPE = {
    "mlp": "moe",
    "vocab_size": 17,
    "hidden_size": 6,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "initializer_range": 0.5,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
}
GROUPS = {"n_group": 4, "topk_group": 2}
VARIANTS = {
    "Qwen1.5-MoE": {"shared_expert_intermediate_size": 7, "shared_expert_gate": True},
    "Mixtral": {"norm_topk_prob": True, "moe_intermediate_size": None},
    "one of eight": {"num_experts_per_tok": 1},
    "all experts": {"num_experts_per_tok": 8},
    "DeepSeek V2": {**GROUPS, "router": "softmax_groups", "routed_scaling_factor": 16.0},
    "DeepSeek V3": {**GROUPS, "router": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5},
    "Kimi K2": {"router": "sigmoid", "shared_expert_intermediate_size": 5},
}


def block(**changes) -> MoE:
    """In float64, with biases that matter."""
    moe = MoE(Config(**{**SHAPE, **changes}), np.random.default_rng(1))
    for name, p in moe.named_parameters():
        bias = np.random.default_rng(2).normal(0, 0.5, p.shape) if "bias" in name else 0.0
        p.data = p.data.astype(np.float64) + current().asarray(bias)
    return moe


def tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, count, 6))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def chosen_weights(x: np.ndarray, c: Config, weight: np.ndarray, bias: np.ndarray | None) -> dict[int, float]:
    """For one token x (C,) its experts and their weights, as the papers put it."""
    logits = weight @ x
    scores = sigmoid(logits) if c.router == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
    ranking, per_group = scores if bias is None else scores + bias, c.num_experts // c.n_group
    groups, count = ranking.reshape(c.n_group, per_group), 2 if c.router == "sigmoid" else 1
    best = sorted(range(c.n_group), key=lambda g: -sum(sorted(groups[g])[-count:]))[: c.topk_group]
    allowed = [e for e in range(c.num_experts) if c.router == "softmax" or e // per_group in best]
    experts = sorted(allowed, key=lambda e: -ranking[e])[: c.num_experts_per_tok]
    total = sum(scores[e] for e in experts) if c.norm_topk_prob else 1.0
    return {e: scores[e] / total * c.routed_scaling_factor for e in experts}


def swiglu(x, gate, up, down):
    return down @ (gate @ x * sigmoid(gate @ x) * (up @ x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_against_a_loop_over_tokens_and_experts(backend, variant):
    moe, c, x = block(**VARIANTS[variant]), Config(**{**SHAPE, **VARIANTS[variant]}), tokens(20)
    p = {name: current().to_numpy(p.data) for name, p in moe.named_parameters()}
    with recording() as records:
        got = current().to_numpy(moe(Tensor(x)).data)[0]
    for i, token in enumerate(x[0]):
        weights = chosen_weights(token, c, p["gate.weight"], p.get("gate.e_score_correction_bias"))
        assert [*records["experts"][0][0, i]] == [*weights]  # the best first
        own = ("gate_proj", "up_proj", "down_proj")
        expected = sum(w * swiglu(token, *(p[f"experts.{name}"][e] for name in own)) for e, w in weights.items())
        if c.shared_expert_intermediate_size:
            gate = sigmoid(p["shared_expert_gate.weight"] @ token) if c.shared_expert_gate else 1
            expected = expected + gate * swiglu(token, *(p[f"shared_experts.{name}.weight"] for name in own))
        np.testing.assert_allclose(got[i], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", ["Qwen1.5-MoE", "DeepSeek V2", "DeepSeek V3"])
def test_gradients_by_finite_differences(backend, variant):
    """For the tokens, the router and the experts; the bias has none."""
    moe = block(**VARIANTS[variant])
    own = {"gate.weight": moe.gate, "experts.up_proj": moe.experts, "experts.down_proj": moe.experts}

    def run(x: Tensor, *values: Tensor) -> Tensor:
        for (name, module), value in zip(own.items(), values, strict=True):
            setattr(module, name.split(".")[1], value)
        return moe(x)

    values = [current().to_numpy(p.data) for name, p in moe.named_parameters() if name in own]
    check_gradients(run, tokens(4), *values)


def test_the_bias_decides_who_is_chosen_and_nothing_else(backend):
    moe, x = block(**VARIANTS["Kimi K2"]), Tensor(tokens(30)[0])
    before = moe.gate(x)
    moe.gate.e_score_correction_bias.data = current().asarray(np.array([9.0] + 7 * [0.0]))
    after = moe.gate(x)
    first, rest = (current().to_numpy(routing.choices) for routing in (after, before))
    assert (first[:, 0] == 0).all() and (rest != 0).all(axis=1).any()
    np.testing.assert_array_equal(after.scores.numpy(), before.scores.numpy())
    np.testing.assert_array_equal(after.weights.numpy()[:, 0], after.scores.numpy()[:, 0])
    after.weights.sum().backward()
    assert moe.gate.e_score_correction_bias.grad is None and moe.gate.weight.grad is not None


def test_an_optimizer_leaves_the_bias_alone():
    from tinymoe.train.optim import AdamW

    model = CausalLM(Config(**SHAPE, router="sigmoid"))
    ids = np.arange(12).reshape(2, 6)
    optimizer = AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model.loss(ids, ids).backward()
    optimizer.step()
    for layer in model.model.layers:
        assert not layer.mlp.gate.e_score_correction_bias.numpy().any()


@given(tokens=st.integers(1, 9), experts=st.integers(1, 7), data=st.data())
def test_pairs_sorted_by_expert(tokens, experts, data):
    k = data.draw(st.integers(1, experts))
    rows = [data.draw(st.permutations(range(experts)))[:k] for _ in range(tokens)]
    choices = np.array(rows)
    pairs, offsets = sort_by_expert(choices, experts)
    assert sorted(pairs) == [*range(tokens * k)] and (offsets[0], offsets[-1]) == (0, tokens * k)
    for expert in range(experts):
        mine = pairs[offsets[expert] : offsets[expert + 1]]
        assert (choices.reshape(-1)[mine] == expert).all() and [*mine] == sorted(mine)


def test_groups_are_worth_their_best(backend):
    scores = current().asarray(np.array([[0.9, 0.0, 0.5, 0.6, 0.3, 0.3]]))
    one = current().to_numpy(within_groups(scores, n_group=3, topk_group=1, best=1))
    two = current().to_numpy(within_groups(scores, n_group=3, topk_group=1, best=2))
    assert [*np.isfinite(one[0])] == [True, True, False, False, False, False]
    assert [*np.isfinite(two[0])] == [False, False, True, True, False, False]
    assert within_groups(scores, 3, 3, best=1) is scores


def test_a_trace_shows_router_and_experts():
    model = CausalLM(Config(**SHAPE, router="sigmoid"))
    trace = model.trace(np.arange(12).reshape(2, 6))
    assert [a.shape for a in trace.router] == 2 * [(2, 6, 8)]
    assert [a.shape for a in trace.experts] == 2 * [(2, 6, 3)]
    for scores, choices in zip(trace.router, trace.experts, strict=True):  # the biases are zero
        assert (np.take_along_axis(scores, choices, -1).min(-1) >= np.sort(scores)[..., -3]).all()


ROUTERS = {
    **{name: changes for name, changes in VARIANTS.items() if "shared_expert_intermediate_size" not in changes},
    "GPT-OSS": {"router": "softmax_chosen"},
    "Llama 4": {"router": "sigmoid_chosen", "num_experts_per_tok": 1},
    "Switch": {"num_experts_per_tok": 1, "capacity_factor": 1.25},
    "little room": {"norm_topk_prob": True, "capacity_factor": 0.5},
    "experts choose": {"router": "expert_choice", "num_experts_per_tok": 2},
}


KINDS = ("softmax", "softmax_groups", "sigmoid", "softmax_chosen", "sigmoid_chosen")


def route(moe: MoE, x: np.ndarray) -> tuple[Routing, dict[str, np.ndarray]]:
    routing = moe.gate(Tensor(x))
    arrays = {"scores": routing.scores.data, "weights": routing.weights.data, "seen": routing.seen}
    return routing, {name: current().to_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize("variant", ROUTERS)
@pytest.mark.parametrize("count", [1, 30])
def test_experts_that_change_nothing_return_the_tokens(backend, variant, count, monkeypatch):
    """Dispatch and combine alone: each token comes back times the weights of those of its experts that see it."""
    moe, x = block(**ROUTERS[variant]), tokens(count)[0]
    monkeypatch.setattr(Experts, "answer", lambda self, rows, offsets: rows)
    routing, arrays = route(moe, x)
    total = (arrays["weights"] * (arrays["seen"] >= 0)).sum(axis=-1, keepdims=True)
    got = current().to_numpy(moe.experts(Tensor(x), routing).data)
    np.testing.assert_allclose(got, x * total, rtol=1e-9)
    if variant == "Mixtral":
        np.testing.assert_allclose(got, x, rtol=1e-9)


@pytest.mark.parametrize("variant", [name for name in ROUTERS if "DeepSeek" not in name])
def test_the_order_of_experts_does_not_matter(backend, variant):
    """With the experts in another order the same ones are chosen, and the answer is the same."""
    moe, x, order = block(**ROUTERS[variant]), tokens(30), np.array([3, 0, 7, 1, 2, 6, 5, 4])
    before, (_, arrays) = current().to_numpy(moe(Tensor(x)).data), route(moe, x[0])
    for p in (*moe.gate.parameters(), *moe.experts.parameters()):
        p.data = p.data[current().asarray(order)]
    np.testing.assert_allclose(current().to_numpy(moe(Tensor(x)).data), before, rtol=1e-9, atol=1e-12)
    _, again = route(moe, x[0])
    np.testing.assert_allclose(again["scores"], arrays["scores"][:, order])
    if moe.gate.capacity_factor is None:
        renamed = np.where(again["seen"] < 0, -1, order[again["seen"]])
        np.testing.assert_array_equal(np.sort(renamed), np.sort(arrays["seen"]))


@pytest.mark.parametrize("variant", ["GPT-OSS", "Llama 4", "Switch", "little room", "experts choose", "all experts"])
def test_gradients_of_routers_and_experts_by_finite_differences(backend, variant):
    moe = block(**ROUTERS[variant])
    own = [moe.gate, moe.experts, moe.experts, moe.experts]
    names = ["weight", "gate_proj", "up_proj", "down_proj"]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        for module, name, value in zip(own, names, values, strict=True):
            setattr(module, name, value)
        return moe(x)

    check_gradients(run, tokens(3), *(current().to_numpy(getattr(m, n).data) for m, n in zip(own, names, strict=True)))


@given(rows=st.lists(st.permutations(range(5)), min_size=1, max_size=12), k=st.integers(1, 5), room=st.integers(1, 9))
def test_dropped_tokens_are_those_the_formula_drops(rows, k, room):
    choices = np.array(rows)[:, :k]
    kept = within_capacity(choices, room)
    taken = [0] * 5
    for token, row in enumerate(choices):
        for choice, expert in enumerate(row):
            assert kept[token, choice] == (taken[expert] < room)
            taken[expert] += 1


@pytest.mark.parametrize(
    ("pairs", "experts", "factor", "capacity"),
    [(16, 4, 1.0, 4), (16, 4, 1.25, 5), (17, 4, 1.0, 5), (3, 8, 1.0, 1), (16, 4, 0.01, 1), (8, 1, 2.0, 16)],
)
def test_capacity(pairs, experts, factor, capacity):
    assert expert_capacity(pairs, experts, factor) == capacity


def test_a_router_with_capacity_drops_and_one_with_plenty_does_not(backend):
    x = tokens(40)[0]
    tight, loose = block(capacity_factor=0.5), block(capacity_factor=8.0)
    _, dropped = route(tight, x)
    assert np.bincount(dropped["seen"][dropped["seen"] >= 0]).max() == expert_capacity(120, 8, 0.5)
    np.testing.assert_array_equal(
        current().to_numpy(loose(Tensor(x[None])).data), current().to_numpy(block()(Tensor(x[None])).data)
    )
    with recording() as records:
        tight(Tensor(x[None]))
    np.testing.assert_array_equal(records["experts"][0][0], dropped["seen"])


def test_experts_that_choose_have_the_same_load(backend):
    moe, x = block(router="expert_choice", num_experts_per_tok=2), tokens(32)[0]
    _, arrays = route(moe, x)
    seen, scores = arrays["seen"], arrays["scores"]
    assert [*np.bincount(seen[seen >= 0], minlength=8)] == 8 * [32 * 2 // 8]
    for expert in range(8):
        mine = (seen == expert).any(axis=-1)
        assert scores[mine, expert].min() >= scores[~mine, expert].max()


@pytest.mark.parametrize("variant", ["Mixtral", "DeepSeek V3", "GPT-OSS", "Llama 4", "Switch"])
def test_one_expert_takes_all_and_the_others_nothing(backend, variant):
    moe, x = block(**ROUTERS[variant]), np.abs(tokens(12))
    moe.gate.weight.data = moe.gate.weight.data * 0
    moe.gate.weight.data[5] += 3.0
    out = moe(Tensor(x))
    assert (current().to_numpy(moe.gate(Tensor(x[0])).choices) == 5).any(axis=-1).all()
    out.sum().backward()
    grads = current().to_numpy(moe.experts.down_proj.grad)
    assert np.isfinite(grads).all() and grads[5].any()
    if moe.gate.num_experts_per_tok == 1:
        assert not np.delete(grads, 5, axis=0).any()


def test_of_equals_the_first_are_chosen(backend):
    """PyTorch promises no order; here it is always this one."""
    for router in KINDS:
        moe = block(router=router)
        for p in moe.gate.parameters():
            p.data = p.data * 0
        assert [*map(list, route(moe, tokens(2)[0])[1]["seen"])] == 2 * [[0, 1, 2]]


@pytest.mark.parametrize("router", [*KINDS, "expert_choice"])
def test_logits_that_are_not_numbers(backend, router):
    moe, x = block(router=router), tokens(4)
    x[0, 2] = np.nan
    with pytest.raises(FloatingPointError, match=r"router logits: .* for token 2 of 4, expected finite ones"):
        moe(Tensor(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({"capacity_factor": factor}, f"capacity_factor: got {factor}, expected a number above 0, or None")
            for factor in (0, -1.0, float("inf"), float("nan"))
        ),
        ({"experts": "wise"}, "experts: got 'wise', expected one of "),
        ({"num_experts": None}, "num_experts: got None, expected at least 1, for a mixture of experts"),
        ({"num_experts": 0}, "num_experts: got 0, expected at least 1"),
        ({"num_experts_per_tok": None}, r"num_experts_per_tok: got None, expected 1 to num_experts \(8\)"),
        ({"num_experts_per_tok": 9}, r"num_experts_per_tok: got 9, expected 1 to num_experts \(8\)"),
        ({"router": "dice"}, "router: got 'dice', expected one of expert_choice, sigmoid, "),
        ({"router": "sigmoid", "n_group": 3}, r"n_group: got 3, expected a divisor of num_experts \(8\)"),
        ({"router": "sigmoid", "n_group": 0}, "n_group: got 0, expected a divisor"),
        ({"router": "sigmoid", "n_group": 4, "topk_group": 5}, r"topk_group: got 5, expected 1 to n_group \(4\)"),
        (
            {"router": "softmax_groups", "n_group": 4, "topk_group": 1},
            r"num_experts_per_tok: got 3, expected at most 2, the experts in 1 of 4 groups",
        ),
    ],
)
def test_routers_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        CausalLM(Config(**{**SHAPE, **changes}))
