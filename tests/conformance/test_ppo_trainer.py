"""A step of PPO against a recomputation in PyTorch and float64, from the answers to the gradients of both models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_grpo_trainer import PROBLEMS, nano, right, short
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from tinymoe.backend import current
from tinymoe.posttrain import PPOConfig, PPOTrainer

KL_COEF, GAMMA, LAM, CLIPRANGE, CLIPRANGE_VALUE, VF_COEF = 0.3, 0.9, 0.8, 0.1, 0.01, 0.7


def theirs(kind: Any, ours: Any, folder: Path) -> Any:
    ours.save_pretrained(folder)
    return kind.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")


def logps_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    log_p = torch.log_softmax(model(input_ids=ids).logits[:, :-1], dim=-1)
    return torch.gather(log_p, 2, ids[:, 1:, None])[..., 0]


def values_of(critic: Any, ids: torch.Tensor) -> torch.Tensor:
    return critic.score(critic.model(input_ids=ids).last_hidden_state)[:, :-1, 0]


def whitened(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask, (x - x[mask].mean()) / torch.sqrt(x[mask].var() + 1e-8), 0.0)


def advantages_of(rewards: torch.Tensor, values: torch.Tensor, lengths: Any, starts: Any) -> torch.Tensor:
    """Row by row, token by token, over nothing but the tokens that were written."""
    out = torch.zeros_like(rewards)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        later = 0.0
        for t in reversed(range(start - 1, start - 1 + length)):
            next_value = values[row, t + 1] if t + 1 < start - 1 + length else 0.0
            later = rewards[row, t] + GAMMA * next_value - values[row, t] + GAMMA * LAM * later
            out[row, t] = later
    return out


def test_a_step_of_ppo(backend: Any, tmp_path: Path) -> None:
    config = PPOConfig(
        generation_batch_size=24, max_completion_length=4, kl_coef=KL_COEF, gamma=GAMMA, lam=LAM, cliprange=CLIPRANGE,
        cliprange_value=CLIPRANGE_VALUE, vf_coef=VF_COEF, learning_rate=0.01,
    )  # fmt: skip
    trainer = PPOTrainer(nano(), PROBLEMS, [right, short], config)
    trainer.reference = nano(seed=1)
    answers = trainer.draw()
    batch = answers.rollouts
    ids, mask = torch.tensor(batch.ids), torch.tensor(batch.mask[:, 1:])
    models = [(LlamaForCausalLM, trainer.model), (LlamaForCausalLM, trainer.reference)]
    policy, reference = (theirs(kind, model, tmp_path / str(n)) for n, (kind, model) in enumerate(models))
    critic = theirs(LlamaForSequenceClassification, trainer.critic, tmp_path / "critic")

    experience, figures = trainer.make_experience(answers)
    with torch.no_grad():
        old_logps, old_values = logps_of(policy, ids), values_of(critic, ids)
        log_ratio = (old_logps - logps_of(reference, ids)) * mask
        rewards = -KL_COEF * log_ratio
        last = torch.tensor(batch.prompt_lengths + batch.lengths - 2)
        rewards[torch.arange(24), last] += torch.tensor(answers.rewards)
        raw = advantages_of(rewards, old_values, batch.lengths, batch.prompt_lengths)
        gains, returns = whitened(raw, mask), raw + old_values
    for mine, other in zip(experience[1:], (old_logps, old_values, gains, returns), strict=True):
        np.testing.assert_allclose(np.where(mask, mine, 0), torch.where(mask, other, 0.0), rtol=1e-5, atol=2e-5)
    assert figures["objective/kl"] == pytest.approx(log_ratio.sum(1).mean().item(), rel=1e-5)
    assert figures["objective/rlhf_reward"] == pytest.approx(rewards.sum(1).mean().item(), rel=1e-5)

    trainer.update(experience)  # so that the next one is of a policy that has moved
    policy, critic = (
        theirs(kind, model, tmp_path / f"moved{n}")
        for n, (kind, model) in enumerate([models[0], (LlamaForSequenceClassification, trainer.critic)])
    )
    trainer.optimizer.step = lambda grad_scale: None
    report = trainer.update(experience)
    logps, values, n = logps_of(policy, ids), values_of(critic, ids), mask.sum()
    ratio = torch.exp(torch.where(mask, logps - old_logps, 0.0))
    policy_loss = torch.where(mask, torch.max(-gains * ratio, -gains * ratio.clamp(1 - CLIPRANGE, 1 + CLIPRANGE)), 0.0)
    near = torch.clamp(values, old_values - CLIPRANGE_VALUE, old_values + CLIPRANGE_VALUE)
    value_loss = 0.5 * torch.where(mask, torch.max((values - returns) ** 2, (near - returns) ** 2), 0.0)
    loss = policy_loss.sum() / n + VF_COEF * value_loss.sum() / n
    loss.backward()

    assert report["loss/policy_avg"] == pytest.approx(policy_loss.sum().item() / n.item(), rel=1e-5, abs=1e-6)
    assert report["loss/value_avg"] == pytest.approx(value_loss.sum().item() / n.item(), rel=1e-5)
    assert report["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    clipped = ((ratio > 1 + CLIPRANGE) & (gains > 0) | (ratio < 1 - CLIPRANGE) & (gains < 0)) & mask
    assert report["policy/clipfrac_avg"] == pytest.approx(clipped.sum().item() / n.item())
    assert clipped.any() and report["val/clipfrac_avg"] > 0
    for ours, other in ((trainer.model, policy), (trainer.critic, critic)):
        gradients = {name: p.grad.numpy() for name, p in other.named_parameters()}
        for name, p in ours.named_parameters():
            mine, expected = current().to_numpy(p.grad), gradients[name]
            np.testing.assert_allclose(mine, expected, atol=1e-5 * np.abs(expected).max() + 1e-8, err_msg=name)
