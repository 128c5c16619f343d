"""Steps of GRPO by tinymoe and by TRL, from the same weights: functions that make one and time it.

Each is made in a process of its own (see `turns`). A step samples the answers, rewards them, and updates the weights
once; it returns seconds by the clock, seconds of all cores, and what the trainer reports of it.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from tinymoe.posttrain.rewards import correct
from tinymoe.posttrain.tasks import Problem

Timed = tuple[float, float, dict[str, float]]
LEARNING_RATE = 1e-9
REPORTED = ("reward", "frac_reward_zero_std", "entropy", "completions/mean_length", "loss", "grad_norm")


class Task(NamedTuple):
    """Prompts, how many answers they get in all, how many tokens each at most, the folder that the weights are in, and
    the problem behind each prompt, if the model was trained to solve such: its own token then ends an answer."""

    prompts: list[str]
    answers: int
    tokens: int
    folder: str
    problems: list[Problem]

    @property
    def group(self) -> int:
        """Answers to a prompt."""
        return self.answers // len(self.prompts)


def reward_of(task: Task) -> Callable[..., list[float]]:
    """1 for a right answer to a problem; where there are none, the number of digits in an answer."""
    problems = dict(zip(task.prompts, task.problems, strict=False))

    def right_answers(prompts: list[str], completions: list[str], *_: Any, **__: Any) -> list[float]:
        return [correct(text, problems[prompt]) for prompt, text in zip(prompts, completions, strict=True)]

    def digits(prompts: list[str], completions: list[str], *_: Any, **__: Any) -> list[float]:
        return [float(sum(letter.isdigit() for letter in text)) for text in completions]

    return right_answers if problems else digits


def tinymoe_step(task: Task) -> Callable[[], Timed]:
    """tinymoe's `GRPOTrainer`."""
    import tinymoe as tm
    from tinymoe.posttrain import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        num_generations=task.group, generation_batch_size=task.answers, max_completion_length=task.tokens,
        learning_rate=LEARNING_RATE, loss_type="dapo", temperature=1.0, stop=None if task.problems else (),
    )  # fmt: skip
    model = tm.from_pretrained(task.folder)
    trainer = GRPOTrainer(model, [{"prompt": prompt} for prompt in task.prompts], [reward_of(task)], config)

    def step() -> Timed:
        clock, cores = time.perf_counter(), time.process_time()
        metrics = trainer.step()
        seconds = time.perf_counter() - clock, time.process_time() - cores
        return *seconds, {name: float(metrics[name]) for name in REPORTED}

    return step


def trl_step(task: Task, threads: int) -> Callable[[], Timed]:
    """TRL's `GRPOTrainer`. It trains in a thread of its own, and is held between one step and the next."""
    warnings.filterwarnings("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import PrinterCallback, TrainerCallback

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    trainer, times = _trl_trainer(task), []
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    class Held(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            go.acquire()
            times.append((time.perf_counter(), time.process_time()))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock, cores = times.pop()
            times.append((time.perf_counter() - clock, time.process_time() - cores))

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            times.append({name: float(logs[name]) for name in REPORTED})
            done.release()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Held())
    threading.Thread(target=trainer.train, daemon=True).start()

    def step() -> Timed:
        times.clear()
        go.release()
        done.acquire()
        seconds, reported = times
        return *seconds, reported

    return step


def _trl_trainer(task: Task) -> Any:
    import transformers
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # TRL wants a token for the end; where nothing ends an answer, it is one that is not in the model's vocabulary.
    end, padding = ("<|endoftext|>", "<|endoftext|>") if task.problems else ("<never>", "<pad>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{task.folder}/tokenizer.json", pad_token=padding)
    tokenizer.add_special_tokens({"eos_token": end})
    config = GRPOConfig(
        output_dir=task.folder, per_device_train_batch_size=task.answers, num_generations=task.group,
        max_completion_length=task.tokens, max_steps=1_000_000, learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        loss_type="dapo", beta=0.0, temperature=1.0, use_vllm=False, bf16=False, gradient_checkpointing=False,
        use_cpu=True, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, seed=0,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": task.prompts})
    model, judge = AutoModelForCausalLM.from_pretrained(task.folder), reward_of(task)

    def reward(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        # The texts that come along lack special tokens, and so the tags around an answer.
        tokens = (tokenizer.convert_ids_to_tokens(ids) for ids in completion_ids)
        return judge(prompts, ["".join(token for token in its if token != end) for its in tokens])

    return GRPOTrainer(model, [reward], config, train_dataset=data, processing_class=tokenizer)
