"""Adapters against PEFT: its files loaded here, ours loaded there; logits, gradients and merged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import SMALL
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.numpy import load_file
from test_families import logits_error, tokens
from transformers import AutoModelForCausalLM

import tinymoe as tm
from tinymoe.backend import current
from tinymoe.models import CausalLM
from tinymoe.posttrain import lora
from tinymoe.posttrain.adapter_files import load_adapter, save_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")

FAMILIES = {
    "llama": {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 8},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "rslora": {"r": 6, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "dora": {"r": 3, "lora_alpha": 7, "target_modules": "all-linear", "use_dora": True},
    "regex": {"r": 2, "target_modules": r".*\.1\.mlp\.(up|down)_proj"},
    "output layer": {"r": 2, "target_modules": ["lm_head", "layers.0.self_attn.o_proj"]},
}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory) -> Path:
    """A random model of ours, saved for both."""
    kind = tm.zoo.family(request.param)
    sizes = {name: SMALL[name] for name in SIZES}
    config = kind.config_from_hf(
        {"model_type": request.param, **sizes, **FAMILIES[request.param]}, initializer_range=0.1
    )
    folder = tmp_path_factory.mktemp(request.param)
    CausalLM(config, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(params=SETTINGS)
def settings(request) -> dict[str, Any]:
    return SETTINGS[request.param]


def theirs_on(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()


def peft_on(base: Path, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = get_peft_model(theirs_on(base), PeftConfig(task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.add_(0.1 * torch.randn_like(p))
    return model


def ours_on(base: Path, settings: dict[str, Any]) -> CausalLM:
    model = lora.add_lora(tm.from_pretrained(base), lora.LoraConfig(**settings))
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data[...] += current().asarray(rng.normal(0, 0.1, p.shape).astype(np.float32))
    return model


def gradients(model: CausalLM) -> dict[str, np.ndarray]:
    """By the names of PEFT's state_dict, of the one adapter."""
    grads = {}
    for path, layer in lora.lora_layers(model).items():
        for name, p in layer.adapters[0].named_parameters():
            key = "default" if name == "lora_magnitude_vector" else "default.weight"
            end = ".weight" if name == "lora_magnitude_vector" else ""
            grads[f"base_model.model.{path}.{name}.{key}{end}"] = current().to_numpy(p.grad)
    return grads


def test_theirs_loaded_here(base, settings, tmp_path, backend):
    theirs = peft_on(base, settings)
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    ours = load_adapter(tm.from_pretrained(base), tmp_path)
    ids = tokens(2, 19)
    assert logits_error(theirs, ours, ids) < 1e-5
    cached = ours(ids, cache=ours.new_cache()).numpy()
    np.testing.assert_allclose(cached, ours(ids).numpy(), atol=1e-5 * np.abs(cached).max())

    theirs(torch.tensor(ids), labels=torch.tensor(ids)).loss.backward()
    ours.loss(ids[:, :-1], ids[:, 1:]).backward()
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.requires_grad}
    got = gradients(ours)
    assert got.keys() == expected.keys()
    for name, grad in expected.items():
        np.testing.assert_allclose(got[name], grad, atol=1e-5 * np.abs(grad).max(), err_msg=name)


def test_ours_loaded_there(base, settings, tmp_path):
    ours = ours_on(base, settings)
    save_adapter(ours, tmp_path)
    theirs = PeftModel.from_pretrained(theirs_on(base), tmp_path).eval()
    assert logits_error(theirs, ours, tokens(2, 19)) < 1e-5
    theirs.save_pretrained(tmp_path / "again", save_embedding_layers=False)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert before.keys() == after.keys(), "PEFT adapts other layers"
    for key, array in before.items():
        np.testing.assert_array_equal(after[key], array)


def test_merged(base, settings, tmp_path):
    theirs = peft_on(base, settings)
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    ours = lora.unload(lora.merge(load_adapter(tm.from_pretrained(base), tmp_path)))
    expected = {name: p.detach().numpy() for name, p in theirs.merge_and_unload().named_parameters()}
    got = dict(ours.named_parameters())
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(got[name].numpy(), array, rtol=0, atol=1e-6, err_msg=name)


def test_combined_and_scaled(base, tmp_path):
    """PEFT's `add_weighted_adapter` by concatenation, and `set_scale`."""
    theirs = peft_on(base, SETTINGS["lora"])
    theirs.add_adapter("other", PeftConfig(task_type="CAUSAL_LM", r=3, target_modules=["v_proj", "o_proj"]))
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if "lora_B.other" in name:
                p.add_(0.1 * torch.randn_like(p))
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    ours = load_adapter(load_adapter(tm.from_pretrained(base), tmp_path), tmp_path / "other", "other")
    ids = tokens(2, 19)
    theirs.base_model.set_adapter(["default", "other"])
    lora.set_adapter(ours, ["default", "other"])
    assert logits_error(theirs, ours, ids) < 1e-5
    theirs.add_weighted_adapter(["default", "other"], [0.6, 0.3], "both", combination_type="cat")
    theirs.set_adapter("both")
    lora.combine(ours, {"default": 0.6, "other": 0.3}, "both")
    assert logits_error(theirs, ours, ids) < 1e-5
    theirs.set_adapter("other")
    for module in theirs.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("other", 0.25)
    lora.set_adapter(ours, "other")
    lora.set_scale(ours, "other", 0.25)
    assert logits_error(theirs, ours, ids) < 1e-5
    with theirs.disable_adapter(), lora.adapters_off(ours):
        assert logits_error(theirs, ours, ids) < 1e-5
