"""A training step on the GPU: equal to the reference's, without a wait in between, captured and replayed.

Without a GPU the emulator stands in for it; where there is one, the same tests run on both.
"""

from __future__ import annotations

import warnings

import cuda_fake
import numpy as np
import pytest
from training import CONTEXT, VOCABULARY, tiny_config, tiny_data, tiny_model

import tinymoe as tm
from tinymoe.backend import get
from tinymoe.train import TokenData, Trainer
from tinymoe.train.device_step import DeviceStep

MOE = {"mlp": "moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
MODELS = {
    "dense": {},
    "moe": {**MOE, "router_aux_loss_coef": 0.01, "router_z_loss_coef": 0.001},
    "biased moe": {**MOE, "router": "sigmoid", "bias_update_speed": 0.01},
    "clamped moe": {**MOE, "experts": "clamped", "router": "softmax_chosen", "swiglu_limit": 7.0},
}


@pytest.fixture(params=["emulator", "gpu"])
def device(request):
    if request.param == "emulator":
        yield request.getfixturevalue("emulated_cupy")
        return
    try:
        get("cupy")
    except ImportError as missing:
        pytest.skip(str(missing))
    with tm.using("cupy") as backend:
        yield backend


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("model", MODELS)
def test_training_is_that_of_the_reference(model, accumulate, graph, device):
    settings = {"steps": 5, "accumulate": accumulate, "grad_clip": 0.5}
    with tm.using("numpy"):
        expected = _train(Trainer(tiny_model(**MODELS[model]), tiny_data(), tiny_config(**settings)))
    trainer = Trainer(tiny_model(**MODELS[model]), tiny_data(), tiny_config(**settings, cuda_graph=graph))
    got = _train(trainer)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose([m[name] for m in got], [m[name] for m in expected], rtol=1e-4)
    assert [m.get("expert_load") for m in got] == [m.get("expert_load") for m in expected]
    captured = trainer._device_step and trainer._device_step._captured
    assert (captured is not None and captured.graph is not None) == graph


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_the_host_waits_once_a_step(model, graph, emulated_cupy):
    """For loss and norm, at its end; then once more for each layer that reports the load of its experts."""
    trainer = Trainer(tiny_model(**MODELS[model]), tiny_data(), tiny_config(accumulate=2, cuda_graph=graph))
    waits = []
    for _ in range(4):
        cuda_fake.waits = 0
        trainer.step()
        waits.append(cuda_fake.waits)
    assert waits == [1 if model == "dense" else 2] * 4


def test_a_replayed_step_is_the_step_itself(device):
    """To the last bit: a capture changes who asks for the work, not the work."""
    runs = [
        _train(Trainer(tiny_model(**MODELS["moe"]), tiny_data(), tiny_config(steps=4, cuda_graph=graph)))
        for graph in (False, True)
    ]
    assert [(m["loss"], m["grad_norm"]) for m in runs[0]] == [(m["loss"], m["grad_norm"]) for m in runs[1]]


def test_packed_documents_and_another_shape(device):
    documents = [np.arange(n) % VOCABULARY for n in (3, 9, 5, 12, 7, 8, 4, 10, 6, 11, 5, 9)]
    data = TokenData.from_documents(documents, CONTEXT, packed=True)
    with tm.using("numpy"):
        expected = _train(Trainer(tiny_model(), data, tiny_config(steps=4)))
    trainer = Trainer(tiny_model(), data, tiny_config(steps=4, cuda_graph=True))
    got = _train(trainer)
    np.testing.assert_allclose([m["loss"] for m in got], [m["loss"] for m in expected], rtol=1e-4)
    first = trainer._device_step._captured  # pyright: ignore[reportOptionalMemberAccess]
    trainer._device_step([data.batch(3, seed=0, step=0)], [0.01, 0.01], 1.0)  # pyright: ignore[reportOptionalCall]
    assert trainer._device_step._captured is not first  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize("graph", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(graph, device):
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config(cuda_graph=graph))
    for _ in range(3):
        trainer.step()
    weight = trainer.model.model.layers[0].mlp.down_proj.weight
    weight.data[0, 0] = np.inf
    before = [p.numpy().copy() for p in trainer.model.parameters()]
    with pytest.raises(FloatingPointError, match=r"first not finite: the value of .*down_proj"):
        trainer.step()
    for p, old in zip(trainer.model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.numpy(), old)
    assert {state["step"] for state in trainer.optimizer.state.values()} == {3}


def test_arrays_that_are_replaced_between_steps(device):
    """A captured step reads and writes the arrays of its capture: what others put in their place is copied there."""

    def run(graph: bool) -> list[float]:
        trainer = Trainer(tiny_model(), tiny_data(), tiny_config(cuda_graph=graph))
        losses = []
        for step in range(6):
            if step == 4:
                for p in trainer.model.parameters():
                    p.data = p.data * 0.5
                trainer.optimizer.load_state_dict(trainer.optimizer.state_dict())
            losses.append(trainer.step()["loss"])
        return losses

    assert run(graph=True) == run(graph=False)


def test_a_resumed_run_is_an_unbroken_one(device, tmp_path):
    config = tiny_config(steps=8, checkpoint_every=4, cuda_graph=True)
    whole = Trainer(tiny_model(), tiny_data(), config, tmp_path / "whole").run(progress=False)
    broken = Trainer(tiny_model(), tiny_data(), config, tmp_path / "broken")
    for _ in range(4):
        broken.history.append(broken.step())
    broken.save()
    again = Trainer(tiny_model(), tiny_data(), config, tmp_path / "broken")
    assert again.resume() == 4
    assert [m["loss"] for m in again.run(progress=False)] == [m["loss"] for m in whole[4:]]


def test_a_step_that_waits_is_not_captured(device, monkeypatch):
    """It says so, and runs as it is; what was counted in the attempt is forgotten."""
    with tm.using("numpy"):
        expected = _train(Trainer(tiny_model(**MOE), tiny_data(), tiny_config(steps=4)))
    trainer = Trainer(tiny_model(**MOE), tiny_data(), tiny_config(steps=4, cuda_graph=True))
    original = trainer.model.loss

    def waiting(*arguments, **options):
        loss = original(*arguments, **options)
        float(loss)
        return loss

    monkeypatch.setattr(trainer.model, "loss", waiting)
    with pytest.warns(UserWarning, match="cuda_graph: this step cannot be captured"):
        got = _train(trainer)
    np.testing.assert_allclose([m["loss"] for m in got], [m["loss"] for m in expected], rtol=1e-4)
    assert [m["expert_load"] for m in got] == [m["expert_load"] for m in expected]


def test_experts_with_a_capacity_train_too(device):
    """Their tokens are sorted by CuPy, and those without a place are left out."""
    settings = {**MOE, "capacity_factor": 0.75}
    with tm.using("numpy"):
        expected = _train(Trainer(tiny_model(**settings), tiny_data(), tiny_config(steps=4)))
    got = _train(Trainer(tiny_model(**settings), tiny_data(), tiny_config(steps=4)))
    np.testing.assert_allclose([m["loss"] for m in got], [m["loss"] for m in expected], rtol=1e-4)
    assert [m["expert_load"] for m in got] == [m["expert_load"] for m in expected]


@pytest.mark.parametrize(("precision", "near"), [("tf32", 3e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("model", ["dense", "moe"])
def test_training_in_fewer_bits_stays_near(model, precision, near, device):
    """float32 weights and sums: the losses follow those of float32, but are not the same."""
    runs = {}
    for setting in ("float32", precision):
        device.precision = setting
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                trainer = Trainer(tiny_model(**MODELS[model]), tiny_data(), tiny_config(steps=6, cuda_graph=True))
                runs[setting] = np.array([m["loss"] for m in _train(trainer)])
        finally:
            device.precision = "float32"
        assert all(p.dtype == np.float32 for p in trainer.model.parameters())
    np.testing.assert_allclose(runs[precision], runs["float32"], rtol=near)
    if precision == "bfloat16":
        assert (runs[precision] != runs["float32"]).any()


def test_tf32_is_asked_for(emulated_cupy, monkeypatch):
    asked = []
    monkeypatch.setattr(cuda_fake, "COMPUTED", asked)
    a = emulated_cupy.asarray(np.ones((2, 3), dtype=np.float32))
    for precision in ("float32", "tf32", "bfloat16", "float32"):
        emulated_cupy.precision = precision
        factors = [emulated_cupy.operand(x) for x in (a, a.T)]
        np.testing.assert_array_equal(emulated_cupy.matmul(*factors).get(), np.full((2, 2), 3))
    assert asked == [(0, 68), (0, 77), (14, 68), (0, 68)]  # CUDA_R_32F or 16BF; COMPUTE_32F or FAST_TF32


def test_precision_is_checked(emulated_cupy, monkeypatch):
    with pytest.raises(ValueError, match="precision: got 'float8', expected one of float32, tf32, bfloat16"):
        emulated_cupy.precision = "float8"
    old = type("Device", (), {"compute_capability": "75"})
    monkeypatch.setattr(cuda_fake.module.cuda, "Device", old)
    with pytest.raises(ValueError, match="older than NVIDIA's Ampere"):
        emulated_cupy.precision = "bfloat16"
    assert emulated_cupy.precision == "float32"


def test_the_environment_says_what_precision_to_begin_with(emulated_cupy, monkeypatch):
    monkeypatch.setenv("TINYMOE_PRECISION", "tf32")
    assert type(emulated_cupy)().precision == "tf32"


def test_parameters_of_several_types_are_an_error(device):
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config())
    trainer.step()
    trainer.optimizer.state[0]["exp_avg"] = trainer.optimizer.state[0]["exp_avg"].astype(np.float64)
    with pytest.raises(TypeError, match="parameters: got types"):
        trainer.step()
    weight = trainer.model.model.norm.weight
    weight.data = weight.data.astype(np.float64)
    with pytest.raises(TypeError, match="rms_norm: got arrays of float32 and float64, expected one type"):
        trainer.step()


def test_checks_of_values_are_made_outside_of_steps(device):
    model = tiny_model()
    with pytest.raises(ValueError, match="got token id 99"):
        model.loss([[1, 99]], [[1, 2]])
    with pytest.raises(ValueError, match="every target is -100"):
        model.loss([[1, 2]], [[-100, -100]])
    with device.without_waiting():
        assert not device.any(device.asarray(np.array([True])))
        assert float(device.count(device.asarray(np.array([True, False])))) == 1


def test_matrix_products_of_any_layout(device):
    rng = np.random.default_rng(0)
    for a, b in [
        ((3, 4), (4, 5)),
        ((1, 4), (4, 1)),
        ((3, 1), (1, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)),
    ]:
        for real in (np.float32, np.float64):
            x, y = rng.standard_normal(a).astype(real), rng.standard_normal(b).astype(real)
            tall, wide = (np.ascontiguousarray(m.swapaxes(-1, -2)) for m in (x, y))
            for left in (device.asarray(x), device.asarray(tall).swapaxes(-1, -2), _spread(device, x)):
                for right in (device.asarray(y), device.asarray(wide).swapaxes(-1, -2), _spread(device, y)):
                    got = device.to_numpy(device.matmul(left, right))
                    assert got.dtype == real
                    np.testing.assert_allclose(got, x @ y, rtol=1e-5 if real == np.float32 else 1e-12, atol=1e-6)
    nothing = device.matmul(device.asarray(np.ones((2, 0))), device.asarray(np.ones((0, 3))))
    np.testing.assert_array_equal(device.to_numpy(nothing), np.zeros((2, 3)))
    whole = device.asarray(np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(device.to_numpy(device.matmul(whole, whole.T)), [[5, 14], [14, 50]])


def test_a_device_step_by_itself(device):
    """What it returns are the loss over all targets, and the norm before clipping."""
    trainer = Trainer(tiny_model(), tiny_data(), tiny_config())
    batch = trainer.data.batch(4, seed=0, step=0)
    with tm.using("numpy"):
        there = tiny_model()
        there.loss(batch.ids, batch.targets).backward()
        norm = np.sqrt(sum((p.grad**2).sum() for p in there.parameters()))
        loss = there.loss(batch.ids, batch.targets).item()
    step = DeviceStep(trainer.model, trainer.optimizer)
    assert step(batch.split(2), [0.0, 0.0], 0.1) == pytest.approx((loss, norm), rel=1e-5)


def _spread(device, x):
    """The same matrix, with gaps between its columns: no layout that cuBLAS knows."""
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
    wide[..., ::2] = x
    return device.asarray(wide)[..., ::2]


def _train(trainer):
    return [trainer.step() for _ in range(trainer.config.steps)]
