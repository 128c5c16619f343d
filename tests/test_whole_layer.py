"""A layer of Llama in one call is the layer by its parts; and it goes by its parts where somebody wants to see them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import VOCABULARY, tiny_model

import tinymoe as tm
from tinymoe.backend import current
from tinymoe.backend.reference import AttentionRules, LayerRules, ReferenceBackend
from tinymoe.models import zoo
from tinymoe.nn import parts
from tinymoe.nn.recorder import recording
from tinymoe.posttrain import LoraConfig, add_lora
from tinymoe.tensor import OPS, keep_tape, no_grad

pytest.importorskip("numba")

from tinymoe.backend import numba_cpu
from tinymoe.backend.numba_cpu import NumbaBackend

SHAPE = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}


@pytest.fixture
def asked(monkeypatch):
    """How often layers are computed as a whole, in a backend that has one thread."""
    times = []
    with tm.using("numba") as backend:
        monkeypatch.setattr(backend, "threads", 1)
        monkeypatch.setattr(numba_cpu, "FASTER", True)
        whole = NumbaBackend.llama_layer
        monkeypatch.setattr(NumbaBackend, "llama_layer", lambda *a: times.append(1) or whole(*a))
        yield times


def narrowed(arrays):
    return [array.astype(np.float32) for array in arrays]


def angles(random, batch, tokens, half):
    turned = random.uniform(-3, 3, (batch, tokens, half))
    return np.cos(turned), np.sin(turned)


@settings(deadline=None, max_examples=40)
@given(
    texts=st.integers(1, 3), tokens=st.integers(1, 40), prompt=st.integers(0, 20), own_angles=st.booleans(),
    heads=st.sampled_from([(2, 1), (3, 3)]), half=st.integers(8, 10), turned=st.integers(4, 8),
    width=st.integers(16, 40), inner=st.integers(16, 50), seed=st.integers(0, 99),
)  # fmt: skip
def test_of_any_shape(alone, texts, tokens, prompt, own_angles, heads, half, turned, width, inner, seed):
    """Fewer rows than a product of ours takes, or more; some keys before the texts' own, or none."""
    random, reference = np.random.default_rng(seed), ReferenceBackend()
    shapes = (heads[0] * 2 * half, width), *[(heads[1] * 2 * half, width)] * 2, (width, heads[0] * 2 * half)
    shapes = (width,), (width,), *shapes, (inner, width), (inner, width), (width, inner)
    weights = [random.normal(size=shape) / 5 for shape in shapes]
    x, g = random.normal(size=(2, texts, tokens, width))
    prompts = list(random.normal(size=(2, texts, prompt, heads[1], 2 * half))) if prompt else []
    cos, sin = angles(random, texts if own_angles else 1, tokens, turned)
    rules = LayerRules(cos, sin, 2 * half, 0.3, (1e-5, 1e-3))
    weights32, rules32 = narrowed(weights), LayerRules(*narrowed(rules[:2]), *rules[2:])

    expected, found = reference.llama_layer(x, weights, rules), alone.llama_layer(*narrowed([x]), weights32, rules32)
    for name, mine, theirs in zip(expected._fields, found, expected, strict=True):
        assert mine.shape == theirs.shape, name
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * max(1, np.abs(theirs).max()), err_msg=name)

    needs = [True] * 10
    if prompt:  # then what attention finds is another thing; its states are given, whatever they are
        pairs = zip(prompts, (expected.keys, expected.values), strict=True)
        keys, values = (np.concatenate(pair, axis=1) for pair in pairs)
        mixed, lse = reference.attention(expected.queries, keys, values, None, AttentionRules(0.3))
        lse = lse.reshape(texts, heads[0], tokens).transpose(0, 2, 1)
        expected = expected._replace(mixed=mixed, lse=lse)
    states = type(expected)(*map(np.ascontiguousarray, narrowed(expected)))
    dx, dprompts, dweights = reference.llama_layer_backward(g, x, weights, rules, expected, prompts, needs)
    ours = alone.llama_layer_backward(*narrowed([g, x]), weights32, rules32, states, narrowed(prompts), needs)
    gradients = dx, *dprompts, *dweights
    largest = max(np.abs(gradient).max() for gradient in gradients)
    for mine, theirs in zip((ours[0], *ours[1], *ours[2]), gradients, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=5e-5 * np.abs(theirs).max() + 1e-6 * largest)


def learned(model, **changes):
    """Loss and gradients of six texts."""
    random = np.random.default_rng(0)
    ids, targets = random.integers(0, VOCABULARY, (2, 6, 12))
    for p in model.parameters():
        p.grad = None
    loss = model.loss(ids, targets, **changes)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_the_same(these, those):
    (loss, gradients), (other, others) = these, those
    assert loss == pytest.approx(other, rel=1e-6) and gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, others[name], atol=1e-5 * np.abs(others[name]).max(), err_msg=name)


def by_parts(model, **changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinymoe.models.decoder.whole_layer", lambda *_: None)
        return learned(model, **changes)


@pytest.mark.parametrize("shape", [{}, {"num_key_value_heads": 1}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("threads", [1, 2])
def test_models_learn_the_same(asked, shape, threads, monkeypatch):
    monkeypatch.setattr(parts, "LANE_TOKENS", 8)
    monkeypatch.setattr(current(), "threads", threads)
    model = tiny_model(**{**SHAPE, "num_key_value_heads": 4, "initializer_range": 0.3, **shape})
    found = learned(model)
    assert len(asked) == 2 * threads
    assert_the_same(found, by_parts(model))
    assert len(asked) == 2 * threads


@pytest.mark.parametrize("frozen", ["embed_tokens", "q_proj", "down_proj", "norm"])
def test_with_weights_that_do_not_learn(asked, frozen):
    model = tiny_model(**SHAPE, num_key_value_heads=4, initializer_range=0.3)
    for name, p in model.named_parameters():
        p.requires_grad = frozen not in name
    found = learned(model)
    assert asked and found[1]
    assert_the_same(found, by_parts(model))


def test_a_cache_goes_by_the_parts(asked):
    model, ids = tiny_model(**SHAPE, num_key_value_heads=4), np.arange(8)[None]
    with no_grad():
        whole = model(ids).numpy()
        assert len(asked) == 2
        cached = model(ids, cache=model.new_cache()).numpy()
    assert len(asked) == 2
    np.testing.assert_allclose(cached, whole, atol=1e-5)


def test_documents_go_by_the_parts(asked):
    model = tiny_model(**SHAPE, num_key_value_heads=4)
    learned(model, documents=np.arange(12)[None].repeat(6, 0) // 5)
    assert not asked


@pytest.mark.parametrize("name", ["rope", "swiglu", "attention", "add", "rms_norm", "linear"])
def test_an_operation_of_a_learner_is_not_passed_over(asked, name, monkeypatch):
    model, own, seen = tiny_model(**SHAPE, num_key_value_heads=4), OPS[name], []

    def mine(*arrays, **options):
        seen.append(name)
        return own(*arrays, **options)

    monkeypatch.setitem(OPS, name, mine)
    learned(model)
    assert seen and not asked


def test_who_looks_sees_the_parts(asked):
    model = tiny_model(**SHAPE, num_key_value_heads=4)
    with recording() as seen:
        model(np.arange(8)[None])
    assert seen["attention"] and not asked
    with keep_tape() as tape:
        learned(model)
    assert any(t.node is not None and t.node.op == "swiglu_mlp" for t in tape) and not asked


def test_other_layers_have_other_parts(asked):
    for name in ("qwen3-nano", "gemma-nano", "gpt2-nano", "mistral-nano", "mixtral-nano"):
        learned(zoo.build(name, vocab_size=VOCABULARY))
        assert not asked, name
    learned(tiny_model(**SHAPE, attention_bias=True))
    model = tiny_model(**SHAPE)
    add_lora(model, LoraConfig(r=2))
    learned(model)
    assert not asked


def test_only_where_it_is_quicker():
    with tm.using("numpy") as backend:
        assert not backend.whole_layers
    with tm.using("numba") as backend, pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "threads", 2)
        patch.setattr(numba_cpu, "FASTER", True)
        assert not backend.whole_layers  # products of more than one thread are BLAS's
        with backend.one_thread_each():
            assert backend.whole_layers
