"""A model whose vocabulary was enlarged for a chat template: Transformers and tokenizers read what is saved."""

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer as TheirTokenizer

from tinymoe import zoo
from tinymoe.backend import using
from tinymoe.models.resize import resize_token_embeddings
from tinymoe.text import chat
from tinymoe.text.tokenizer import Tokenizer


def test_transformers_reads_the_larger_model(tmp_path):
    tokenizer = chat.add_special_tokens(Tokenizer.train(["some text, and more"], vocab_size=270), "qwen3")
    with using("numpy"):
        model = zoo.build("llama-pico", vocab_size=270)
        model.tokenizer = tokenizer
        resize_token_embeddings(model, len(tokenizer))
        model.save_pretrained(tmp_path)
        ids, _ = chat.encode(tokenizer, [{"role": "user", "content": "Hi <|im_end|>"}], "qwen3")
        ours = model([ids]).numpy()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.vocab_size == len(tokenizer) == 278
    with torch.no_grad():
        np.testing.assert_allclose(theirs(torch.tensor([ids])).logits.numpy(), ours, atol=1e-5)
    text = "<|im_start|>user\nHi<|im_end|>"
    assert TheirTokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids == tokenizer.encode(text)
