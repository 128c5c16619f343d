"""Post-training: the commands that tune a saved model, each with its trainer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import data, tuning
from .command import Command
from .folders import end_ids, load_model
from .settings import add_settings

if TYPE_CHECKING:
    from ..posttrain.tasks import Problem
    from ..train.data import TokenData

_PROBLEMS = (
    "problems: a task, as arithmetic:2 (its level), or a .jsonl of prompts, with answers where rewards need them"
)
_TALKS = "a .json or .jsonl of conversations (Alpaca, ShareGPT, OpenOrca, messages), or a task, as arithmetic:2"
_PAIRS = 'a .jsonl of {"prompt": …, "chosen": …, "rejected": …}'
Encoded = tuple[list[int], list[bool]]  # tokens, and which of them are to be learned
_LONGEST = 512  # tokens of a row, unless --context says otherwise, or the model reads fewer


def sft(options: argparse.Namespace) -> int:
    """`sft`: learn to write the answers of examples."""
    from ..train.trainer import TrainConfig, Trainer

    begun = tuning.start(options)
    config = tuning.settings(options, TrainConfig, context=min(begun.model.config.max_position_embeddings, _LONGEST))
    rows = _rows(options, begun, config.context)
    return tuning.finish(Trainer(begun.model, rows, config, options.out), begun, rows.describe(), options)


def grpo(options: argparse.Namespace) -> int:
    """`grpo`: learn from rewards, by comparing answers to the same problem."""
    from ..posttrain import GRPOConfig, GRPOTrainer

    return _reinforce(options, GRPOConfig, GRPOTrainer)


def ppo(options: argparse.Namespace) -> int:
    """`ppo`: learn from rewards, with a critic that learns what to expect."""
    from ..posttrain import PPOConfig, PPOTrainer

    return _reinforce(options, PPOConfig, PPOTrainer)


def dpo(options: argparse.Namespace) -> int:
    """`dpo`: learn to prefer the better of two answers."""
    from ..posttrain import DPOConfig, DPOTrainer

    begun = tuning.start(options)
    config = tuning.settings(options, DPOConfig)
    pairs, held_out = data.split_tenth(data.read_pairs(options.data, begun.template))
    trainer = DPOTrainer(begun.model, pairs, config, options.out, held_out)
    return tuning.finish(trainer, begun, f"{len(pairs):,} pairs, {len(held_out):,} held out", options)


def reward(options: argparse.Namespace) -> int:
    """`reward`: learn from pairs how good an answer is; `ppo` and `grpo` take the result as --reward."""
    from ..posttrain import RewardConfig, RewardTrainer, ScalarModel

    begun = tuning.start(options)
    config = tuning.settings(options, RewardConfig)
    pairs, held_out = data.split_tenth(data.read_pairs(options.data, begun.template))
    model = ScalarModel.from_causal_lm(begun.model, config.seed)
    trainer = RewardTrainer(model, pairs, config, options.out, held_out, tokenizer=begun.tokenizer)
    return tuning.finish(trainer, begun, f"{len(pairs):,} pairs, {len(held_out):,} held out", options)


def distill(options: argparse.Namespace) -> int:
    """`distill`: learn to write as a larger model does."""
    from ..posttrain import DistillConfig, DistillTrainer

    begun = tuning.start(options)
    config = tuning.settings(options, DistillConfig, solution_field="solution")
    teacher = load_model(options.teacher, "--teacher")
    problems, held_out = data.read_problems(options.data, options.problems, config.seed)
    texts, others = ([data.solved(problem, begun.template) for problem in some] for some in (problems, held_out))
    trainer = DistillTrainer(begun.model, teacher, texts, config, options.out, others)
    return tuning.finish(trainer, begun, _count(problems, held_out), options)


def _reinforce(options: argparse.Namespace, config_type: type, trainer_type: type) -> int:
    begun = tuning.start(options)
    problems, held_out = data.read_problems(options.data, options.problems, options.seed or 0)
    functions, weights = data.reward_functions(options.reward, problems + held_out, begun.template)
    config = tuning.settings(options, config_type, reward_weights=weights)
    problems, held_out = ([data.in_template(p, begun.template) for p in some] for some in (problems, held_out))
    trainer = trainer_type(begun.model, problems, functions, config, options.out, held_out)
    return tuning.finish(trainer, begun, _count(problems, held_out), options)


def _rows(options: argparse.Namespace, begun: tuning.Start, context: int) -> TokenData:
    """Conversations, or solved problems, in rows to train on, and others to validate on."""
    from ..text.instructions import pack_masked
    from ..train.data import TokenData

    encoded = [list(part) for part in (_tagged if begun.template is None else _talks)(options, begun)]
    longest = max(len(ids) for part in encoded for ids, _ in part) - 1
    if longest > context and not options.cut:
        raise ValueError(f"--context: got {context}, but a conversation takes {longest}; raise it, or --cut their ends")
    train, validation = (pack_masked(part, context, cut=options.cut) for part in encoded)
    return TokenData(train, validation, context)


def _tagged(options: argparse.Namespace, begun: tuning.Start) -> Iterator[Iterator[Encoded]]:
    """Problems with their solutions and no template, as DeepSeek-R1-Zero wrote them."""
    from ..text import chat

    if not data.is_task(options.data):
        raise ValueError(f"--template: got none, expected one to write conversations in: {', '.join(chat.templates())}")
    read, end = begun.tokenizer.encode, end_ids(begun.model)[:1]

    def encode(problem: Problem) -> Encoded:
        question, solution = read(problem.prompt), read(problem.tagged) + end
        return question + solution, [False] * len(question) + [True] * len(solution)

    for part in data.read_problems(options.data, options.problems, options.seed or 0):
        yield map(encode, part)


def _talks(options: argparse.Namespace, begun: tuning.Start) -> Iterator[Iterator[Encoded]]:
    """Conversations, or problems as such, in the template."""
    from ..posttrain.tools import DEFINITIONS
    from ..text import chat

    template = begun.template or ""
    how = data.options_of(template)
    if data.is_task(options.data):
        parts = data.read_problems(options.data, options.problems, options.seed or 0, tools=True)
        how |= {"tools": DEFINITIONS} if parts[0][0].calls else {}
        talks = [[data.talk_of(problem, template) for problem in part] for part in parts]
    else:
        talks = data.split_tenth(data.read_talks(options.data)[: options.problems])
        if not talks[1]:
            raise ValueError(f"--data: {options.data} holds {len(talks[0])} conversations, expected at least 10")
    for part in talks:
        yield (chat.encode(begun.tokenizer, talk, template, **how) for talk in part)


def _count(problems: Sequence[Any], held_out: Sequence[Any]) -> str:
    return f"{len(problems):,} problems, {len(held_out):,} held out"


def _add_sft_flags(command: argparse.ArgumentParser) -> None:
    from ..train.trainer import TrainConfig

    tuning.add_tuning_flags(command, _TALKS)
    command.add_argument("--cut", action="store_true", help="cut off what is longer than --context")
    _add_count(command)
    command.add_argument(
        "--context", type=int, metavar="C", help=f"tokens a row (default: what the model reads, up to {_LONGEST})"
    )
    add_settings(command, TrainConfig, hidden=("context",))


def _add_dpo_flags(command: argparse.ArgumentParser) -> None:
    from ..posttrain import DPOConfig

    tuning.add_tuning_flags(command, _PAIRS)
    add_settings(command, DPOConfig)


def _add_reward_flags(command: argparse.ArgumentParser) -> None:
    from ..posttrain import RewardConfig

    tuning.add_tuning_flags(command, _PAIRS, adapters=False)
    add_settings(command, RewardConfig)


def _add_ppo_flags(command: argparse.ArgumentParser) -> None:
    from ..posttrain import PPOConfig

    _add_reinforcement_flags(command, PPOConfig, adapters=False)


def _add_grpo_flags(command: argparse.ArgumentParser) -> None:
    from ..posttrain import GRPOConfig

    _add_reinforcement_flags(command, GRPOConfig, adapters=True)


def _add_reinforcement_flags(command: argparse.ArgumentParser, config: type, adapters: bool) -> None:
    tuning.add_tuning_flags(command, _PROBLEMS, adapters)
    command.add_argument(
        "--reward", default="correct,format:0.1", metavar="NAMES",
        help="with weights: correct, format, or the folder of a reward model (default: correct,format:0.1)",
    )  # fmt: skip
    _add_count(command)
    add_settings(command, config, hidden=("stop", "reward_weights"))


def _add_distill_flags(command: argparse.ArgumentParser) -> None:
    from ..posttrain import DistillConfig

    tuning.add_tuning_flags(
        command, "problems: a task, as arithmetic:2 (its level), or a .jsonl with prompts and steps"
    )
    command.add_argument("--teacher", required=True, metavar="DIR", help="the model to learn from, as --model")
    _add_count(command)
    add_settings(command, DistillConfig, hidden=("stop", "solution_field"))


def _count_from_text(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number ≥ 1")
    return int(text)


def _add_count(command: argparse.ArgumentParser) -> None:
    about = "how many of --data (default: all of a file, up to 1000 of a task)"
    command.add_argument("--problems", type=_count_from_text, metavar="N", help=about)


COMMANDS = (
    Command("sft", "fine-tune a model on conversations or solved problems", _add_sft_flags, sft),
    Command("dpo", "tune a model on pairs of answers, by DPO or IPO", _add_dpo_flags, dpo),
    Command("reward", "train a reward model on pairs of answers", _add_reward_flags, reward),
    Command("ppo", "tune a model by rewards, with a critic", _add_ppo_flags, ppo),
    Command("grpo", "tune a model by rewards, compared within groups", _add_grpo_flags, grpo),
    Command("distill", "teach a model what a larger one would write", _add_distill_flags, distill),
)
