"""Log-probabilities of given tokens, and what the losses of post-training share."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradients
from training import VOCABULARY, tiny_model

from tinymoe import Tensor, ops
from tinymoe.backend import current, reference
from tinymoe.models import CausalLM
from tinymoe.posttrain import functional, token_logps
from tinymoe.posttrain.logps import linear_log_probs
from tinymoe.tensor import no_grad

IDS = np.random.default_rng(0).integers(0, VOCABULARY, (3, 7))
MASK = np.array([[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])


def by_hand(model: CausalLM, ids: np.ndarray, temperature: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    with no_grad():
        logits = model(ids).numpy()[:, :-1].astype(np.float64) / temperature
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_p, ids[:, 1:, None], axis=-1)[..., 0]
    return picked, -(np.exp(log_p) * log_p).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_they_are_those_of_the_logits(backend, temperature):
    model = tiny_model(initializer_range=0.5)
    got = token_logps(model, IDS, temperature=temperature)
    for values, expected in zip(got, by_hand(model, IDS, temperature), strict=True):
        assert values.shape == (3, 6)
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-5)


def test_only_what_the_mask_selects_is_scored(backend, monkeypatch):
    model = tiny_model(initializer_range=0.5)
    for chunk in (2, 1024):
        monkeypatch.setattr(reference, "LOSS_CHUNK", chunk)
        got = token_logps(model, IDS, MASK)
        for values, expected in zip(got, by_hand(model, IDS), strict=True):
            np.testing.assert_allclose(values.numpy(), expected * MASK[:, 1:], atol=1e-5)
            assert (values.numpy()[MASK[:, 1:] == 0] == 0).all()


def test_padding_on_either_side_changes_nothing(backend):
    model = tiny_model(initializer_range=0.5)
    alone = token_logps(model, IDS[:1, :4])
    for left, right in ((3, 0), (0, 3), (2, 1)):
        ids = np.pad(IDS[:1, :4], ((0, 0), (left, right)))
        seen = np.pad(np.ones((1, 4), dtype=int), ((0, 0), (left, right)))
        first = np.arange(7) == left  # has nothing before it to be likely after
        got = token_logps(model, ids, seen * ~first, attention_mask=seen)
        for values, expected in zip(got, alone, strict=True):
            np.testing.assert_allclose(values.numpy()[:, left : left + 3], expected.numpy(), atol=1e-5)


def test_the_softcap_and_documents_of_the_model_are_used(backend):
    model = tiny_model(initializer_range=0.5, final_logit_softcapping=0.3)
    np.testing.assert_allclose(token_logps(model, IDS).logps.numpy(), by_hand(model, IDS)[0], atol=1e-5)
    packed = token_logps(model, IDS, documents=[[0, 0, 0, 0, 1, 1, 1]] * 3).logps.numpy()
    np.testing.assert_allclose(packed[:, 4:], by_hand(model, IDS[:, 4:])[0], atol=1e-5)


def test_the_loss_is_minus_their_mean(backend):
    model = tiny_model(initializer_range=0.5)
    loss = model.loss(IDS[:, :-1], IDS[:, 1:])
    loss.backward()
    expected = [current().to_numpy(p.grad) for p in model.parameters()]
    for p in model.parameters():
        p.grad = None
    (-token_logps(model, IDS).logps.mean()).backward()
    for p, grad in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(current().to_numpy(p.grad), grad, atol=1e-6)


def test_gradients_across_chunks(backend, monkeypatch):
    monkeypatch.setattr(reference, "LOSS_CHUNK", 2)
    rng = np.random.default_rng(1)
    x, weight, bias = rng.normal(size=(2, 3, 4)), rng.normal(size=(5, 4)), rng.normal(size=5)
    targets = current().asarray(np.array([[1, -1, 3], [0, 4, 2]]))
    check_gradients(lambda *a: linear_log_probs(*a, targets=targets, softcap=0.8, temperature=0.7), x, weight, bias)


def test_extreme_logits_stay_finite(backend):
    x, weight = Tensor(np.array([[3e4]], dtype=np.float32), requires_grad=True), np.array([[1.0], [-1.0]], np.float32)
    pair = linear_log_probs(x, current().asarray(weight), targets=current().asarray(np.array([1])))
    np.testing.assert_allclose(pair.numpy(), [[-6e4], [0.0]])
    pair.sum().backward()
    assert np.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature: got 0.0, expected above 0"),
        ({"temperature": float("nan")}, "temperature: got nan, expected above 0"),
        ({"mask": MASK[:, 1:]}, r"mask: got shape \(3, 6\), expected \(3, 7\)"),
        ({"attention_mask": MASK[:2]}, r"attention_mask: got shape \(2, 7\), expected that of ids, \(3, 7\)"),
        ({"ids": IDS[:, :1]}, r"ids: got shape \(3, 1\), expected two tokens or more"),
        ({"ids": IDS + VOCABULARY}, r"ids: got token id 1\d|2\d, expected 0 to 10"),
        ({"ids": IDS - 99}, r"ids: got token id -\d+, expected 0 to 10"),
        ({"ids": IDS * 1.0}, r"ids: got shape \(3, 7\) of float64, expected \(batch, tokens\) of integers"),
        ({"ids": IDS[0]}, r"ids: got shape \(7,\) of int64, expected \(batch, tokens\) of integers"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        token_logps(tiny_model(), **{"ids": IDS, **options})


# -- what the losses share


def test_minimum_shares_the_gradient_of_a_tie(backend):
    check_gradients(functional.minimum, np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 0.0]))


def test_log_sigmoid_is_exact_on_both_sides(backend):
    x = Tensor(np.array([-800.0, -1.0, 0.0, 1.0, 800.0]), requires_grad=True)
    y = functional.log_sigmoid(x)
    np.testing.assert_allclose(y.numpy(), [-800, -1.3132616875182228, -np.log(2), -0.3132616875182228, 0], rtol=1e-14)
    y.sum().backward()
    np.testing.assert_allclose(current().to_numpy(x.grad)[[0, 2, 4]], [1, 0.5, 0], atol=1e-15)


def test_what_a_mask_hides_has_no_influence(backend):
    x = Tensor(np.array([[1.0, np.nan], [np.inf, 3.0]]), requires_grad=True)
    mask = current().asarray(np.eye(2) > 0)
    mean = functional.masked_mean(x, mask)
    mean.backward()
    assert mean.item() == 2
    np.testing.assert_array_equal(current().to_numpy(x.grad), np.eye(2) / 2)
    assert functional.masked_mean(x, mask & ~mask).item() == 0


def test_constants_have_no_history():
    x = Tensor(np.ones(3), requires_grad=True)
    values = functional.constant("x", ops.exp(x), Tensor(np.zeros(3, np.float32)))
    assert isinstance(values, np.ndarray) and values.dtype == np.float32
    with pytest.raises(ValueError, match=r"x: got shape \(3,\), expected \(2,\)"):
        functional.constant("x", x, Tensor(np.zeros(2)))
