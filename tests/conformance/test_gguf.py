"""GGUF files: the `gguf` package reads what was meant, and llama.cpp, where it is installed, goes on with the same
tokens. (`pip install llama-cpp-python` builds it.)"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import tinymoe as tm
from tinymoe.models import CausalLM
from tinymoe.models.gguf_files import DTYPES, narrowed
from tinymoe.models.gguf_models import gguf_tensors, save_gguf, settings, vocabulary
from tinymoe.text.tokenizer import CharTokenizer

gguf = pytest.importorskip("gguf")

TEXT = "It's the 1234567 words, naïve   ones\n\n and <|end|> of them: 東京 🙂\tЙ don't"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "llama": ("llama-nano", {}, "gpt2"),
    "biases, tied": ("llama-nano", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, "llama3"),
    "llama 3 clocks": ("llama-nano", {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}}, "gpt2"),
    "linear clocks": ("llama-nano", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "gpt2"),
    "mistral": ("mistral-nano", {"sliding_window": 128}, "qwen2"),
    "mixtral": ("mixtral-nano", {}, "gpt2"),
    "qwen2": ("qwen2-nano", {}, "qwen2"),
    "qwen3": ("qwen3-nano", {}, "qwen2"),
    "no tokenizer": ("qwen3-nano", {"tie_word_embeddings": True}, None),
    "characters": ("llama-nano", {}, "char"),
}


def build(name: str, fields: dict[str, Any], pattern: str | None) -> CausalLM:
    sizes = {"vocab_size": 300, "num_hidden_layers": 2, "initializer_range": 0.2, "eos_token_id": 0, "seed": 1}
    model, rng = tm.zoo.build(name, **{**sizes, **fields}), np.random.default_rng(0)
    for p in model.parameters():
        if p.ndim == 1:  # weights of norms are ones, and biases zeros, which hide mistakes
            p.data = p.data + 0.2 * rng.standard_normal(p.shape, dtype=np.float32)
    if pattern == "char":
        model.tokenizer = CharTokenizer.train(["It's so: many\nwords"], special_tokens=["<|end|>"])
    elif pattern:
        model.tokenizer = tm.Tokenizer.train([TEXT], 290, pattern=pattern, special_tokens=["<|end|>"])
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_the_package_reads_the_same(name, dtype, tmp_path):
    model = build(*CASES[name])
    save_gguf(model, tmp_path / "x.gguf", dtype)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    entries = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    for key, value in {**settings(model.config), **vocabulary(model)}.items():
        got = entries.pop(key) if value != [] else value  # the package has no type for an empty list
        assert got == (pytest.approx(value, rel=1e-7) if isinstance(value, float) else value), key
    tensors, kinds = gguf_tensors(model), {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    assert {tensor.name for tensor in reader.tensors} == tensors.keys()
    for tensor in reader.tensors:
        expected = tensors[tensor.name]
        assert tensor.shape.tolist() == [*reversed(expected.shape)]
        kind = tensor.tensor_type.name
        wide = expected.ndim == 1 or "gate_inp" in tensor.name  # what llama.cpp wants in float32
        assert kind == ("F32" if wide else kinds[dtype])
        stored = narrowed(expected, "float32" if kind == "F32" else dtype)
        np.testing.assert_array_equal(tensor.data.reshape(-1).view(stored.dtype), stored.reshape(-1))


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_goes_on_with_the_same_tokens(name, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    model = build(*CASES[name])
    save_gguf(model, tmp_path / "x.gguf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}  # its cache is float16 otherwise
        threads = {"n_threads": 1, "n_threads_batch": 1}
        theirs = llama_cpp.Llama(str(tmp_path / "x.gguf"), n_ctx=128, verbose=False, **exact, **threads)
    try:
        ids = [*range(1, 13)]
        if model.tokenizer is not None:
            text = TEXT if name != "characters" else "so many <|end|>words:\nIt's"
            ids = model.tokenizer.encode(text)
            assert theirs.tokenize(text.encode(), add_bos=False, special=True) == ids
            assert theirs.detokenize(ids, special=True) == text.encode()
        follow = theirs.generate(ids, temp=0.0, repeat_penalty=1.0)
        got = [next(follow) for _ in range(48)]
    finally:
        theirs.close()
    assert got == model.generate(ids, max_new_tokens=48, temperature=0.0).tolist()[len(ids) :]
