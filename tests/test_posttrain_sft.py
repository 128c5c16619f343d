"""Supervised fine-tuning and distillation: formulas, masks, parts of a batch, and errors."""

from __future__ import annotations

import numpy as np
import pytest
from gradients import check_gradients
from training import VOCABULARY, tiny_model

from tinymoe import Tensor, zoo
from tinymoe.backend import current
from tinymoe.models import CausalLM
from tinymoe.posttrain import completion_targets, distill_loss, generalized_jsd, sft_loss, token_logps
from tinymoe.tensor import no_grad

IDS = np.random.default_rng(0).integers(0, VOCABULARY, (4, 6))
MASK = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0]])
STUDENT, TEACHER = np.random.default_rng(1).normal(size=(2, 2, 3, 5))


def grads(model: CausalLM) -> list[np.ndarray]:
    return [current().to_numpy(p.grad) for p in model.parameters()]


# -- supervised fine-tuning


def test_only_the_answers_tokens_are_targets():
    inputs, targets = completion_targets(IDS, MASK)
    np.testing.assert_array_equal(inputs, IDS[:, :-1])
    for row in range(4):
        for t in range(5):
            assert targets[row, t] == (IDS[row, t + 1] if MASK[row, t + 1] else -100)


def test_the_loss_is_the_mean_over_the_answers_tokens(backend):
    model = tiny_model(initializer_range=0.5)
    scored = -token_logps(model, IDS).logps.numpy()[MASK[:, 1:] > 0]
    assert len(scored) == 7
    assert sft_loss(model, IDS, MASK).item() == pytest.approx(scored.mean(), rel=1e-6)


def test_what_the_mask_leaves_out_is_read_but_not_learned(backend):
    model = tiny_model(initializer_range=0.5)
    start = np.array([[0, 1, 1, 1, 0, 0]])  # what comes after the answer has no influence, what comes before has
    later, sooner = IDS[:1].copy(), IDS[:1].copy()
    later[:, 4:] = (later[:, 4:] + 1) % VOCABULARY
    sooner[:, 0] = (sooner[:, 0] + 1) % VOCABULARY
    loss = sft_loss(model, IDS[:1], start).item()
    assert sft_loss(model, later, start).item() == pytest.approx(loss, rel=1e-6)
    assert sft_loss(model, sooner, start).item() != pytest.approx(loss, rel=1e-3)


def test_parts_add_up_to_the_batch(backend):
    """Also where one part has 6 tokens to learn, and the other 1."""
    model = tiny_model()
    whole = sft_loss(model, IDS, MASK)
    whole.backward()
    expected = grads(model)
    for p in model.parameters():
        p.grad = None
    parts = [sft_loss(model, IDS[i : i + 2], MASK[i : i + 2], num_items_in_batch=7) for i in (0, 2)]
    for part in parts:
        part.backward()
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-6)
    for got, grad in zip(grads(model), expected, strict=True):
        np.testing.assert_allclose(got, grad, atol=1e-6)


def test_the_balance_of_experts_is_part_of_the_loss(backend):
    model = zoo.build("mixtral-nano", vocab_size=VOCABULARY, seed=0, hidden_size=16, num_hidden_layers=1)
    assert model.config.layer_aux_loss_coef > 0
    with no_grad():
        plain = sft_loss(model, IDS, MASK).item()
    assert sft_loss(model, IDS, MASK).item() > plain + 0.5 * model.config.layer_aux_loss_coef


def test_packed_documents_do_not_see_each_other(backend):
    model = tiny_model(initializer_range=0.5)
    documents, mask = np.array([[0, 0, 0, 1, 1, 1]]), np.array([[0, 1, 1, 0, 1, 1]])
    packed = sft_loss(model, IDS[:1], mask, documents=documents)
    apart = sft_loss(model, IDS[0].reshape(2, 3), mask.reshape(2, 3))
    assert packed.item() == pytest.approx(apart.item(), rel=1e-6)
    padded = sft_loss(model, np.pad(IDS[:1], ((0, 0), (2, 0))), np.pad(MASK[:1], ((0, 0), (2, 0))),
                      attention_mask=[[0, 0, 1, 1, 1, 1, 1, 1]])  # fmt: skip
    assert padded.item() == pytest.approx(sft_loss(model, IDS[:1], MASK[:1]).item(), rel=1e-5)


@pytest.mark.parametrize("mask", [np.zeros((4, 6)), np.eye(4, 6) * [1, 0, 0, 0, 0, 0]])
def test_nothing_to_learn_is_an_error(mask):
    with pytest.raises(ValueError, match="mask: got no token to learn, expected at least one after the first"):
        sft_loss(tiny_model(), IDS, mask)


def test_a_mask_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"mask: got shape \(4, 5\), expected \(4, 6\)"):
        sft_loss(tiny_model(), IDS, MASK[:, 1:])


# -- distillation


def by_hand(beta: float, temperature: float, mask: np.ndarray) -> float:
    def softmax(logits: np.ndarray) -> np.ndarray:
        return np.exp(logits / temperature) / np.exp(logits / temperature).sum()

    total = 0.0
    for row, t in np.argwhere(mask):
        p, q = softmax(TEACHER[row, t]), softmax(STUDENT[row, t])
        m = beta * p + (1 - beta) * q
        for v in range(5):
            if beta == 0:
                total += p[v] * np.log(p[v] / q[v])
            elif beta == 1:
                total += q[v] * np.log(q[v] / p[v])
            else:
                total += beta * p[v] * np.log(p[v] / m[v]) + (1 - beta) * q[v] * np.log(q[v] / m[v])
    return total / mask.sum()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_divergences_are_their_formulas(backend, beta, temperature):
    mask = np.array([[1, 0, 1], [0, 0, 1]])
    loss = distill_loss(Tensor(STUDENT), TEACHER, mask, beta, temperature)
    assert loss.item() == pytest.approx(by_hand(beta, temperature, mask), rel=1e-12)
    parts = [distill_loss(Tensor(STUDENT[i]), TEACHER[i], mask[i], beta, temperature, 3)
             for i in (slice(0, 1), slice(1, 2))]  # fmt: skip
    assert sum(part.item() for part in parts) == pytest.approx(loss.item(), rel=1e-12)
    everywhere = distill_loss(Tensor(STUDENT), TEACHER, beta=beta, temperature=temperature)
    assert everywhere.item() == pytest.approx(by_hand(beta, temperature, np.ones((2, 3))), rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_divergences_have_the_right_gradients(backend, beta):
    mask = np.array([[1, 0, 1], [0, 0, 1]])
    check_gradients(lambda s: distill_loss(s, TEACHER, mask, beta, 1.7), STUDENT)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_equal_models_are_at_no_distance(backend, beta):
    student = Tensor(STUDENT, requires_grad=True)
    loss = distill_loss(student, STUDENT, beta=beta)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-15)
    np.testing.assert_allclose(current().to_numpy(student.grad), 0, atol=1e-15)


def test_the_mixture_does_not_underflow(backend):
    far = np.array([[0.0, -400.0, -900.0]], dtype=np.float32)
    student = Tensor(far, requires_grad=True)
    half = generalized_jsd(student, Tensor(far[:, ::-1].copy()), 0.5)
    half.sum().backward()
    assert half.item() == pytest.approx(np.log(2), rel=1e-6)
    assert np.isfinite(student.grad).all()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_masked_logits_have_no_influence(backend, beta):
    mask = np.array([[1, 0, 1], [0, 0, 1]])
    student, teacher = STUDENT.copy(), TEACHER.copy()
    student[0, 1], teacher[1, 0] = np.nan, np.inf
    leaf = Tensor(current().asarray(student), requires_grad=True)
    loss = distill_loss(leaf, teacher, mask, beta)
    loss.backward()
    assert loss.item() == pytest.approx(by_hand(beta, 1.0, mask), rel=1e-12)
    assert (current().to_numpy(leaf.grad)[mask == 0] == 0).all()
    assert distill_loss(leaf, teacher, mask * 0, beta).item() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.1}, "beta: got -0.1, expected 0 to 1"),
        ({"beta": 1.1}, "beta: got 1.1, expected 0 to 1"),
        ({"temperature": 0}, "temperature: got 0, expected above 0"),
        ({"mask": np.ones((2, 2))}, r"mask: got shape \(2, 2\), expected \(2, 3\)"),
        ({"teacher_logits": TEACHER[..., 1:]}, r"teacher_logits: got shape \(2, 3, 4\), expected \(2, 3, 5\)"),
    ],
)
def test_bad_input_of_distillation(options, message):
    with pytest.raises(ValueError, match=message):
        distill_loss(**{"student_logits": Tensor(STUDENT), "teacher_logits": TEACHER, **options})
