"""Balance of the experts: losses by their formulas, their gradients, the bias, and what training reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gradients import check_gradients
from hypothesis import given
from hypothesis import strategies as st
from training import CONTEXT, tiny_config, tiny_data, tiny_model, without_timing

from tinymoe.backend import current
from tinymoe.models import from_pretrained, zoo
from tinymoe.nn.balance import (
    RouterLosses,
    RouterState,
    bias_step,
    expert_load,
    layer_balancing_loss,
    load_balancing_loss,
    load_entropy,
    max_violation,
    router_z_loss,
    sequence_balance_loss,
)
from tinymoe.tensor import Tensor, no_grad
from tinymoe.train import Trainer

LOSSES = {
    "together": load_balancing_loss,
    "each layer": layer_balancing_loss,
    "sequence": sequence_balance_loss,
    "z": router_z_loss,
}
MASK = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
MOE = {"mlp": "moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


def state(logits, k: int = 2) -> RouterState:
    logits = logits if isinstance(logits, Tensor) else Tensor(logits)
    order = np.argsort(-current().to_numpy(logits.data), axis=-1, kind="stable")[..., :k]
    exp = (logits - logits.max(axis=-1, keepdims=True)).exp()
    return RouterState(logits, exp / exp.sum(axis=-1, keepdims=True), current().asarray(order))


def random_logits(layers: int = 2, shape=(3, 4, 5)) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(size=shape) for i in range(layers)]


def switch_loss(layers: list[np.ndarray], k: int, mask: np.ndarray | None) -> float:
    """Token by token, as the paper puts it, over the tokens of all layers."""
    rows = [row for layer in layers for row, keep in zip(layer.reshape(-1, 5), _kept(mask), strict=True) if keep]
    f, P = np.zeros(5), np.zeros(5)
    for row in rows:
        P += np.exp(row) / np.exp(row).sum() / len(rows)
        for e in sorted(range(5), key=lambda e: -row[e])[:k]:
            f[e] += 1 / len(rows)
    return 5 * float(f @ P)


def text_loss(layer: np.ndarray, k: int, mask: np.ndarray | None) -> float:
    """The mean over texts of the sum over experts of DeepSeek's f and P."""
    total = 0.0
    for text, keep in zip(layer, np.ones((3, 4)) if mask is None else mask, strict=True):
        rows = text[keep > 0]
        chosen = [e for row in rows for e in sorted(range(5), key=lambda e: -row[e])[:k]]
        for e in range(5):
            P = sum(np.exp(row[e]) / np.exp(row).sum() for row in rows) / max(len(rows), 1)
            total += 5 / (k * max(len(rows), 1)) * chosen.count(e) * P
    return total / 3


def _kept(mask):
    return np.ones(12) if mask is None else mask.reshape(-1)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all tokens", "padding"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_losses_by_their_formulas(backend, k, mask):
    layers = random_logits()
    states, on = [state(layer, k) for layer in layers], None if mask is None else current().asarray(mask)
    assert load_balancing_loss(states, on).item() == pytest.approx(switch_loss(layers, k, mask))
    apart = [switch_loss([layer], k, mask) for layer in layers]
    assert layer_balancing_loss(states, on).item() == pytest.approx(sum(apart))
    z = [np.log(np.exp(layer).sum(-1)).reshape(-1)[_kept(mask) > 0] for layer in layers]
    assert router_z_loss(states, on).item() == pytest.approx(sum((a**2).mean() for a in z))
    assert sequence_balance_loss(states, on).item() == pytest.approx(sum(text_loss(a, k, mask) for a in layers))


@pytest.mark.parametrize("mask", [None, MASK], ids=["all tokens", "padding"])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_losses_by_finite_differences(backend, name, mask):
    on = None if mask is None else current().asarray(mask)
    check_gradients(lambda *layers: LOSSES[name]([state(layer) for layer in layers], on), *random_logits())


def test_a_loss_of_nothing_but_padding_is_zero(backend):
    layers, nothing = [state(a) for a in random_logits()], current().asarray(np.zeros((3, 4)))
    assert [loss(layers, nothing).item() for loss in LOSSES.values()] == [0, 0, 0, 0]


def test_even_routers_have_the_least_loss():
    """k for the load, 1 for the texts; and E times as much when one expert takes all."""
    even = np.tile(9.0 * np.eye(5), (3, 1, 1))  # (3, 5, 5): each token an expert of its own
    assert load_balancing_loss([state(even, 1)]).item() == pytest.approx(1)
    assert sequence_balance_loss([state(even, 1)]).item() == pytest.approx(1)
    skewed = np.tile(99.0 * np.eye(5)[0], (3, 4, 1))
    assert load_balancing_loss([state(skewed, 1)]).item() == pytest.approx(5)
    assert sequence_balance_loss([state(skewed, 1)]).item() == pytest.approx(5)


def test_layers_together_are_not_layers_apart():
    """One layer's favorite is the other's neglected one: together they are even, each by itself is not."""
    one, other = (np.tile(9.0 * np.eye(5)[e], (3, 4, 1)) for e in (0, 1))
    states = [state(one, 1), state(other, 1)]
    assert load_balancing_loss(states).item() < 0.3 * layer_balancing_loss(states).item()


def test_a_step_along_the_gradient_evens_out_the_load():
    logits = np.random.default_rng(0).normal(size=(8, 32, 5)) * 0.5 + np.array([1.5, 0, 0, 0, -1])
    before = max_violation(expert_load(state(logits, 1).choices, 5))
    for _ in range(50):
        leaf = Tensor(logits, requires_grad=True)
        load_balancing_loss([state(leaf, 1)]).backward()
        logits = logits - 100 * current().to_numpy(leaf.grad)
    assert max_violation(expert_load(state(logits, 1).choices, 5)) < 0.2 < 1 < before


def test_load_and_its_measures(backend):
    xp = current().xp
    choices = xp.asarray([[[0, 2], [2, 1]], [[2, -1], [0, 2]]])
    load = current().to_numpy(expert_load(choices, 4))
    assert [*load] == [2, 1, 4, 0]
    assert [*current().to_numpy(expert_load(choices, 4, xp.asarray([[1, 0], [0, 1]])))] == [2, 0, 2, 0]
    assert max_violation(load) == pytest.approx(4 / 1.75 - 1)
    p = load[load > 0] / 7
    assert load_entropy(load) == pytest.approx(-(p * np.log(p)).sum() / np.log(4))
    assert (max_violation(np.ones(4)), load_entropy(np.ones(4))) == (0, pytest.approx(1))
    assert (load_entropy(np.array([0, 9])), load_entropy(np.array([3]))) == (0, 1)
    for measure in (max_violation, load_entropy):  # of several layers or steps at once
        loads = np.array([[2, 1, 4, 0], [1, 1, 1, 1]])
        np.testing.assert_array_equal(measure(loads), [measure(row) for row in loads])


@given(load=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_biases_move_against_the_load(load):
    step = bias_step(np.array(load), speed=0.25)
    for e, tokens in enumerate(load):
        more, less = tokens * len(load) > sum(load), tokens * len(load) < sum(load)
        assert step[e] == (-0.25 if more else 0.25 if less else 0)


def test_losses_with_coefficients():
    layers = [state(layer) for layer in random_logits()]
    parts = [loss(layers).item() for loss in LOSSES.values()]
    assert RouterLosses(0.1, 0.4, 2.0, 0.01)(layers, None).item() == pytest.approx(np.dot([0.1, 0.4, 2.0, 0.01], parts))
    assert not RouterLosses() and RouterLosses(z=0.1)


def test_a_model_adds_the_losses_that_its_config_asks_for(backend):
    """In training, once for all layers, and without the padding."""
    from tinymoe.nn.recorder import recording

    ids = np.arange(2 * CONTEXT).reshape(2, -1) % 11
    coefficients = {
        "router_aux_loss_coef": 0.1,
        "layer_aux_loss_coef": 0.05,
        "sequence_loss_coef": 0.02,
        "router_z_loss_coef": 0.01,
    }
    plain, model = (tiny_model(**MOE, num_hidden_layers=2, **others) for others in ({}, coefficients))
    mask = np.ones_like(ids)
    mask[0, -3:] = 0
    for attention_mask in (None, mask):
        with no_grad(), recording() as records:
            plain.loss(ids, ids, attention_mask=attention_mask)
        states = [
            RouterState(Tensor(np.log(scores)), Tensor(scores), current().asarray(choices))
            for scores, choices in zip(records["router"], records["experts"], strict=True)
        ]
        on = None if attention_mask is None else current().asarray(mask)
        coefficients = {load_balancing_loss: 0.1, layer_balancing_loss: 0.05, sequence_balance_loss: 0.02}
        expected = sum(weight * loss(states, on).item() for loss, weight in coefficients.items())
        got = model.loss(ids, ids, attention_mask=attention_mask).item()
        got -= plain.loss(ids, ids, attention_mask=attention_mask).item()
        assert expected < got < expected + 0.1  # the rest is the z-loss, which scores do not tell
    with no_grad():
        assert model.loss(ids, ids).item() == plain.loss(ids, ids).item()


def test_losses_reach_the_routers(backend):
    ids = np.arange(2 * CONTEXT).reshape(2, -1) % 11
    grads = []
    for coefficient in (0.0, 0.5):
        model = tiny_model(**MOE, router="sigmoid", sequence_loss_coef=coefficient)
        model.loss(ids, ids).backward()
        grads.append(current().to_numpy(model.model.layers[0].mlp.gate.weight.grad))
    assert np.abs(grads[0] - grads[1]).max() > 1e-4


def tiny_deepseek():
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_experts": 4, "n_group": 1}
    return zoo.build("deepseek-v3-nano", vocab_size=11, **small, topk_group=1, bias_update_speed=0.01)


def test_training_reports_the_load_and_moves_the_biases(tmp_path):
    model = tiny_deepseek()
    trainer = Trainer(model, tiny_data(), tiny_config(accumulate=2), tmp_path)
    gate, loads = model.model.layers[1].mlp.gate, []
    biases = [gate.e_score_correction_bias.numpy().copy()]
    trainer.run(progress=False, on_step=lambda metrics: biases.append(gate.e_score_correction_bias.numpy().copy()))
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        (load,) = metrics["expert_load"]
        assert len(load) == 4 and sum(load) == pytest.approx(1, abs=2e-4)
        assert metrics["max_violation"] == [pytest.approx(max(load) * 4 - 1, abs=3e-4)]
        assert metrics["load_entropy"] == [pytest.approx(load_entropy(np.array(load)), abs=3e-4)]
        loads.append(load)
    for load, before, after in zip(loads, biases[:-1], biases[1:], strict=True):
        np.testing.assert_allclose(after - before, 0.01 * np.sign(0.25 - np.array(load)), atol=1e-6)
    assert from_pretrained(tmp_path).config == model.config
    assert "expert_load" not in Trainer(tiny_model(), tiny_data(), tiny_config()).step()


def test_a_resumed_run_has_the_same_biases_and_loads(tmp_path):
    whole = Trainer(tiny_deepseek(), tiny_data(), tiny_config())
    whole.run(progress=False)

    def stop(metrics):
        if metrics["step"] == 8:
            raise RuntimeError("the power is off")

    with pytest.raises(RuntimeError):
        Trainer(tiny_deepseek(), tiny_data(), tiny_config(), tmp_path).run(stop, progress=False)
    resumed = Trainer(tiny_deepseek(), tiny_data(), tiny_config(), tmp_path)
    assert resumed.resume() == 5
    resumed.run(progress=False)
    assert without_timing(resumed.history) == without_timing(whole.history)
    biases = [trainer.model.model.layers[1].mlp.gate.e_score_correction_bias.numpy() for trainer in (whole, resumed)]
    np.testing.assert_array_equal(*biases)
    assert biases[0].any()


def test_looking_and_evaluating_do_not_count():
    model = tiny_model(**MOE)
    ids = np.arange(2 * CONTEXT).reshape(2, -1) % 11
    with no_grad():
        model.loss(ids, ids)
    moe = model.model.layers[0].mlp
    assert moe.after_step() == {}
    model.loss(ids, ids)
    assert sum(moe.after_step()["expert_load"]) == pytest.approx(1) and moe.after_step() == {}
