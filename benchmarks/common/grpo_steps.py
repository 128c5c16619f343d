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

Timed = tuple[float, float, dict[str, float]]
LEARNING_RATE = 1e-9
REPORTED = ("reward", "entropy", "completions/mean_length", "loss", "grad_norm")


class Task(NamedTuple):
    """Prompts, how many answers they get in all, how many tokens each at most, the folder that the weights are in, and
    whether the model's own token ends an answer."""

    prompts: list[str]
    answers: int
    tokens: int
    folder: str
    ends: bool

    @property
    def group(self) -> int:
        """Answers to a prompt."""
        return self.answers // len(self.prompts)


def digits(prompts: Any, completions: list[str], *_: Any, **__: Any) -> list[float]:
    """A reward that costs next to nothing: the number of digits in an answer."""
    return [float(sum(letter.isdigit() for letter in text)) for text in completions]


def tinymoe_step(task: Task) -> Callable[[], Timed]:
    """tinymoe's `GRPOTrainer`."""
    import tinymoe as tm
    from tinymoe.posttrain import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        num_generations=task.group, generation_batch_size=task.answers, max_completion_length=task.tokens,
        learning_rate=LEARNING_RATE, loss_type="dapo", temperature=1.0, stop=None if task.ends else (),
    )  # fmt: skip
    model = tm.from_pretrained(task.folder)
    trainer = GRPOTrainer(model, [{"prompt": prompt} for prompt in task.prompts], [digits], config)

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
    end, padding = ("<|endoftext|>", "<|endoftext|>") if task.ends else ("<never>", "<pad>")
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
    model = AutoModelForCausalLM.from_pretrained(task.folder)
    return GRPOTrainer(model, [digits], config, train_dataset=data, processing_class=tokenizer)
