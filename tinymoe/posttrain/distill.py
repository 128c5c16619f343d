"""Distillation: a small model learns a large one's whole distribution over the next token, not just the token.

The idea is that of Hinton et al. (2015). Which way round the divergence is taken, and who wrote the texts, makes the
variants (Gu et al. 2023, MiniLLM; Agarwal et al. 2023, generalized knowledge distillation).
"""

from __future__ import annotations

from typing import Any

from .. import ops
from ..backend import current, reference
from ..models.decoder import CausalLM
from ..tensor import Tensor, is_grad_enabled, no_grad
from .functional import as_mask, check_between, check_ids, check_positive, constant, keep


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each distribution, from log-probabilities (..., V) -> (...).

    It is large where the teacher says something that the student does not: so the student spreads to cover it all.
    """
    return (teacher.exp() * (teacher - student)).sum(axis=-1)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student || teacher), likewise. It is large where the student says what the teacher would not: so a student
    that cannot cover it all keeps to what the teacher finds likeliest."""
    return (student.exp() * (student - teacher)).sum(axis=-1)


def generalized_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """beta KL(teacher || m) + (1 - beta) KL(student || m), with the mixture m = beta teacher + (1 - beta) student.

    Log-probabilities (..., V) -> (...), for 0 < beta < 1. At 1/2 it is the Jensen-Shannon divergence; near 0 and 1,
    divided by beta or 1 - beta, it is the forward and the reverse KL (Agarwal et al. 2023, section 2).
    """
    top = current().xp.maximum(student.data, teacher.data)  # out of the exponentials, so that none underflows to 0
    mixture = ((student - top).exp() * (1 - beta) + (teacher - top).exp() * beta).log() + top
    return forward_kl(mixture, teacher) * beta + forward_kl(mixture, student) * (1 - beta)


def distill_loss(
    student_logits: Tensor,
    teacher_logits: Any,
    mask: Any = None,
    beta: float = 0.5,
    temperature: float = 1.0,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Mean divergence between two models' next tokens: logits (B, T, V), where mask (B, T) is 1.

    beta 0 is the forward KL, 1 the reverse KL, and between them the generalized Jensen-Shannon divergence, as in TRL's
    GKDTrainer. Both logits are divided by temperature first. Where a batch is taken in parts, the sum is divided by
    num_items_in_batch, the tokens of all of it. Without any token the loss is 0.

    Raises ValueError for shapes that differ, beta outside [0, 1], and a temperature of 0 or less.
    """
    check_between("beta", beta, 0, 1)
    check_positive("temperature", temperature)
    B, T, _ = student_logits.shape
    mask = current().xp.ones((B, T), dtype=bool) if mask is None else as_mask(mask, (B, T))
    theirs = constant("teacher_logits", teacher_logits, student_logits)
    student, teacher = (
        ops.log_softmax(keep(logits, mask=mask[..., None]) / temperature) for logits in (student_logits, Tensor(theirs))
    )
    if beta in (0, 1):
        divergence = (forward_kl if beta == 0 else reverse_kl)(student, teacher)
    else:
        divergence = generalized_jsd(student, teacher, beta)
    return keep(divergence, mask=mask).sum() / (num_items_in_batch or max(int(mask.sum()), 1))


def distill_texts(
    student: CausalLM,
    teacher: CausalLM,
    ids: Any,
    mask: Any,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> float:
    """The `distill_loss` of texts, ids (B, T), where mask (B, T) is 1; gradients go to the student, outside `no_grad`.

    All logits of both models, tokens x vocabulary, would be by far the largest arrays of a step, and are never there.
    The layers of both read the texts once; then the output layers take `LOSS_CHUNK` tokens at a time. Each chunk's loss
    goes back as far as the hidden states, and what has been gathered there goes through the student's layers at the
    end. The teacher leaves no tape and gets no gradient. Losses of the student's own layers are left out.

    Raises ValueError for ids that are no tokens, and as `distill_loss` does.
    """
    ids = check_ids(ids, student.config.vocab_size)
    scored = as_mask(mask, ids.shape)[:, 1:]  # whether the token that follows counts
    with no_grad():
        theirs = teacher.model(ids[:, :-1]).data[scored]  # (n, C of the teacher)
    hidden = student.model(ids[:, :-1])
    mine, count, total = hidden.data[scored], max(int(scored.sum()), 1), 0.0  # (n, C)
    gathered = current().xp.zeros_like(mine)
    for start in range(0, len(mine), reference.LOSS_CHUNK):
        rows = slice(start, start + reference.LOSS_CHUNK)
        part = Tensor(mine[rows], requires_grad=is_grad_enabled())
        with no_grad():
            wanted = _next_logits(teacher, Tensor(theirs[rows]))
        loss = distill_loss(_next_logits(student, part), wanted, None, beta, temperature, count)
        total += loss.item()
        if is_grad_enabled():
            loss.backward()
            gathered[rows] = part.grad
    if hidden.requires_grad:
        grad = current().xp.zeros_like(hidden.data)
        grad[scored] = gathered
        hidden.backward(grad)
    return total


def _next_logits(model: CausalLM, hidden: Tensor) -> Tensor:
    """A model's scores of the next tokens from its hidden states: (n, C) -> (1, n, V), a batch of one row."""
    logits, softcap = ops.linear(hidden, *model._output()), model.config.final_logit_softcapping
    logits = logits if softcap is None else (logits / softcap).tanh() * softcap
    return logits.reshape(1, *logits.shape)
