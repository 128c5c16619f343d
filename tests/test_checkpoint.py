"""Checkpoints: complete or not there at all, whatever fails and whenever."""

import errno
import os
import shutil

import numpy as np
import pytest
from training import snapshot, tiny_config, tiny_data, tiny_model

from tinymoe import files
from tinymoe.backend import using
from tinymoe.models import from_pretrained
from tinymoe.train import Trainer, checkpoint


@pytest.fixture(autouse=True)
def numpy_backend():
    with using("numpy"):
        yield


@pytest.fixture
def trained():
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config())
    for _ in range(3):
        trainer.step()
    return trainer


def save(run, trainer, step=3, keep=2):
    return checkpoint.save(run, trainer.model, trainer.optimizer, {"step": step, "note": "ü"}, keep)


def test_what_is_saved_is_loaded(tmp_path, trained):
    folder = save(tmp_path, trained)
    assert folder == tmp_path / "checkpoints/step-000003" == checkpoint.latest(tmp_path)
    other = Trainer(tiny_model(seed=9), tiny_data(), tiny_config())
    checkpoint.load(folder, other.model, other.optimizer)
    for p, q in zip(trained.model.parameters(), other.model.parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
    mine, theirs = trained.optimizer.state_dict(), other.optimizer.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    for number, state in mine["state"].items():
        assert state["step"] == theirs["state"][number]["step"] == 3
        np.testing.assert_array_equal(state["exp_avg"], theirs["state"][number]["exp_avg"])
        np.testing.assert_array_equal(state["exp_avg_sq"], theirs["state"][number]["exp_avg_sq"])
    assert checkpoint.read_record(folder)["note"] == "ü"


def test_a_checkpoint_is_a_model_folder(tmp_path, trained):
    model = from_pretrained(save(tmp_path, trained))
    ids = np.arange(6)[None]
    np.testing.assert_array_equal(model(ids).numpy(), trained.model(ids).numpy())


def test_the_newest_is_found_by_number_and_older_ones_go(tmp_path, trained):
    for step in (999_998, 999_999, 1_000_000):
        save(tmp_path, trained, step)
    assert checkpoint.latest(tmp_path).name == "step-1000000"
    assert [f.name for f in checkpoint.complete(tmp_path)] == ["step-999999", "step-1000000"]
    save(tmp_path, trained, 1_000_001, keep=1)
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["step-1000001"]
    assert checkpoint.latest(tmp_path / "nowhere") is None


@pytest.mark.parametrize("failing", range(8))
def test_a_failure_at_any_write_leaves_the_older_checkpoint_alone(tmp_path, trained, monkeypatch, failing):
    """Lets the disk fill up at the 1st, 2nd, … flush or rename of a save."""
    save(tmp_path, trained, 1)
    before, calls = snapshot(tmp_path), []

    def limited(function):
        def call(*args, **kwargs):
            calls.append(function.__name__)
            if len(calls) == failing + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "rename"):
        monkeypatch.setattr(os, name, limited(getattr(os, name)))
    with pytest.raises(OSError, match=r"checkpoint of step 2 could not be written \(No space left") as caught:
        save(tmp_path, trained, 2)
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert snapshot(tmp_path) == before
    assert checkpoint.latest(tmp_path).name == "step-000001"
    save(tmp_path, trained, 2)
    assert checkpoint.latest(tmp_path).name == "step-000002"


def test_leftovers_of_a_kill_are_not_checkpoints_and_are_cleaned(tmp_path, trained):
    folder = save(tmp_path, trained)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    good = snapshot(tmp_path)
    shutil.copytree(folder, folder.with_name(".writing-step-000009"))
    shutil.copytree(folder, folder.with_name(".discarded-step-000001"))
    (tmp_path / ".model.safetensors.x1y2").write_bytes(b"half a fi")
    (tmp_path / ".hidden-notes-of-the-user").write_text("keep")
    assert checkpoint.latest(tmp_path) == folder
    checkpoint.clean(tmp_path)
    assert snapshot(tmp_path) == {**good, ".hidden-notes-of-the-user": b"keep"}


def test_a_save_takes_over_what_a_killed_one_left(tmp_path, trained):
    leftover = tmp_path / "checkpoints/.writing-step-000003"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half a fi")
    folder = save(tmp_path, trained)
    assert from_pretrained(folder).num_parameters() == trained.model.num_parameters()
    assert sorted(f.name for f in folder.parent.iterdir()) == ["step-000003"]


@pytest.mark.parametrize("keep_bytes", [0, 7, 500])
@pytest.mark.parametrize(
    "name", ["trainer/optimizer.safetensors", "model.safetensors", "trainer/state.json", "config.json"]
)
def test_a_damaged_file_is_named_and_nothing_is_loaded(tmp_path, trained, name, keep_bytes):
    folder = save(tmp_path, trained)
    file = folder / name
    if keep_bytes >= file.stat().st_size:
        keep_bytes = 3
    file.write_bytes(file.read_bytes()[:keep_bytes])
    other = Trainer(tiny_model(seed=9), tiny_data(), tiny_config())
    before = [p.numpy().copy() for p in other.model.parameters()]
    with pytest.raises(ValueError, match=name):
        checkpoint.load(folder, other.model, other.optimizer)
    for p, was in zip(other.model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.numpy(), was)
    assert other.optimizer.state == {}


def test_an_optimizer_state_with_missing_tensors_is_refused(tmp_path, trained):
    from safetensors.numpy import load, save_file

    file = save(tmp_path, trained) / "trainer/optimizer.safetensors"
    arrays = load(file.read_bytes())
    del arrays["2.exp_avg"]
    save_file(arrays, file)
    with pytest.raises(ValueError, match=r"optimizer.safetensors: .*2\.exp_avg"):
        checkpoint.load(file.parents[1], trained.model, trained.optimizer)


def test_files_are_flushed_before_the_folder_gets_its_name(tmp_path, trained, monkeypatch):
    events = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("flush"), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b)))
    folder = save(tmp_path, trained)
    written = len(snapshot(folder))
    assert written == 4
    assert events == ["flush"] * (written + 2) + ["rename", "flush"]  # the files, two folders; then its parent
    assert files.write_atomically is checkpoint.write_atomically
