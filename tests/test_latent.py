"""Multi-head latent attention: two forms of one computation, and a cache that holds only the latent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gradients import check_gradients
from hypothesis import given
from hypothesis import strategies as st

from tinymoe.backend import current
from tinymoe.models import CausalLM
from tinymoe.models.families import family
from tinymoe.models.size import measure
from tinymoe.nn import Config, Places, RotaryEmbedding
from tinymoe.nn.latent import LatentAttention, latent_scale
from tinymoe.tensor import Tensor

SIZES = {"kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}
SHAPE = {
    "attention": "latent",
    "vocab_size": 33,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    **SIZES,
}
VARIANTS = {
    "full queries": {},
    "latent queries": {"q_lora_rank": 12},
    "biases": {"q_lora_rank": 12, "attention_bias": True},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "mscale": 0.7, "mscale_all_dim": 0.7}},
    "one head": {"num_attention_heads": 1},
    "values wider than keys": {"v_head_dim": 14, "kv_lora_rank": 3},
}


def small(**changes) -> CausalLM:
    model = CausalLM(Config(**{**SHAPE, **changes}), seed=1)
    rng = np.random.default_rng(2)
    for p in model.parameters():
        if p.ndim == 1:  # norms at one and biases at zero would hide a mistake
            p.data = p.data + current().asarray(rng.normal(0, 0.3, p.shape).astype(np.float32))
    return model


def layer_of(dtype: type = np.float64, **changes) -> LatentAttention:
    layer = small(**changes).model.layers[0].self_attn
    for p in layer.parameters():
        p.data = p.data.astype(dtype)
    return layer


def ids_of(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 33, (batch, length))


def places_of(length: int, documents: np.ndarray | None = None) -> Places:
    turns = RotaryEmbedding(SIZES["qk_rope_head_dim"])(current().xp.arange(length)[None])
    cos, sin = (turn.astype(np.float64) for turn in turns)
    numbers = None if documents is None else current().asarray(documents)
    return Places(cos, sin, numbers, numbers)


def absorbed(layer: LatentAttention, x: Tensor, places: Places) -> Tensor:
    """The decoding form on a whole text, without a cache."""
    q, q_latent = layer.queries(x, places)
    latents = layer.latents(x, places)
    rules = layer.rules(x, q_latent, places, None)
    mixed = layer.mix(layer.absorb(q), latents, latents[..., layer.rope_dim :], rules)
    return layer.o_proj(layer.lift(mixed).reshape(*x.shape[:2], -1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_absorbed_equals_expanded_in_every_logit(backend, variant):
    """A text read in pieces goes through the absorbed form, a whole one through the expanded form."""
    model, ids = small(**VARIANTS[variant]), ids_of(2, 23)
    whole, cache = model(ids).numpy(), model.new_cache()
    pieces = [model(ids[:, a:b], cache=cache).numpy() for a, b in [(0, 9), (9, 10), (10, 11), (11, 23)]]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=2e-5 * np.abs(whole).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_decoding_is_the_same_in_both_forms(backend, variant):
    model, ids = small(**VARIANTS[variant]), ids_of(2, 4)
    got = model.generate(ids, max_new_tokens=40, temperature=0)
    for _ in range(40):
        ids = np.concatenate([ids, model(ids).numpy()[:, -1].argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(got, ids)


@given(
    heads=st.integers(1, 5),
    rank=st.integers(1, 9),
    nope=st.integers(1, 7),
    rope=st.sampled_from([2, 4, 6]),
    value=st.integers(1, 7),
    length=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_both_forms_agree_in_float64_for_any_sizes(heads, rank, nope, rope, value, length, seed):
    sizes = {"kv_lora_rank": rank, "qk_nope_head_dim": nope, "qk_rope_head_dim": rope, "v_head_dim": value}
    layer = layer_of(num_attention_heads=heads, hidden_size=8 * heads, **sizes)
    x = Tensor(np.random.default_rng(seed).normal(size=(2, length, 8 * heads)))
    places = Places(*(turn.astype(np.float64) for turn in RotaryEmbedding(rope)(np.arange(length)[None])))
    np.testing.assert_allclose(absorbed(layer, x, places).data, layer(x, places).data, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", [LatentAttention.__call__, absorbed], ids=["expanded", "absorbed"])
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 3, "attention_bias": True}], ids=["full", "latent"])
def test_gradients_of_both_forms_by_finite_differences(backend, form, changes):
    """For the input and for every parameter of the layer; two documents stand in the second row."""
    layer = layer_of(hidden_size=6, num_attention_heads=2, **{**SIZES, "kv_lora_rank": 4}, **changes)
    places = places_of(5, documents=np.array([[0, 0, 0, 0, 0], [1, 1, 2, 2, 2]]))
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        for name, value in zip(names, values, strict=True):
            *path, last = name.split(".")
            owner = layer
            for step in path:
                owner = getattr(owner, step)
            setattr(owner, last, value)
        return form(layer, x, places)

    values = [current().to_numpy(p.data) for _, p in layer.named_parameters()]
    x = np.random.default_rng(3).normal(size=(2, 5, 6))
    check_gradients(run, x, *values)


def test_packed_documents_do_not_see_each_other(backend):
    model = small(q_lora_rank=12)
    a, b = ids_of(1, 5, seed=1), ids_of(1, 7, seed=2)
    ids, documents = np.concatenate([a, b], axis=1), np.array([[3] * 5 + [9] * 7])
    packed = model(ids, documents=documents).numpy()
    np.testing.assert_allclose(packed[:, :5], model(a).numpy(), atol=1e-4)
    np.testing.assert_allclose(packed[:, 5:], model(b).numpy(), atol=1e-4)
    cache = model.new_cache()
    pieces = [model(ids[:, s], cache=cache, documents=documents[:, s]).numpy() for s in (slice(0, 8), slice(8, 12))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), packed, atol=1e-4)


def test_the_future_does_not_change_the_past(backend):
    model, ids = small(), ids_of(1, 12)
    changed = ids.copy()
    changed[0, 8:] = (changed[0, 8:] + 1) % 33
    np.testing.assert_array_equal(model(ids).numpy()[:, :8], model(changed).numpy()[:, :8])


def test_trace_holds_the_attention_of_every_layer(backend):
    trace = small().trace(ids_of(2, 7))
    assert [weights.shape for weights in trace.attention] == [(2, 4, 7, 7)] * 2
    np.testing.assert_allclose(trace.attention[1].sum(axis=-1), 1, rtol=1e-5)
    assert np.all(np.triu(trace.attention[0][0, 0], k=1) == 0)


def test_the_cache_holds_the_latent_and_the_rope_key_and_nothing_else(backend):
    model = small()
    cache = model.new_cache()
    for length in (5, 1, 1):
        model(ids_of(3, length), cache=cache)
    assert cache.length == 7
    assert cache.nbytes == 2 * 3 * 7 * (10 + 4) * 4  # layers, batch, tokens, numbers, bytes


@pytest.mark.parametrize(
    ("layers", "heads", "hidden", "intermediate"),
    [(60, 128, 5120, 12288), (61, 128, 7168, 18432)],
    ids=["DeepSeek V2", "DeepSeek V3"],
)
def test_cache_bytes_of_the_published_models(layers, heads, hidden, intermediate):
    """(d_c + d_h^R) l numbers a token, table 1 of the DeepSeek-V2 paper: (512 + 64) a layer, with two bytes each."""
    config = Config(
        attention="latent",
        vocab_size=100,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
    )
    size = measure(config, context=4096)
    assert size.kv_cache_bytes == (512 + 64) * layers * 2
    attended = size.flops_per_token - measure(config, context=2).flops_per_token
    assert attended == layers * 2 * heads * (128 + 64 + 128) * (4096 - 2) // 2


def test_scale_of_the_scores():
    assert latent_scale(192, None) == 1 / math.sqrt(192)
    assert latent_scale(192, {"rope_type": "yarn", "factor": 40.0}) == 1 / math.sqrt(192)
    assert latent_scale(192, {"rope_type": "yarn", "factor": 1.0, "mscale_all_dim": 1.0}) == 1 / math.sqrt(192)
    # DeepSeek V3: 0.1 ln 40 + 1 = 1.369, whose square is 1.874
    yarn = {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    assert latent_scale(192, yarn) * math.sqrt(192) == pytest.approx(1.8738, abs=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_a_size_that_is_missing_is_named(name):
    with pytest.raises(ValueError, match=f"{name}: got None, expected at least 1"):
        small(**{name: None})


def test_a_cache_keeps_its_batch_size():
    model = small()
    cache = model.new_cache()
    model(ids_of(2, 3), cache=cache)
    with pytest.raises(ValueError, match="holds a batch of 2, got a batch of 3"):
        model(ids_of(3, 1), cache=cache)


PUBLISHED = {
    "model_type": "deepseek_v2",
    "vocab_size": 33,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "first_k_dense_replace": 2,
}


def test_config_of_deepseek_v2():
    """What is absent has the published default; what concerns experts is nothing where all layers are dense."""
    kind = family("deepseek_v2")
    config = kind.config_from_hf({**PUBLISHED, "n_routed_experts": 160, "num_key_value_heads": 4, "qk_head_dim": 192})
    assert (config.q_lora_rank, config.kv_lora_rank, config.v_head_dim) == (1536, 512, 128)
    assert kind.config_from_hf({**PUBLISHED, "q_lora_rank": None}).q_lora_rank is None


@pytest.mark.parametrize("change", [{"num_key_value_heads": 2}, {"unheard_of": 1}])
def test_config_of_deepseek_v2_names_what_it_lacks(change):
    with pytest.raises(ValueError, match=rf"{next(iter(change))} = \d \(not known for deepseek_v2\)"):
        family("deepseek_v2").config_from_hf({**PUBLISHED, **change})
