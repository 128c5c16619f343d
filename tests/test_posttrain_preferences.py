"""DPO, IPO and reward models: their formulas, properties, gradients, files, and errors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from gradients import check_gradients
from training import VOCABULARY, tiny_model

from tinymoe import Tensor, posttrain
from tinymoe.backend import current
from tinymoe.posttrain import ScalarModel, dpo_figures, dpo_loss, reward_figures, reward_loss, sequence_logps

CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = np.random.default_rng(0).normal(-8, 2, (4, 5))
LOGPS = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
IDS = np.random.default_rng(1).integers(0, VOCABULARY, (3, 6))


def tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [Tensor(current().asarray(a), requires_grad=True) for a in arrays]


def grad(x: Tensor) -> np.ndarray:
    return current().to_numpy(x.grad)


# -- DPO and IPO


def test_dpo_is_its_formula(backend):
    expected = 0.0
    for c, r, ref_c, ref_r in zip(*LOGPS, strict=True):
        expected += math.log(1 + math.exp(-0.3 * ((c - ref_c) - (r - ref_r)))) / 5
    assert dpo_loss(*tensors(*LOGPS[:2]), *LOGPS[2:], beta=0.3).item() == pytest.approx(expected, rel=1e-12)


def test_ipo_is_its_formula(backend):
    expected = 0.0
    for c, r, ref_c, ref_r in zip(*LOGPS, strict=True):
        expected += (((c - ref_c) - (r - ref_r)) - 1 / 0.6) ** 2 / 5
    got = dpo_loss(*tensors(*LOGPS[:2]), *LOGPS[2:], beta=0.3, loss_type="ipo")
    assert got.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_dpo_gradients(backend, loss_type):
    check_gradients(lambda c, r: dpo_loss(c, r, *LOGPS[2:], beta=0.3, loss_type=loss_type), *LOGPS[:2])


def test_at_the_reference_the_loss_is_log_2_and_learning_begins(backend):
    chosen, rejected = tensors(CHOSEN, REJECTED)
    loss = dpo_loss(chosen, rejected, CHOSEN, REJECTED, beta=0.1)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-12)
    loss.backward()
    np.testing.assert_allclose(grad(chosen), -0.1 / 2 / 5)
    np.testing.assert_allclose(grad(rejected), 0.1 / 2 / 5)


def test_the_reference_gets_no_gradient():
    chosen, rejected, *reference = tensors(*LOGPS)
    dpo_loss(chosen, rejected, *reference).backward()
    assert all(x.grad is None for x in reference)


def test_far_from_the_reference_the_loss_stays_finite(backend):
    chosen, rejected = tensors(np.array([-1e4, 1e4], np.float32), np.array([1e4, -1e4], np.float32))
    loss = dpo_loss(chosen, rejected, np.zeros(2), np.zeros(2), beta=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    np.testing.assert_allclose(grad(chosen), [-0.5, 0])


def test_figures_of_dpo(backend):
    figures = dpo_figures(*tensors(*LOGPS[:2]), *LOGPS[2:], beta=0.3)
    wins, losses = 0.3 * (CHOSEN - REF_CHOSEN), 0.3 * (REJECTED - REF_REJECTED)
    assert figures == pytest.approx({
        "rewards/chosen": wins.mean(), "rewards/rejected": losses.mean(),
        "rewards/accuracies": (wins > losses).mean(), "rewards/margins": (wins - losses).mean(),
    })  # fmt: skip
    assert 0 < figures["rewards/accuracies"] < 1


def test_the_log_probability_of_a_text(backend):
    logps = np.array([[-1.0, -2.0, np.nan], [-4.0, np.inf, np.nan], [np.nan, np.nan, np.nan]])
    mask = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    (leaf,) = tensors(logps)
    np.testing.assert_array_equal(sequence_logps(leaf, mask).numpy(), [-3, -4, 0])
    mean = sequence_logps(leaf, mask, average=True)
    np.testing.assert_array_equal(mean.numpy(), [-1.5, -4, 0])
    mean.sum().backward()
    np.testing.assert_array_equal(grad(leaf), [[0.5, 0.5, 0], [1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_type": "hinge"}, "loss_type: got 'hinge', expected one of 'sigmoid', 'ipo'"),
        ({"beta": 0.0}, "beta: got 0.0, expected above 0"),
        ({"beta": -1.0}, "beta: got -1.0, expected above 0"),
        ({"rejected": Tensor(np.zeros(4))}, r"chosen, rejected: got shapes \(5,\) and \(4,\), expected \(pairs,\)"),
        ({"ref_chosen": np.zeros(1)}, r"ref_chosen: got shape \(1,\), expected \(5,\)"),
        ({"ref_rejected": np.zeros((5, 1))}, r"ref_rejected: got shape \(5, 1\), expected \(5,\)"),
        ({name: np.zeros((0,)) for name in ("ref_chosen", "ref_rejected")}
         | {name: Tensor(np.zeros((0,))) for name in ("chosen", "rejected")}, "chosen, rejected: got shapes"),
    ],
)  # fmt: skip
def test_bad_input_of_dpo(change, message):
    arguments = dict(zip(("chosen", "rejected", "ref_chosen", "ref_rejected"), map(Tensor, LOGPS), strict=True))
    with pytest.raises(ValueError, match=message):
        dpo_loss(**{**arguments, **change})


# -- reward models


@pytest.mark.parametrize("center", [None, 0.1])
@pytest.mark.parametrize("margin", [None, np.array([0.0, 1.0, 2.0, 0.5, 3.0])])
def test_the_reward_loss_is_its_formula(backend, margin, center):
    expected = 0.0
    for i, (c, r) in enumerate(zip(CHOSEN, REJECTED, strict=True)):
        gap = c - r - (0 if margin is None else margin[i])
        expected += (math.log(1 + math.exp(-gap)) + (center or 0) * (c + r) ** 2) / 5
    assert reward_loss(*tensors(CHOSEN, REJECTED), margin, center).item() == pytest.approx(expected, rel=1e-12)
    check_gradients(lambda c, r: reward_loss(c, r, margin, center), CHOSEN, REJECTED)


def test_figures_of_rewards(backend):
    figures = reward_figures(*tensors(np.array([1.0, 2.0]), np.array([0.0, 5.0])))
    assert figures == {"accuracy": 0.5, "margin": -1, "min_reward": 0, "mean_reward": 2, "max_reward": 5}


def test_bad_input_of_rewards():
    with pytest.raises(ValueError, match=r"rejected: got shape \(4,\), expected \(5,\)"):
        reward_loss(Tensor(np.zeros(5)), Tensor(np.zeros(4)))
    with pytest.raises(ValueError, match=r"margin: got shape \(4,\), expected \(5,\)"):
        reward_loss(Tensor(np.zeros(5)), Tensor(np.zeros(5)), np.zeros(4))


def test_a_scalar_model_is_the_decoder_under_a_new_head(backend):
    language = tiny_model()
    model = ScalarModel.from_causal_lm(language, seed=3)
    hidden = language.model(current().asarray(IDS)).numpy()
    np.testing.assert_allclose(model(IDS).numpy(), hidden @ model.score.weight.numpy()[0], rtol=1e-4, atol=1e-7)
    model.model.norm.weight.data[:] = 0  # a copy: what it learns, the language model does not
    assert (language.model.norm.weight.numpy() == 1).all()


def test_the_reward_is_that_of_the_last_token(backend):
    model = ScalarModel.from_causal_lm(tiny_model())
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0]])
    got = model.rewards(IDS, attention_mask=mask)
    for i, (first, last) in enumerate(((0, 6), (0, 3), (2, 5))):
        np.testing.assert_allclose(got.numpy()[i], model(IDS[i : i + 1, first:last]).numpy()[0, -1], atol=1e-6)
    np.testing.assert_allclose(model.rewards(IDS).numpy(), model(IDS).numpy()[:, -1])
    got.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_reward_model_learns_which_answers_win(backend):
    """Texts that hold a 7 lose: after a few steps every new pair is told apart."""
    from tinymoe import AdamW

    rng = np.random.default_rng(0)
    model = ScalarModel.from_causal_lm(tiny_model())
    optimizer = AdamW(model.parameters(), lr=0.02)

    def pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
        good = rng.integers(0, 7, (n, 5))
        bad = good.copy()
        bad[np.arange(n), rng.integers(0, 5, n)] = 7
        return good, bad

    for _ in range(30):
        optimizer.zero_grad()
        both = model.rewards(np.concatenate(pairs(16)))
        loss = reward_loss(both[:16], both[16:])
        loss.backward()
        optimizer.step()
    good, bad = pairs(64)
    assert reward_figures(model.rewards(good), model.rewards(bad))["accuracy"] == 1


@pytest.mark.parametrize("tied", [False, True])
def test_a_scalar_model_is_saved_and_loaded(backend, tied, tmp_path):
    model = ScalarModel.from_causal_lm(tiny_model(tie_word_embeddings=tied), seed=1)
    model.save_pretrained(tmp_path)
    again = posttrain.ScalarModel.from_pretrained(tmp_path)
    assert again.config == model.config
    np.testing.assert_array_equal(again(IDS).numpy(), model(IDS).numpy())
    written = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert written["architectures"] == ["LlamaForSequenceClassification"]
    assert written["id2label"] == {"0": "reward"}


def test_a_language_model_is_no_scalar_model(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"missing score\.weight; unexpected lm_head\.weight"):
        ScalarModel.from_pretrained(tmp_path)


def test_bad_input_of_scalar_models():
    model = ScalarModel.from_causal_lm(tiny_model())
    with pytest.raises(ValueError, match="attention_mask: got a text that is all padding"):
        model.rewards(IDS, attention_mask=[[1] * 6, [0] * 6, [1] * 6])
    with pytest.raises(ValueError, match="ids: got token id 99, expected 0 to 10"):
        model.rewards([[99]])
    with pytest.raises(ValueError, match=r"attention_mask: got shape \(3, 5\)"):
        model.rewards(IDS, attention_mask=np.ones((3, 5)))
