"""Learning from pairs by DPO and IPO: it learns, resumes exactly, and an update is the gradient of the loss."""

import copy
import json
import math

import numpy as np
import pytest
from pairs import DIGITS, PAIRS, nano
from training import without_timing

from tinymoe.backend import current
from tinymoe.posttrain import (
    DPOConfig,
    DPOTrainer,
    LoraConfig,
    Pair,
    add_lora,
    dpo_loss,
    rollouts,
    sequence_logps,
    token_logps,
)


def configured(**changes):
    return DPOConfig(**{"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 2, **changes})


def make(tmp_path=None, model=None, pairs=PAIRS, held_out=(), **changes):
    return DPOTrainer(model or nano(), pairs, configured(**changes), tmp_path, held_out)


def weights(model):
    return {name: p.numpy().copy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_it_learns_what_is_preferred(numpy_backend, loss_type):
    trainer = make(steps=60, loss_type=loss_type, held_out=PAIRS, eval_every=1000, batch_size=10)
    before = trainer.evaluate()
    history = trainer.run(progress=False)
    assert before == pytest.approx(math.log(2) if loss_type == "sigmoid" else 25, rel=1e-5)
    assert history[-1]["val_loss"] < before / 3
    assert history[-1]["eval_rewards/accuracies"] == 1 and history[-1]["eval_rewards/margins"] > 0.1
    model, prompts = trainer.model, [trainer.tokenizer.encode(pair.prompt) for pair in PAIRS]
    batch = rollouts(model, prompts, max_new_tokens=1, temperature=0.0)
    right = [model.tokenizer.decode(ids) == pair.chosen for ids, pair in zip(batch.completions(), PAIRS, strict=True)]
    assert np.mean(right) >= 0.8


@pytest.mark.parametrize("changes", [{}, {"loss_type": "ipo"}, {"rpo_alpha": 0.2, "beta": 0.5}])
def test_an_update_is_the_gradient_of_the_loss(backend, changes):
    trainer, twin, other = make(**changes), nano(), nano(seed=1)
    trainer.reference, trainer.optimizer.step = other, lambda grad_scale: None
    report = trainer.step()

    settings = {"beta": 0.1, "loss_type": "sigmoid", "rpo_alpha": None, **changes}
    sums = {name: [] for name in ("chosen", "rejected", "ref_chosen", "ref_rejected")}
    nll, tokens = 0.0, 0
    for i in trainer.data.draw(4, 0, 0):
        for side in ("chosen", "rejected"):
            for name, model in ((side, twin), (f"ref_{side}", other)):
                start = trainer.tokenizer.encode(PAIRS[i].prompt)
                row = np.array([[*start, *trainer.tokenizer.encode(getattr(PAIRS[i], side)), 0]])
                mask = np.arange(row.shape[1])[None] >= len(start)
                logps = token_logps(model, row, mask).logps
                average = settings["loss_type"] == "ipo"
                sums[name].append(sequence_logps(logps, mask[:, 1:], average=average))
                if name == "chosen":
                    nll, tokens = nll - logps.sum(), tokens + int(mask.sum())
    loss = 0.0
    for terms in zip(*sums.values(), strict=True):
        chosen, rejected, *references = terms
        loss = (
            dpo_loss(chosen, rejected, *references, beta=settings["beta"], loss_type=settings["loss_type"]) * 0.25
            + loss
        )
    if settings["rpo_alpha"]:
        loss = loss + nll * (settings["rpo_alpha"] / tokens)
    loss.backward()
    assert report["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert report["nll"] == pytest.approx(nll.item() / tokens, rel=1e-5)
    for mine, theirs in zip(trainer.model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_allclose(current().to_numpy(mine.grad), current().to_numpy(theirs.grad), atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"loss_type": "ipo", "rpo_alpha": 0.1}])
def test_a_resumed_run_is_the_unbroken_one(numpy_backend, tmp_path, changes):
    whole = make(tmp_path / "whole", held_out=PAIRS[:3], eval_every=3, **changes)
    whole.run(progress=False)

    def kill(metrics):
        if metrics["step"] == 5:
            raise InterruptedError

    broken = make(tmp_path / "broken", held_out=PAIRS[:3], eval_every=3, **changes)
    with pytest.raises(InterruptedError):
        broken.run(on_step=kill, progress=False)
    resumed = make(tmp_path / "broken", held_out=PAIRS[:3], eval_every=3, **changes)
    assert resumed.resume() == 4
    resumed.run(progress=False)
    assert without_timing(resumed.history) == without_timing(whole.history)
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert without_timing(map(json.loads, lines)) == without_timing(whole.history)
    names = [tmp_path / run / "model.safetensors" for run in ("whole", "broken")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_resuming_something_else_is_an_error(numpy_backend, tmp_path):
    make(tmp_path, steps=2).run(progress=False)
    with pytest.raises(ValueError, match="config beta"):
        make(tmp_path, steps=2, beta=0.3).resume()
    with pytest.raises(ValueError, match="data: the checkpoint"):
        make(tmp_path, steps=2, model=nano(seed=1)).resume()  # another reference
    with pytest.raises(ValueError, match="data: the checkpoint"):
        make(tmp_path, steps=2, pairs=PAIRS[:9]).resume()
    with pytest.raises(FileExistsError, match="already holds a run"):
        make(tmp_path).run(progress=False)


def test_the_reference_is_the_model_at_the_start_or_without_its_adapters(numpy_backend):
    trainer, start = make(steps=3), nano()
    trainer.run(progress=False)
    for mine, theirs in zip(trainer.reference.parameters(), start.parameters(), strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())

    model = add_lora(nano(), LoraConfig(r=2))
    before = copy.deepcopy(weights(nano()))
    trainer = make(model=model, steps=3)
    history = trainer.run(progress=False)
    assert trainer.reference is None and history[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)
    assert history[-1]["loss"] < math.log(2)
    batch = trainer.data.batch([0, 1])
    expected = token_logps(nano(), batch.ids, batch.mask).logps.numpy()
    np.testing.assert_allclose(trainer._reference_logps(batch).numpy(), expected, atol=1e-6)
    assert not before.keys() & weights(model).keys()  # nothing but the adapters is trained


def test_metrics_say_what_happened(numpy_backend):
    trainer = make(held_out=PAIRS, eval_every=2, warmup=1, learning_rate=4e-3)
    first = trainer.step()
    assert next(iter(first)) == "step" and json.loads(json.dumps(first, allow_nan=False)) == first
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-6) and first["rewards/margins"] == 0
    assert {"logps/chosen", "logps/rejected", "rewards/accuracies", "nll", "grad_norm", "tokens_per_s"} <= first.keys()
    assert first["lr"] == pytest.approx(2e-3) and trainer.look() == {}
    assert trainer.step()["lr"] == pytest.approx(4e-3)
    assert {"val_loss", "eval_rewards/accuracies", "eval_logps/chosen"} <= trainer.look().keys()
    assert trainer.evaluate() == pytest.approx(trainer.look()["val_loss"])
    assert trainer.evaluate(1) != trainer.evaluate()


def test_gradients_are_clipped(numpy_backend):
    trainer, factors = make(max_grad_norm=1e-3), []
    trainer.optimizer.step = lambda grad_scale: factors.append(grad_scale)
    assert trainer.step()["grad_norm"] * factors[0] == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_is_not_finite_ends_the_run_before_an_update(numpy_backend):
    trainer = make()
    before = weights(trainer.model)
    next(iter(trainer.reference.parameters())).data[:] = np.nan
    with pytest.raises(FloatingPointError, match="step 1: the loss is nan"):
        trainer.step()
    for name, array in before.items():
        np.testing.assert_array_equal(weights(trainer.model)[name], array)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "beta: got 0.0, expected a number > 0"),
        ({"loss_type": "hinge"}, "loss_type: got 'hinge', expected sigmoid or ipo"),
        ({"rpo_alpha": -1.0}, "rpo_alpha: got -1.0"),
        ({"batch_size": 0}, "batch_size: got 0, expected a whole number ≥ 1"),
        ({"learning_rate": math.nan}, "learning_rate: got nan, expected a number > 0"),
        ({"warmup": -1}, "warmup: got -1"),
        ({"max_grad_norm": math.inf}, "max_grad_norm: got inf"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        configured(**changes)


def test_bad_input_is_named(numpy_backend):
    with pytest.raises(ValueError, match="pairs: got none"):
        make(pairs=[])
    with pytest.raises(ValueError, match="held_out: got no pairs"):
        make().evaluate()
    with pytest.raises(ValueError, match="number 0 has 33 tokens"):
        make(pairs=[Pair("1=", (DIGITS * 3)[:30], "1")])
    model = nano()
    model.tokenizer = None
    with pytest.raises(ValueError, match="model: got one without a tokenizer"):
        make(model=model)
