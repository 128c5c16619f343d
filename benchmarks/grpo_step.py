"""A step of GRPO beside TRL's: the same Llama, the same prompts, the same numbers of answers and tokens.

    python benchmarks/grpo_step.py [--steps 10] [--rounds 3] [--threads 1] [--json FILE]

A step samples the answers, rewards them, and updates the weights once. Both begin with the same weights, which TRL
reads as Transformers' LlamaForCausalLM, and work on the processor in float32. Answers have a fixed length: no token
ends them. TRL runs as it does by default (Transformers' `generate`, AdamW, gradients clipped), but without what would
slow it down here: gradient checkpointing and bfloat16.

The two take turns, step by step. What counts is the processor's time, so that other work on the machine counts for
neither; with one thread that is what a step takes on an idle machine. It begins when TRL's trainer reports that a step
begins, and ends when it reports its end: loading, logging and the reading of the data set are outside. Of the steps
after the first two the median counts, and of the rounds, each a process of its own, the median.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from a clone that is not installed

WARM_UP = 2  # steps
LETTERS = "0123456789+-*=? "
COMMON = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
}
# Width and layers of the model, answers of a step, tokens of each.
SIZES = ((64, 2, 16, 64), (64, 2, 64, 32), (128, 4, 16, 64), (128, 4, 64, 32), (128, 4, 64, 64))
GROUP, PROMPT = 8, 12  # answers to a prompt, its tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="steps measured in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument(
        "--one", type=int, nargs=4, metavar=("WIDTH", "LAYERS", "ANSWERS", "TOKENS"), help="one round, printed as JSON"
    )
    options = parser.parse_args()
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    if options.one:
        print(json.dumps(one_round(*options.one, options.steps, options.threads)))
        return
    rows = []
    print(f"{'width':>6}{'layers':>8}{'answers':>9}{'tokens':>8}{'tinymoe':>12}{'TRL':>12}{'ratio':>8}   of the rounds")
    for size in SIZES:
        command = [sys.executable, __file__, "--one", *map(str, size), "--steps", str(options.steps)]
        command += ["--threads", str(options.threads)]
        rounds = [json.loads(subprocess.check_output(command).splitlines()[-1]) for _ in range(options.rounds)]
        row = {**dict(zip(("width", "layers", "answers", "tokens"), size, strict=True)), **summary(rounds)}
        rows.append(row)
        ratios = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        times = f"{row['tinymoe_s'] * 1000:>9.0f} ms{row['trl_s'] * 1000:>9.0f} ms"
        sizes = "{:>6}{:>8}{:>9}{:>8}".format(*size)
        print(f"{sizes}{times}{row['ratio']:>8.2f}   {ratios}", flush=True)
    if options.json:
        report = {**about(options.threads), "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and the ratio of each."""
    ratios = [round(one["trl_s"] / one["tinymoe_s"], 3) for one in rounds]
    times = {name: round(statistics.median(one[name] for one in rounds), 4) for name in ("tinymoe_s", "trl_s")}
    first = {name: rounds[0][name] for name in ("tinymoe_first", "trl_first")}
    return {**times, "ratio": round(statistics.median(ratios), 2), "ratios": ratios, **first}


def one_round(width: int, layers: int, answers: int, tokens: int, steps: int, threads: int) -> dict[str, Any]:
    """Median seconds of a step of each, and what each reports of its first one."""
    warnings.filterwarnings("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    prompts = [f"{i + 2}*{i + 3}+{i + 10}=?"[:PROMPT].rjust(PROMPT) for i in range(answers // GROUP)]
    with tempfile.TemporaryDirectory() as folder:
        ours = our_trainer(width, layers, prompts, answers, tokens, steps + WARM_UP)
        ours.model.save_pretrained(folder)
        theirs = their_trainer(folder, prompts, answers, tokens, steps + WARM_UP)
        turns = taking_turns(ours)
        theirs.add_callback(turns)
        theirs.train()
    first = next(line for line in theirs.state.log_history if "reward" in line)
    same = ("reward", "entropy", "completions/mean_length", "loss", "grad_norm")
    return {
        **{f"{name}_s": statistics.median(times[WARM_UP:]) for name, times in turns.times.items()},
        "tinymoe_first": {name: round(float(turns.metrics[0][name]), 5) for name in same},
        "trl_first": {name: round(float(first[name]), 5) for name in same},
    }


def digits(prompts: Any, completions: list[str], *_: Any, **__: Any) -> list[float]:
    """A reward that costs next to nothing: the number of digits in an answer."""
    return [float(sum(letter.isdigit() for letter in text)) for text in completions]


def our_trainer(width: int, layers: int, prompts: list[str], answers: int, tokens: int, steps: int) -> Any:
    """tinymoe's, on a model with random weights."""
    import tinymoe as tm
    from tinymoe.posttrain import GRPOConfig, GRPOTrainer
    from tinymoe.text.tokenizer import CharTokenizer

    tokenizer = CharTokenizer.train([LETTERS], special_tokens=["<pad>"])
    shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": width * 21 // 8, **COMMON}
    model = tm.zoo.build("llama-nano", vocab_size=len(tokenizer), seed=0, initializer_range=0.05, **shape)
    model.tokenizer = tokenizer
    sizes = {"num_generations": GROUP, "generation_batch_size": answers, "max_completion_length": tokens}
    config = GRPOConfig(steps=steps, stop=(), learning_rate=1e-4, loss_type="dapo", temperature=1.0, **sizes)
    return GRPOTrainer(model, [{"prompt": prompt} for prompt in prompts], [digits], config)


def their_trainer(folder: str, prompts: list[str], answers: int, tokens: int, steps: int) -> Any:
    """TRL's, on the same weights."""
    import transformers
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    transformers.utils.logging.disable_progress_bar()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", pad_token="<pad>")
    tokenizer.add_special_tokens({"eos_token": "<never>"})  # TRL wants one; this is not in the model's vocabulary
    config = GRPOConfig(
        output_dir=folder, per_device_train_batch_size=answers, num_generations=GROUP, max_completion_length=tokens,
        max_steps=steps, learning_rate=1e-4, lr_scheduler_type="constant", loss_type="dapo", beta=0.0, temperature=1.0,
        use_vllm=False, bf16=False, gradient_checkpointing=False, use_cpu=True, logging_steps=1, save_strategy="no",
        report_to="none", disable_tqdm=True, seed=0,
    )  # fmt: skip
    data = Dataset.from_dict({"prompt": prompts})
    model = AutoModelForCausalLM.from_pretrained(folder)
    return GRPOTrainer(model, [digits], config, train_dataset=data, processing_class=tokenizer)


def taking_turns(ours: Any) -> Any:
    """A callback that takes the time of TRL's steps, and after each makes one of ours."""
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def __init__(self) -> None:
            self.times: dict[str, list[float]] = {"tinymoe": [], "trl": []}
            self.metrics: list[dict[str, Any]] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended = time.process_time()
            self.times["trl"].append(ended - self.began)
            self.metrics.append(ours.step())
            self.times["tinymoe"].append(time.process_time() - ended)

    return Turns()


def about(threads: int) -> dict[str, Any]:
    """What was measured, and on what."""
    from importlib.metadata import version

    from tinymoe.bench import machine

    versions = {name: version(name) for name in ("torch", "transformers", "trl")}
    sizes = {**COMMON, "num_generations": GROUP, "prompt_tokens": PROMPT, "vocab_size": len(LETTERS) + 1}
    return {**machine(), **versions, **sizes, "threads": threads}


if __name__ == "__main__":
    main()
