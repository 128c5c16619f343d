"""GGUF files: what is written is what a reader of the published format finds, and what does not fit is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tinymoe import zoo
from tinymoe.models import CausalLM
from tinymoe.models.gguf_files import DTYPES, narrowed, serialize
from tinymoe.models.gguf_models import ARCHITECTURES, save_gguf
from tinymoe.posttrain.lora import LoraConfig, add_lora
from tinymoe.text.tokenizer import CharTokenizer, Tokenizer

FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
NUMBERS = {0: "<f4", 1: "<f2", 30: "<u2"}


class Reader:
    """A file's entries and tensors, read as docs/gguf.md of ggml tells."""

    def __init__(self, data: bytes):
        self.data, self.place = data, 0
        magic, version, tensors, entries = struct.unpack("<4sIQQ", self.take(24))
        assert (magic, version) == (b"GGUF", 3)
        self.entries = {self.text(): self.value(self.number("I")) for _ in range(entries)}
        infos = [self.info() for _ in range(tensors)]
        assert not any(self.take(-self.place % 32))
        self.tensors, self.kinds = {}, {}
        for name, sizes, kind, offset in infos:
            assert offset % 32 == 0
            count, start = int(np.prod(sizes, dtype=int)), self.place + offset
            numbers = np.frombuffer(data, NUMBERS[kind], count, start)
            self.tensors[name], self.kinds[name] = numbers.reshape(sizes[::-1]), kind
        assert len(data) % 32 == 0

    def take(self, count: int) -> bytes:
        self.place += count
        assert self.place <= len(self.data)
        return self.data[self.place - count : self.place]

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(FORMS[kind])

    def info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.text(), self.number("I")
        return name, struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions)), self.number("I"), self.number("Q")


SINGLE = st.booleans() | st.integers(-(2**31), 2**32 - 1) | st.floats(width=32, allow_nan=False) | st.text()
KINDS = st.booleans(), st.integers(-(2**31), 2**31 - 1), st.floats(width=32), st.text()
LISTS = st.one_of(*(st.lists(kind, max_size=5) for kind in KINDS))
FLOATS = arrays(np.float32, st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))


@given(st.dictionaries(st.text(), SINGLE | LISTS), st.dictionaries(st.text(), FLOATS))
def test_what_is_written_is_read(entries, tensors):
    read = Reader(serialize(entries, tensors, {}))
    assert repr(read.entries) == repr(entries)
    assert list(read.tensors) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read.tensors[name], tensor)


@given(arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_bfloat16_is_the_nearest(numbers):
    back = (narrowed(numbers, "bfloat16").astype(np.uint32) << 16).view(np.float32)
    below = (numbers.view(np.uint32) & 0xFFFF0000).view(np.float32)
    above = ((numbers.view(np.uint32) & 0xFFFF0000) + 0x10000).view(np.float32)
    fine = np.isfinite(above)
    wide = [x[fine].astype(np.float64) for x in (numbers, back, below, above)]
    nearest = np.minimum(abs(wide[0] - wide[2]), abs(wide[0] - wide[3]))
    np.testing.assert_array_equal(abs(wide[0] - wide[1]), nearest)


def test_numbers_that_are_none_or_too_large():
    odd = np.array([np.nan, np.inf, -np.inf, 7e4], np.float32)
    assert narrowed(odd, "bfloat16").tolist()[:3] == [0x7FC0, 0x7F80, 0xFF80]
    np.testing.assert_array_equal(narrowed(odd[:3], "float16"), odd[:3])
    with pytest.raises(ValueError, match="float16, which ends at 65504, for a weight of 70000; bfloat16 holds it"):
        narrowed(odd, "float16")


@pytest.mark.parametrize("value", [2**32, -(2**31) - 1, None, ["a", 1], [[1]], {"a": 1}])
def test_entries_without_a_place_in_the_format(value):
    with pytest.raises(ValueError, match=r"^n: got "):
        serialize({"n": value}, {}, {})


def model(name: str = "llama-nano", **fields: Any) -> CausalLM:
    built = zoo.build(name, **{"vocab_size": 300, "num_hidden_layers": 2, "seed": 0, **fields})
    rng = np.random.default_rng(0)
    for p in built.parameters():
        p.data = rng.standard_normal(p.shape, dtype=np.float32)
    return built


def written(built: CausalLM, tmp_path, **options: Any) -> Reader:
    save_gguf(built, tmp_path / "x.gguf", **options)
    return Reader((tmp_path / "x.gguf").read_bytes())


def test_a_llama(tmp_path):
    built = model(num_key_value_heads=2, tie_word_embeddings=False)
    read, weights = written(built, tmp_path), {name: p.numpy() for name, p in built.named_parameters()}
    assert len(read.tensors) == len(weights) and "rope_freqs.weight" not in read.tensors
    np.testing.assert_array_equal(read.tensors["output.weight"], weights["lm_head.weight"])
    np.testing.assert_array_equal(
        read.tensors["blk.1.ffn_down.weight"], weights["model.layers.1.mlp.down_proj.weight"]
    )
    for theirs, ours in (("attn_q", "q_proj"), ("attn_k", "k_proj")):  # channel i and D/2 + i stand side by side
        rows, plain = read.tensors[f"blk.0.{theirs}.weight"], weights[f"model.layers.0.self_attn.{ours}.weight"]
        half = built.config.head_dim // 2
        np.testing.assert_array_equal(rows[[0, 1, 2, 2 * half]], plain[[0, half, 1, 2 * half]])
    entries = read.entries
    assert entries["general.architecture"] == "llama" and entries["tokenizer.ggml.model"] == "no_vocab"
    assert (entries["llama.attention.head_count"], entries["llama.attention.head_count_kv"]) == (4, 2)
    assert entries["llama.vocab_size"] == 300 and entries["llama.block_count"] == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_matrices_are_narrow_and_vectors_are_not(dtype, tmp_path):
    built = model("mixtral-nano")
    read = written(built, tmp_path, dtype=dtype)
    wide = {name for name, kind in read.kinds.items() if kind == 0}
    narrow = {name for name, tensor in read.tensors.items() if tensor.ndim > 1 and "ffn_gate_inp" not in name}
    assert wide == (set(read.kinds) if dtype == "float32" else set(read.kinds) - narrow)
    experts = dict(built.named_parameters())["model.layers.1.mlp.experts.up_proj"].numpy()
    np.testing.assert_array_equal(read.tensors["blk.1.ffn_up_exps.weight"], narrowed(experts, dtype))
    assert read.entries["general.file_type"] == {"float32": 0, "float16": 1, "bfloat16": 32}[dtype]
    assert read.entries["llama.expert_used_count"] == built.config.num_experts_per_tok


def test_a_tokenizer(tmp_path):
    built = model(eos_token_id=(1, 0), pad_token_id=0)
    text = "so many words, and so many more of them"
    tokenizer = built.tokenizer = Tokenizer.train([text], 290, special_tokens=["<|end|>", "<|turn|>"])
    entries = written(built, tmp_path).entries
    tokens, kinds = entries["tokenizer.ggml.tokens"], entries["tokenizer.ggml.token_type"]
    count = tokenizer.vocab_size
    assert len(tokens) == len(kinds) == 300 and count < 300
    assert tokens[:count] == [tokenizer.id_to_token(i) for i in range(count)]
    assert kinds == [3, 3] + [1] * (count - 2) + [5] * (300 - count) and tokens[-1] == "[PAD299]"
    assert [tuple(merge.split(" ")) for merge in entries["tokenizer.ggml.merges"]] == [
        tuple(merge) for merge in tokenizer.spec["model"]["merges"]
    ]
    names = ("pre", "eos_token_id", "padding_token_id", "add_bos_token")
    assert [entries[f"tokenizer.ggml.{name}"] for name in names] == ["gpt-2", 1, 0, False]
    assert "tokenizer.ggml.bos_token_id" not in entries


def test_ways_to_split(tmp_path):
    built = model()
    names = {}
    for pattern in ("gpt2", "llama3", "qwen2"):
        for whole in (False, True) if pattern == "llama3" else (False,):
            spec = Tokenizer.train(["abc"], 258, pattern=pattern).spec
            begin = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]}
            spec = {**spec, "post_processor": {"type": "Sequence", "processors": [begin]}} if whole else spec
            built.tokenizer = Tokenizer({**spec, "model": {**spec["model"], "ignore_merges": whole}})
            entries = written(built, tmp_path).entries
            names[pattern, whole] = entries["tokenizer.ggml.pre"]
            assert entries["tokenizer.ggml.add_bos_token"] is whole
    assert list(names.values()) == ["gpt-2", "smaug-bpe", "llama-bpe", "qwen2"]


def test_a_tokenizer_of_characters(tmp_path):
    built = model()
    built.tokenizer = CharTokenizer.train(["a b\n"], special_tokens=["<end>"])
    entries = written(built, tmp_path).entries
    assert entries["tokenizer.ggml.tokens"][:5] == ["<end>", "Ċ", "Ġ", "a", "b"]
    assert entries["tokenizer.ggml.merges"] == []


def test_clocks_that_are_slowed_down(tmp_path):
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    read = written(model(rope_scaling={**llama3, "original_max_position_embeddings": 64}), tmp_path)
    factors = read.tensors["rope_freqs.weight"]
    assert factors[0] == 1 and factors[-1] == 8 and (np.diff(factors) >= 0).all()
    entries = written(model("qwen2-nano", rope_scaling={"rope_type": "linear", "factor": 4.0}), tmp_path).entries
    assert (entries["qwen2.rope.scaling.type"], entries["qwen2.rope.scaling.factor"]) == ("linear", 4.0)


def test_a_window_is_told_as_the_context(tmp_path):
    context = "llama.context_length"
    assert written(model("mistral-nano", sliding_window=32), tmp_path).entries[context] == 32
    built = model("mistral-nano", sliding_window=None)
    assert written(built, tmp_path).entries[context] == built.config.max_position_embeddings


REFUSED = {
    "model: got a gpt2": model("gpt2-nano"),
    "dtype: got 'q4'": model(),
    "attention_bias: got True": model("qwen3-nano", attention_bias=True),
    "rope_scaling: got 'dynamic'": model(rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
    "its config file cannot say": model(attention="variant", attn_logit_softcapping=3.0),
    "tokenizer: got 258 tokens": model(vocab_size=257),
    "it splits by another pattern": model(),
    "it splits by gpt2 with ignore_merges": model(),
    "got the normalizer NFKC": model(),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_llama_cpp_would_compute_in_another_way_is_refused(message, tmp_path):
    built, spec = REFUSED[message], Tokenizer.train(["abcabc"], 258).spec
    if message.startswith("tokenizer"):
        built.tokenizer = Tokenizer(spec)
    elif "pattern" in message:
        built.tokenizer = Tokenizer.train(["abc"], 258, pattern=r"\\w+|\\W+")
    elif "ignore_merges" in message:
        built.tokenizer = Tokenizer({**spec, "model": {**spec["model"], "ignore_merges": True}})
    elif "normalizer" in message:
        built.tokenizer = Tokenizer({**spec, "normalizer": {"type": "NFKC"}})
    with pytest.raises(ValueError, match=message):
        save_gguf(built, tmp_path / "x.gguf", "q4" if "q4" in message else "float32")
    assert not list(tmp_path.iterdir())


def test_adapters_are_refused(tmp_path):
    built = model()
    add_lora(built, LoraConfig(r=2))
    with pytest.raises(ValueError, match="it has adapters"):
        save_gguf(built, tmp_path / "x.gguf")


def test_every_family_in_the_table_has_a_model_in_the_zoo(tmp_path):
    for name, architecture in ARCHITECTURES.items():
        assert written(model(f"{name}-nano"), tmp_path).entries["general.architecture"] == architecture.name
