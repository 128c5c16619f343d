"""The losses of post-training against TRL's own trainers: their methods, on trainers that hold only what these need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from training import VOCABULARY, tiny_model
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM, PreTrainedModel
from trl import DPOTrainer, GRPOTrainer, RewardTrainer, SFTTrainer
from trl.experimental.gkd import GKDTrainer
from trl.rewards import get_soft_overlong_punishment
from trl.trainer.utils import add_fused_lm_head

from tinymoe import Tensor
from tinymoe.backend import current, reference
from tinymoe.models import CausalLM
from tinymoe.posttrain import (
    ScalarModel,
    distill_loss,
    distill_texts,
    dpo_figures,
    dpo_loss,
    group_advantages,
    grpo_figures,
    grpo_loss,
    reward_figures,
    reward_loss,
    sequence_logps,
    sft_loss,
    soft_overlong_punishment,
    token_logps,
)

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

PAD = 0
OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
GRPO = [
    {"loss_type": loss_type, "importance_sampling_level": level, **others}
    for loss_type in ("grpo", "dapo", "dr_grpo")
    for level in ("token", "sequence")
    for others in ({"beta": 0.0}, {"beta": 0.1}, {"beta": 0.1, "epsilon": 0.1, "epsilon_high": 0.28})
]


def name_of(options: dict[str, Any]) -> str:
    return "-".join(map(str, options.values()))


class Accelerator:
    """One process, no mixed precision: everything is at hand already."""

    device = torch.device("cpu")
    num_processes = 1
    is_main_process = False  # which would report to a dashboard
    sync_gradients = True
    parallelism_config = None
    process_index = 0

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1) if x.ndim == 0 else x

    gather_for_metrics = gather

    def reduce(self, x: torch.Tensor, reduction: str) -> torch.Tensor:
        return x

    def autocast(self) -> nullcontext:
        return nullcontext()

    def unwrap_model(self, model: Any) -> Any:
        return model


def trainer(kind: type, model: Any, **fields: Any) -> Any:
    """A trainer of TRL's without its `__init__`, which wants data sets, tokenizers and files."""
    made = object.__new__(kind)
    metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    common = {"model": model, "accelerator": Accelerator(), "_metrics": metrics, "aux_loss_enabled": False}
    vars(made).update({**common, "_total_train_tokens": 0, "_tp_size": 1, **fields})
    return made


def standing_in(out: Any) -> Any:
    """A model that always answers the same."""
    model = torch.nn.Identity()
    model.forward, model.is_gradient_checkpointing = lambda **kwargs: out, False
    return model


def of_logps(logps: torch.Tensor, mask: torch.Tensor) -> Any:
    """A stand-in for a model with TRL's fused head: it finds the given tokens as likely as it is told to."""
    seen = logps * mask[:, 1:]
    out = SimpleNamespace(log_probs=seen, entropy=seen * 0, mean_logits=seen * 0, is_top1=seen > 0)
    return standing_in(out)


def tensor(array: np.ndarray) -> Tensor:
    return Tensor(current().asarray(array), requires_grad=True)


def same_gradient(ours: Tensor, theirs: torch.Tensor, tol: float = 1e-6) -> None:
    np.testing.assert_allclose(current().to_numpy(ours.grad), theirs.grad.numpy(), rtol=1e-5, atol=tol)


# -- losses of given log-probabilities, rewards and logits


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_dpo(backend, rng, loss_type, beta):
    """Eight answers, the first four chosen; prompts of one to three tokens."""
    mask = (np.arange(9) >= rng.integers(1, 4, 8)[:, None]) & (np.arange(9) < rng.integers(5, 10, 8)[:, None])
    given, reference = rng.normal(-2, 1, (2, 8, 8)).astype(np.float32)
    theirs, there = torch.tensor(given, requires_grad=True), torch.tensor(mask.astype(np.int64))
    model, ref_model = of_logps(theirs, there), of_logps(torch.tensor(reference), there)
    dpo = trainer(
        DPOTrainer, model, ref_model=ref_model, beta=beta, ld_alpha=None, precompute_ref_logps=False,
        f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0], use_weighting=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )  # fmt: skip
    inputs = {"input_ids": torch.zeros(8, 9, dtype=torch.long), "completion_mask": there}
    expected = dpo._compute_loss(model, {**inputs, "attention_mask": torch.ones(8, 9)}, False)
    expected.backward()

    ours = tensor(given)
    sums = [sequence_logps(x, mask[:, 1:]) for x in (ours, Tensor(reference))]
    used = [sequence_logps(x, mask[:, 1:], average=loss_type == "ipo") for x in (ours, Tensor(reference))]
    loss = dpo_loss(used[0][:4], used[0][4:], used[1][:4], used[1][4:], beta, loss_type)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    same_gradient(ours, theirs)
    figures = dpo_figures(sums[0][:4], sums[0][4:], sums[1][:4], sums[1][4:], beta)
    for name, value in figures.items():
        assert value == pytest.approx(dpo._metrics["train"][name][0], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("center", [None, 0.05])
@pytest.mark.parametrize("margin", [False, True])
def test_reward(backend, rng, margin, center):
    given, margins = rng.normal(size=12).astype(np.float32), rng.random(6).astype(np.float32)
    theirs = torch.tensor(given, requires_grad=True)
    model = standing_in(SimpleNamespace(logits=theirs[:, None]))
    reward = trainer(RewardTrainer, model, args=SimpleNamespace(center_rewards_coefficient=center))
    inputs = {"attention_mask": torch.ones(12, 3), **({"margin": torch.tensor(margins)} if margin else {})}
    expected = reward.compute_loss(model, inputs)
    expected.backward()

    ours = tensor(given)
    loss = reward_loss(ours[:6], ours[6:], margins if margin else None, center)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    same_gradient(ours, theirs)
    for name, value in reward_figures(ours[:6], ours[6:]).items():
        assert value == pytest.approx(reward._metrics["train"][name][0], rel=1e-5), name


def grpo_trainer(model: Any, max_completion_length: int, **options: Any) -> Any:
    """A GRPOTrainer with our options under its names."""
    low = options.get("epsilon", 0.2)
    args = SimpleNamespace(
        use_bias_correction_kl=False, delta=None, steps_per_generation=1, gradient_accumulation_steps=1,
        per_device_train_batch_size=64, report_to=[], gradient_checkpointing_kwargs=None,
    )  # fmt: skip
    return trainer(
        GRPOTrainer, model, args=args, top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False,
        beta=options["beta"], loss_type=options["loss_type"], epsilon_low=low,
        epsilon_high=options.get("epsilon_high", low), current_gradient_accumulation_steps=1,
        importance_sampling_level=options["importance_sampling_level"], _entropy_bonus_enabled=False,
        max_completion_length=max_completion_length,
    )  # fmt: skip


@pytest.mark.parametrize("options", GRPO, ids=name_of)
def test_grpo(backend, rng, options):
    """Six answers, with tokens that a tool wrote in the middle, and one that is all masked."""
    given, old, reference = rng.normal(-1, 0.3, (3, 6, 7)).astype(np.float32)
    entropies, advantages = rng.random((6, 7)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    mask = (np.arange(7) < np.array([7, 5, 1, 3, 6, 0])[:, None]).astype(np.int64)
    tool = np.ones_like(mask)
    tool[0, 2:4] = 0
    theirs = torch.tensor(given, requires_grad=True)
    grpo = grpo_trainer(torch.nn.Identity(), 9, **options)
    grpo._get_per_token_logps_and_entropies = lambda *args, **kwargs: (theirs, torch.tensor(entropies), None)
    inputs = {
        "prompt_ids": torch.zeros(6, 2), "prompt_mask": torch.ones(6, 2), "completion_ids": torch.zeros(6, 7),
        "completion_mask": torch.tensor(mask), "tool_mask": torch.tensor(tool), "advantages": torch.tensor(advantages),
        "old_per_token_logps": torch.tensor(old), "ref_per_token_logps": torch.tensor(reference),
        "num_items_in_batch": torch.tensor((mask * tool).sum()),
    }  # fmt: skip
    expected = grpo._compute_loss(grpo.model, inputs)
    expected.backward()

    ours = tensor(given)
    loss = grpo_loss(ours, old, advantages, mask * tool, reference, **options, max_completion_length=9)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)
    same_gradient(ours, theirs)
    metrics = grpo._metrics["train"]
    shared = {name: options[name] for name in options if name not in ("loss_type", "beta")}
    figures = grpo_figures(ours, old, advantages, mask * tool, reference, entropies, **shared)
    if options["beta"] == 0:
        figures.pop("kl")
    for name, value in figures.items():
        assert value == pytest.approx(metrics[name][0], rel=1e-5), name
    assert figures["clip_ratio/region_mean"] > 0


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_distillation(backend, rng, beta, temperature):
    student, teacher = 3 * rng.normal(size=(2, 3, 5, 11)).astype(np.float32)
    mask = rng.random((3, 5)) < 0.6
    theirs, labels = torch.tensor(student, requires_grad=True), torch.tensor(np.where(mask, 1, -100))
    expected = GKDTrainer.generalized_jsd_loss(theirs, torch.tensor(teacher), labels, beta, temperature)
    expected.backward()
    ours = tensor(student)
    loss = distill_loss(ours, teacher, mask, beta, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    same_gradient(ours, theirs)
    args = (theirs, torch.tensor(teacher), labels, beta, temperature)
    part = GKDTrainer.generalized_jsd_loss(*args, num_items_in_batch=50)
    assert distill_loss(ours, teacher, mask, beta, temperature, 50).item() == pytest.approx(part.item(), rel=1e-5)


def test_punishment_of_long_answers():
    lengths = np.array([0, 79, 80, 81, 90, 99, 100, 101, 300])
    expected = get_soft_overlong_punishment(100, 20)([[1] * n for n in lengths])
    np.testing.assert_allclose(soft_overlong_punishment(lengths, 100, 20), expected, atol=1e-7)


# -- whole models: ours saved, and read by Transformers


@pytest.fixture(params=["llama", "tied"])
def models(request, tmp_path, backend) -> Iterator[tuple[CausalLM, CausalLM, PreTrainedModel, PreTrainedModel]]:
    """A policy and a reference, ours and theirs."""
    shape = {"initializer_range": 0.25, "tie_word_embeddings": request.param == "tied"}
    ours = [tiny_model(seed=seed, num_hidden_layers=2, **shape) for seed in (0, 1)]
    theirs = []
    for i, model in enumerate(ours):
        model.save_pretrained(tmp_path / str(i))
        theirs.append(LlamaForCausalLM.from_pretrained(tmp_path / str(i)).train())
        add_fused_lm_head(theirs[-1], outputs=OUTPUTS)
    yield ours[0], ours[1], theirs[0], theirs[1]


def same_gradients(ours: CausalLM | ScalarModel, theirs: PreTrainedModel, rel: float = 1e-5) -> None:
    """Of every parameter, in shares of the largest entry: for Llama the names are the same."""
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    got = {name: current().to_numpy(p.grad) for name, p in ours.named_parameters()}
    assert got.keys() == expected.keys()
    for name, grad in got.items():
        size = np.abs(expected[name]).max()
        np.testing.assert_allclose(grad, expected[name], rtol=0, atol=rel * size, err_msg=name)


def batch(rng: np.random.Generator, rows: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids (rows, 12), attention mask (padding on the right), and a mask of the answers."""
    ends, starts = rng.integers(8, 13, rows)[:, None], rng.integers(2, 6, rows)[:, None]
    seen = np.arange(12) < ends
    ids = np.where(seen, rng.integers(1, VOCABULARY, (rows, 12)), PAD)
    return ids, seen.astype(int), (seen & (np.arange(12) >= starts)).astype(int)


@pytest.mark.parametrize("num_items_in_batch", [None, 100])
def test_sft_of_a_model(models, rng, num_items_in_batch):
    ours, _, theirs, _ = models
    ids, seen, answer = batch(rng)
    sft = trainer(
        SFTTrainer, theirs, compute_loss_func=None, label_smoother=None,
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
    )  # fmt: skip
    inputs = {"input_ids": ids, "attention_mask": seen, "labels": np.where(answer, ids, -100)}
    inputs = {name: torch.tensor(value) for name, value in inputs.items()}
    expected = sft.compute_loss(theirs, inputs, num_items_in_batch=num_items_in_batch)
    expected.backward()
    loss = sft_loss(ours, ids, answer, attention_mask=seen, num_items_in_batch=num_items_in_batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    same_gradients(ours, theirs)
    entropies = token_logps(ours, ids, answer, attention_mask=seen).entropies.numpy()
    entropy = entropies.sum() / answer[:, 1:].sum()
    assert entropy == pytest.approx(sft._metrics["train"]["entropy"][0], rel=1e-5)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_dpo_of_a_model(models, rng, loss_type):
    ours, reference, theirs, their_reference = models
    ids, seen, answer = batch(rng)
    dpo = trainer(
        DPOTrainer, theirs, ref_model=their_reference, beta=0.1, ld_alpha=None, precompute_ref_logps=False,
        f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0], use_weighting=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )  # fmt: skip
    inputs = {"input_ids": ids, "attention_mask": seen, "completion_mask": answer}
    expected = dpo._compute_loss(theirs, {name: torch.tensor(value) for name, value in inputs.items()}, False)
    expected.backward()
    policy, start = (
        sequence_logps(token_logps(model, ids, answer, attention_mask=seen).logps, answer[:, 1:],
                       average=loss_type == "ipo")
        for model in (ours, reference)
    )  # fmt: skip
    loss = dpo_loss(policy[:2], policy[2:], start[:2], start[2:], beta=0.1, loss_type=loss_type)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    same_gradients(ours, theirs)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_distillation_of_a_model(models, rng, beta, monkeypatch):
    """TRL's step compares all logits at the temperature 1; ours, some of them at a time."""
    monkeypatch.setattr(reference, "LOSS_CHUNK", 5)
    ours, teacher, theirs, their_teacher = models
    ids, seen, answer = batch(rng)
    gkd = trainer(GKDTrainer, theirs, teacher_model=their_teacher, beta=beta)
    inputs = {"input_ids": ids, "attention_mask": seen, "labels": np.where(answer, ids, -100)}
    expected = gkd.compute_loss(theirs, {name: torch.tensor(value) for name, value in inputs.items()})
    expected.backward()
    assert distill_texts(ours, teacher, ids, answer, beta) == pytest.approx(expected.item(), rel=1e-5)
    same_gradients(ours, theirs)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("options", GRPO[1::3], ids=name_of)
def test_grpo_of_a_model(models, rng, options, temperature=0.7):
    """From rewards to gradients, a step away from the rollout, with TRL's own padding, advantages and references."""
    ours, reference, theirs, their_reference = models
    add_fused_lm_head(theirs, temperature, outputs=OUTPUTS)
    add_fused_lm_head(their_reference, temperature, outputs=OUTPUTS)
    prompts = [prompt for n in (2, 3) for prompt in [rng.integers(1, VOCABULARY, n).tolist()] * 3]
    answers = [rng.integers(1, VOCABULARY, n).tolist() for n in (5, 2, 7, 1, 4, 4)]
    rewards = np.array([[0.0, 1.0, 1.0], [0.5, -1.0, 2.0]], dtype=np.float32)
    grpo = grpo_trainer(theirs, 7, **options)
    vars(grpo).update(
        ref_model=their_reference, environment_factories=None, environments=None, tools=None, num_generations=3,
        _tokenizer=SimpleNamespace(pad_token_id=PAD), pad_to_multiple_of=None, mask_truncated_completions=False,
        use_vllm=False, reward_weights=torch.ones(1), multi_objective_aggregation="sum_then_normalize",
        scale_rewards="group", reward_func_names=["reward"], reward_funcs=[None], _pending_extra_logs={},
        _pending_metrics={}, _logs=defaultdict(list, rewards=defaultdict(list)), log_multimodal=False, num_iterations=2,
        _is_vlm=False,
    )  # fmt: skip
    grpo._generate = lambda _: (prompts, answers, None, answers, None, {}, None, None)
    grpo._calculate_rewards = lambda *_: torch.tensor(rewards.reshape(-1, 1))
    inputs = grpo._generate_and_score_completions([{"prompt": "?"}] * 6)
    old = inputs["old_per_token_logps"].numpy()
    there = dict(theirs.named_parameters())
    with torch.no_grad():  # the policy has moved since
        for name, p in ours.named_parameters():
            step = 0.05 * rng.normal(size=p.shape).astype(np.float32)
            there[name] += torch.tensor(step)
            p.data = p.data + current().asarray(step)
    expected = grpo._compute_loss(theirs, inputs)
    expected.backward()

    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1).numpy()
    mask = np.concatenate([inputs["prompt_mask"] * 0, inputs["completion_mask"]], axis=1)
    seen = np.concatenate([inputs["prompt_mask"], inputs["completion_mask"]], axis=1)
    columns = slice(inputs["prompt_ids"].shape[1] - 1, None)
    advantages = group_advantages(rewards).reshape(-1)
    np.testing.assert_allclose(current().to_numpy(advantages), inputs["advantages"], rtol=1e-5)
    read = {"attention_mask": seen, "temperature": temperature}
    logps, entropies = token_logps(ours, ids, mask, **read)
    start = token_logps(reference, ids, mask, **read).logps[:, columns]
    loss = grpo_loss(
        logps[:, columns], old, advantages, mask[:, 1:][:, columns], start, **options, max_completion_length=7
    )
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    same_gradients(ours, theirs)
    entropy = entropies.numpy().sum() / mask.sum()
    assert entropy == pytest.approx(grpo._metrics["train"]["entropy"][0], rel=1e-5)

    # As the trainer reads it: prompts at the left and once for their answers, padding behind.
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    ids, mask, laid_out = np.zeros((6, 10), int), np.zeros((6, 10), bool), np.zeros((2, 6, 9), np.float32)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[i, : len(row)], mask[i, len(prompt) : len(row)] = row, True
        for there, values in zip(laid_out, (old, start.numpy()), strict=True):
            there[i, len(prompt) - 1 : len(row) - 1] = values[i, : len(answers[i])]
    logps = token_logps(ours, ids, mask, temperature=temperature, prompt=2).logps
    terms = (logps, laid_out[0], advantages, mask[:, 1:], laid_out[1])
    for p in ours.parameters():
        p.grad = None
    grpo_loss(*terms, **options, max_completion_length=7).backward()
    same_gradients(ours, theirs, rel=2e-5)


def test_a_reward_model(models, rng, tmp_path):
    """Read as a sequence classifier: the same rewards, loss and gradients."""
    ours = ScalarModel.from_causal_lm(models[0])
    ours.save_pretrained(tmp_path / "reward")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    theirs.config.pad_token_id = PAD
    ids, seen, _ = batch(rng)
    reward = trainer(RewardTrainer, theirs, args=SimpleNamespace(center_rewards_coefficient=0.01))
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(seen)}
    expected = reward.compute_loss(theirs, inputs)
    expected.backward()
    rewards = ours.rewards(ids, attention_mask=seen)
    loss = reward_loss(rewards[:2], rewards[2:], center_rewards_coefficient=0.01)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    same_gradients(ours, theirs)


def test_a_reward_model_of_theirs(models, tmp_path):
    models[2].config.num_labels = 1
    theirs = AutoModelForSequenceClassification.from_config(models[2].config).eval()
    theirs.save_pretrained(tmp_path)
    ids = np.random.default_rng(1).integers(1, VOCABULARY, (3, 5))
    theirs.config.pad_token_id = PAD
    expected = theirs(torch.tensor(ids)).logits[:, 0].detach().numpy()
    np.testing.assert_allclose(ScalarModel.from_pretrained(tmp_path).rewards(ids).numpy(), expected, atol=1e-5)
