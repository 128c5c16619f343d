"""The losses that balance the routers against Transformers, alone and in whole models, with their gradients."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_families import Case, logits_error, tokens
from transformers import SwitchTransformersConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.switch_transformers import modeling_switch_transformers as switch

import tinymoe as tm
from tinymoe import ops
from tinymoe.backend import current
from tinymoe.models.families import family
from tinymoe.models.families.gpt_oss import from_mxfp4
from tinymoe.nn import Config
from tinymoe.nn.balance import RouterState, load_balancing_loss, router_z_loss
from tinymoe.nn.routers import Router
from tinymoe.tensor import Tensor

MODELS = [
    ("mixtral", "two of six"),
    ("mixtral", "one of six"),
    ("qwen2_moe", "dense first layer"),
    ("qwen3_moe", "all experts"),
]


def random_logits(layers: int) -> list[np.ndarray]:
    return [np.random.default_rng(i).normal(size=(3, 20, 7)).astype(np.float32) for i in range(layers)]


def mask_of(kind: str) -> np.ndarray | None:
    return None if kind == "all tokens" else (np.random.default_rng(0).random((3, 20)) < 0.7).astype(np.int64)


@pytest.mark.parametrize("mask", ["all tokens", "padding"])
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("layers", [1, 3])
def test_load_balancing_loss_and_its_gradients(backend, layers, k, mask):
    mask = mask_of(mask)
    theirs = [torch.tensor(a.reshape(60, 7), requires_grad=True) for a in random_logits(layers)]
    expected = load_balancing_loss_func(tuple(theirs), 7, k, None if mask is None else torch.tensor(mask))
    expected.backward()
    ours = [Tensor(current().asarray(a), requires_grad=True) for a in random_logits(layers)]
    states = [RouterState(a, ops.softmax(a), current().top_k(a.data.reshape(60, 7), k).reshape(3, 20, k)) for a in ours]
    got = load_balancing_loss(states, None if mask is None else current().asarray(mask))
    got.backward()
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(current().to_numpy(mine.grad).reshape(60, 7), other.grad.numpy(), atol=1e-6)


def test_z_loss_and_its_gradients(backend):
    theirs = [torch.tensor(a, requires_grad=True) for a in random_logits(2)]
    expected = sum(switch.router_z_loss_func(a) for a in theirs)
    expected.backward()
    ours = [Tensor(current().asarray(a), requires_grad=True) for a in random_logits(2)]
    got = router_z_loss([RouterState(a, ops.softmax(a), a.data[..., :1] * 0) for a in ours])
    got.backward()
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(current().to_numpy(mine.grad), other.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize("padded", [False, True], ids=["all tokens", "padding"])
@pytest.mark.parametrize(("kind", "variant"), MODELS)
def test_whole_models_with_the_balance_loss(backend, kind, variant, padded, tmp_path):
    """The loss, the part that balances, and the gradients of every parameter; saved, it is read back."""
    theirs = Case(kind, variant).build()
    theirs.config.output_router_logits, theirs.config.router_aux_loss_coef = True, 0.3
    theirs.router_aux_loss_coef = 0.3
    theirs.save_pretrained(tmp_path)
    ours = tm.from_pretrained(tmp_path)
    assert ours.config.router_aux_loss_coef == 0.3
    ids, mask = tokens(2, 40), np.ones((2, 40), dtype=np.int64)
    if padded:
        mask[1, 25:] = 0
    labels = np.where(mask > 0, ids, -100)
    given = torch.tensor(mask) if padded else None
    expected = theirs(torch.tensor(ids), labels=torch.tensor(labels), attention_mask=given)
    expected.loss.backward()
    targets = np.concatenate([labels[:, 1:], np.full((2, 1), -100)], axis=1)
    loss = ours.loss(ids, targets, attention_mask=mask if padded else None)
    loss.backward()
    assert loss.item() == pytest.approx(expected.loss.item(), rel=2e-6)
    plain = type(ours)(dataclasses.replace(ours.config, router_aux_loss_coef=0.0))
    for (_, p), (_, q) in zip(plain.named_parameters(), ours.named_parameters(), strict=True):
        p.data = q.data
    balance = loss.item() - plain.loss(ids, targets, attention_mask=mask if padded else None).item()
    assert balance == pytest.approx(0.3 * expected.aux_loss.item(), abs=2e-6)
    grads = {name: current().to_numpy(p.grad) for name, p in ours.named_parameters()}
    got = family(ours.config.model_type).weights_to_hf(grads, ours.config)
    wanted = revert_weight_conversion(theirs, {name: p.grad for name, p in theirs.named_parameters()})
    largest = max(grad.abs().max().item() for grad in wanted.values())
    for name, grad in wanted.items():
        np.testing.assert_allclose(got[name], grad.numpy(), atol=1e-5 * largest, err_msg=name)
    ours.save_pretrained(tmp_path / "again")
    again = type(theirs).from_pretrained(tmp_path / "again")
    assert again.config.output_router_logits and again.config.router_aux_loss_coef == 0.3
    assert tm.from_pretrained(tmp_path / "again").config == ours.config


def test_without_output_router_logits_no_loss_is_added(tmp_path):
    """Transformers has a coefficient by default, and does not use it."""
    theirs = Case("mixtral", "two of six").build()
    assert theirs.config.router_aux_loss_coef > 0
    theirs.save_pretrained(tmp_path)
    assert tm.from_pretrained(tmp_path).config.router_aux_loss_coef == 0


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25, 3.0])
def test_switch_drops_the_same_tokens(backend, factor):
    """One text of 41 tokens, 6 experts, the best for each token, as long as there is room."""
    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads".split()
    experts = {"num_experts": 6, "num_experts_per_tok": 1, "capacity_factor": factor, "initializer_range": 1.0}
    switched = Config(**dict.fromkeys(names, 8), **experts)
    ours, x = Router(switched, np.random.default_rng(0)), np.random.default_rng(1).normal(size=(41, 8))
    capacity = int(np.ceil(41 / 6 * factor))
    config = SwitchTransformersConfig(d_model=8, num_experts=6, expert_capacity=capacity, router_bias=False)
    theirs = switch.SwitchTransformersTop1Router(config).eval()
    theirs.classifier.weight.data = torch.tensor(ours.weight.numpy())
    with torch.no_grad():
        chosen, weights, _ = theirs(torch.tensor(x[None], dtype=torch.float32))
    routing = ours(Tensor(current().asarray(x.astype(np.float32))))
    seen = current().to_numpy(routing.seen)[:, 0]
    np.testing.assert_array_equal(seen, np.where(chosen[0].any(-1), chosen[0].argmax(-1), -1))
    np.testing.assert_allclose(routing.weights.numpy(), weights[0].numpy(), rtol=1e-6)
    assert (seen < 0).any() == (factor < 3)


def packed(rng: np.random.Generator, experts: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Random numbers in MXFP4: blocks and scales."""
    blocks = rng.integers(0, 256, (experts, rows, columns // 32, 16), dtype=np.uint8)
    return blocks, rng.integers(123, 127, blocks.shape[:-1], dtype=np.uint8)


def test_mxfp4_as_transformers_unpacks_it():
    blocks, _ = packed(np.random.default_rng(0), 3, 256, 64)
    scales = np.arange(3 * 256 * 2).reshape(3, 256, 2).astype(np.uint8) // 2 + 30  # none overflows
    expected = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32)
    np.testing.assert_array_equal(from_mxfp4(blocks, scales), expected.numpy())


def test_a_packed_checkpoint_is_the_unpacked_one(tmp_path):
    """GPT-OSS's files as they are published: experts in MXFP4, the rest in bfloat16."""
    case = Case("gpt_oss", "every second layer slides")
    settings = {**case.settings(), "hidden_size": 64, "intermediate_size": 32}
    case = type("Wide", (Case,), {"settings": lambda self: settings})(*case)
    theirs, rng = case.build(), np.random.default_rng(0)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.bfloat16().float()
    theirs.save_pretrained(tmp_path)
    state = {name: value.bfloat16() for name, value in load_file(tmp_path / "model.safetensors").items()}
    for name, parameter in theirs.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = parameter.shape
            blocks, scales = map(torch.tensor, packed(rng, experts, outputs, inputs))
            state |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            del state[name]
            parameter.data = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    save_file(state, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert logits_error(theirs, tm.from_pretrained(tmp_path), tokens(2, 19)) < 1e-5
