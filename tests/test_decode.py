"""The compiled decode step: the same scores as the ordinary way through the model, and the same cache behind it; and
whole answers, compiled: the same tokens."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymoe import zoo
from tinymoe.backend import current, using
from tinymoe.course.adoption import Target, run_by
from tinymoe.generate import generate as loop
from tinymoe.models import CausalLM, compiled
from tinymoe.models.compiled import decoder_weights
from tinymoe.nn import Config
from tinymoe.nn.cache import KVCache, LayerCache
from tinymoe.posttrain.lora import LoraConfig, add_lora
from tinymoe.posttrain.rollout import Rollouts, rollouts, take_rows

numba = pytest.importorskip("numba")
numba_product = pytest.importorskip("tinymoe.backend.numba_product")
CompiledDecoder = pytest.importorskip("tinymoe.backend.numba_decode").CompiledDecoder

SHAPE = {
    "vocab_size": 29,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
WINDOWS = {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 5}
MODELS = {
    "llama": {},
    "one key head, biases, tied": {
        "num_key_value_heads": 1,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    },
    "odd sizes": {"head_dim": 10, "intermediate_size": 37, "vocab_size": 31, "hidden_size": 21},
    "wide heads, output bias": {"head_dim": 40, "lm_head_bias": True, "final_logit_softcapping": 3.0},
    "no positions": {"attention": "variant", "position": "none"},
    "windows": {"attention": "variant", **WINDOWS},
    "qk-norm, soft-cap, part turned": {
        "attention": "variant",
        "qk_norm": "rms_norm",
        "head_dim": 16,
        "attn_logit_softcapping": 2.0,
        "partial_rotary_factor": 0.5,
    },
    "norms around one, layers without positions": {
        "attention": "variant",
        "norm": "rms_norm_plus_one",
        "qk_norm": "rms_norm_plus_one",
        "no_rope_layers": (1, 0),
    },
}
LARGE = {"hidden_size": 64, "head_dim": 64, "intermediate_size": 700, "vocab_size": 1031}  # worth sharing
COMPILED = ["llama-nano", "mistral-nano", "qwen2-nano", "qwen3-nano", "phi3-nano"]
ORDINARY = ["gpt2-nano", "bloom-nano", "falcon-nano", "gemma-nano", "gemma2-nano", "mixtral-nano", "deepseek-v3-nano"]


def build(**fields) -> CausalLM:
    return CausalLM(Config(**{**SHAPE, **fields}), seed=0)


def tokens(model: CausalLM, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(model.config.vocab_size, size=shape)


def read(model: CausalLM, ids: np.ndarray, pieces: list[int], padded: bool = False, compiled: bool = True) -> tuple:
    """Scores of the last token of each piece, and the cache; without `compiled`, as the reference computes them."""
    with using("numba" if compiled else "numpy"):
        cache, scores, end = model.new_cache(), [], 0
        mask = np.tril(np.ones((len(ids), pieces[0])), k=pieces[0] - 1)[:, ::-1] if padded else None
        for length in pieces:
            logits = model(ids[:, end : end + length], cache=cache, attention_mask=mask if not end else None)
            scores.append(logits.numpy()[:, -1])
            end += length
    return np.stack(scores, axis=1), cache


def check(model: CausalLM, ids: np.ndarray, pieces: list[int], padded: bool = False) -> None:
    """The compiled step and the ordinary way give the same scores, and leave the same cache."""
    got, cache = read(model, ids, pieces, padded)
    expected, reference = read(model, ids, pieces, padded, compiled=False)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert cache.length == reference.length and cache.nbytes == reference.nbytes
    for mine, other in zip(cache.layers, reference.layers, strict=True):
        for name in ("_keys", "_values"):
            seen = [getattr(layer, name)[:, : min(layer.length, 4)] for layer in (mine, other)]
            np.testing.assert_allclose(*seen, atol=2e-5 * np.abs(seen[1]).max(initial=0))


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The batch size of each compiled step."""
    decode, seen = pytest.importorskip("tinymoe.backend.numba_decode"), []
    call = decode.CompiledDecoder.__call__

    def counted(self, ids, *rest):
        seen.append(len(ids))
        return call(self, ids, *rest)

    monkeypatch.setattr(decode.CompiledDecoder, "__call__", counted)
    return seen


@pytest.mark.kernels
@pytest.mark.parametrize("batch", [1, 3, 6, 19])
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_ordinary_way(name, batch, calls):
    model = build(**MODELS[name])
    check(model, tokens(model, batch, 12), [3] + [1] * 9)
    assert calls == [batch] * 9


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["llama", "windows"])
@pytest.mark.parametrize("batch", [3, 11])
def test_prompts_of_unequal_length(name, batch, calls):
    model = build(**MODELS[name])
    check(model, tokens(model, batch, 20), [batch] + [1] * 8, padded=True)
    assert len(calls) == 8


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.integers(1, 18), st.sampled_from(sorted(MODELS)))
def test_compiled_and_ordinary_steps_may_follow_one_another(pieces, batch, name):
    model = build(**MODELS[name])
    check(model, tokens(model, batch, sum(pieces)), pieces)


@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("name", COMPILED)
def test_families(name, batch, calls):
    reach = {"sliding_window": 8} if "mistral" in name or "phi3" in name else {}
    model = zoo.build(name, vocab_size=29, seed=1, **reach)
    check(model, tokens(model, batch, 20), [6] + [1] * 14)
    assert len(calls) == 14


@pytest.mark.parametrize("name", ORDINARY)
def test_models_with_other_parts_take_the_ordinary_way(name, calls):
    model = zoo.build(name, vocab_size=29, seed=1)
    assert decoder_weights(model) is None
    check(model, tokens(model, 2, 8), [4] + [1] * 4)
    assert not calls


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="without the compiler there are no registers to choose")
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("columns", [8, 16, numba_product.PANEL])
def test_products_have_the_same_bits_in_registers_of_every_width(columns, add):
    from tinymoe.backend import numba_decode as kernels

    @numba.njit
    def products(by_row, at_once, w, x, add):
        for block in range(len(x)):
            for row in range(len(w)):
                kernels._row(by_row, w, x, block, row, add)
        kernels._product(at_once, w, x, add, 16, len(w))
        kernels._product(at_once, w, x, add, 0, 16)

    random = np.random.default_rng(0)
    w, x = (random.normal(size=shape).astype(np.float32) for shape in ((29, 37), (3, 37, columns)))
    by_row, at_once = np.ones((2, 3, 29, columns), dtype=np.float32)
    products(by_row, at_once, w, x, add)
    np.testing.assert_allclose(by_row, w @ x + add, rtol=1e-4, atol=1e-5)
    assert (by_row == at_once).all()


def test_a_long_text_outgrows_the_cache_again_and_again(calls):
    model = build(attention="variant", **WINDOWS)
    check(model, tokens(model, 2, 301), [1] + [1] * 300)
    assert len(calls) == 300


def test_weights_may_change_between_tokens(calls):
    model, other = build(), build()
    other.lm_head.weight.data[:] = model.lm_head.weight.data[:] = 0.1
    ids, (cache, ordinary) = tokens(model, 2, 6), (m.new_cache() for m in (model, other))
    with using("numba"):
        model(ids[:, :3], cache=cache)
        other(ids[:, :3], cache=ordinary)
        for i, change in enumerate((in_place, exchanged, lambda p: None), start=3):
            for p, q in zip(model.parameters(), other.parameters(), strict=True):
                change(p)
                q.data = p.data.copy()
            got = model(ids[:, i : i + 1], cache=cache).numpy()
            with using("numpy"):
                expected = other(ids[:, i : i + 1], cache=ordinary).numpy()
            np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    assert len(calls) == 3


def in_place(p) -> None:
    p.data *= 1.5


def exchanged(p) -> None:
    p.data = p.data * np.float32(0.7)


def test_float64_and_adapters_take_the_ordinary_way(calls):
    wide, adapted = build(), build()
    for p in wide.parameters():
        p.data = p.data.astype(np.float64)
    add_lora(adapted, LoraConfig(r=2))
    for model in (wide, adapted):
        check(model, tokens(model, 2, 6), [3, 1, 1, 1])
    assert not calls


def test_rows_may_be_dropped_and_repeated(calls):
    model = build(**MODELS["windows"])
    ids, rows = tokens(model, 4, 9), [3, 0, 0]
    with using("numba"):
        cache, few = model.new_cache(), model.new_cache()
        for i in range(6):
            model(ids[:, i : i + 1], cache=cache)
        model(ids[rows, :6], cache=few)
        take_rows(cache, rows)
        for i in range(6, 9):
            got, expected = (model(ids[rows, i : i + 1], cache=c).numpy() for c in (cache, few))
            np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    assert calls == [4] * 5 + [3] * 6


def test_what_is_recorded_is_recorded_as_ever():
    from tinymoe.nn.recorder import recording

    model = build()
    with using("numba"):
        cache = model.new_cache()
        model([[1, 2, 3]], cache=cache)
        with recording() as records:
            model([[4]], cache=cache)
    assert [weights.shape for weights in records["attention"]] == [(1, 4, 1, 4)] * 2


def test_a_function_that_was_replaced_is_the_one_that_runs(calls):
    model = build()
    with using("numba"):
        cache = model.new_cache()
        model([[1, 2, 3]], cache=cache)
        model([[4]], cache=cache)
        with run_by(Target("ops.py::rms_norm"), lambda ctx, x, weight, *, eps: (x * 0, None)):
            assert not model([[5]], cache=cache).numpy().any()
    assert len(calls) == 1


def test_another_batch_is_refused_and_leaves_the_cache_as_it_was():
    model = build()
    with using("numba"):
        cache = model.new_cache()
        model([[1, 2], [3, 4]], cache=cache)
        model([[1], [2]], cache=cache)
        with pytest.raises(ValueError, match="cache: it holds a batch of 2, got a batch of 1"):
            model([[1]], cache=cache)
        assert cache.length == 3
        with pytest.raises(ValueError, match="ids: got token id 29, expected 0 to 28"):
            model([[29], [0]], cache=cache)


def test_the_reference_compiles_nothing():
    model = build()
    with using("numpy"):
        assert current().compile_decoder(decoder_weights(model)) is None
    assert isinstance(model.new_cache(), KVCache)


def test_arrays_that_cannot_be_read_where_they_stand():
    numba_memory = pytest.importorskip("tinymoe.backend.numba_memory")
    with pytest.raises(ValueError, match=r"array: got float64 of strides \(8,\), expected float32 in one piece"):
        numba_memory.address_of(np.zeros(3))


def test_a_cache_with_an_append_of_its_own_is_asked():
    seen = []

    class Watched(LayerCache):
        def append(self, k, v):
            seen.append(k.shape[1])
            return super().append(k, v)

    with using("numba"):
        model = zoo.build("llama-pico", vocab_size=31)
        cache = KVCache([Watched() for _ in model.model.layers])
        for piece in ([[1, 2, 3]], [[4]], [[5]]):
            model(np.array(piece), cache=cache)
    assert seen == [n for n in (3, 1, 1) for _ in model.model.layers]


@pytest.fixture
def samples(monkeypatch) -> list[int]:
    """The number of texts in each call of the compiled sampler; as many lanes as there are threads."""
    decode, seen = pytest.importorskip("tinymoe.backend.numba_decode"), []
    call = decode.CompiledDecoder.sample

    def counted(self, answers, *rest):
        seen.append(len(answers.tokens))
        return call(self, answers, *rest)

    monkeypatch.setattr(decode.CompiledDecoder, "sample", counted)
    monkeypatch.setattr(compiled, "LANE_PRODUCTS", 1)
    return seen


PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10], [11, 12, 13]]


def answers(model: CausalLM, backend: str, size: int = 4, **options) -> Rollouts:
    with using(backend):
        return rollouts(model, PROMPTS, size, **{"max_new_tokens": 20, "stop": (3, 4), **options})


@pytest.mark.kernels
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_ordinary_way(name, temperature, samples):
    model = build(**MODELS[name])
    got, expected = (answers(model, backend, temperature=temperature) for backend in ("numba", "numpy"))
    assert sum(samples) == 12
    assert got.completions() == expected.completions() and got.finished.tolist() == expected.finished.tolist()
    np.testing.assert_allclose(got.logps, expected.logps, atol=2e-5)
    assert temperature == 0 or (got.finished.any() and len(set(got.lengths)) > 3)


def test_one_token_answers(samples):
    model = build()
    got, expected = (answers(model, backend, max_new_tokens=1) for backend in ("numba", "numpy"))
    assert got.completions() == expected.completions() and got.lengths.tolist() == [1] * 12


@pytest.mark.parametrize("name", ["llama", "windows"])
def test_long_answers(name, samples):
    model = build(**MODELS[name], max_position_embeddings=512)
    got, expected = (answers(model, backend, stop=None, max_new_tokens=150) for backend in ("numba", "numpy"))
    assert got.completions() == expected.completions() and sum(samples) == 12


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_answers_and_scores_do_not_depend_on_the_threads(threads, samples, monkeypatch):
    model = build()
    ids, found = tokens(model, 33, 6), []
    for number in (1, threads):
        with using("numba"):
            monkeypatch.setattr(current(), "threads", number)
        found.append((answers(model, "numba", size=11), read(model, ids, [3, 1, 1, 1])[0]))
        assert len(samples) == number and sum(samples) == 33
        samples.clear()
    (alone, scores), (together, others) = found
    for name in ("ids", "logps", "lengths", "finished"):
        np.testing.assert_array_equal(getattr(together, name), getattr(alone, name))
    np.testing.assert_array_equal(others, scores)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="without the compiler nobody helps")
@pytest.mark.parametrize("batch", [1, 3, 11])
@pytest.mark.parametrize("name", ["llama", "one key head, biases, tied", "windows"])
def test_helpers_change_no_bit(name, batch, monkeypatch):
    model = build(**{**MODELS[name], **LARGE})
    ids, found, came = tokens(model, batch, 20), [], []
    help_out = CompiledDecoder.help
    monkeypatch.setattr(CompiledDecoder, "help", lambda self: came.append(help_out(self)))
    monkeypatch.setattr(compiled, "LANE_PRODUCTS", 1)
    monkeypatch.setattr(compiled, "LANE_TEXTS", 99)
    for helpers in (0, 2):
        monkeypatch.setattr(compiled, "HELPERS", helpers)
        with using("numba"):
            monkeypatch.setattr(current(), "threads", 3)
            text = model.generate(ids, max_new_tokens=90, seed=1)
        found.append((text, read(model, ids, [3, 16, 1])[0]))
    (text, scores), (helped_text, helped_scores) = found
    np.testing.assert_array_equal(helped_text, text)
    np.testing.assert_array_equal(helped_scores, scores)
    assert len(came) == 4


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="without the compiler nobody helps")
def test_helpers_go_home_when_something_goes_wrong(samples, monkeypatch):
    def stumble(self, answers, prompts, turns):
        raise RuntimeError("stumbled")

    monkeypatch.setattr(CompiledDecoder, "sample", stumble)
    with using("numba"):
        monkeypatch.setattr(current(), "threads", 3)
        with pytest.raises(RuntimeError, match="stumbled"):
            build().generate([1, 2, 3], max_new_tokens=5)


def generations(model: CausalLM, prompt: np.ndarray, **options) -> list[np.ndarray]:
    """What `generate` makes of a prompt on both backends, and what the loop makes of it with the compiled step."""
    texts = []
    for name, generate in (("numba", model.generate), ("numpy", model.generate), ("numba", partial(loop, model))):
        with using(name):
            texts.append(generate(prompt, max_new_tokens=40, **options))
    return texts


OPTIONS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"seed": 5},
    "top-k": {"temperature": 0.9, "top_k": 9, "seed": 1},
    "top-p": {"top_p": 0.8, "seed": 2},
    "min-p": {"min_p": 0.1, "seed": 3},
    "all": {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.05, "seed": 4},
    "until a token": {"temperature": 1.1, "top_k": 20, "seed": 6, "eos_token_id": 3},
}


@pytest.mark.kernels
@pytest.mark.parametrize("batch", [1, 3, 11])
@pytest.mark.parametrize("name", OPTIONS)
def test_generation_is_the_same(name, batch, calls, samples):
    model = build(initializer_range=0.6)
    got, expected, looped = generations(model, tokens(model, batch, 5), **OPTIONS[name])
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(got, looped)
    assert sum(samples) == batch and set(calls) == {batch}


def test_generation_from_padded_prompts_and_of_one_text(samples):
    model = build(**MODELS["windows"], initializer_range=0.6)
    mask = np.tril(np.ones((3, 5)), k=2)[:, ::-1]
    got, expected, _ = generations(model, tokens(model, 3, 5), temperature=0.7, seed=1, attention_mask=mask)
    np.testing.assert_array_equal(got, expected)
    alone, expected, _ = generations(model, tokens(model, 5), temperature=0.0)
    np.testing.assert_array_equal(alone, expected)
    assert sum(samples) == 4 and alone.shape == (45,)


@pytest.mark.parametrize("limit", [{"PIECE": 3}, {"PIECE": 5, "PRODUCTS": 1}])
def test_generation_in_pieces_makes_room_as_it_goes(limit, samples, monkeypatch):
    for name, value in limit.items():
        monkeypatch.setattr(pytest.importorskip("tinymoe.backend.numba_rollout"), name, value)
    model = build(initializer_range=0.6)
    np.testing.assert_array_equal(*generations(model, tokens(model, 2, 5), seed=1)[:2])
    assert sum(samples) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.5, "seed": 0},
        {"attention_mask": np.array([[1, 1, 0, 1, 1]]), "seed": 0},  # a hole in the prompt
        {"max_new_tokens": 1, "seed": 0},
        {"max_new_tokens": 65, "temperature": 0.0},  # more than the context, which may never be used
    ],
)
def test_generation_that_compiled_code_does_not_know(options, samples):
    model = build(max_position_embeddings=64)
    ids = tokens(model, 1, 5)
    with using("numba"):
        got = model.generate(ids, **options)
    with using("numpy"):
        np.testing.assert_array_equal(got, model.generate(ids, **options))
    assert not samples


def test_wrong_options_are_refused_as_ever(samples):
    with using("numba"):
        for options in ({"top_p": 2.0}, {"top_k": 0}, {"temperature": -1.0}, {"max_new_tokens": -1}):
            with pytest.raises(ValueError, match=f"{next(iter(options))}: got"):
                build().generate([1, 2], **options)
        with pytest.raises(TypeError, match="warmth"):
            build().generate([1, 2], warmth=3)
        with pytest.raises(ValueError, match="ids: got token id 99"):
            build().generate([1, 99])


@pytest.mark.parametrize("name", ["sampling.py::top_p_filter", "sampling.py::sample", "engine.py::stream"])
def test_generation_asks_functions_that_were_replaced(name, samples):
    model, target = build(), Target(f"generate/{name}")
    same = partial(model.generate, [1, 2, 3], max_new_tokens=5, temperature=0.0)
    with using("numba"):
        expected = same()
        assert samples == [1]
        with run_by(target, target.original):
            np.testing.assert_array_equal(same(), expected)
    assert samples == [1]


def test_what_compiled_answers_do_not_know_takes_the_ordinary_way(samples):
    model = build()
    likely = answers(model, "numba", top_p=0.5)
    assert likely.completions() == answers(model, "numpy", top_p=0.5).completions() and not samples

    def softmax(logits: np.ndarray) -> np.ndarray:
        return np.eye(logits.shape[-1])[np.zeros(len(logits), int) + 5]

    with run_by(Target("generate/sampling.py::softmax"), softmax):
        assert set(np.concatenate(answers(model, "numba").completions())) == {5} and not samples
