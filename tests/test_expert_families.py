"""Families with experts: what their config files may say, and how their checkpoints hold experts."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tinymoe.models import CausalLM, from_pretrained
from tinymoe.models.families import family
from tinymoe.nn.module import shapes_only

SIZES = {
    "vocab_size": 33,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
}
EXPERTS = {**SIZES, "num_experts": 4, "moe_intermediate_size": 8}
LATENT = {"q_lora_rank": None, "kv_lora_rank": 6, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4}
DEEPSEEK = {**SIZES, **LATENT, "n_routed_experts": 8, "moe_intermediate_size": 8, "first_k_dense_replace": 1}
INDEX = {"q_lora_rank": 6, "index_n_heads": 2, "index_head_dim": 4, "index_topk": 3}
SMALLEST = {
    "mixtral": {**SIZES, "num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 12},
    "qwen3_moe": {**EXPERTS, "head_dim": 4},
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": {**DEEPSEEK, "n_group": 4, "topk_group": 2},
    "deepseek_v32": {**DEEPSEEK, **INDEX, "n_group": 4, "topk_group": 2},
    "glm_moe_dsa": {**DEEPSEEK, **INDEX},
    "grok-1": {**SIZES, "num_experts": 4},
}
DENSE, MOE = "swiglu", "moe"


def read(kind: str, **fields):
    return family(kind).config_from_hf({**SMALLEST[kind], **fields})


@pytest.fixture(params=SMALLEST)
def saved(request, tmp_path):
    """A model, its folder, and the tensors in it."""
    model = CausalLM(read(request.param), seed=1)
    model.save_pretrained(tmp_path)
    return model, tmp_path, load_file(tmp_path / "model.safetensors")


def same_weights(a: CausalLM, b: CausalLM) -> bool:
    pairs = zip(a.named_parameters(), b.named_parameters(), strict=True)
    return all(name == other and np.array_equal(p.numpy(), q.numpy()) for (name, p), (other, q) in pairs)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("mixtral", {}, [MOE, MOE, MOE]),
        ("qwen2_moe", {"mlp_only_layers": [1]}, [MOE, DENSE, MOE]),
        ("qwen2_moe", {"decoder_sparse_step": 2}, [DENSE, MOE, DENSE]),
        ("qwen3_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [1]}, [DENSE, DENSE, DENSE]),
        ("deepseek_v2", {}, [DENSE, MOE, MOE]),
        ("deepseek_v2", {"first_k_dense_replace": 0}, [MOE, MOE, MOE]),
        ("deepseek_v2", {"first_k_dense_replace": 7}, [DENSE, DENSE, DENSE]),
        ("deepseek_v3", {"first_k_dense_replace": 2}, [DENSE, DENSE, MOE]),
        ("deepseek_v32", {"mlp_layer_types": ["sparse", "dense", "sparse"]}, [MOE, DENSE, MOE]),
        ("glm_moe_dsa", {"mlp_layer_types": ["dense", "dense", "dense"]}, [DENSE, DENSE, DENSE]),
        ("grok-1", {}, [MOE, MOE, MOE]),
    ],
)
def test_which_layers_have_experts(kind, fields, expected):
    assert read(kind, **fields).mlp_types == tuple(expected)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("deepseek_v2", {}, ("softmax", False, 1.0, 16)),
        ("deepseek_v2", {"n_shared_experts": 0, "routed_scaling_factor": 16.0}, ("softmax", False, 16.0, None)),
        ("deepseek_v2", {"topk_method": "group_limited_greedy"}, ("softmax_groups", False, 1.0, 16)),
        ("deepseek_v3", {}, ("sigmoid", True, 2.5, 8)),
        ("deepseek_v3", {"norm_topk_prob": False, "n_shared_experts": 3}, ("sigmoid", False, 2.5, 24)),
    ],
)
def test_deepseeks_routers_and_shared_experts(kind, fields, expected):
    c = read(kind, **fields)
    assert expected == (c.router, c.norm_topk_prob, c.routed_scaling_factor, c.shared_expert_intermediate_size)


def test_where_all_layers_are_dense_nothing_is_said_about_experts():
    kind = family("deepseek_v3")
    config = read("deepseek_v3", first_k_dense_replace=3, topk_method="unheard of")
    assert config.num_experts is None and config.mlp == DENSE
    assert not kind.config_to_hf(config).keys() & {"n_routed_experts", "topk_method", "n_group", "scoring_func"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"indexer_types": ["full", "shared", "full"]}, "FSF"),
        ({"index_topk_pattern": "FSS"}, "FSS"),
        ({"index_topk_freq": 2, "index_skip_topk_offset": 1}, "FSF"),
        ({"index_topk_freq": 3}, "FFS"),
    ],
)
def test_which_layers_choose_tokens(fields, expected):
    config = read("glm_moe_dsa", **fields)
    assert "".join(kind[0].upper() for kind in config.indexer_types) == expected and config.attention == "shared_sparse"
    assert read("glm_moe_dsa").attention == "sparse" and read("glm_moe_dsa").indexer_types == ()


def test_kimi_k2_is_a_deepseek_v3():
    published = {**SMALLEST["deepseek_v3"], "model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]}
    config = family("kimi_k2").config_from_hf({**published, "n_group": 1, "topk_group": 1, "aux_loss_alpha": 0.001})
    assert config == read("deepseek_v3", n_group=1, topk_group=1) and config.model_type == "deepseek_v3"


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("mixtral", {"num_experts": 4}, r"num_experts = 4 \(not known for mixtral"),
        ("mixtral", {"hidden_act": "gelu"}, r"hidden_act = 'gelu' \(only 'silu' is supported"),
        ("qwen3_moe", {"shared_expert_intermediate_size": 8}, r"shared_expert_intermediate_size = 8 \(not known"),
        ("deepseek_v2", {"norm_topk_prob": True}, r"norm_topk_prob = True \(only False is supported"),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, r"scoring_func = 'sigmoid' \(only 'softmax' is supported"),
        ("deepseek_v2", {"moe_layer_freq": 2}, r"moe_layer_freq = 2 \(only 1 is supported"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method: got 'noaux_tc', expected one of greedy, group_lim"),
        ("deepseek_v3", {"topk_method": "greedy"}, "topk_method: got 'greedy', expected one of noaux_tc"),
        ("deepseek_v3", {"rope_interleave": False}, r"rope_interleave = False \(only True is supported"),
        ("deepseek_v3", {"mlp_bias": True}, r"mlp_bias = True \(not known for deepseek_v3"),
        ("deepseek_v3", {"num_key_value_heads": 2}, r"num_key_value_heads = 2 \(not known for deepseek_v3"),
        ("deepseek_v3", {"quantization_config": {"quant_method": "fp8"}}, r"quantization_config = .*fp8.* \(not known"),
        ("deepseek_v3", {"first_k_dense_replace": None}, r"first_k_dense_replace = None \(expected int"),
        ("deepseek_v2", {"n_shared_experts": "two"}, r"n_shared_experts = 'two' \(expected int"),
        ("deepseek_v32", {"indexer_rope_interleave": True}, r"indexer_rope_interleave = True \(only False is"),
        ("deepseek_v32", {"indexer_types": ["full"] * 3}, r"indexer_types = \['full', .* \(not known for deepseek_v32"),
        ("deepseek_v32", {"layer_types": ["full_attention"] * 3}, r"layer_types = .* \(not known for deepseek_v32"),
        ("deepseek_v32", {"mlp_layer_types": ["moe"] * 3}, "mlp_layer_types: got 'moe', expected 'dense' or 'sparse'"),
        ("glm_moe_dsa", {"mlp_layer_types": ["sparse"] * 2}, "mlp_types: got 2 names, expected one a layer, 3"),
        ("grok-1", {"embedding_multiplier_scale": 2.0}, r"embedding_multiplier_scale: got 2.0, expected sqrt\(hidden"),
        ("grok-1", {"hidden_act": "silu"}, r"hidden_act = 'silu' \(only 'gelu' is supported"),
        ("qwen2_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step: got 0, expected at least 1"),
    ],
)
def test_what_a_config_may_not_say(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        read(kind, **fields)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("mixtral", {"num_experts_per_tok": 5}, r"num_experts_per_tok: got 5, expected 1 to num_experts \(4\)"),
        ("deepseek_v3", {"n_group": 3}, r"n_group: got 3, expected a divisor of num_experts \(8\)"),
        ("deepseek_v3", {"topk_group": 5}, r"topk_group: got 5, expected 1 to n_group \(4\)"),
        ("deepseek_v2", {"kv_lora_rank": 0}, "kv_lora_rank: got 0, expected at least 1, for latent attention"),
        ("deepseek_v32", {"index_topk": 0}, "index_topk: got 0, expected at least 1, for sparse attention"),
        ("glm_moe_dsa", {"indexer_types": ["shared"] * 3}, "indexer_types: got 'shared' for the first layer"),
        ("glm_moe_dsa", {"index_topk_pattern": "FS"}, r"indexer_types: got \('full', 'shared'\), expected 'full' or"),
        ("glm_moe_dsa", {"index_topk_pattern": "FXS"}, r"indexer_types: got \('full', 'X', 'shared'\), expected"),
    ],
)
def test_numbers_that_do_not_fit_together(kind, fields, message):
    with pytest.raises(ValueError, match=message), shapes_only():
        CausalLM(read(kind, **fields))


def test_experts_that_were_saved_as_one_tensor(saved):
    """As Transformers 5 holds them in memory: gate and up one below the other, for all experts."""
    model, folder, tensors = saved
    gate, up, down = family(model.config.model_type).expert_names.values()
    together = {name: array for name, array in tensors.items() if ".experts." not in name}
    for block in sorted({name.split(".experts.")[0] for name in tensors if ".experts." in name}):
        g, u, d = (
            np.stack([tensors[f"{block}.experts.{e}.{name}.weight"] for e in range(model.config.num_experts or 0)])
            for name in (gate, up, down)
        )
        together |= {f"{block}.experts.gate_up_proj": np.concatenate([g, u], axis=1), f"{block}.experts.down_proj": d}
    save_file(together, folder / "model.safetensors")
    assert same_weights(from_pretrained(folder), model)


def test_experts_that_are_missing_surplus_or_of_another_shape_are_named(saved):
    _, folder, tensors = saved
    first, *_, last = sorted(name for name in tensors if ".experts." in name)
    cut, surplus = np.ascontiguousarray(tensors[last][1:]), first.replace(".experts.0.", ".experts.9.")
    changed = {**tensors, last: cut, surplus: tensors[first]}
    del changed[first]
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        from_pretrained(folder)
    said = f"{last} has shape {cut.shape}, expected {tensors[last].shape}"
    assert all(part in str(caught.value) for part in (f"missing {first}", f"unexpected {surplus}", said))


@pytest.fixture
def deepseek(tmp_path):
    model = CausalLM(read("deepseek_v3"), seed=1)
    model.save_pretrained(tmp_path)
    return model, tmp_path, load_file(tmp_path / "model.safetensors")


def test_modules_for_multi_token_prediction_are_left_out(deepseek):
    """They stand behind the last layer, are layers themselves, and have an eh_proj that joins two streams."""
    model, folder, tensors = deepseek
    layer = {name.replace("layers.2.", "layers.3."): a for name, a in tensors.items() if "layers.2." in name}
    own = {"eh_proj.weight": (16, 32), "enorm.weight": (16,), "shared_head.head.weight": (33, 16)}
    module = {f"model.layers.3.{name}": np.zeros(shape, np.float32) for name, shape in own.items()}
    save_file({**tensors, **layer, **module}, folder / "model.safetensors")
    assert same_weights(from_pretrained(folder), model)


def test_other_layers_than_the_config_has_are_named(deepseek):
    _, folder, tensors = deepseek
    layer = {name.replace("layers.2.", "layers.3."): a for name, a in tensors.items() if "layers.2." in name}
    save_file({**tensors, **layer}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"unexpected model\.layers\.3\..*more"):
        from_pretrained(folder)


def test_a_missing_bias_of_the_router_is_named(deepseek):
    _, folder, tensors = deepseek
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    save_file({n: a for n, a in tensors.items() if n != name}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"missing {name}"):
        from_pretrained(folder)
