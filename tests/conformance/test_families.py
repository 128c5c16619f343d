"""Every family against Transformers: logits, loss, every gradient, cached decoding, and the way back.

`PYTHONPATH=. .venv-conformance/bin/python tests/conformance/test_families.py` prints the worst difference of each
family as a table.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import families
import numpy as np
import pytest
import torch
from transformers.core_model_loading import revert_weight_conversion

import tinymoe as tm
from tinymoe.backend import current
from tinymoe.models import CausalLM
from tinymoe.models.families import FAMILIES, family
from tinymoe.nn.recorder import recording
from tinymoe.tensor import no_grad

# Where there is no shared expert, Transformers makes one that is 0 wide.
pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


class Case(NamedTuple):
    """One configuration of one family."""

    kind: str
    variant: str

    def settings(self) -> dict[str, Any]:
        module = importlib.import_module(f"families.{self.kind}")
        names = getattr(module, "SMALL_NAMES", {})
        small = {names.get(name, name): value for name, value in families.SMALL.items()}
        small.pop(None, None)  # pyright: ignore - what the family does not have
        return {**small, **getattr(module, "BASE", {}), **module.VARIANTS[self.variant]}

    def build(self) -> Any:
        """Transformers' model with random weights, none of them at a value that would hide a mistake."""
        module = importlib.import_module(f"families.{self.kind}")
        torch.manual_seed(0)
        attention = getattr(module, "ATTENTION", "eager")
        theirs = module.MODEL(module.CONFIG(**self.settings(), attn_implementation=attention)).eval()
        with torch.no_grad():
            for p in theirs.state_dict().values():
                if p.ndim == 1:  # norms at one, biases and sinks at zero
                    p.add_(0.3 * torch.randn_like(p))
        return theirs


KINDS = [module.name for module in pkgutil.iter_modules(families.__path__)]
CASES = [Case(kind, variant) for kind in KINDS for variant in importlib.import_module(f"families.{kind}").VARIANTS]


def test_every_family_is_compared():
    """But for Grok-1, which Transformers has not: see test_grok1.py."""
    assert set(KINDS) == set(FAMILIES) - {"grok-1"}
    assert all(sum(case.kind == kind for case in CASES) >= 4 for kind in KINDS)


WITH_EXPERTS = [kind for kind in KINDS if FAMILIES[kind].parts.get("mlp") == "moe"]


@pytest.mark.parametrize("kind", WITH_EXPERTS)
def test_families_with_experts_are_compared_at_their_edges(kind):
    """One expert a token, and all; what can be switched both ways; groups; dense layers."""
    read, fields = family(kind).config_from_hf, family(kind).fields
    configs = [read(case.settings()) for case in CASES if case.kind == kind]
    configs = [c for c in configs if "moe" in c.mlp_types]
    assert any(c.num_experts_per_tok == 1 < c.num_experts for c in configs)
    assert any(c.num_experts_per_tok == c.num_experts > 1 for c in configs)
    if "norm_topk_prob" in fields:
        assert {c.norm_topk_prob for c in configs} == {False, True}
    if "n_shared_experts" in fields:
        shared = {(c.shared_expert_intermediate_size or 0) // c.moe_intermediate_size for c in configs}
        assert shared == {0, 1, 2}
    if "n_group" in fields:
        assert {c.n_group > c.topk_group for c in configs} == {False, True}
    if {"first_k_dense_replace", "mlp_only_layers", "moe_layers"} & fields.keys():
        assert {"swiglu" in c.mlp_types for c in configs} == {False, True}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.kind}: {case.variant}")
def pair(request, tmp_path_factory):
    theirs = request.param.build()
    folder = tmp_path_factory.mktemp("family")
    theirs.save_pretrained(folder)
    return theirs, tm.from_pretrained(folder)


def tokens(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, families.SMALL["vocab_size"], (batch, length))


def logits_error(theirs: Any, ours: CausalLM, ids: np.ndarray) -> float:
    """The largest difference of two logits, as a share of the largest logit."""
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    return float(np.abs(ours(ids).numpy() - expected).max() / np.abs(expected).max())


def gradient_errors(theirs: Any, ours: CausalLM, ids: np.ndarray) -> dict[str, float]:
    """For each published parameter the largest difference, as a share of the parameter's largest gradient."""
    labels = torch.tensor(ids)
    labels[0, :7] = -100
    theirs.zero_grad()
    expected = theirs(torch.tensor(ids), labels=labels).loss
    expected.backward()
    for p in ours.parameters():
        p.grad = None
    with mock.patch("tinymoe.nn.sparse.contribute"):  # indexers learn from a loss that Transformers has not
        loss = ours.loss(ids[:, :-1], labels[:, 1:].numpy())
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    grads = {name: current().to_numpy(p.grad) for name, p in ours.named_parameters() if p.grad is not None}
    got = family(ours.config.model_type).weights_to_hf(grads, ours.config)
    theirs_grads = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None and p.numel()}
    wanted = {name: grad.numpy() for name, grad in revert_weight_conversion(theirs, theirs_grads).items()}  # as saved
    assert got.keys() == wanted.keys()
    largest = {name: np.abs(grad).max() for name, grad in wanted.items()}
    floor = 1e-4 * max(largest.values())  # below, a gradient is zero but for rounding: of an expert without tokens, …
    return {name: float(np.abs(got[name] - wanted[name]).max() / max(largest[name], floor)) for name in wanted}


@pytest.mark.parametrize(("batch", "length"), [(2, 19), (1, 1), (2, 150)])
def test_logits(pair, backend, batch, length):
    assert logits_error(*pair, tokens(batch, length)) < 1e-5


def test_loss_and_every_gradient(pair, backend):
    errors = gradient_errors(*pair, tokens(2, 40))
    assert max(errors.values()) < 1e-3, {name: e for name, e in errors.items() if e >= 1e-3}


def routed(theirs: Any, ours: CausalLM, ids: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each layer with experts, the numbers of each token's experts (B, T, k) in both, in ascending order."""
    wanted = []
    routers = [module for name, module in theirs.named_modules() if name.endswith((".mlp.gate", ".router"))]
    hooks = [router.register_forward_hook(lambda *call: wanted.append(choices_in(*call[2]))) for router in routers]
    with torch.no_grad(), recording() as records, no_grad():
        theirs(torch.tensor(ids))
        ours(ids)
    for hook in hooks:
        hook.remove()
    got = records["experts"]
    return [(np.sort(a), np.sort(b.reshape(a.shape))) for a, b in zip(got, wanted, strict=True)]


def choices_in(first: torch.Tensor, second: torch.Tensor, *others: torch.Tensor) -> np.ndarray:
    """The numbers of the chosen among what a router returns; Llama 4's returns scores, 0 for the others, and logits."""
    if others:
        return others[0].numpy()
    return second.topk(int((first > 0).sum(axis=-1).max()))[1].numpy()


def test_the_same_experts_are_chosen(pair, backend):
    layers = routed(*pair, tokens(2, 150))
    assert len(layers) == pair[1].config.mlp_types.count("moe")
    for got, wanted in layers:
        np.testing.assert_array_equal(got, wanted)


def test_greedy_tokens_with_and_without_cache(pair, backend):
    theirs, ours = pair
    prompt = tokens(2, 5)
    expected = theirs.generate(
        torch.tensor(prompt), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
    ).numpy()
    got = ours.generate(prompt, max_new_tokens=64, temperature=0)
    np.testing.assert_array_equal(got, expected)
    ids = prompt
    for _ in range(64):
        ids = np.concatenate([ids, ours(ids).numpy()[:, -1].argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(got, ids)


def test_a_text_read_in_pieces(pair, backend):
    """Through the cache in pieces of odd lengths, some longer than a window: the logits of the whole."""
    ours, ids, cache = pair[1], tokens(2, 60), pair[1].new_cache()
    pieces = [ours(ids[:, a:b], cache=cache).numpy() for a, b in ((0, 23), (23, 24), (24, 29), (29, 60))]
    whole = ours(ids).numpy()
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=2e-5 * np.abs(whole).max())


def test_export_loads_in_transformers(pair, tmp_path):
    theirs, ours = pair
    ours.save_pretrained(tmp_path)
    again = type(theirs).from_pretrained(tmp_path, attn_implementation=theirs.config._attn_implementation).eval()
    # Not in the memory of the file: where an array begins decides the order in which PyTorch sums.
    copy = type(theirs)(again.config).eval()
    copy.load_state_dict(again.state_dict())
    ids = torch.tensor(tokens(2, 19))
    with torch.no_grad():
        np.testing.assert_array_equal(copy(ids).logits.numpy(), theirs(ids).logits.numpy())
    reloaded = tm.from_pretrained(tmp_path)
    assert reloaded.config == ours.config
    for (name, p), (other, q) in zip(ours.named_parameters(), reloaded.named_parameters(), strict=True):
        assert name == other
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def main() -> None:
    import tempfile

    print("| family | configurations | worst logit | worst gradient |\n|---|---|---|---|")
    for kind in KINDS:
        logits, gradients = [], []
        for case in (case for case in CASES if case.kind == kind):
            theirs = case.build()
            with tempfile.TemporaryDirectory() as folder:
                theirs.save_pretrained(Path(folder))
                ours = tm.from_pretrained(folder)
            logits.append(max(logits_error(theirs, ours, tokens(2, n)) for n in (19, 150)))
            gradients.append(max(gradient_errors(theirs, ours, tokens(2, 40)).values()))
        print(f"| `{kind}` | {len(logits)} | {max(logits):.1e} | {max(gradients):.1e} |", flush=True)


if __name__ == "__main__":
    main()
