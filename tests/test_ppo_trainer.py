"""PPO's loop: it learns, equals a recomputation in float64, and resumes exactly, its critic included."""

import json
import math

import numpy as np
import pytest
from test_grpo_trainer import DIGITS, PROBLEMS, killed_and_resumed, mixture, nano, plain, right, short, weights

from tinymoe.backend import current
from tinymoe.models import from_pretrained
from tinymoe.posttrain import (
    AdaptiveKLController,
    LoraConfig,
    PPOConfig,
    PPOTrainer,
    ScalarModel,
    add_lora,
    gae,
    kl_rewards,
    masked_whiten,
    ppo_value_figures,
    reward_function,
    token_logps,
)
from tinymoe.tensor import Tensor
from tinymoe.train import checkpoint


def configured(**changes):
    settings = {"steps": 6, "generation_batch_size": 16, "max_completion_length": 3, "num_ppo_epochs": 2}
    return PPOConfig(**{**settings, "learning_rate": 1e-2, "checkpoint_every": 2, **changes})


def make(tmp_path=None, functions=(right, short), model=None, held_out=(), **changes):
    return PPOTrainer(model or nano(), PROBLEMS, functions, configured(**changes), tmp_path, held_out)


def test_it_learns_what_is_rewarded(numpy_backend):
    sizes = {"steps": 60, "generation_batch_size": 160, "learning_rate": 3e-3, "kl_coef": 0.01}
    trainer = make(functions=[right], held_out=PROBLEMS, eval_every=1000, **sizes)
    before = trainer.evaluate()
    history = trainer.run(progress=False)
    assert before <= 0.2 and history[0]["reward"] < 0.1
    assert history[-1]["eval_reward"] >= 0.8 and np.mean([m["reward"] for m in history[-10:]]) > 0.75
    assert history[-1]["entropy"] < history[0]["entropy"] / 2
    explained = [metrics["val/var_explained"] for metrics in history]
    assert np.mean(explained[-10:]) > 0.5 > explained[0]


def test_straying_from_the_reference_has_its_price(numpy_backend):
    sizes = {"steps": 30, "generation_batch_size": 80, "learning_rate": 3e-3}
    free, held = (make(functions=[right], kl_coef=price, **sizes).run(progress=False) for price in (0.0, 1.0))
    assert free[-1]["objective/kl"] > 1 > 10 * held[-1]["objective/kl"]
    assert free[-1]["reward"] > held[-1]["reward"] + 0.3


def test_experience_is_what_the_terms_of_ppo_make_of_the_answers(backend):
    options = {"temperature": 0.7, "kl_coef": 0.3, "gamma": 0.9, "lam": 0.8, "whiten_rewards": True}
    trainer = make(num_generations=2, missing_eos_penalty=0.5, **options)
    trainer.reference = nano(seed=1)
    answers = trainer.draw()
    experience, figures = trainer.make_experience(answers)
    batch, mask = answers.rollouts, answers.rollouts.mask[:, 1:]
    scores = answers.earned["right"] + answers.earned["short"] - 0.5 * ~batch.finished
    np.testing.assert_allclose(answers.rewards, scores)
    assert not batch.finished.all() and set(answers.earned) == {"right", "short", "missing_eos"}

    ref_logps = token_logps(nano(seed=1), batch.ids, batch.mask, temperature=0.7).logps.numpy()
    values = ScalarModel.from_causal_lm(nano())(batch.ids).numpy()[:, :-1]
    rewards = kl_rewards(answers.rewards, batch.logps, ref_logps, mask, kl_coef=0.3)
    paid = masked_whiten(rewards, mask, shift_mean=False)
    advantages, returns = gae(paid, values, mask, gamma=0.9, lam=0.8)
    expected = [batch.logps, values, *map(current().to_numpy, (masked_whiten(advantages, mask), returns))]
    for got, wanted in zip(experience[1:], expected, strict=True):
        np.testing.assert_allclose(got[mask], wanted[mask], atol=2e-5)

    kl = np.where(mask, batch.logps - ref_logps, 0).sum(axis=1)
    assert figures["objective/kl"] == pytest.approx(kl.mean(), abs=1e-5) and abs(kl.mean()) > 0.01
    assert figures["objective/entropy"] == pytest.approx(-batch.logps[mask].sum() / 16, rel=1e-5)
    assert figures["objective/non_score_reward"] == pytest.approx(-0.3 * kl.mean(), abs=1e-5)
    total = figures["objective/scores"] + figures["objective/non_score_reward"]
    assert figures["objective/rlhf_reward"] == pytest.approx(total, abs=1e-5)


def loss_in_float64(logps, values, old, mask, cliprange, cliprange_value, vf_coef):
    """PPO's loss by its formulas, and its derivatives by logps and values: all in NumPy."""
    n, clip = mask.sum(), lambda x, low, high: np.minimum(np.maximum(x, low), high)
    old_logps, old_values, gains, returns = (np.asarray(x, np.float64) for x in old)
    ratio = np.exp(np.where(mask, logps - old_logps, 0))
    free, held = ratio * gains, clip(ratio, 1 - cliprange, 1 + cliprange) * gains
    policy = -np.minimum(free, held)[mask].sum() / n
    dlogps = np.where(mask & (free <= held), -free / n, 0)
    near = clip(values, old_values - cliprange_value, old_values + cliprange_value)
    far_error, near_error = (values - returns) ** 2, (near - returns) ** 2
    value = 0.5 * np.maximum(far_error, near_error)[mask].sum() / n
    dvalues = np.where(mask & (far_error >= near_error), (values - returns) / n, 0) * vf_coef
    return policy, value, policy + vf_coef * value, dlogps, dvalues


def in_float64(model):
    """The same model; what it computes is in float64."""
    for p in model.parameters():
        p.data = p.data.astype("float64")
    return model


def test_an_update_is_the_gradient_of_the_formulas_in_float64(backend):
    trainer = make(generation_batch_size=24, cliprange=0.1, cliprange_value=0.05, vf_coef=0.7, temperature=0.8)
    trainer.reference = nano(seed=1)
    experience, _ = trainer.make_experience(trainer.draw())
    noise, batch = np.random.default_rng(0), experience.rollouts
    moved = [array + noise.normal(0, 0.2, array.shape).astype(array.dtype) for array in experience[1:3]]
    experience = experience._replace(logps=moved[0], values=moved[1])
    trainer.optimizer.step = lambda grad_scale: None
    report = trainer.update(experience)

    mask = batch.mask[:, 1:]
    policy_model, critic = in_float64(nano()), in_float64(ScalarModel.from_causal_lm(nano()))
    logps = token_logps(policy_model, batch.ids, batch.mask, temperature=0.8).logps
    values = critic(batch.ids[:, :-1])
    old = (*moved, experience.advantages, experience.returns)
    numbers = [current().to_numpy(x.data) for x in (logps, values)]
    policy, value, loss, dlogps, dvalues = loss_in_float64(*numbers, old, mask, 0.1, 0.05, 0.7)
    (logps * current().asarray(dlogps)).sum().backward()
    (values * current().asarray(dvalues)).sum().backward()

    got = [report[name] for name in ("loss/policy_avg", "loss/value_avg", "loss")]
    np.testing.assert_allclose(got, [policy, value, loss], rtol=1e-5, atol=1e-6)
    pairs = [(trainer.model, policy_model), (trainer.critic, critic)]
    squares = 0.0
    for ours, theirs in pairs:
        for (name, mine), p in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            mine, other = current().to_numpy(mine.grad), current().to_numpy(p.grad)
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5 * np.abs(other).max(), err_msg=name)
            squares += (other**2).sum()
    assert report["grad_norm"] == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert 0 < report["policy/clipfrac_avg"] < 1 and 0 < report["val/clipfrac_avg"] < 1


def test_every_answer_is_learned_from_in_each_epoch(numpy_backend):
    trainer, taken = make(num_ppo_epochs=3, num_mini_batches=4), []
    experience, _ = trainer.make_experience(trainer.draw())
    trainer.update = lambda part: taken.append(part) or {"loss": len(taken)}
    assert trainer.learn(experience) == {"loss": 6.5}
    assert len(taken) == 12 and all(len(part.rollouts) == 4 for part in taken)
    texts = experience.rollouts.completions()
    for epoch in range(3):
        seen = [text for part in taken[4 * epoch : 4 * epoch + 4] for text in part.rollouts.completions()]
        assert sorted(seen) == sorted(texts) and seen != texts
    for part in taken:
        width = part.rollouts.ids.shape[1] - 1
        for row, text in enumerate(part.rollouts.completions()):
            same = [i for i, other in enumerate(texts) if other == text]
            assert any((part.returns[row] == experience.returns[i, :width]).all() for i in same)


def test_the_first_steps_can_be_the_critics_alone(numpy_backend):
    trainer = make(critic_warmup=2, steps=3)
    before, critic = weights(trainer.model), weights(trainer.critic)
    for _ in range(2):
        trainer.step()
    assert all((weights(trainer.model)[name] == array).all() for name, array in before.items())
    assert any((weights(trainer.critic)[name] != array).any() for name, array in critic.items())
    trainer.step()
    assert any((weights(trainer.model)[name] != array).any() for name, array in before.items())


def test_policy_and_critic_have_rates_of_their_own(numpy_backend):
    trainer = make(learning_rate=4e-4, critic_learning_rate=1e-3, warmup=3)
    assert [trainer.step()["lr"] for _ in range(4)] == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4])
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([4e-4, 4e-4, 1e-3, 1e-3])


ADAPTIVE = {"target": 0.5, "horizon": 100, "num_mini_batches": 2, "critic_warmup": 1}


@pytest.mark.parametrize("changes", [{}, ADAPTIVE, {"num_generations": 4, "whiten_rewards": True}])
def test_a_resumed_run_is_the_unbroken_one(numpy_backend, tmp_path, changes):
    whole = make(tmp_path / "whole", **changes)
    whole.run(progress=False)
    resumed = killed_and_resumed(lambda: make(tmp_path / "broken", **changes))
    assert resumed.kl_coef == whole.history[4]["objective/kl_coef"]
    resumed.run(progress=False)
    assert plain(resumed.history) == plain(whole.history)
    for mine, theirs in ((resumed.model, whole.model), (resumed.critic, whole.critic)):
        for name, array in weights(theirs).items():
            np.testing.assert_array_equal(weights(mine)[name], array, err_msg=name)
    files = [tmp_path / run / "model.safetensors" for run in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()
    for name, array in weights(from_pretrained(tmp_path / "broken")).items():
        np.testing.assert_array_equal(array, weights(whole.model)[name], err_msg=name)


def test_a_checkpoint_holds_critic_and_moments(numpy_backend, tmp_path):
    trainer = make(tmp_path, steps=2)
    trainer.run(progress=False)
    fresh = make(tmp_path / "other")
    checkpoint.load(checkpoint.latest(tmp_path), fresh.model, fresh.optimizer, fresh.critic)
    for name, array in weights(trainer.critic).items():
        np.testing.assert_array_equal(weights(fresh.critic)[name], array, err_msg=name)
    moments = fresh.optimizer.state_dict()["state"]
    assert len(moments) == len(trainer.model.parameters()) + len(trainer.critic.parameters())
    assert all(state["step"] == 4 and state["exp_avg_sq"].any() for state in moments.values())


def test_resuming_something_else_is_an_error(numpy_backend, tmp_path):
    make(tmp_path, steps=2, **ADAPTIVE).run(progress=False)
    with pytest.raises(ValueError, match="config cliprange"):
        make(tmp_path, steps=2, cliprange=0.3, **ADAPTIVE).resume()
    with pytest.raises(ValueError, match="data: the checkpoint"):
        make(tmp_path, steps=2, model=nano(seed=1), **ADAPTIVE).resume()  # another reference
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metrics.jsonl has 0 steps, expected 2"):
        make(tmp_path, steps=2, **ADAPTIVE).resume()


def test_the_price_of_straying_adapts(numpy_backend):
    trainer, twin = make(target=0.2, horizon=50, kl_coef=0.1, num_mini_batches=4), AdaptiveKLController(0.1, 0.2, 50)
    for _ in range(4):
        metrics = trainer.step()
        assert metrics["objective/kl_coef"] == twin.value
        twin.update(metrics["objective/kl"], 16)
    assert trainer.kl_coef == twin.value != 0.1


def test_metrics_say_what_happened(numpy_backend):
    trainer = make(num_completions_to_print=3, steps=2)
    first = trainer.step()
    assert next(iter(first)) == "step" and json.loads(json.dumps(first, allow_nan=False)) == first
    objective = {f"objective/{name}" for name in ("kl", "entropy", "scores", "non_score_reward", "rlhf_reward")}
    policy = {"policy/clipfrac_avg", "policy/approxkl_avg", "loss/policy_avg", "entropy", "kl"}
    critic = {"loss/value_avg", "val/clipfrac_avg", "val/var_explained", "val/ratio"}
    assert objective | policy | critic | {"reward_std", "loss", "lr", "grad_norm"} <= first.keys()
    assert first["reward"] == first["objective/scores"]
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5)  # nothing has been learned yet
    assert first["entropy"] == pytest.approx(math.log(12), rel=0.1)
    rows = first["rollouts"]
    assert [row["group"] for row in rows] == [0, 1, 2] and rows[0].keys() == {
        "group", "prompt", "completion", "reward", "advantage"
    }  # fmt: skip
    assert trainer.step()["objective/kl"] > 1e-4


def test_an_answers_advantage_is_the_mean_of_its_tokens(numpy_backend):
    trainer = make()
    answers = trainer.draw()
    experience, _ = trainer.make_experience(answers)
    _, shown = trainer.learn_from([answers])
    for row, mask in enumerate(answers.rollouts.mask[:, 1:]):
        assert shown[row] == pytest.approx(experience.advantages[row][mask].mean(), abs=1e-6)


def test_the_critic_is_a_mixture_where_the_policy_is(numpy_backend):
    trainer = make(model=mixture(), critic_warmup=1, learning_rate=1e-4)
    first, second = trainer.step(), trainer.step()
    every = [*trainer.model.modules(), *trainer.critic.modules()]
    assert all(getattr(m, "load", None) is None for m in every)
    assert second["grad_norm"] > 0 and second["aux_loss"] == pytest.approx(2 * first["aux_loss"], rel=0.1)


@pytest.mark.parametrize("what", ["policy", "critic"])
def test_a_loss_that_is_not_finite_ends_the_run_before_an_update(numpy_backend, what):
    trainer = make()
    answers = trainer.draw()
    experience, _ = trainer.make_experience(answers)
    broken = {"policy": trainer.model.model.norm, "critic": trainer.critic.score}[what].weight
    name = {"policy": "model.norm.weight", "critic": "companion.score.weight"}[what]
    broken.data[..., 0] = np.nan
    before = [weights(trainer.model), weights(trainer.critic)]
    with pytest.raises(FloatingPointError, match=f"step 1: the loss is nan; first not finite: the value of {name}"):
        trainer.learn(experience)
    for now, was in zip([weights(trainer.model), weights(trainer.critic)], before, strict=True):
        for name, array in was.items():
            np.testing.assert_array_equal(now[name], array)


def test_a_critic_that_overflowed_is_not_saved(numpy_backend, tmp_path):
    trainer = make(tmp_path)
    trainer.step()
    trainer.critic.score.weight.data[...] = np.inf
    with pytest.raises(FloatingPointError, match=r"the value of companion\.score\.weight is not finite"):
        trainer.save()


def test_a_reward_model_is_a_reward_function(numpy_backend):
    tokenizer, model = nano().tokenizer, ScalarModel.from_causal_lm(nano(), seed=3)
    judge = reward_function(model, tokenizer, batch_size=3)
    prompts, completions = [f"{digit}=" for digit in DIGITS], [DIGITS[:n] for n in range(10)]
    given = judge(prompts, completions, PROBLEMS)
    for prompt, completion, reward in zip(prompts, completions, given, strict=True):
        ids = [*tokenizer.encode(prompt + completion), 0]  # the token that ends it is judged
        assert reward == pytest.approx(model(np.array([ids])).numpy()[0, -1], abs=1e-5)
    assert len(set(np.round(given, 6))) == 10
    figures = make(functions=[judge, right]).step()
    assert {"rewards/reward_model/mean", "rewards/right/mean"} <= figures.keys()
    assert reward_function(model, tokenizer, name="other").__name__ == "other"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_ppo_epochs": 0}, "num_ppo_epochs: got 0, expected a whole number ≥ 1"),
        ({"num_mini_batches": 17}, "num_mini_batches: got 17, expected at most generation_batch_size, 16"),
        ({"generation_batch_size": 1}, "generation_batch_size: got 1, expected a whole number ≥ 2"),
        ({"critic_warmup": -1}, "critic_warmup: got -1, expected a whole number ≥ 0"),
        ({"critic_learning_rate": 0.0}, "critic_learning_rate: got 0.0, expected a number > 0, or None"),
        ({"kl_coef": -1.0}, "kl_coef: got -1.0, expected a number ≥ 0"),
        ({"kl_coef": 0.0, "target": 1.0}, "kl_coef: got 0.0, expected a number > 0, with a target"),
        ({"target": math.inf}, "target: got inf, expected a number > 0, or None"),
        ({"cliprange": 0.0}, "cliprange: got 0.0, expected a number > 0"),
        ({"cliprange_value": math.nan}, "cliprange_value: got nan, expected a number > 0"),
        ({"vf_coef": -0.1}, "vf_coef: got -0.1, expected a number ≥ 0"),
        ({"gamma": 1.1}, "gamma: got 1.1, expected a number from 0 to 1"),
        ({"lam": -0.1}, "lam: got -0.1, expected a number from 0 to 1"),
        ({"missing_eos_penalty": -1.0}, "missing_eos_penalty: got -1.0, expected a number ≥ 0, or None"),
        ({"horizon": 0.0}, "horizon: got 0.0, expected a number > 0"),
        ({"temperature": 0.0}, "temperature: got 0.0, expected a number > 0"),
        ({"max_completion_length": 31}, "max_completion_length: got 31 after prompts of up to 2 tokens, expected at m"),
        ({"functions": []}, "reward_functions: got 0"),
    ],
)
def test_bad_input(numpy_backend, change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_a_model_with_adapters_is_refused(numpy_backend):
    model = nano()
    add_lora(model, LoraConfig(r=2))
    with pytest.raises(ValueError, match="model: got one with adapters or quantized matrices, expected one"):
        make(model=model)


def test_the_critics_figures(backend):
    values, mask = Tensor(np.array([[0.5, 1.0, 9.0]])), np.array([[1, 1, 0]])
    figures = ppo_value_figures(values, [[0.0, 1.0, 0.0]], [[-1.0, 1.0, 5.0]], mask, cliprange_value=0.2)
    assert figures == {"val/clipfrac_avg": 0.0, "val/var_explained": pytest.approx(1 - 1.5**2 / 2)}
    figures = ppo_value_figures(values, [[0.0, 1.0, 0.0]], [[2.0, 1.0, 5.0]], mask, cliprange_value=0.2)
    assert figures == {"val/clipfrac_avg": 0.5, "val/var_explained": pytest.approx(1 - 1.5**2 / 0.5)}
    assert ppo_value_figures(values, values, [[1.0, 1.0, 1.0]], mask)["val/var_explained"] == 0
