"""The training loop: it learns, resumes exactly, stops clearly, and says what it did."""

import math
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from training import (
    CONTEXT,
    VOCABULARY,
    read_metrics,
    snapshot,
    tiny_config,
    tiny_data,
    tiny_model,
    without_timing,
)

from tinymoe.backend import available, using
from tinymoe.tensor import no_grad
from tinymoe.text.packing import IGNORE
from tinymoe.train import TokenData, TrainConfig, Trainer, schedule
from tinymoe.train.data import Batch


@pytest.fixture(autouse=True)
def numpy_backend():
    with using("numpy"):
        yield


def values(model):
    return {name: p.numpy().copy() for name, p in model.named_parameters()}


def assert_same_weights(a, b):
    for (name, p), (_, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy(), err_msg=name)


def test_windows_are_cut_from_the_text_and_shifted_by_one():
    data = TokenData.from_documents([list(range(100))], context=4)
    assert data.train.ids.tolist() == list(range(90))
    assert data.validation.ids.tolist() == list(range(90, 100))
    batch = data.batch(50, seed=1, step=2)
    assert batch.ids.shape == batch.targets.shape == (50, 4) and batch.documents is None
    np.testing.assert_array_equal(batch.ids + 1, batch.targets)
    np.testing.assert_array_equal(np.diff(batch.ids, axis=1), 1)
    assert batch.targets.max() < 90
    starts = {int(i) for step in range(60) for i in data.batch(50, seed=1, step=step).ids[:, 0]}
    assert starts == set(range(86))  # every place at which a row and its last target fit


@pytest.mark.parametrize("packed", [False, True])
def test_validation_covers_its_part_once_or_is_spread_over_it(packed):
    data = TokenData.from_documents([[n] * 7 for n in range(60)], context=4, end=99, packed=packed)
    batches = list(data.validation_batches(2))
    assert len(batches) == (5 if packed else 6)
    if packed:
        np.testing.assert_array_equal(np.concatenate([b.ids for b in batches]), data.validation.ids[:, :-1])
    else:
        assert sum(b.num_targets for b in batches) == 6 * 8 - 1  # each token and end but the first
    spread = list(data.validation_batches(2, batches=3))
    assert [b.ids.tolist() for b in spread] == [batches[i].ids.tolist() for i in (0, 2, -1)]
    assert [b.ids.tolist() for b in data.validation_batches(2, 99)] == [b.ids.tolist() for b in batches]


def test_a_batch_depends_on_seed_and_step_alone():
    data = tiny_data()
    first = data.batch(4, seed=3, step=7).ids
    data.batch(4, seed=3, step=8)
    np.testing.assert_array_equal(data.batch(4, seed=3, step=7).ids, first)
    assert (data.batch(4, seed=3, step=8).ids != first).any()
    assert (data.batch(4, seed=4, step=7).ids != first).any()


def test_of_many_documents_every_tenth_is_for_validation():
    documents = [[n] * 5 for n in range(20)]
    data = TokenData.from_documents(documents, context=3, end=99)
    assert set(data.validation.ids) == {9, 19, 99}
    assert data.validation.ids.tolist() == [9] * 5 + [99] + [19] * 5 + [99]
    assert not {9, 19} & set(data.train.ids)
    assert data.max_id == 99


def test_packed_rows_neither_see_nor_predict_another_document():
    documents = [[10 * n + i for i in range(1, 6)] for n in range(12)]
    data = TokenData.from_documents(documents, context=7, end=0, packed=True)
    batch = data.batch(64, seed=0, step=0)
    same = batch.documents[:, :-1] == batch.documents[:, 1:]
    learned = batch.targets != IGNORE
    assert learned.any() and not learned.all()
    np.testing.assert_array_equal(batch.targets[:, :-1][learned[:, :-1]], batch.ids[:, 1:][learned[:, :-1]])
    assert not (learned[:, :-1] & ~same).any()
    inside = batch.ids > 0
    for row, documents_of_row, used in zip(batch.ids, batch.documents, inside, strict=True):
        for number in set(documents_of_row[used]):
            assert len({int(t) // 10 for t in row[used & (documents_of_row == number)]}) == 1


def test_packed_training_of_two_documents_keeps_one_for_validation():
    data = TokenData.from_documents([[1, 2, 3, 4, 5, 6], [7, 8, 9, 7, 8, 9]], context=4, end=0, packed=True)
    assert set(data.train.ids.ravel()) <= {0, 1, 2, 3, 4, 5, 6}
    assert set(data.validation.ids.ravel()) <= {0, 7, 8, 9}


def test_one_document_is_cut_in_two_when_packed_too():
    data = TokenData.from_documents([list(range(100))], context=4, packed=True)
    assert set(data.train.ids[data.train.documents == 0]) == set(range(90))
    assert set(data.validation.ids[data.validation.documents == 0]) == set(range(90, 100))


def test_without_documents_there_is_no_data():
    with pytest.raises(ValueError, match="documents: got none, expected at least one"):
        TokenData.from_documents([], context=4)


@pytest.mark.parametrize("packed", [False, True])
def test_other_tokens_have_another_fingerprint(packed):
    documents = [[1, 2, 3, 4, 5, 6, 7, 8]] * 20
    changed = [*documents[:-1], [1, 2, 3, 4, 5, 6, 7, 9]]
    one, same, other = (
        TokenData.from_documents(d, 4, end=0, packed=packed).fingerprint for d in (documents, documents, changed)
    )
    assert one == same != other
    assert one != TokenData.from_documents(documents, 5, end=0, packed=packed).fingerprint


def test_it_learns(tmp_path):
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(steps=60, warmup=5))
    before = trainer.evaluate()
    history = trainer.run(progress=False)
    assert before == pytest.approx(math.log(VOCABULARY), abs=0.3)
    assert history[-1]["val_loss"] < 0.6 * before
    assert list(tmp_path.iterdir()) == []


def test_metrics_of_a_step():
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(grad_clip=1e-3))
    batch = trainer.data.batch(4, seed=0, step=0)
    loss = trainer.model.loss(batch.ids, batch.targets)
    loss.backward()
    norm = math.sqrt(sum(float((p.grad.astype(np.float64) ** 2).sum()) for p in trainer.model.parameters()))
    metrics = trainer.step()
    assert metrics["step"] == trainer.steps_done == 1
    assert metrics["loss"] == pytest.approx(loss.item())
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert metrics["lr"] == schedule.cosine(0, lr=0.02, steps=12, warmup=2, min_lr=0.002)
    assert metrics["tokens_per_s"] > 0
    assert trainer.optimizer.state[0]["step"] == 1
    m = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    clipped = math.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in m)) / (1 - 0.9)
    assert clipped == pytest.approx(1e-3, rel=1e-3)  # the first moment has seen the clipped gradient


def test_accumulation_equals_a_larger_batch():
    one = Trainer(tiny_model(), tiny_data(), tiny_config(batch_size=8))
    four = Trainer(tiny_model(), tiny_data(), tiny_config(batch_size=2, accumulate=4))
    for _ in range(3):
        assert one.step()["loss"] == pytest.approx(four.step()["loss"], rel=1e-5)
    for p, q in zip(one.model.parameters(), four.model.parameters(), strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-4, atol=1e-6)


def test_accumulation_weighs_targets_not_batches():
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(VOCABULARY, size=(2, 4, CONTEXT))
    targets[0, 2:] = targets[3, 1:] = IGNORE

    class Uneven:
        context, max_id, fingerprint = CONTEXT, VOCABULARY - 1, "uneven"

        def batch(self, rows, *, seed, step):
            return Batch(ids, targets)

    one = Trainer(tiny_model(), Uneven(), tiny_config(batch_size=4))
    four = Trainer(tiny_model(), Uneven(), tiny_config(batch_size=1, accumulate=4))
    first, second = one.step(), four.step()
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-5)


def test_evaluation_is_the_mean_over_all_tokens_and_changes_nothing():
    trainer = Trainer(tiny_model(), tiny_data(tokens=650), tiny_config(batch_size=5))
    parts = list(trainer.data.validation_batches(5))
    assert parts[-1].num_targets < parts[0].num_targets
    with no_grad():
        losses = [trainer.model.loss(b.ids, b.targets).item() for b in parts]
    expected = np.average(losses, weights=[b.num_targets for b in parts])
    assert trainer.evaluate() == pytest.approx(expected, rel=1e-6)
    assert trainer.evaluate() == trainer.evaluate()
    assert trainer.evaluate(1) != trainer.evaluate()
    assert all(p.grad is None for p in trainer.model.parameters())


def test_packed_training_hands_the_documents_to_the_model():
    documents = [[1 + (n + i) % 9 for i in range(12)] for n in range(30)]
    data = TokenData.from_documents(documents, CONTEXT, end=0, packed=True)
    trainer = Trainer(tiny_model(), data, tiny_config())
    batch = data.batch(4, seed=0, step=0)
    expected = trainer.model.loss(batch.ids, batch.targets, documents=batch.documents).item()
    assert expected != trainer.model.loss(batch.ids, batch.targets).item()
    assert trainer.step()["loss"] == pytest.approx(expected, rel=1e-6)
    assert math.isfinite(trainer.evaluate())


def test_a_run_writes_metrics_checkpoints_and_the_model(tmp_path):
    seen = []
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "run")
    history = trainer.run(on_step=seen.append, progress=False)
    assert seen == history
    metrics = read_metrics(tmp_path / "run")
    assert metrics == without_timing(history)
    assert [m["step"] for m in metrics] == list(range(1, 13))
    assert [m["step"] for m in metrics if "val_loss" in m] == [4, 8, 12]
    assert metrics[-1]["val_loss"] == trainer.evaluate()  # the last one is over all of the validation text
    checkpoints = sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == ["step-000010", "step-000012"]
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files == {"metrics.jsonl", "checkpoints", "config.json", "model.safetensors"}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_resumed_run_equals_an_unbroken_one_bit_by_bit(tmp_path, stop, backend):
    if backend not in available():
        pytest.skip(f"{backend} is not installed")

    def trainer(folder):
        config = tiny_config(accumulate=2, checkpoint_every=1)
        return Trainer(tiny_model(), tiny_data(), config, tmp_path / folder)

    class StopError(Exception):
        pass

    def stop_there(metrics):
        if metrics["step"] == stop:
            raise StopError

    with using(backend):
        unbroken = trainer("unbroken")
        unbroken.run(progress=False)
        with pytest.raises(StopError):
            trainer("broken").run(on_step=stop_there, progress=False)
        resumed = trainer("broken")
        assert resumed.resume() == stop
        resumed.run(progress=False)
        assert_same_weights(resumed.model, unbroken.model)
    assert without_timing(resumed.history) == without_timing(unbroken.history)
    assert read_metrics(tmp_path / "broken") == read_metrics(tmp_path / "unbroken")


def test_lines_after_the_checkpoint_and_torn_ones_are_written_again(tmp_path):
    unbroken = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "a")
    unbroken.run(progress=False)

    def die(metrics):
        if metrics["step"] == 8:
            raise OSError("as if the machine had failed")

    with pytest.raises(OSError):
        Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "b").run(on_step=die, progress=False)
    with open(tmp_path / "b/metrics.jsonl", "a") as file:
        file.write('{"step": 9, "loss": 1.')
    resumed = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "b")
    assert resumed.resume() == 5
    assert [m["step"] for m in resumed.history] == [1, 2, 3, 4, 5]
    resumed.run(progress=False)
    assert read_metrics(tmp_path / "b") == read_metrics(tmp_path / "a")


def test_resuming_where_there_is_nothing_starts_at_the_beginning(tmp_path):
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "new")
    assert trainer.resume() == 0
    assert len(trainer.run(progress=False)) == 12


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path).run(progress=False)
    before = snapshot(tmp_path)
    again = Trainer(tiny_model(seed=5), tiny_data(), tiny_config(), tmp_path)
    assert again.resume() == 12
    assert len(again.run(progress=False)) == 12
    assert snapshot(tmp_path) == before


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    Trainer(tiny_model(), tiny_data(), tiny_config(steps=2), tmp_path).run(progress=False)
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match="already holds a run; resume it, or choose another folder"):
        Trainer(tiny_model(), tiny_data(), tiny_config(steps=2), tmp_path).run(progress=False)
    with pytest.raises(FileExistsError, match="already holds a run"):
        Trainer(tiny_model(), tiny_data(), tiny_config(steps=2), tmp_path).save()
    assert snapshot(tmp_path) == before


def test_steps_by_hand_can_be_saved_and_resumed(tmp_path):
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path)
    trainer.step()
    trainer.save()
    assert Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path).resume() == 1
    trainer.run(progress=False)
    unbroken = Trainer(tiny_model(), tiny_data(), tiny_config())
    unbroken.run(progress=False)
    assert_same_weights(trainer.model, unbroken.model)


@pytest.mark.parametrize(
    ("model", "data", "config", "message"),
    [
        ({"hidden_size": 32}, {}, {}, r"model hidden_size: the checkpoint .*step-000012 has 16, this run 32"),
        ({}, {"seed": 1}, {}, r"data: the checkpoint .* was trained on other tokens"),
        ({}, {}, {"lr": 0.03}, r"config lr: the checkpoint .* has 0.02, this run 0.03"),
        ({}, {}, {"seed": 1}, r"config seed: the checkpoint .* has 0, this run 1"),
        ({}, {}, {"steps": 20}, r"config steps: the checkpoint .* has 12, this run 20"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path, model, data, config, message):
    Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path).run(progress=False)
    before = snapshot(tmp_path)
    other = Trainer(tiny_model(**model), tiny_data(**data), tiny_config(**config), tmp_path)
    with pytest.raises(ValueError, match=message):
        other.resume()
    assert snapshot(tmp_path) == before


def test_what_is_only_reported_may_change_when_a_run_is_resumed(tmp_path):
    Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path).run(progress=False)
    changes = {"eval_every": 3, "eval_batches": None, "checkpoint_every": 2, "keep": 5}
    assert Trainer(tiny_model(), tiny_data(), tiny_config(**changes), tmp_path).resume() == 12


def test_resuming_without_a_folder_is_refused():
    with pytest.raises(ValueError, match="out: got None, expected the folder"):
        Trainer(tiny_model(), tiny_data(), tiny_config()).resume()


def test_interrupted_it_finishes_the_step_saves_and_goes_on_exactly(tmp_path):
    unbroken = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "a")
    unbroken.run(progress=False)

    def press_ctrl_c(metrics):
        if metrics["step"] == 7:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    first = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "b")
    assert len(first.run(on_step=press_ctrl_c, progress=False)) == first.steps_done == 7
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "b/checkpoints/step-000007").is_dir()
    assert not (tmp_path / "b/model.safetensors").exists()
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    second = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "c")
    assert second.resume() == 7
    second.run(progress=False)
    assert_same_weights(second.model, unbroken.model)
    first.run(progress=False)  # the interrupted trainer itself can go on too
    assert_same_weights(first.model, unbroken.model)


@pytest.fixture
def ctrl_c_raises():
    """As in a terminal; where tests run in the background, Ctrl-C may be ignored from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_raises")
def test_a_second_interruption_stops_at_once(tmp_path):
    def press_ctrl_c_twice(metrics):
        ours = signal.getsignal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is ours:  # two that arrive together count as one
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(6000):  # until it arrives: another thread may be the one that the signal wakes
            time.sleep(0.01)

    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(on_step=press_ctrl_c_twice, progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert trainer.steps_done == 1


def test_it_runs_in_a_thread(tmp_path):
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(steps=2), tmp_path)
    thread = threading.Thread(target=trainer.run, kwargs={"progress": False})
    thread.start()
    thread.join()
    assert trainer.steps_done == 2


def test_a_broken_weight_is_named_and_the_checkpoint_stays(tmp_path):
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path)

    def poison(metrics):
        if metrics["step"] == 6:
            trainer.model.model.layers[0].mlp.up_proj.weight.data[0, 0] = np.nan

    before = {}

    def remember(metrics):
        before.update(snapshot(tmp_path / "checkpoints") if metrics["step"] == 5 else {})
        poison(metrics)

    message = r"step 7: the loss is nan; first not finite: the value of model.layers.0.mlp.up_proj.weight"
    with pytest.raises(FloatingPointError, match=message):
        trainer.run(on_step=remember, progress=False)
    assert before and snapshot(tmp_path / "checkpoints") == before
    assert read_metrics(tmp_path)[-1]["step"] == 6
    assert Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path).resume() == 5


def test_a_broken_gradient_is_named_before_anything_is_updated():
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config())
    loss = trainer.model.loss
    trainer.model.loss = lambda *args, **kw: loss(*args, **kw) * float("nan")
    before = values(trainer.model)
    with pytest.raises(FloatingPointError, match=r"step 1: .*the gradient of model.embed_tokens.weight"):
        trainer.step()
    assert trainer.steps_done == 0
    for name, p in trainer.model.named_parameters():
        np.testing.assert_array_equal(p.numpy(), before[name])


def test_a_broken_validation_loss_is_reported_and_not_written(tmp_path):
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(eval_every=3), tmp_path)
    evaluate = trainer.evaluate

    def evaluate_broken(batches=None):
        trainer.model.model.norm.weight.data[2] = np.nan
        return evaluate(batches)

    trainer.evaluate = evaluate_broken
    with pytest.raises(FloatingPointError, match=r"step 3: the validation loss is nan; .*value of model.norm.weight"):
        trainer.run(progress=False)
    assert [m["step"] for m in read_metrics(tmp_path)] == [1, 2]


def test_weights_that_broke_in_the_last_update_are_not_saved(tmp_path):
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(steps=5), tmp_path)

    def poison(group):
        trainer.model.model.norm.weight.data[0] = np.inf

    trainer.run(progress=False)
    trainer.steps_done = 6
    poison(trainer)
    with pytest.raises(FloatingPointError, match=r"the value of model.norm.weight is not finite"):
        trainer.save()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000005"]


@pytest.mark.parametrize("name", ["cosine", "wsd", "constant"])
def test_the_schedule_by_name(name):
    config = tiny_config(schedule=name, steps=100, warmup=0, decay=40)
    rates = [config.learning_rate(s) for s in (0, 50, 80, 100)]
    expected = {
        "cosine": [0.02, 0.011, 0.002 + 0.018 * (1 + math.cos(0.8 * math.pi)) / 2, 0.002],
        "wsd": [0.02, 0.02, 0.011, 0.002],
        "constant": [0.02, 0.02, 0.02, 0.02],
    }
    assert rates == pytest.approx(expected[name])


def test_wsd_decays_over_a_fifth_unless_told():
    config = tiny_config(schedule="wsd", steps=100, warmup=0, decay_shape="1-sqrt")
    assert config.learning_rate(80) == pytest.approx(0.02)
    assert config.learning_rate(85) == pytest.approx(0.002 + 0.018 * 0.5)


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("steps", 0, "a whole number ≥ 1"),
        ("steps", 2.5, "a whole number ≥ 1"),
        ("batch_size", -1, "a whole number ≥ 1"),
        ("context", 0, "a whole number ≥ 1"),
        ("accumulate", 0, "a whole number ≥ 1"),
        ("eval_every", 0, "a whole number ≥ 1"),
        ("eval_batches", 0, "a whole number ≥ 1, or None for all"),
        ("checkpoint_every", 0, "a whole number ≥ 1"),
        ("keep", 0, "a whole number ≥ 1"),
        ("warmup", -1, "a number ≥ 0"),
        ("decay", -1, "a number of steps ≥ 0, or None"),
        ("lr", 0.0, "a number > 0"),
        ("lr", math.nan, "a number > 0"),
        ("min_lr", math.inf, "a number ≥ 0"),
        ("weight_decay", -0.1, "a number ≥ 0"),
        ("beta1", 1.0, r"a number in \[0, 1\)"),
        ("beta2", -0.1, r"a number in \[0, 1\)"),
        ("grad_clip", -1.0, "a number ≥ 0"),
        ("seed", -1, "a number ≥ 0"),
        ("schedule", "linear", "cosine, wsd or constant"),
        ("decay_shape", "square", "linear or 1-sqrt"),
    ],
)
def test_a_bad_setting_is_named(setting, value, expected):
    with pytest.raises(ValueError, match=f"{setting}: got .*expected {expected}"):
        TrainConfig(**{setting: value})


def test_clipping_can_be_switched_off():
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(grad_clip=0))
    assert trainer.step()["grad_norm"] > 0
    m = trainer.optimizer.state[0]["exp_avg"]
    np.testing.assert_allclose(m, 0.1 * trainer.optimizer.param_groups[0]["params"][0].grad, rtol=1e-5, atol=1e-9)


def test_a_model_that_does_not_fit_the_data_is_refused():
    with pytest.raises(ValueError, match=r"context: the data is cut for 8 tokens, the configuration says 4"):
        Trainer(tiny_model(), tiny_data(), tiny_config(context=4))
    with pytest.raises(ValueError, match=r"context: got 8, expected at most .*max_position_embeddings 4"):
        Trainer(tiny_model(max_position_embeddings=4), tiny_data(), tiny_config())
    data = TokenData.from_documents([[1, VOCABULARY] * 100], CONTEXT)
    with pytest.raises(ValueError, match=r"data: holds token id 11, expected ids below .* 11"):
        Trainer(tiny_model(), data, tiny_config())


def test_the_progress_bar_shows_the_losses_and_can_be_left_out(tmp_path, capsys, monkeypatch):
    Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "a").run()
    shown = capsys.readouterr()
    assert "12/12" in shown.err and "val_loss=" in shown.err and shown.out == ""
    Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "b").run(progress=False)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(__import__("sys").modules, "tqdm", None)  # as if it were not installed
    assert len(Trainer(tiny_model(), tiny_data(), tiny_config(), tmp_path / "c").run()) == 12
