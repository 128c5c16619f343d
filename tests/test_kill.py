"""A few random kills; `benchmarks/kill9.py` does the same fifty times."""

import importlib.util
import os
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "kill9.py"


@pytest.fixture(scope="module")
def kill9():
    spec = importlib.util.spec_from_file_location("kill9", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(("command", "steps"), [("train", 40), ("grpo", 16), ("ppo", 12)])
def test_a_run_that_is_killed_ends_like_one_that_is_not(kill9, tmp_path, command, steps):
    report = kill9.kill_often(tmp_path, kills=3, seed=0, backend="numpy", steps=steps, command=command)
    assert report["kills"] == len(report["resumed_from"]) == 3
    assert max(report["resumed_from"]) > 0
    assert report["equal"]


def test_a_difference_would_be_found(kill9, tmp_path):
    """The comparison itself: another loss, another weight, and a failed run are each reported."""

    class Ended:
        returncode = 0

        def communicate(self):
            return "", "said why"

    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "tokens_per_s": 5}\n')
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    good = ([{"step": 1, "loss": 2.0}], b"weights")
    kill9._compare(Ended(), tmp_path, good)
    with pytest.raises(RuntimeError, match="reported"):
        kill9._compare(Ended(), tmp_path, ([{"step": 1, "loss": 2.1}], b"weights"))
    with pytest.raises(RuntimeError, match="final weights"):
        kill9._compare(Ended(), tmp_path, (good[0], b"other"))
    failed = Ended()
    failed.returncode = 2
    with pytest.raises(RuntimeError, match="said why"):
        kill9._compare(failed, tmp_path, good)
