"""Post-training: what turns a model of text into one that answers, prefers and reasons.

Losses are named, and their arguments ordered, as in TRL.
"""

from .adapter_files import load_adapter, save_adapter
from .distill import distill_loss, distill_texts, forward_kl, generalized_jsd, reverse_kl
from .distill_trainer import DistillConfig, DistillTrainer
from .dpo import dpo_figures, dpo_loss, sequence_logps
from .dpo_trainer import DPOConfig, DPOTrainer
from .grpo import (
    group_advantages,
    grpo_figures,
    grpo_loss,
    informative_groups,
    kl_estimate,
    soft_overlong_punishment,
)
from .grpo_trainer import GRPOConfig, GRPOTrainer
from .logps import TokenLogps, token_logps
from .lora import (
    LoraConfig,
    adapters_off,
    add_lora,
    combine,
    merge,
    set_adapter,
    set_scale,
    unload,
    unmerge,
)
from .nf4 import quantize_model, quantized_bytes
from .ppo import (
    AdaptiveKLController,
    gae,
    kl_rewards,
    masked_whiten,
    ppo_figures,
    ppo_policy_loss,
    ppo_value_figures,
    ppo_value_loss,
)
from .ppo_trainer import PPOConfig, PPOTrainer
from .preferences import Pair, read_pairs, write_pairs
from .reward import ScalarModel, reward_figures, reward_function, reward_loss
from .reward_trainer import RewardConfig, RewardTrainer
from .rollout import Rollouts, rollouts
from .sft import completion_targets, sft_loss

__all__ = [
    "AdaptiveKLController",
    "DPOConfig",
    "DPOTrainer",
    "DistillConfig",
    "DistillTrainer",
    "GRPOConfig",
    "GRPOTrainer",
    "LoraConfig",
    "PPOConfig",
    "PPOTrainer",
    "Pair",
    "RewardConfig",
    "RewardTrainer",
    "Rollouts",
    "ScalarModel",
    "TokenLogps",
    "adapters_off",
    "add_lora",
    "combine",
    "completion_targets",
    "distill_loss",
    "distill_texts",
    "dpo_figures",
    "dpo_loss",
    "forward_kl",
    "gae",
    "generalized_jsd",
    "group_advantages",
    "grpo_figures",
    "grpo_loss",
    "informative_groups",
    "kl_estimate",
    "kl_rewards",
    "load_adapter",
    "masked_whiten",
    "merge",
    "ppo_figures",
    "ppo_policy_loss",
    "ppo_value_figures",
    "ppo_value_loss",
    "quantize_model",
    "quantized_bytes",
    "read_pairs",
    "reverse_kl",
    "reward_figures",
    "reward_function",
    "reward_loss",
    "rollouts",
    "save_adapter",
    "sequence_logps",
    "set_adapter",
    "set_scale",
    "sft_loss",
    "soft_overlong_punishment",
    "token_logps",
    "unload",
    "unmerge",
    "write_pairs",
]
