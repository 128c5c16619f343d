"""Distillation as a run: whose texts are learned and how, exact resuming, and a teacher that stays the same."""

import functools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from training import without_timing

from tinymoe import AdamW, zoo
from tinymoe.backend import current, reference, using
from tinymoe.posttrain import (
    DistillConfig,
    DistillTrainer,
    LoraConfig,
    add_lora,
    distill_loss,
    distill_texts,
    rollouts,
    sft_loss,
)
from tinymoe.tensor import no_grad
from tinymoe.text.tokenizer import CharTokenizer

DIGITS = "0123456789"
PROBLEMS = [{"prompt": f"{digit}=", "tagged": digit, "double": digit * 2} for digit in DIGITS]
OWN, TEACHERS, STUDENTS = {"lmbda": 0.0}, {"lmbda": 0.0, "seq_kd": True}, {"lmbda": 1.0}


def nano(seed=0, width=16, letters=DIGITS + "=", **settings):
    tokenizer = CharTokenizer.train([letters], special_tokens=["<end>"])
    shape = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 1, "max_position_embeddings": 16}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = zoo.build("llama-pico", vocab_size=len(tokenizer), seed=seed, eos_token_id=0, **{**shape, **settings})
    model.tokenizer = tokenizer
    return model


@functools.cache
def learned():
    """The weights of a teacher that answers «5=» with «5»."""
    with using("numpy"):
        model = nano(seed=3, width=32)
        optimizer = AdamW(model.parameters(), lr=1e-2)
        ids = [[*model.tokenizer.encode(f"{digit}={digit}"), 0] for digit in DIGITS]
        for _ in range(60):
            optimizer.zero_grad()
            sft_loss(model, ids, [[0, 0, 1, 1]] * 10).backward()
            optimizer.step()
        return weights(model)


def teacher():
    model = nano(seed=3, width=32)
    for name, p in model.named_parameters():
        p.data = current().asarray(learned()[name].copy())
    return model


def configured(**changes):
    settings = {"steps": 6, "batch_size": 4, "max_new_tokens": 3, "learning_rate": 1e-2, "checkpoint_every": 2}
    return DistillConfig(**{**settings, **changes})


def make(tmp_path=None, student=None, teacher=teacher, problems=PROBLEMS, held_out=(), **changes):
    return DistillTrainer(student or nano(), teacher(), problems, configured(**changes), tmp_path, held_out)


def plain(history):
    return [{k: v for k, v in metrics.items() if k != "seconds"} for metrics in without_timing(history)]


def weights(model):
    return {name: p.numpy().copy() for name, p in model.named_parameters()}


def grads(model):
    return {name: current().to_numpy(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def right(model):
    """The share of digits that a model answers with themselves, and stops."""
    batch = rollouts(
        model, model.tokenizer.encode_batch([f"{d}=" for d in DIGITS]), max_new_tokens=3, temperature=0, stop=0
    )
    return np.mean(
        [model.tokenizer.decode(ids) == f"{d}<end>" for ids, d in zip(batch.completions(), DIGITS, strict=True)]
    )


def note(seen, grad_scale):
    seen.append(grad_scale)


# -- the loss of texts


def texts(rng, rows=3, width=7):
    return rng.integers(0, 12, (rows, width)), rng.random((rows, width)) < 0.6


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_it_is_distill_loss_of_all_logits(backend, beta, monkeypatch):
    """Also where the output layer takes a few tokens at a time, soft-caps its logits or is the embedding table."""
    monkeypatch.setattr(reference, "LOSS_CHUNK", 4)
    shape = {"initializer_range": 0.3, "tie_word_embeddings": True}
    student, twin, wise = (nano(seed, **shape) for seed in (0, 0, 1))
    for model in (student, twin):
        model.config = type(model.config)(**{**vars(model.config), "final_logit_softcapping": 2.0})
    ids, mask = texts(np.random.default_rng(0))
    loss = distill_texts(student, wise, ids, mask, beta, 1.7)
    expected = distill_loss(twin(ids[:, :-1]), wise(ids[:, :-1]).detach(), mask[:, 1:], beta, 1.7)
    expected.backward()
    assert mask[:, 1:].sum() > 4 and loss == pytest.approx(expected.item(), rel=1e-5) and loss > 0
    for name, grad in grads(twin).items():
        np.testing.assert_allclose(grads(student)[name], grad, atol=1e-5 * np.abs(grad).max(), err_msg=name)
    assert not grads(wise)


def test_without_gradients_it_only_measures(backend):
    student, wise = nano(), nano(1)
    ids, mask = texts(np.random.default_rng(0))
    with no_grad():
        loss = distill_texts(student, wise, ids, mask)
    assert not grads(student) and loss == pytest.approx(distill_texts(student, wise, ids, mask), rel=1e-6)
    assert distill_texts(student, wise, ids, mask * 0) == 0
    assert distill_texts(student, student, ids, mask) == pytest.approx(0, abs=1e-7)


def test_no_more_logits_exist_than_a_chunk_has(numpy_backend, monkeypatch):
    monkeypatch.setattr(reference, "LOSS_CHUNK", 5)
    seen = []
    monkeypatch.setattr(
        "tinymoe.posttrain.distill.distill_loss", lambda s, t, *rest: seen.append(s.shape) or s.sum() * 0
    )
    distill_texts(nano(), nano(1), np.zeros((4, 4), int), np.ones((4, 4)))
    assert seen == [(1, 5, 12), (1, 5, 12), (1, 2, 12)]


# -- whose texts


def test_the_texts_are_those_that_were_asked_for(numpy_backend):
    own = make(**OWN, solution_field="double")
    batch = own.texts(own.data, [3, 5], False, (0,))
    np.testing.assert_array_equal(batch.ids, [[*own.tokenizer.encode(f"{d}={d}{d}"), 0] for d in "35"])
    np.testing.assert_array_equal(batch.mask, [[False, False, True, True, True]] * 2)
    assert batch.finished.all() and not batch.on_policy
    for settings, on_policy in ((TEACHERS, False), (STUDENTS, True)):
        trainer = make(**settings, temperature=0.6)
        writer = trainer.model if on_policy else trainer.teacher
        got = trainer.texts(trainer.data, [3, 5, 5], on_policy, (1, 2))
        prompts = trainer.tokenizer.encode_batch(["3=", "5=", "5="])
        expected = rollouts(writer, prompts, max_new_tokens=3, temperature=0.6, stop=0, seed=(1, 2))
        np.testing.assert_array_equal(got.ids, expected.ids)
        np.testing.assert_array_equal(got.mask, expected.mask)
        np.testing.assert_array_equal(got.finished, expected.finished)
        assert got.on_policy is on_policy


def test_texts_of_unequal_length_are_padded_behind(numpy_backend):
    problems = [{"prompt": "12=", "tagged": "3"}, {"prompt": "4", "tagged": "5"}]
    trainer = make(problems=problems, batch_size=2, **OWN)
    ids, mask, finished, _ = trainer.texts(trainer.data, [0, 1], False, (0,))
    encode = trainer.tokenizer.encode
    np.testing.assert_array_equal(ids, [[*encode("12=3"), 0], [*encode("45"), 0, 0, 0]])
    np.testing.assert_array_equal(mask, [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]])
    assert finished.all()


def test_the_share_of_batches_that_the_student_writes(numpy_backend):
    trainer = make(lmbda=0.3, steps=200)
    trainer.update = lambda texts: {"loss": 0.0}
    chosen = [trainer.step()["on_policy"] for _ in range(200)]
    assert 0.2 < np.mean(chosen) < 0.4
    again = make(lmbda=0.3, steps=200)
    again.update = trainer.update
    assert [again.step()["on_policy"] for _ in range(20)] == chosen[:20]
    assert not any(make(**OWN).step()["on_policy"] for _ in range(3)) and make(**STUDENTS).step()["on_policy"]


def test_a_steps_loss_and_gradient(backend):
    """The teacher's distributions, at the temperature; with seq_kd the teacher's texts, as any other text."""
    for settings in (OWN, STUDENTS, {"lmbda": 1.0, "seq_kd": True}, TEACHERS):
        trainer, twin = make(**settings, beta=0.3, temperature=0.8), nano()
        factors = []
        trainer.optimizer.step = functools.partial(note, factors)
        batch = trainer.texts(trainer.data, [1, 2, 3], settings["lmbda"] == 1, (0,))
        report = trainer.update(batch)
        if settings is TEACHERS:
            loss = sft_loss(twin, batch.ids, batch.mask)
        else:
            theirs = trainer.teacher(batch.ids[:, :-1]).detach()
            loss = distill_loss(twin(batch.ids[:, :-1]), theirs, batch.mask[:, 1:], 0.3, 0.8)
        loss.backward()
        assert report["loss"] == pytest.approx(loss.item(), rel=1e-5)
        for name, grad in grads(twin).items():
            np.testing.assert_allclose(grads(trainer.model)[name], grad, atol=1e-6, err_msg=name)
        assert factors == [min(1.0, 1 / (report["grad_norm"] + 1e-6))]


# -- runs


@pytest.mark.parametrize("settings", [OWN, {**OWN, "beta": 1.0}, TEACHERS, STUDENTS, {"lmbda": 0.5, "seq_kd": True}])
def test_the_student_learns_what_the_teacher_knows(numpy_backend, settings):
    trainer = make(**settings, steps=80, batch_size=10, held_out=PROBLEMS, eval_every=40)
    before = trainer.evaluate()
    assert right(trainer.teacher) == 1 and right(trainer.model) <= 0.2
    history = trainer.run(progress=False)
    assert right(trainer.model) == 1
    assert history[-1]["val_loss"] < 0.3 * before and [m["step"] for m in history if "val_loss" in m] == [40, 80]


def test_the_teacher_is_believed_not_the_texts(numpy_backend):
    """The texts say 5=5. This teacher says 6 to that, and so does the student."""
    wrong = teacher()
    digits = wrong.tokenizer.encode(DIGITS)
    wrong.lm_head.weight.data[np.roll(digits, -1)] = wrong.lm_head.weight.data[digits]
    trainer = make(teacher=lambda: wrong, **OWN, steps=60, batch_size=10)
    trainer.run(progress=False)
    batch = rollouts(trainer.model, trainer.data.ids, max_new_tokens=1, temperature=0)
    assert [trainer.tokenizer.decode(ids) for ids in batch.completions()] == list("1234567890")


@pytest.mark.parametrize("settings", [OWN, TEACHERS, {"lmbda": 0.5, "beta": 0.3}])
def test_a_resumed_run_is_the_unbroken_one(numpy_backend, tmp_path, settings):
    settings = {**settings, "held_out": PROBLEMS[:3], "eval_every": 3}
    whole = make(tmp_path / "whole", **settings)
    whole.run(progress=False)

    def kill(metrics):
        if metrics["step"] == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        make(tmp_path / "broken", **settings).run(on_step=kill, progress=False)
    resumed = make(tmp_path / "broken", **settings)
    assert resumed.resume() == 4
    resumed.run(progress=False)
    assert plain(resumed.history) == plain(whole.history)
    lines = (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()
    assert plain(map(json.loads, lines)) == plain(whole.history)
    names = [tmp_path / run / "model.safetensors" for run in ("whole", "broken")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_resuming_something_else_is_an_error(numpy_backend, tmp_path):
    make(tmp_path, steps=2).run(progress=False)
    with pytest.raises(ValueError, match="config beta"):
        make(tmp_path, steps=2, beta=0.3).resume()
    for other in ({"teacher": lambda: nano(seed=9, width=32)}, {"problems": PROBLEMS[:9]}):
        with pytest.raises(ValueError, match="data: the checkpoint"):
            make(tmp_path, steps=2, **other).resume()
    changed = [{**problem, "tagged": "7"} for problem in PROBLEMS]
    with pytest.raises(ValueError, match="data: the checkpoint"):
        make(tmp_path, steps=2, problems=changed).resume()
    assert make(tmp_path, steps=2).resume() == 2
    with pytest.raises(FileExistsError, match="already holds a run"):
        make(tmp_path).run(progress=False)


def test_the_teacher_stays_as_it_is(numpy_backend):
    trainer = make(lmbda=0.5, weight_decay=0.1)
    before = weights(trainer.teacher)
    trainer.run(progress=False)
    assert not grads(trainer.teacher)
    for name, array in weights(trainer.teacher).items():
        np.testing.assert_array_equal(array, before[name])


def test_metrics_say_what_happened(numpy_backend):
    first = make(**STUDENTS, max_new_tokens=1, learning_rate=1e-3).step()
    assert next(iter(first)) == "step" and json.loads(json.dumps(first, allow_nan=False)) == first
    assert first["completions/mean_length"] == 1 and first["completions/clipped_ratio"] > 0.5
    assert first["loss"] > 0 and first["grad_norm"] > 0 and first["on_policy"] is True
    assert set(first["seconds"]) == {"sampling", "learning"}
    assert make(**OWN).step()["completions/mean_length"] == 2  # the digit and the end


def test_the_learning_rate_warms_up(numpy_backend):
    trainer = make(warmup=3, learning_rate=4e-4)
    assert [trainer.step()["lr"] for _ in range(5)] == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 4e-4])


def test_held_out_problems_are_all_measured(numpy_backend):
    trainer = make(held_out=PROBLEMS, batch_size=4, beta=0.0, lmbda=0.2)
    whole = trainer.texts(trainer.held_out, range(10), False, (0,))
    with no_grad():
        expected = trainer.loss(whole)
    assert trainer.evaluate() == pytest.approx(expected, rel=1e-6) and not grads(trainer.model)
    first = trainer.texts(trainer.held_out, range(4), False, (0,))
    with no_grad():
        assert trainer.evaluate(1) == pytest.approx(trainer.loss(first), rel=1e-6)


def test_adapters_and_experts_learn_too(numpy_backend):
    student = nano()
    add_lora(student, LoraConfig(r=2))
    before = {name: p.numpy().copy() for name, p in student.named_parameters()}
    assert make(student=student, **OWN).step()["grad_norm"] > 0
    changed = {name for name, array in weights(student).items() if (array != before[name]).any()}
    assert changed and all("lora" in name for name in changed)
    experts = zoo.build("mixtral-nano", vocab_size=12, seed=0, eos_token_id=0)
    experts.tokenizer = nano().tokenizer
    assert make(student=experts).step()["grad_norm"] > 0
    assert all(getattr(m, "load", None) is None for m in experts.modules())


def test_objects_with_a_solution_are_problems_too(numpy_backend):
    problems = [SimpleNamespace(prompt="1=", solution="1"), SimpleNamespace(prompt="2=", solution="2")]
    assert make(problems=problems, solution_field="solution", **OWN).step()["loss"] > 0
    only_prompts = [{"prompt": "1="}, {"prompt": "2="}]
    for settings in (STUDENTS, TEACHERS):
        assert make(problems=only_prompts, held_out=only_prompts, **settings).step()["loss"] > 0


def test_a_loss_that_is_not_finite_ends_the_run_before_an_update(numpy_backend):
    broken = nano(seed=3, width=32)
    broken.lm_head.weight.data[:] = np.nan
    trainer = make(teacher=lambda: broken, **OWN)
    before = weights(trainer.model)
    with pytest.raises(FloatingPointError, match="step 1: the loss is nan"):
        trainer.step()
    for name, array in before.items():
        np.testing.assert_array_equal(weights(trainer.model)[name], array)
    with pytest.raises(FloatingPointError, match="step 0: the validation loss is nan"):
        make(teacher=lambda: broken, held_out=PROBLEMS, **OWN).evaluate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: got 0, expected a whole number ≥ 1"),
        ({"batch_size": 2.5}, "batch_size: got 2.5, expected a whole number ≥ 1"),
        ({"warmup": -1}, "warmup: got -1, expected a whole number ≥ 0"),
        ({"lmbda": 1.5}, "lmbda: got 1.5, expected a number from 0 to 1"),
        ({"beta": -0.1}, "beta: got -0.1, expected a number from 0 to 1"),
        ({"beta": math.nan}, "beta: got nan, expected a number from 0 to 1"),
        ({"temperature": 0.0}, "temperature: got 0.0, expected a number > 0"),
        ({"learning_rate": math.inf}, "learning_rate: got inf, expected a number > 0"),
        ({"max_grad_norm": -1.0}, "max_grad_norm: got -1.0, expected a number ≥ 0"),
        ({"max_new_tokens": 15}, "max_new_tokens: got 15 after prompts of up to 2 tokens, expected at most .* 16 toge"),
        ({"solution_field": "text"}, "problems: number 0 has None as its 'text', expected a text, since lmbda is"),
        ({"problems": [{"prompt": "1=", "tagged": ""}]}, "problems: number 0 has '' as its 'tagged', expected a text"),
        ({"held_out": [*PROBLEMS, {"prompt": "1="}]}, "problems: number 10 has None as its 'tagged', expected a text"),
        ({"problems": [{"prompt": "1=", "tagged": "2" * 20}]}, "problems: got one of 23 tokens with its solution, exp"),
        ({"problems": []}, "problems: got none, expected at least one"),
        ({"problems": [{"tagged": "1"}]}, "problems: number 0 has the prompt None, expected a text"),
        ({"teacher": lambda: nano(letters=DIGITS)}, "teacher: got a vocabulary of 11 tokens, expected the student's"),
        ({"teacher": lambda: nano(letters=DIGITS + "+")}, r"teacher: got '\+' as token 1, expected the student's '0'"),
    ],
)  # fmt: skip
def test_bad_input(numpy_backend, change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


def test_what_is_missing_is_said(numpy_backend):
    with pytest.raises(ValueError, match="held_out: got no problems"):
        make().evaluate()
    student = nano()
    with pytest.raises(ValueError, match="teacher: got the student itself, expected another model"):
        make(student=student, teacher=lambda: student)
    student.tokenizer = None
    with pytest.raises(ValueError, match="student: got one without a tokenizer"):
        make(student=student)
    silent = teacher()
    silent.tokenizer = None
    assert make(teacher=lambda: silent).step()["loss"] > 0
