"""AdamW and clipping equal PyTorch's, step by step."""

import numpy as np
import pytest
import torch

from tinymoe.backend import available, using
from tinymoe.tensor import Tensor
from tinymoe.train.optim import AdamW, clip_grad_norm

SHAPES = [(7, 5), (64, 33), (11,), (1,), (2, 3, 4)]


@pytest.fixture(params=["numpy", "numba"])
def backend(request):
    if request.param not in available():
        pytest.skip(f"{request.param} is not installed")
    with using(request.param) as chosen:
        yield chosen


def twins(seed=0):
    """The same parameters for both libraries."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    ours = [Tensor(a.copy(), requires_grad=True) for a in arrays]
    theirs = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in arrays]
    return ours, theirs


def set_gradients(ours, theirs, step, scale=1.0, skip=()):
    rng = np.random.default_rng(1000 + step)
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        g = (scale * rng.normal(size=p.shape)).astype(np.float32)
        p.grad = None if i in skip else g.copy()
        q.grad = None if i in skip else torch.from_numpy(g.copy())


def assert_equal(ours, theirs, rtol=2e-6, atol=2e-7):
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1},
        {"lr": 0.1, "betas": (0.0, 0.5), "eps": 1e-3, "weight_decay": 0.0},
    ],
)
def test_adamw_over_twenty_steps(backend, settings):
    ours, theirs = twins()
    mine, torchs = AdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    for step in range(20):
        # one parameter has no gradient now and then: torch counts the steps of each parameter apart
        set_gradients(ours, theirs, step, scale=10.0 ** (step % 5 - 2), skip={step % 7})
        mine.step()
        torchs.step()
        assert_equal(ours, theirs)


def test_groups_schedule_and_clipping_together(backend):
    ours, theirs = twins(1)
    groups = [(slice(0, 2), {"weight_decay": 0.3}), (slice(2, 5), {"lr": 0.02, "betas": (0.5, 0.9)})]
    mine = AdamW([{"params": ours[s], **kw} for s, kw in groups], lr=0.005, weight_decay=0.0)
    torchs = torch.optim.AdamW([{"params": theirs[s], **kw} for s, kw in groups], lr=0.005, weight_decay=0.0)
    for step in range(12):
        set_gradients(ours, theirs, step, scale=0.01 if step % 3 == 0 else 1.0)
        norm = clip_grad_norm(ours, 0.7)
        assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 0.7).item(), rel=1e-5)
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-5)
        for group in (*mine.param_groups, *torchs.param_groups):
            group["lr"] *= 0.9
        mine.step()
        torchs.step()
        assert_equal(ours, theirs)


def test_a_state_of_torch_can_be_taken_over(backend):
    ours, theirs = twins(2)
    torchs = torch.optim.AdamW(theirs, lr=0.01)
    for step in range(4):
        set_gradients(ours, theirs, step)
        torchs.step()
    mine = AdamW(ours)
    for p, q in zip(ours, theirs, strict=True):
        p.data[...] = q.detach().numpy()
    saved = torchs.state_dict()
    state = {
        n: {"step": int(s["step"]), "exp_avg": s["exp_avg"].numpy(), "exp_avg_sq": s["exp_avg_sq"].numpy()}
        for n, s in saved["state"].items()
    }
    known = ("lr", "betas", "eps", "weight_decay", "params")
    groups = [{k: group[k] for k in known} for group in saved["param_groups"]]
    mine.load_state_dict({"state": state, "param_groups": groups})
    for step in range(4, 8):
        set_gradients(ours, theirs, step)
        mine.step()
        torchs.step()
        assert_equal(ours, theirs)


def test_our_state_has_torchs_layout():
    ours, theirs = twins(3)
    mine, torchs = AdamW(ours), torch.optim.AdamW(theirs)
    set_gradients(ours, theirs, 0)
    mine.step()
    torchs.step()
    got, want = mine.state_dict(), torchs.state_dict()
    assert got["state"].keys() == want["state"].keys()
    assert got["state"][0].keys() == want["state"][0].keys()
    assert got["param_groups"][0].items() <= want["param_groups"][0].items()
