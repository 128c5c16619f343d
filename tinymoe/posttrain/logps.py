"""How likely a model finds the tokens of given texts: what every loss of post-training begins with.

    B batch   T tokens   C hidden_size   V vocab_size   n the tokens that are scored
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..backend import current, reference
from ..backend.reference import Array
from ..models.decoder import CausalLM, _document_numbers
from ..nn.parts import by_lanes
from ..ops import Result, op
from ..tensor import Context, Tensor
from .functional import as_mask, check_ids, check_positive
from .states import States
from .texts import Texts, hidden_states, laid_together, reads_apart, similar_lengths


class TokenLogps(NamedTuple):
    """The log-probability of each token after the first, and the entropy of the distribution it came from, in nats.

    Both are (B, T - 1): entry t is of ids[:, t + 1]. They are 0 for tokens that are not scored.
    """

    logps: Tensor
    entropies: Tensor


def token_logps(
    model: CausalLM,
    ids: Any,
    mask: Any = None,
    *,
    attention_mask: Any = None,
    documents: Any = None,
    temperature: float = 1.0,
    prompt: int = 0,
    states: States | None = None,
) -> TokenLogps:
    """Log-probabilities of the tokens of ids (B, T), each given those before it, and the entropies they came with.

    mask (B, T) is 1 for tokens to be scored (a completion) and 0 for others (a prompt, padding): only for the former
    are logits computed. attention_mask and documents are those of the model's call. Logits are divided by temperature,
    as when the tokens were sampled. Where texts that follow each other begin with the same `prompt` tokens, these are
    read once, and what was sampled behind them not at all, if its states were kept (`hidden_states`). Losses of the
    model's own layers are left out; `collecting` has them.

    Raises ValueError for shapes that differ, ids that are no tokens, and a temperature of 0 or less.
    """
    check_positive("temperature", temperature)
    ids = check_ids(ids, model.config.vocab_size)
    if ids.shape[1] < 2:
        raise ValueError(f"ids: got shape {ids.shape}, expected two tokens or more: the first has none before it")
    xp = current().xp
    scored = xp.ones(ids.shape, dtype=bool) if mask is None else as_mask(mask, ids.shape)
    numbers = _document_numbers(ids, attention_mask, documents)
    targets = xp.where(scored, ids, -1)[:, 1:]
    options = {"softcap": model.config.final_logit_softcapping, "temperature": temperature}

    def lane(rows: slice) -> Tensor:
        # No token follows the last one, so the model need not read it.
        kept = None if states is None else states.take(rows)
        texts = Texts(ids[rows, :-1], targets[rows], None if numbers is None else numbers[rows, :-1], kept)
        return _scores(model, texts, prompt, options)  # (2, rows, T - 1)

    first, *others = by_lanes(model, lane, targets.shape)
    pair = ops.concatenate(first, *others, axis=1) if others else first
    return TokenLogps(pair[0], pair[1])


def _scores(model: CausalLM, texts: Texts, prompt: int, options: dict[str, Any]) -> Tensor:
    """Log-probabilities and entropies of what follows, (2, B, T): of texts of similar length at a time."""
    parts, found = _parts(model, texts), []
    for rows in map(current().asarray, parts):
        part = texts.take(rows) if len(parts) > 1 else texts
        shared = prompt if part.states is None else int(part.states.prompts[0])
        hidden = hidden_states(model, part.ids, part.documents, shared, part.states)
        found.append((rows, linear_log_probs(hidden, *model._output(), targets=part.targets, **options)))
    return found[0][1] if len(parts) == 1 else laid_together(found, texts.ids.shape)


def _parts(model: CausalLM, texts: Texts) -> list[np.ndarray]:
    """Which rows are read together: all, or those of similar length; with states, those whose prompts are of one length
    besides."""
    every = np.arange(len(texts.ids))
    if not reads_apart(model):
        return [every]
    lengths, prompts = current().to_numpy(texts.lengths()), np.zeros_like(every)
    prompts = prompts if texts.states is None else texts.states.prompts
    alike = [every[prompts == length] for length in np.unique(prompts)]
    return [rows[part] for rows in alike for part in similar_lengths(lengths[rows])]


@op
def linear_log_probs(
    ctx: Context,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    targets: Array,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Result:
    """The output layer and log softmax in one: x (..., C), weight (V, C), bias (V,), targets (...) -> (2, ...).

    Entry 0 is the log-probability of each target, entry 1 the entropy -sum p log p of its distribution; both are 0
    where the target is negative. Logits exist for `LOSS_CHUNK` rows at a time and are computed again for the backward
    pass: which gradient each token gets is known only then.
    """
    xp, flat = ctx.xp, targets.reshape(-1)
    rows = xp.flatnonzero(flat >= 0)  # numbers of the n rows that are scored
    picked, wanted = x.reshape(-1, x.shape[-1])[rows], flat[rows]  # (n, C), (n,)
    chunks = [slice(s, s + reference.LOSS_CHUNK) for s in range(0, len(rows), reference.LOSS_CHUNK)]

    out = xp.zeros((2, flat.size), dtype=x.dtype)
    for chunk in chunks:
        logits, _ = _logits(ctx, picked[chunk], weight, bias, softcap, temperature)
        out[0, rows[chunk]], out[1, rows[chunk]] = ctx.backend.log_probs(logits, wanted[chunk])

    def vjp(g: Array) -> tuple[Array | None, ...]:
        g = g.reshape(2, -1)
        dx, dweight = xp.zeros((flat.size, x.shape[-1]), dtype=x.dtype), xp.zeros_like(weight)
        dbias = None if bias is None else xp.zeros_like(bias)
        for chunk in chunks:
            logits, bent = _logits(ctx, picked[chunk], weight, bias, softcap, temperature)
            dlogps, dentropies = g[:, rows[chunk]]
            dlogits = ctx.backend.log_probs_backward(dlogps, dentropies, logits, wanted[chunk]) / temperature
            if bent is not None:
                dlogits *= 1 - bent * bent
            dx[rows[chunk]] = ctx.backend.matmul(dlogits, weight)
            dweight += ctx.backend.matmul(dlogits.T, picked[chunk])
            if dbias is not None:
                dbias += dlogits.sum(axis=0)
        return (dx.reshape(x.shape), dweight, dbias)[: len(ctx.needs)]

    return out.reshape(2, *targets.shape), vjp


def _logits(
    ctx: Context, x: Array, weight: Array, bias: Array | None, softcap: float | None, temperature: float
) -> tuple[Array, Array | None]:
    """Logits (rows, V) of x (rows, C) over the temperature, and the tanh that the soft-cap bent them with."""
    logits = ctx.backend.matmul(x, weight.T)
    logits = logits if bias is None else logits + bias
    if softcap is None:
        return logits / temperature, None
    bent = ctx.xp.tanh(logits / softcap)
    return bent * (softcap / temperature), bent
