"""The zoo: sizes of published models, computed from their configs alone, and small ones that learn at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import tinymoe as tm
from tinymoe import cli
from tinymoe.models import zoo
from tinymoe.models.families import FAMILIES, family
from tinymoe.models.published import PUBLISHED
from tinymoe.models.size import measure
from tinymoe.nn.module import shapes_only

SMALL = [name for name in zoo.list() if name not in PUBLISHED]
WITH_EXPERTS = [name for name in SMALL if "moe" in zoo.config(name).mlp_types]

# All parameters, checked against Transformers in conformance/test_published_configs.py.
TOTAL = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "bloom-560m": 559_214_592,
    "bloom-7b1": 7_069_016_064,
    "bloom": 176_247_271_424,
    "falcon-rw-1b": 1_311_625_216,
    "falcon-7b": 6_921_720_704,
    "falcon-40b": 41_303_293_952,
    "falcon-180b": 178_557_088_768,
    "falcon-11b": 11_102_822_400,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "codellama-7b": 6_738_546_688,
    "codellama-34b": 33_743_970_304,
    "tinyllama-1.1b": 1_100_048_384,
    "yi-6b": 6_061_035_520,
    "yi-34b": 34_388_917_248,
    "mistral-7b": 7_241_732_096,
    "mistral-nemo": 12_247_782_400,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 3_880_263_168,
    "gemma-3-12b": 11_766_034_176,
    "gemma-3-27b": 27_009_346_304,
    "qwen1.5-7b": 7_721_324_544,
    "qwen1.5-72b": 72_287_920_128,
    "qwen2-7b": 7_615_616_512,
    "qwen2-72b": 72_706_203_648,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "phi-3-medium": 13_960_238_080,
    "phi-4": 14_659_507_200,
    "starcoder": 15_517_456_384,
    "starcoder2-3b": 3_030_371_328,
    "starcoder2-7b": 7_173_923_840,
    "starcoder2-15b": 15_957_889_024,
}
TOTAL_AND_ACTIVE = {
    "mixtral-8x7b": (46_702_792_704, 12_879_925_248),
    "mixtral-8x22b": (140_620_634_112, 39_152_031_744),
    "qwen1.5-moe-a2.7b": (14_315_784_192, 2_689_173_504),
    "qwen2-57b-a14b": (57_408_658_944, 14_249_270_784),
    "qwen3-30b-a3b": (30_532_122_624, 3_353_032_704),
    "qwen3-235b-a22b": (235_093_634_560, 22_190_763_520),
    "olmoe-1b-7b": (6_919_161_856, 1_282_017_280),
    "gpt-oss-20b": (20_914_757_184, 4_187_440_704),
    "gpt-oss-120b": (116_829_156_672, 5_711_982_912),
    "llama-4-scout": (107_769_861_120, 17_172_894_720),
    "llama-4-maverick": (400_711_848_960, 17_184_691_200),
    "deepseek-v2-lite": (15_706_484_224, 2_661_150_208),
    "deepseek-v2": (235_741_434_880, 21_375_800_320),
    "deepseek-v3": (671_026_419_200, 37_552_297_472),
    "deepseek-r1": (671_026_419_200, 37_552_297_472),
    "kimi-k2": (1_026_408_232_448, 32_861_500_928),
    "deepseek-v3.2": (671_877_944_064, 38_403_822_336),
    "glm-5": (743_911_218_432, 41_784_728_832),
    "glm-5.2": (743_377_019_904, 41_250_530_304),
    "grok-1": (315_684_820_992, 83_756_587_008),
}
# Known to their publishers by a round number; Llama 4 Scout's counts the vision tower, too.
ROUNDED = {"falcon-7b", "falcon-40b", "falcon-180b", "kimi-k2", "llama-4-scout", "grok-1"}
# Billions of parameters, all and for each token, as published and to what unit that is rounded; and how many of the two
# tables, of the embedding and of the output layer, the publisher leaves out of those for each token.
AS_PUBLISHED = {
    "mixtral-8x7b": ((46.7, 0.1), (12.9, 0.1), 0),
    "deepseek-v3": ((671, 1), (37, 1), 1),
    "kimi-k2": ((1000, 1000), (32, 1), 1),  # its card; the paper's 1.04 T is more than the config makes, 1.026 T
    "gpt-oss-120b": ((116.83, 0.01), (5.13, 0.01), 1),
    "gpt-oss-20b": ((20.91, 0.01), (3.61, 0.01), 1),
    "qwen3-235b-a22b": ((235, 1), (22, 1), 0),
    "llama-4-maverick": ((400, 100), (17, 1), 0),
    "glm-5": ((744, 1), (40, 1), 2),
}


def test_every_family_has_small_and_published_models():
    for names in (SMALL, PUBLISHED):
        assert {zoo.config(name).model_type for name in names} == set(FAMILIES)
    assert set(PUBLISHED) == TOTAL.keys() | TOTAL_AND_ACTIVE.keys()
    assert zoo.list() == [*SMALL, *PUBLISHED] and len({*zoo.list()}) == len(zoo.list())


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_of_published_models(name):
    size, stated = measure(zoo.config(name)), PUBLISHED[name]
    total, active = TOTAL_AND_ACTIVE[name] if name in TOTAL_AND_ACTIVE else (TOTAL[name],) * 2
    assert (size.parameters, size.active_parameters) == (total, active)
    assert total / 1e9 == pytest.approx(stated.total, rel=0.035 if name in ROUNDED else 0.005)
    assert (stated.active is None) == (active == total or name == "grok-1")  # xAI names no number


def test_at_least_25_totals_are_within_half_a_percent():
    assert len(PUBLISHED.keys() - ROUNDED) >= 25
    assert all(PUBLISHED[name].total % 1 == 0 for name in ROUNDED)


@pytest.mark.parametrize("name", [name for name in TOTAL_AND_ACTIVE if name != "grok-1"])
def test_active_parameters_as_stated(name):
    """With the embedding table, or without it, of which a token uses one row: publishers count in both ways."""
    config, (_, active) = zoo.config(name), TOTAL_AND_ACTIVE[name]
    counts = [active / 1e9, (active - config.vocab_size * config.hidden_size) / 1e9]
    assert min(abs(count / PUBLISHED[name].active - 1) for count in counts) < 0.025


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_parameters_as_the_publishers_round_them(name):
    (total, unit), (active, active_unit), left_out = AS_PUBLISHED[name]
    assert (PUBLISHED[name].total, PUBLISHED[name].active) == (total, active)
    config, size = zoo.config(name), measure(zoo.config(name))
    used = size.active_parameters - left_out * config.vocab_size * config.hidden_size
    assert round(size.parameters / 1e9 / unit) * unit == pytest.approx(total)
    assert round(used / 1e9 / active_unit) * active_unit == pytest.approx(active)


def test_llama_4_scout_has_its_109_billion_with_the_vision_tower():
    """Which has 0.9 B (conformance/test_published_configs.py), and no part in the 17 B for each token of a text."""
    size = measure(zoo.config("llama-4-scout"))
    assert 108.5e9 < size.parameters + 0.9e9 < 109.5e9
    assert round(size.active_parameters / 1e9) == PUBLISHED["llama-4-scout"].active == 17


def test_grok_1_has_its_314_billion_without_the_embedding_table():
    """Rounded down. "25% of the weights active" is true of the experts, two of eight; of all weights it is 26.5%."""
    config, size = zoo.config("grok-1"), measure(zoo.config("grok-1"))
    assert (size.parameters - config.vocab_size * config.hidden_size) // 10**9 == PUBLISHED["grok-1"].total == 314
    experts = 3 * 64 * 8 * config.intermediate_size * config.hidden_size
    assert size.parameters - size.active_parameters == experts * 6 // 8
    assert size.active_parameters / size.parameters == pytest.approx(0.265, abs=5e-4)


@pytest.mark.parametrize("name", ["deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "kimi-k2"])
def test_the_latent_cache_holds_what_the_paper_says(name):
    """(d_c + d_h^R) numbers a layer and token (DeepSeek-V2, table 1), whatever the length."""
    config = zoo.config(name)
    numbers = (512 + 64) * config.num_hidden_layers
    for context in (1, 4096, config.max_position_embeddings):
        assert measure(config, context=context).kv_cache_bytes == 2 * numbers
    heads = measure(zoo.config("llama-3.1-405b")).kv_cache_bytes
    assert heads == 2 * 2 * 126 * 8 * 128  # keys and values


def test_windows_bound_the_cache():
    mistral = zoo.config("mistral-7b")
    assert measure(mistral, context=4096).kv_cache_bytes == 2 * 2 * 32 * 8 * 128
    assert measure(mistral, context=32768).kv_cache_bytes == 2 * 2 * 32 * 8 * 128 // 8


def test_info_of_deepseek_v3(capsys):
    assert cli.main(["info", "deepseek-v3"]) == 0
    shown = capsys.readouterr().out
    assert "671,026,419,200  671.0 B" in shown and "671 B  total, 37 B active (DeepSeek-AI 2024b)" in shown
    assert "37,552,297,472  37.6 B used for each token; 36.6 B without the embedding table, 35.7 B without" in shown
    assert "70,272 in bfloat16" in shown


def test_info_of_glm_5(capsys):
    """Its publisher's 40 B leaves out both tables."""
    assert cli.main(["info", "glm-5"]) == 0
    shown = capsys.readouterr().out
    assert "743,911,218,432  743.9 B" in shown and "744 B  total, 40 B active (GLM-5 Team 2026)" in shown
    assert "41.8 B used for each token; 40.8 B without the embedding table, 39.9 B without the output" in shown


def test_layers_that_share_a_choice_of_tokens_share_its_work():
    """GLM-5.2 has an indexer in 21 of 78 layers, GLM-5 in all: less work and less to keep for each token."""
    config = zoo.config("glm-5.2")
    assert config.indexer_types.count("full") == 21
    alone, shared = (measure(zoo.config(name), context=131072) for name in ("glm-5", "glm-5.2"))
    saved = 57 * 2 * 32 * (128 + 1) * 65536  # the indexer's comparisons
    matrices = alone.parameters - shared.parameters - 57 * 2 * 128  # without the norms
    assert alone.flops_per_token - shared.flops_per_token == saved + 2 * matrices
    assert alone.kv_cache_bytes - shared.kv_cache_bytes == 57 * 128 * 2


def test_info_of_a_window_tells_what_a_full_cache_holds(capsys):
    assert cli.main(["info", "mistral-7b"]) == 0
    full = 2 * 2 * 32 * 8 * 128 * 4096
    assert f"{2 * full:,}  bytes in float32; {full:,} in bfloat16" in capsys.readouterr().out
    assert cli.main(["info", "mistral-nemo"]) == 0
    assert "KV cache, full" not in capsys.readouterr().out


def test_looking_at_a_trillion_parameters_takes_no_memory():
    tracemalloc.start()
    with shapes_only():
        model = zoo.build("kimi-k2")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.num_parameters() > 10**12 and peak < 10**7


@pytest.mark.parametrize("name", SMALL)
def test_small_models_learn_and_decode(name):
    """Of a text of four tokens over and over each learns a lot in a few steps; with and without a cache they agree."""
    model = zoo.build(name, vocab_size=33)
    ids = np.tile([3, 1, 4, 15], 12)[None]
    optimizer = tm.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    prompt = ids[:, :37]  # longer than the windows
    got = model.generate(prompt, max_new_tokens=8, temperature=0)
    for _ in range(8):
        prompt = np.concatenate([prompt, model(prompt).numpy()[:, -1].argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(got, prompt)


@pytest.mark.parametrize("name", WITH_EXPERTS)
def test_active_parameters_are_those_of_a_model_with_no_more_experts(name):
    """But for the routers, which have a row, and perhaps a bias, for each expert."""
    model, chosen = zoo.build(name), zoo.config(name).num_experts_per_tok
    few = zoo.build(name, num_experts=chosen, n_group=1, topk_group=1)
    routers = [sum(p.size for name, p in m.named_parameters() if ".gate." in name) for m in (model, few)]
    assert routers[0] == 4 * routers[1]
    assert model.num_parameters(active=True) == few.num_parameters() - routers[1] + routers[0]
    assert model.num_parameters() > model.num_parameters(active=True)


@pytest.mark.parametrize("name", zoo.list())
def test_every_config_can_be_written_as_a_config_file(name):
    config = zoo.config(name)
    kind = family(config.model_type)
    assert kind.config_from_hf(kind.config_to_hf(config)) == config


def test_changes_have_the_same_names_in_every_family():
    for name in zoo.list():
        config = zoo.config(name, vocab_size=65, num_hidden_layers=2, eos_token_id=7, initializer_range=0.5)
        assert (config.vocab_size, config.num_hidden_layers, config.eos_token_id) == (65, 2, 7)
        assert config.initializer_range == 0.5 and len(config.layer_types) == len(config.mlp_types) == 2
    assert zoo.config("bloom-nano", intermediate_size=99).intermediate_size == 99
    assert zoo.config("mistral-7b", sliding_window=None).layer_types == ("full_attention",) * 32
    assert zoo.config("llama-nano", mlp="plain").mlp_types == ("plain",) * 4
    assert zoo.config("llama-nano", rope_scaling={"type": "linear", "factor": 2.0}).rope_scaling == {
        "rope_type": "linear",
        "factor": 2.0,
    }


def test_names_and_changes_that_are_none():
    with pytest.raises(ValueError, match="got 'lama-nano', which is not in the zoo; did you mean llama-nano"):
        zoo.build("lama-nano")
    with pytest.raises(ValueError, match=r"got 'deepseekv3', .* did you mean deepseek-v3"):
        zoo.config("deepseekv3")
    with pytest.raises(ValueError, match="width: not a field of Config"):
        zoo.config("llama-nano", width=3)
    with pytest.raises(ValueError, match=r"config of gpt2: n_embd = 'wide' \(expected int\)"):
        zoo.config("gpt2", hidden_size="wide")
    with pytest.raises(ValueError, match="not in the zoo"):
        zoo.recipe("nothing-like-it")


def test_recipes():
    for name in zoo.list():
        settings = zoo.recipe(name)
        assert 0 < settings["min_lr"] < settings["lr"]
        assert 1 <= settings["context"] <= zoo.config(name).max_position_embeddings
    assert zoo.recipe("mixtral-nano") == zoo.recipe("llama-nano") != zoo.recipe("llama-small")
