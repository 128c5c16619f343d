"""The decoder: the one assembly that every family is a configuration of.

    B batch   T tokens   C hidden_size   V vocab_size
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import generate, ops
from ..backend import current
from ..backend.reference import Array
from ..nn.attention import Places
from ..nn.cache import KVCache, LayerCache
from ..nn.config import Config
from ..nn.module import Embedding, Linear, Module, make, part
from ..nn.norm import add_and_norm
from ..nn.parts import by_lanes
from ..nn.recorder import collecting, recording
from ..tensor import Tensor, no_grad
from .compiled import compiled_logits, compiled_texts
from .whole_layer import whole_layer

if TYPE_CHECKING:
    from ..text.tokenizer import Tokenizer


@part("layer", "pre_norm")
class DecoderLayer(Module):
    """Attention, then the feed-forward block, each on a normalised copy of the residual stream and added back to it."""

    def __init__(self, config: Config, index: int, rng: np.random.Generator):
        c = config
        self.input_layernorm = make("norm", c.norm, c.hidden_size, c.rms_norm_eps)
        self.self_attn = make("attention", c.attention, c, index, rng)
        self.post_attention_layernorm = make("norm", c.norm, c.hidden_size, c.rms_norm_eps)
        self.mlp = make("mlp", c.mlp_types[index], c, rng)

    def __call__(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        """x (B, T, C) -> the same shape."""
        if cache is None and (y := whole_layer(self, x, places)) is not None:
            return y
        attended = self.self_attn(self.input_layernorm(x), places, cache)
        x, normed = add_and_norm(x, attended, self.post_attention_layernorm)
        return x + self.mlp(normed)


class Decoder(Module):
    """Token embedding, the layers, and a last norm: ids (B, T) -> hidden states (B, T, C)."""

    def __init__(self, config: Config, rng: np.random.Generator):
        c = config
        self.embed_tokens = Embedding(c.vocab_size, c.hidden_size, rng=rng, std=c.initializer_range)
        self.inputs = [make("input", name, c, rng) for name in c.inputs]
        self.layers = [make("layer", c.layer, c, index, rng) for index in range(c.num_hidden_layers)]
        self.norm = make("norm", c.norm, c.hidden_size, c.rms_norm_eps)
        self.scale = c.output_multiplier_scale
        self.layer_types = c.layer_types
        self.positions = {kind: make("position", c.position, c, kind) for kind in dict.fromkeys(c.layer_types)}

    def __call__(self, ids: Array, cache: KVCache | None = None, documents: Array | None = None) -> Tensor:
        """ids (B, T); documents (B, T) numbers the document of each token. A cache supplies the tokens before these."""
        start = cache.length if cache is not None else 0
        positions = current().xp.arange(start, start + ids.shape[1])[None]  # (1, T)
        every = cache.append_documents(documents, *ids.shape) if cache is not None else documents
        mine = every[:, start:] if every is not None else None
        turns = {kind: turn(positions) for kind, turn in self.positions.items()}
        places = {kind: Places(cos, sin, mine, every) for kind, (cos, sin) in turns.items()}
        x = self.embed_tokens(ids)
        for change in self.inputs:
            x = change(x, positions)
        for i, layer in enumerate(self.layers):
            x = layer(x, places[self.layer_types[i]], cache.layers[i] if cache is not None else None)
        x = self.norm(x)
        return x if self.scale == 1 else x * self.scale


class CausalLM(Module):
    """A decoder with an output layer: it gives each next token a score, and learns from text.

    With `tie_word_embeddings` the output layer is the embedding table itself (Press and Wolf 2017).
    """

    def __init__(self, config: Config, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.config = config
        self.tokenizer: Tokenizer | None = None
        self.model = Decoder(config, rng)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(
                config.hidden_size, config.vocab_size, bias=config.lm_head_bias, rng=rng, std=config.initializer_range
            )

    @property
    def output_weight(self) -> Tensor:
        """The output layer's matrix, (V, C)."""
        return self.model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def __call__(
        self, ids: Any, *, cache: KVCache | None = None, attention_mask: Any = None, documents: Any = None
    ) -> Tensor:
        """Scores of every next token: ids (B, T) of integers -> logits (B, T, V).

        attention_mask (B, T) is 0 where a token is padding; documents (B, T) keeps attention inside equal numbers, for
        several texts packed into one row. With a cache (see `new_cache`) ids are the tokens that come after those
        already read, and nothing is recorded for a backward pass.

        Raises ValueError for ids that are not a (batch, tokens) array of integers in [0, vocab_size).
        """
        if cache is not None:
            with no_grad():
                return self._logits(ids, cache, attention_mask, documents)
        return self._logits(ids, None, attention_mask, documents)

    def loss(self, ids: Any, targets: Any, *, attention_mask: Any = None, documents: Any = None) -> Tensor:
        """Mean cross-entropy of the next tokens, a scalar: ids and targets (B, T); targets of -100 are ignored.

        `targets[:, t]` is the token that should follow `ids[:, t]`: the caller shifts, so that packed rows can say
        which tokens have no successor. In training, losses of the layers' own are added (`contribute`).
        """
        ids = self._check_ids(ids, "ids")
        targets = self._check_ids(targets, "targets", ignore=-100)
        if targets.shape != ids.shape:
            raise ValueError(f"targets: got shape {targets.shape}, expected that of ids, {ids.shape}")
        options = {"softcap": self.config.final_logit_softcapping, "count": current().count(targets >= 0)}
        documents = _document_numbers(ids, attention_mask, documents)

        def lane(rows: slice) -> Tensor:
            hidden = self.model(ids[rows], documents=None if documents is None else documents[rows])
            return ops.linear_cross_entropy(hidden, *self._output(), targets=targets[rows], **options)

        with collecting(attention_mask) as losses:
            losses += by_lanes(self, lane, ids.shape)
        loss, *others = losses
        for other in others:
            loss = loss + other
        return loss

    def new_cache(self) -> KVCache:
        """An empty KV cache for this model."""
        return KVCache([layer.self_attn.new_cache() for layer in self.model.layers])

    def generate(self, ids: Any, **options: Any) -> np.ndarray:
        """Continue ids, (T,) or (B, T), token by token: the prompt and what follows. Options: `generate.generate`."""
        texts = compiled_texts(self, ids, **options)
        return generate.generate(self, ids, **options) if texts is None else texts

    def trace(self, ids: Any, *, documents: Any = None) -> Trace:
        """Run the model once over ids (B, T) and keep what happens inside."""
        with no_grad(), recording() as records:
            logits = self(ids, documents=documents)
        read = current().to_numpy(current().asarray(ids))
        return Trace(read, logits.numpy(), records["attention"], records["router"], records["experts"])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and the tokenizer.json, if any: a folder that Transformers loads."""
        from .pretrained import save_pretrained

        save_pretrained(self, folder)

    def _logits(self, ids: Any, cache: KVCache | None, attention_mask: Any, documents: Any) -> Tensor:
        ids = self._check_ids(ids, "ids")
        numbers = _document_numbers(ids, attention_mask, documents)
        logits = compiled_logits(self, ids, cache, numbers)
        if logits is None:
            logits = ops.linear(self.model(ids, cache, numbers), *self._output())
        softcap = self.config.final_logit_softcapping
        return logits if softcap is None else (logits / softcap).tanh() * softcap

    def _output(self) -> tuple[Tensor, ...]:
        bias = (self.lm_head.bias,) if self.config.lm_head_bias else ()
        return (self.output_weight, *bias)

    def _check_ids(self, ids: Any, name: str, ignore: int | None = None) -> Array:
        ids = current().asarray(ids)
        if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu":
            raise ValueError(f"{name}: got shape {ids.shape} of {ids.dtype}, expected (batch, tokens) of integers")
        wrong = (ids < 0) | (ids >= self.config.vocab_size)
        if ignore is not None:
            wrong &= ids != ignore
        if current().any(wrong):
            raise ValueError(f"{name}: got token id {ids[wrong][0]}, expected 0 to {self.config.vocab_size - 1}")
        return ids


@dataclass
class Trace:
    """What a model did with ids (B, T): logits (B, T, V), and one array of attention weights (B, H, T, T) a layer.

    And for each layer with experts, the router's scores (B, T, E) and the numbers of each token's experts (B, T, k), -1
    for one that was dropped.
    """

    ids: np.ndarray
    logits: np.ndarray
    attention: list[np.ndarray]
    router: list[np.ndarray]
    experts: list[np.ndarray]


def _document_numbers(ids: Array, attention_mask: Any, documents: Any) -> Array | None:
    """One numbering from the two ways of saying who may attend to whom: padding is a document of its own."""
    for name, given in (("attention_mask", attention_mask), ("documents", documents)):
        if given is not None and current().asarray(given).shape != ids.shape:
            raise ValueError(f"{name}: got shape {np.shape(given)}, expected that of ids, {ids.shape}")
    xp = current().xp
    if documents is not None:
        documents = current().asarray(documents).astype(xp.int64)
    if attention_mask is None:
        return documents
    return xp.where(current().asarray(attention_mask) > 0, 0 if documents is None else documents, -1)
