"""Learning from verifiable rewards: it learns, resumes exactly, and a bad reward function is named."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
from training import without_timing

from tinymoe import zoo
from tinymoe.backend import current
from tinymoe.nn.recorder import collecting
from tinymoe.posttrain import (
    LoraConfig,
    add_lora,
    group_advantages,
    grpo_loss,
    soft_overlong_punishment,
    token_logps,
)
from tinymoe.posttrain.answers import Answers, Problems, answer_figures, call_reward
from tinymoe.posttrain.grpo_trainer import GRPOConfig, GRPOTrainer
from tinymoe.tensor import is_grad_enabled
from tinymoe.text.tokenizer import CharTokenizer

DIGITS = "0123456789"
PROBLEMS = [{"prompt": f"{digit}=", "answer": digit} for digit in DIGITS]


def right(prompts, completions, problems):
    return [float(text == problem["answer"]) for text, problem in zip(completions, problems, strict=True)]


def short(prompts, completions, problems):
    return [-len(text) / 10 for text in completions]


def nano(seed=0, **settings):
    tokenizer = CharTokenizer.train([DIGITS + "="], special_tokens=["<end>"])
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "max_position_embeddings": 32}
    model = zoo.build("llama-pico", vocab_size=len(tokenizer), seed=seed, eos_token_id=0, **{**shape, **settings})
    model.tokenizer = tokenizer
    return model


def configured(**changes):
    settings = {"steps": 6, "num_generations": 4, "generation_batch_size": 16, "max_completion_length": 3}
    return GRPOConfig(**{**settings, "learning_rate": 1e-2, "checkpoint_every": 2, **changes})


def make(tmp_path=None, functions=(right, short), model=None, held_out=(), **changes):
    return GRPOTrainer(model or nano(), PROBLEMS, functions, configured(**changes), tmp_path, held_out)


def plain(history):
    return [{k: v for k, v in metrics.items() if k != "seconds"} for metrics in without_timing(history)]


def weights(model):
    return {name: p.numpy().copy() for name, p in model.named_parameters()}


def killed_and_resumed(make):
    """A trainer that goes on from the checkpoint of step 4, after another died in step 5."""

    def kill(metrics):
        if metrics["step"] == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        make().run(on_step=kill, progress=False)
    resumed = make()
    assert resumed.resume() == 4
    return resumed


def test_it_learns_what_is_rewarded(numpy_backend):
    sizes = {"steps": 150, "num_generations": 16, "generation_batch_size": 160, "learning_rate": 3e-3}
    trainer = make(functions=[right], held_out=PROBLEMS, eval_every=1000, **sizes)
    before = trainer.evaluate()
    history = trainer.run(progress=False)
    assert before <= 0.2 and history[0]["reward"] < 0.1
    assert history[-1]["eval_reward"] >= 0.8 and np.mean([m["reward"] for m in history[-10:]]) > 0.75
    assert history[-1]["entropy"] < history[0]["entropy"] / 2


def test_advantages_are_those_of_the_rewards_in_each_group(backend):
    trainer = make()
    batch, advantages = trainer.compare(trainer.sample())
    numbers, rewards = trainer.data.draw(4, 0, 0), []
    for i, (ids, finished) in enumerate(zip(batch.completions(), batch.finished, strict=True)):
        text = trainer.tokenizer.decode(ids[:-1] if finished else ids)
        rewards.append(float(text == DIGITS[numbers[i // 4]]) - len(text) / 10)
    expected = current().to_numpy(group_advantages(np.array(rewards).reshape(4, 4)))
    np.testing.assert_allclose(advantages, expected.ravel(), atol=1e-6)
    assert advantages.any()


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_an_update_is_the_gradient_of_grpo_loss(backend, level):
    options = {"beta": 0.1, "loss_type": "dr_grpo", "epsilon": 0.1, "epsilon_high": 0.28}
    options["importance_sampling_level"] = level
    trainer, twin, other = make(temperature=0.7, **options), nano(), nano(seed=1)
    batch, advantages = trainer.compare(trainer.sample())
    trainer.reference, seen = other, []
    trainer.optimizer.step = lambda grad_scale: seen.append(grad_scale)
    old = batch.logps + np.random.default_rng(0).normal(0, 0.3, batch.logps.shape)
    report = trainer.update(batch, advantages, old, trainer.reference_logps(batch))

    logps, reference = (token_logps(m, batch.ids, batch.mask, temperature=0.7).logps for m in (twin, other))
    loss = grpo_loss(logps, old, advantages, batch.mask[:, 1:], reference.detach(), max_completion_length=3, **options)
    loss.backward()
    assert report["loss"] == pytest.approx(loss.item(), abs=1e-6) and report["kl"] > 0
    assert report["clip_ratio/region_mean"] > 0
    for mine, theirs in zip(trainer.model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(current().to_numpy(mine.grad), current().to_numpy(theirs.grad), atol=1e-6)
    assert seen == [min(1.0, 1 / (report["grad_norm"] + 1e-6))]


def test_answers_that_teach_nothing_are_read_for_the_figures_alone(backend):
    trainer, twin, read = make(temperature=0.7), nano(), []
    batch, _ = trainer.compare(trainer.sample())
    advantages = np.repeat([0.0, 1.5, 0.0, -0.5], 4).astype(np.float32)
    asked = trainer.logps
    trainer.logps = lambda model, part: read.append((len(part), is_grad_enabled())) or asked(model, part)
    found = trainer.scores(batch, advantages)
    expected = token_logps(twin, batch.ids, batch.mask, temperature=0.7)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
    assert read == [(8, True), (8, False)] and is_grad_enabled()

    for scored in (found, expected):
        grpo_loss(scored.logps, None, advantages, batch.mask[:, 1:]).backward()
    for mine, theirs in zip(trainer.model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(current().to_numpy(mine.grad), current().to_numpy(theirs.grad), atol=1e-6)


@pytest.mark.parametrize("changes", [{"beta": 0.1}, {}], ids=["a price on KL", "nothing to learn"])
def test_gradients_are_never_missing(backend, changes):
    trainer = make(**changes)
    batch, advantages = trainer.compare(trainer.sample())
    trainer.update(batch, 0 * advantages, None, batch.logps - 0.5 if changes else None)
    grads = [p.grad for p in trainer.model.parameters()]
    assert all(grad is not None for grad in grads)
    assert any(grad.any() for grad in grads) == bool(changes)


def test_the_learning_rate_warms_up_and_gradients_are_clipped(numpy_backend):
    trainer = make(warmup=3, learning_rate=4e-4, max_grad_norm=1e-3)
    rates = [trainer.step()["lr"] for _ in range(5)]
    assert rates == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 4e-4])
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [4e-4, 4e-4]
    factors = []
    trainer.optimizer.step = lambda grad_scale: factors.append(grad_scale)
    assert trainer.step()["grad_norm"] * factors[0] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    "changes",
    [{}, {"beta": 0.05, "num_iterations": 2, "steps_per_generation": 2}, {"dynamic_sampling": 2, "overlong_cache": 2}],
)
def test_a_resumed_run_is_the_unbroken_one(numpy_backend, tmp_path, changes):
    whole = make(tmp_path / "whole", **changes)
    whole.run(progress=False)
    resumed = killed_and_resumed(lambda: make(tmp_path / "broken", **changes))
    resumed.run(progress=False)
    assert plain(resumed.history) == plain(whole.history)
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert plain(map(json.loads, lines)) == plain(whole.history)
    for name, array in weights(whole.model).items():
        np.testing.assert_array_equal(weights(resumed.model)[name], array, err_msg=name)
    names = [tmp_path / run / "model.safetensors" for run in ("whole", "broken")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_every_answer_is_learned_from_in_each_iteration(numpy_backend):
    trainer, taken = make(num_iterations=3, steps_per_generation=4), []
    batch, advantages = trainer.compare(trainer.sample())
    trainer.update = lambda part, gains, old, reference: taken.append((part, gains, old)) or {"loss": 1.0}
    assert trainer.learn(batch, advantages) == {"loss": 1.0}
    assert len(taken) == 12 and all(len(part) == 4 for part, _, _ in taken)
    rows = [batch.completions().index(text) for part, _, _ in taken for text in part.completions()]
    assert len(set(rows)) == len(set(map(tuple, batch.completions())))
    for part, gains, old in taken:
        np.testing.assert_array_equal(old, part.logps)
        for text, gain in zip(part.completions(), gains, strict=True):
            assert any(batch.completions()[i] == text and advantages[i] == gain for i in range(16))


def test_the_ratio_is_of_the_policy_that_sampled(numpy_backend):
    trainer = make(num_iterations=4, learning_rate=0.05)
    batch, advantages = trainer.compare(trainer.sample())
    assert trainer.learn(batch, advantages)["clip_ratio/region_mean"] > 0
    once = make(learning_rate=0.05)
    assert once.learn(batch, advantages)["clip_ratio/region_mean"] == 0


def test_resuming_something_else_is_an_error(numpy_backend, tmp_path):
    make(tmp_path, beta=0.1, steps=2).run(progress=False)
    with pytest.raises(ValueError, match="config epsilon"):
        make(tmp_path, beta=0.1, steps=2, epsilon=0.3).resume()
    with pytest.raises(ValueError, match="data: the checkpoint"):
        make(tmp_path, beta=0.1, steps=2, model=nano(seed=1)).resume()  # another reference
    with pytest.raises(ValueError, match="data: the checkpoint"):
        GRPOTrainer(nano(), PROBLEMS[:9], [right], configured(steps=2, beta=0.1), tmp_path).resume()
    with pytest.raises(FileExistsError, match="already holds a run"):
        make(tmp_path).run(progress=False)


def test_metrics_say_what_happened(numpy_backend):
    trainer = make(beta=0.1, num_completions_to_print=5, steps=2, num_iterations=2)
    first = trainer.step()
    assert next(iter(first)) == "step" and json.loads(json.dumps(first, allow_nan=False)) == first
    assert first["reward"] == pytest.approx(first["rewards/right/mean"] + first["rewards/short/mean"])
    assert {"reward_std", "rewards/right/std", "frac_reward_zero_std", "entropy", "kl", "loss", "lr"} <= first.keys()
    assert {f"clip_ratio/{name}_mean" for name in ("low", "high", "region")} <= first.keys()
    assert 1 <= first["completions/min_length"] <= first["completions/mean_length"] <= 3
    assert first["entropy"] == pytest.approx(math.log(12), rel=0.1)
    rows = first["rollouts"]
    assert [row["group"] for row in rows] == [0, 0, 0, 0, 1] and rows[0]["prompt"] == rows[3]["prompt"]
    assert trainer.step()["kl"] > 0


def test_figures_count_groups_without_signal_and_what_does_not_apply(numpy_backend):
    trainer = make()
    answers = trainer.draw()
    answers.rewards = np.array([1.0] * 4 + [0.0, 1, 0, 1] + [0.5] * 8)
    answers.earned = {"half": np.array([np.nan, 2.0] * 8), "none": np.full(16, np.nan)}
    figures = answer_figures([answers])
    assert figures["frac_reward_zero_std"] == 0.75 and figures["reward"] == 0.625
    assert figures["reward_std"] == pytest.approx(math.sqrt(1 / 3) / 4)
    assert (figures["rewards/half/mean"], figures["rewards/none/mean"]) == (2.0, 0.0)
    cut = ~answers.rollouts.finished
    assert figures["completions/clipped_ratio"] == pytest.approx(cut.mean())


def test_a_draw_depends_on_seed_and_step_alone():
    data = Problems(PROBLEMS, nano().tokenizer)
    assert data.draw(4, 1, 2) == data.draw(4, 1, 2) != data.draw(4, 1, 3)
    together = [number for draw in range(3) for number in data.draw(4, 0, 0, draw)]
    assert sorted(together[:10]) == list(range(10)) and together[10:] == together[:2]
    assert len(data.draw(25, 0, 0)) == 25


def test_each_step_has_problems_and_samples_of_its_own(numpy_backend):
    trainer, later = make(), make()
    later.steps_done = 1
    first, again, other = trainer.draw(), trainer.draw(), later.draw()
    assert (again.prompts, again.completions) == (first.prompts, first.completions)
    assert other.prompts != first.prompts and other.completions != first.completions
    assert make(seed=1).draw().prompts != first.prompts
    same = [make(model=nano(), seed=0, generation_batch_size=40) for _ in range(2)]
    same[1].steps_done = 1  # the same ten problems in another order: answered anew
    answers = [sorted(zip(t.draw().prompts, t.draw().completions, strict=True)) for t in same]
    assert [p for p, _ in answers[0]] == [p for p, _ in answers[1]] and answers[0] != answers[1]


def test_the_first_groups_that_differ_are_kept_in_their_order(numpy_backend):
    trainer = make(dynamic_sampling=1)
    draws = [trainer.draw(0), trainer.draw(1)]
    draws[0].rewards = np.array([0.0] * 4 + [0, 1, 2, 3] + [1.0] * 4 + [3, 2, 1, 0])
    draws[1].rewards = np.array([0.0, 0, 0, 1] * 4)
    batch, advantages = trainer.compare(draws)
    one, two = (draw.rollouts.completions() for draw in draws)
    assert batch.completions() == one[4:8] + one[12:] + two[:8]
    assert (advantages[:4] == advantages[4:8][::-1]).all() and advantages[11] > 1


def test_dynamic_sampling_looks_for_groups_that_differ(numpy_backend):
    def rarely(prompts, completions, problems):
        return [float(p["answer"] in "012" and c[:1] > "4") for p, c in zip(problems, completions, strict=True)]

    trainer = make(functions=[rarely], dynamic_sampling=5)
    draws = trainer.sample()
    batch, advantages = trainer.compare(draws)
    assert 1 < len(draws) <= 6 and len(batch) <= 16
    groups = advantages.reshape(-1, 4)
    assert (groups != 0).any(axis=1).all()
    assert answer_figures(draws)["frac_reward_zero_std"] > 0.5
    nothing = make(functions=[lambda p, c, problems: [0.0] * len(c)], dynamic_sampling=1)
    batch, advantages = nothing.compare(nothing.sample())
    assert len(batch) == 16 and not advantages.any()
    assert nothing.step()["grad_norm"] == 0


def test_long_answers_are_punished_and_cut_ones_left_out(numpy_backend):
    trainer = make(overlong_cache=2)
    answers = trainer.draw()
    punished = np.asarray(soft_overlong_punishment(answers.rollouts.lengths.astype(float), 3, 2))
    np.testing.assert_array_equal(answers.earned["overlong"], punished)
    np.testing.assert_allclose(answers.rewards, sum(answers.earned.values()))
    assert set(punished) == {0.0, -0.5, -1.0} or set(punished) <= {0.0, -0.5, -1.0}

    trainer = make(mask_truncated_completions=True, max_completion_length=1, functions=[lambda p, c, x: range(len(c))])
    draws = trainer.sample()
    batch, advantages = trainer.compare(draws)
    batch.finished[:] = False
    assert trainer.learn(batch, advantages)["grad_norm"] == 0
    batch.finished[3] = True
    assert trainer.learn(batch, advantages)["grad_norm"] > 0


def test_rewards_are_weighted_and_may_not_apply(numpy_backend):
    def sometimes(prompts, completions, problems):
        return [None if problem["answer"] < "5" else 1.0 for problem in problems]

    trainer = make(functions=[sometimes, short], reward_weights=(2.0, 0.5))
    answers = trainer.draw()
    expected = 2 * np.nan_to_num(answers.earned["sometimes"]) + 0.5 * answers.earned["short"]
    np.testing.assert_allclose(answers.rewards, expected)
    assert np.isnan(answers.earned["sometimes"]).any()


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda p, c, x: 1 / 0, RuntimeError, "reward function '<lambda>' raised ZeroDivisionError: division by zero"),
        (lambda p, c, x: [0.0], ValueError, "reward function '<lambda>': got 1 rewards, expected 16"),
        (lambda p, c, x: [math.nan] * len(c), ValueError, "reward function '<lambda>': got nan for '.*', expected"),
        (lambda p, c, x: ["good"] * len(c), ValueError, "'<lambda>': got 'good' for '.*', expected a finite number"),
        (lambda p, c, x: None, RuntimeError, "'<lambda>' raised TypeError: 'NoneType' object is not iterable"),
    ],
)
def test_a_bad_reward_function_is_named_and_nothing_is_learned(numpy_backend, function, error, message):
    trainer = make(functions=[function])
    before = weights(trainer.model)
    with pytest.raises(error, match=message):
        trainer.step()
    assert trainer.steps_done == 0
    for name, array in before.items():
        np.testing.assert_array_equal(weights(trainer.model)[name], array)


def test_a_reward_function_cannot_change_what_others_see():
    def clears(prompts, completions, problems):
        rewards = [0.0] * len(prompts)
        prompts.clear(), completions.clear(), problems.clear()
        return rewards

    prompts, completions, problems = ["a"], ["b"], ["c"]
    assert call_reward("clears", clears, prompts, completions, problems).tolist() == [0.0]
    assert (prompts, completions, problems) == (["a"], ["b"], ["c"])


def test_a_loss_that_is_not_finite_ends_the_run_before_an_update(numpy_backend):
    trainer = make()
    batch, advantages = trainer.compare(trainer.sample())
    before = weights(trainer.model)
    with pytest.raises(FloatingPointError, match="step 1: the loss is nan"):
        trainer.learn(batch, np.full_like(advantages, np.nan))
    for name, array in before.items():
        np.testing.assert_array_equal(weights(trainer.model)[name], array)


def test_the_reference_is_the_model_at_the_start_or_without_its_adapters(numpy_backend):
    trainer, start = make(beta=0.1), nano()
    for _ in range(3):
        trainer.step()
    batch = trainer.draw().rollouts
    expected = trainer.logps(start, batch).logps.numpy()
    np.testing.assert_array_equal(trainer.reference_logps(batch), expected)
    assert np.abs(trainer.logps(trainer.model, batch).logps.numpy() - expected).max() > 0.01

    model = nano()
    add_lora(model, LoraConfig(r=2))
    adapted = make(beta=0.1, model=model)
    assert adapted.reference is None
    for _ in range(3):
        adapted.step()
    np.testing.assert_allclose(adapted.reference_logps(batch), expected, atol=1e-6)
    assert adapted.step()["kl"] > 0


def mixture():
    tokenizer = nano().tokenizer
    model = zoo.build("mixtral-nano", vocab_size=len(tokenizer), seed=0, eos_token_id=0)
    model.tokenizer = tokenizer
    return model


def test_a_mixture_of_experts_learns_too(numpy_backend):
    model = mixture()
    figures = make(model=model).step()
    assert figures["grad_norm"] > 0 and all(getattr(m, "load", None) is None for m in model.modules())


def test_routers_are_balanced_by_the_tokens_that_are_there(numpy_backend):
    trainer, twin = make(model=mixture()), mixture()
    batch, advantages = trainer.compare(trainer.sample())
    report = trainer.update(batch, advantages, None, None)
    read = batch.ids[:, :-1]
    real = np.arange(read.shape[1]) < (batch.prompt_lengths + batch.lengths)[:, None]
    assert not real.all()
    loads = [m.load.sum() for m in trainer.model.modules() if getattr(m, "load", None) is not None]
    assert loads == [real.sum() * twin.config.num_experts_per_tok] * twin.config.num_hidden_layers

    with collecting(real) as own:
        twin.model(read)
    logps = token_logps(twin, batch.ids, batch.mask).logps
    plain_loss = grpo_loss(logps, None, advantages, batch.mask[:, 1:], loss_type="dapo")
    assert report["aux_loss"] == pytest.approx(own[0].item(), rel=1e-5) and report["aux_loss"] > 0
    assert report["loss"] == pytest.approx((plain_loss + own[0]).item(), rel=1e-5)


def test_objects_with_a_prompt_are_problems_too(numpy_backend):
    @dataclasses.dataclass
    class Question:
        prompt: str

    functions = [functools.partial(lambda p, c, x: [float(q.prompt == t) for q, t in zip(x, p, strict=True)])]
    trainer = GRPOTrainer(nano(), [Question("1="), Question("12=")], functions, configured())
    assert isinstance(answers := trainer.draw(), Answers) and (answers.rewards == 1).all()
    assert list(answers.earned) == ["partial"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_generations": 1}, "num_generations: got 1, expected a whole number ≥ 2"),
        ({"generation_batch_size": 10}, "generation_batch_size: got 10, expected a multiple of num_generations, 4"),
        ({"temperature": 0.0}, "temperature: got 0.0, expected a number > 0"),
        ({"learning_rate": math.nan}, "learning_rate: got nan, expected a number > 0"),
        ({"beta": -1.0}, "beta: got -1.0, expected a number ≥ 0"),
        ({"loss_type": "ppo"}, "loss_type: got 'ppo', expected one of grpo, dapo, dr_grpo"),
        ({"importance_sampling_level": "x"}, "importance_sampling_level: got 'x', expected token or sequence"),
        ({"overlong_cache": 4}, "overlong_cache: got 4, expected 1 to max_completion_length, 3, or None"),
        ({"top_p": 1.5}, "top_p: got 1.5, expected above 0 and at most 1, or None"),
        ({"epsilon_high": 0.0}, "epsilon_high: got 0.0, expected above 0"),
        ({"steps": 0}, "steps: got 0, expected a whole number ≥ 1"),
        ({"dynamic_sampling": -1}, "dynamic_sampling: got -1, expected a whole number ≥ 0"),
        ({"reward_weights": (1.0,)}, r"reward_weights: got \(1.0,\), expected 2 finite numbers"),
        ({"max_completion_length": 31}, "max_completion_length: got 31 after prompts of up to 2 tokens, expected at m"),
        ({"functions": [right, right]}, r"reward_functions: got 2 with the names \['right'\], expected one or"),
        ({"functions": []}, "reward_functions: got 0"),
        ({"held_out": [{"question": "?"}]}, "problems: number 0 has the prompt None, expected a text"),
        ({"held_out": [{"prompt": ""}]}, "problems: number 0 has the prompt '', expected a text"),
    ],
)
def test_bad_input(numpy_backend, change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_what_is_missing_is_said(numpy_backend):
    with pytest.raises(ValueError, match="held_out: got no problems"):
        make().evaluate()
    with pytest.raises(ValueError, match="problems: got none, expected at least one"):
        GRPOTrainer(nano(), [], [right], configured())
    model = nano()
    model.tokenizer = None
    with pytest.raises(ValueError, match="model: got one without a tokenizer"):
        make(model=model)
