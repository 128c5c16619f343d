"""Reward models learn which answer is preferred, resume exactly, and are saved as what they are."""

import json
import math

import numpy as np
import pytest
from pairs import PAIRS, nano
from training import without_timing

from tinymoe.backend import current
from tinymoe.posttrain import Pair, RewardConfig, RewardTrainer, ScalarModel, reward_loss
from tinymoe.text.tokenizer import Tokenizer


def make(tmp_path=None, pairs=PAIRS, held_out=(), seed=0, **changes):
    settings = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 2, **changes}
    model, tokenizer = ScalarModel.from_causal_lm(nano(seed)), nano().tokenizer
    return RewardTrainer(model, pairs, RewardConfig(**settings), tmp_path, held_out, tokenizer=tokenizer)


def test_it_learns_what_is_preferred(numpy_backend):
    longer = [Pair(f"{i}=", "7" * (1 + i % 4 + j), "7" * (i % 4)) for i in range(10) for j in range(4)]
    held_out = longer[::3]
    pairs = [pair for pair in longer if pair not in held_out]
    trainer = make(pairs=pairs, held_out=held_out, steps=60, batch_size=13, eval_every=1000)
    before = trainer.look()["eval_accuracy"]
    history = trainer.run(progress=False)
    assert before < 0.7 and history[-1]["eval_accuracy"] >= 0.9
    assert history[-1]["val_loss"] < math.log(2) / 2 and history[-1]["margin"] > 1


@pytest.mark.parametrize("center", [None, 0.1])
def test_an_update_is_the_gradient_of_the_loss(backend, center):
    trainer = make(center_rewards_coefficient=center)
    twin = ScalarModel.from_causal_lm(nano())
    trainer.optimizer.step = lambda grad_scale: None
    report = trainer.step()
    loss = 0.0
    for i in trainer.data.draw(4, 0, 0):
        sides = []
        for text in (PAIRS[i].chosen, PAIRS[i].rejected):  # unpadded, one at a time
            sides.append(twin.rewards(np.array([[*trainer.tokenizer.encode(PAIRS[i].prompt + text), 0]])))
        loss = reward_loss(*sides, center_rewards_coefficient=center) * 0.25 + loss
    loss.backward()
    assert report["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for mine, theirs in zip(trainer.model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(current().to_numpy(mine.grad), current().to_numpy(theirs.grad), atol=1e-6)


def test_answers_of_unequal_length_are_padded_without_effect(backend):
    pairs = [Pair("1=", "1", "1234"), Pair("12=", "", "5")]
    trainer = make(pairs=pairs)
    together = trainer.loss(trainer.data.batch([0, 1]))[0].item()
    alone = [trainer.loss(trainer.data.batch([i]))[0].item() for i in (0, 1)]
    assert together == pytest.approx(np.mean(alone), rel=1e-5)


def test_a_resumed_run_is_the_unbroken_one_and_the_model_is_saved(numpy_backend, tmp_path):
    whole = make(tmp_path / "whole", held_out=PAIRS[:3], eval_every=3)
    whole.run(progress=False)

    def kill(metrics):
        if metrics["step"] == 5:
            raise InterruptedError

    broken = make(tmp_path / "broken", held_out=PAIRS[:3], eval_every=3)
    with pytest.raises(InterruptedError):
        broken.run(on_step=kill, progress=False)
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    resumed = make(tmp_path / "broken", held_out=PAIRS[:3], eval_every=3)
    assert resumed.resume() == 4
    resumed.run(progress=False)
    assert without_timing(resumed.history) == without_timing(whole.history)
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert without_timing(map(json.loads, lines)) == without_timing(whole.history)
    saved = ScalarModel.from_pretrained(tmp_path / "broken")
    for mine, theirs in zip(whole.model.parameters(), saved.parameters(), strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert Tokenizer.load(tmp_path / "broken").encode("12=") == whole.tokenizer.encode("12=")


def test_metrics_say_what_happened(numpy_backend):
    trainer = make(held_out=PAIRS, eval_every=1)
    first = trainer.step()
    assert next(iter(first)) == "step" and json.loads(json.dumps(first, allow_nan=False)) == first
    assert {"loss", "accuracy", "margin", "min_reward", "mean_reward", "max_reward", "lr", "grad_norm"} <= first.keys()
    assert trainer.look().keys() == {"val_loss", "eval_accuracy", "eval_margin"} | {
        f"eval_{name}_reward" for name in ("min", "mean", "max")
    }


def test_centering_holds_the_rewards_at_zero(numpy_backend):
    held, free = make(center_rewards_coefficient=1.0, steps=40), make(steps=40)
    for trainer in (held, free):
        trainer.model.score.weight.data += 1.0  # so that rewards begin far from zero
        trainer.run(progress=False)
    assert abs(held.history[-1]["mean_reward"]) < abs(free.history[-1]["mean_reward"]) / 2


def test_bad_settings_and_input_are_named(numpy_backend, tmp_path):
    with pytest.raises(ValueError, match="center_rewards_coefficient: got -1"):
        RewardConfig(center_rewards_coefficient=-1)
    with pytest.raises(ValueError, match="steps: got 0, expected a whole number ≥ 1"):
        RewardConfig(steps=0)
    with pytest.raises(ValueError, match="held_out: got no pairs"):
        make().evaluate()
    with pytest.raises(ValueError, match="number 0 has 42 tokens"):
        make(pairs=[Pair("1=", "1" * 39, "1")])
    make(tmp_path, steps=2).run(progress=False)
    with pytest.raises(ValueError, match="config learning_rate"):
        make(tmp_path, steps=2, learning_rate=1e-3).resume()
