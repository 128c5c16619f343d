"""The training loop: everything a run needs, flat enough to be read in one go."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import current
from ..files import write_atomically
from ..models.decoder import CausalLM
from ..models.pretrained import is_whole
from ..nn.module import Module
from ..tensor import no_grad
from . import checkpoint, optim, schedule
from .data import Batch, TokenData
from .device_step import DeviceStep

# Settings that may differ when a run is resumed: they change what is reported and kept, not what is learned.
_MAY_CHANGE = {"cuda_graph", "eval_every", "eval_batches", "checkpoint_every", "keep"}


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Steps are optimizer steps; rates are peak and final learning rates.

    A step learns from `accumulate` times `batch_size` rows of `context` tokens. ValueError names a bad setting.
    """

    steps: int = 2000
    batch_size: int = 12
    context: int = 64
    lr: float = 1e-3
    min_lr: float = 1e-4
    warmup: int = 100
    schedule: str = "cosine"  # or "wsd" (warm-up, stable, decay) or "constant"
    decay: int | None = None  # length of wsd's decay in steps; a fifth of the run unless given
    decay_shape: str = "linear"  # or "1-sqrt"
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0  # 0 switches clipping off
    accumulate: int = 1
    cuda_graph: bool = False  # on a GPU, capture a step once and replay it: faster where steps are small
    eval_every: int = 250
    eval_batches: int | None = 20  # of the evaluations during the run; None is all of the validation text
    checkpoint_every: int = 250
    keep: int = 2  # checkpoints
    seed: int = 0

    def __post_init__(self) -> None:
        _check_config(self)

    def learning_rate(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        common = {"lr": self.lr, "warmup": self.warmup}
        if self.schedule == "constant":
            return schedule.constant(step, **common)
        if self.schedule == "cosine":
            return schedule.cosine(step, steps=self.steps, min_lr=self.min_lr, **common)
        decay = self.steps // 5 if self.decay is None else self.decay
        return schedule.warmup_stable_decay(
            step, steps=self.steps, min_lr=self.min_lr, decay=decay, shape=self.decay_shape, **common
        )


class Trainer:
    """Trains a model on `TokenData`, and keeps metrics, checkpoints and the final model in the folder `out`.

    Without `out` nothing is written. The batch of a step depends only on the seed and the step's number, so
    that a resumed run continues exactly as if it had never been interrupted.
    """

    companion: Module | None = None  # what a subclass trains along with the model; checkpoints hold it too

    def __init__(self, model: CausalLM, data: TokenData, config: TrainConfig, out: str | Path | None = None):
        _check_fits(model, data, config)
        self.model, self.data, self.config = model, data, config
        self.out = None if out is None else Path(out)
        self.optimizer = optim.AdamW(
            optim.decay_groups(model, config.weight_decay), lr=config.lr, betas=(config.beta1, config.beta2)
        )
        self.steps_done = 0
        self.history: list[dict[str, Any]] = []  # one dict of metrics a step
        self._owns_out = False
        self._device_step: DeviceStep | None = None  # made at the first step on a GPU

    @np.errstate(all="ignore")  # an overflow is not a warning here: it ends the run, with its name
    def step(self) -> dict[str, Any]:
        """One optimizer step. Returns its metrics: step, loss, lr, grad_norm, tokens_per_s, and what layers report.

        Layers with experts report, in lists with an entry a layer, `expert_load` (the share of each expert),
        `max_violation` and `load_entropy`; the loss includes those of the layers' own.

        FloatingPointError, before anything is updated, where the loss or a gradient is not finite.
        """
        config, began = self.config, time.perf_counter()
        rows = config.batch_size * config.accumulate
        batch = self.data.batch(rows, seed=config.seed, step=self.steps_done)
        lr = config.learning_rate(self.steps_done)
        loss, norm = (self.learn_on_device if current().on_device else self.learn)(batch, lr)
        self.steps_done += 1
        reports = [report for module in self.model.modules() if (report := module.after_step())]
        seconds = time.perf_counter() - began
        return {
            "step": self.steps_done,
            "loss": loss,
            "lr": lr,
            "grad_norm": norm,
            "tokens_per_s": round(batch.ids.size / seconds, 1),
            **{name: [report[name] for report in reports] for name in (reports[0] if reports else ())},
        }

    def learn(self, batch: Batch, lr: float) -> tuple[float, float]:
        """One update from a batch; returns its loss, and the norm of the gradient before clipping."""
        self.optimizer.zero_grad()
        loss = 0.0
        for part in batch.split(self.config.accumulate):
            # Weighted by its number of targets: the mean of parts of unequal size is not the mean of the batch.
            part_loss = self.model.loss(part.ids, part.targets, documents=part.documents)
            part_loss = part_loss * (part.num_targets / batch.num_targets)
            part_loss.backward()
            loss += part_loss.item()
        return loss, self.descend(loss, lr, self.config.grad_clip)

    def learn_on_device(self, batch: Batch, lr: float) -> tuple[float, float]:
        """The same on a GPU, which is told what to do from first to last before it is waited for."""
        if self._device_step is None:
            self._device_step = DeviceStep(self.model, self.optimizer, self.config.cuda_graph)
        rates = [lr] * len(self.optimizer.param_groups)
        loss, norm = self._device_step(batch.split(self.config.accumulate), rates, self.config.grad_clip)
        self._check_finite(loss, norm)
        return loss, norm

    def descend(self, loss: float, lr: float | Sequence[float], max_norm: float) -> float:
        """One update by the gradients there are, scaled to a joint norm of at most max_norm; returns their norm before.

        A max_norm of 0 scales nothing. lr is one rate, or one for each group of the optimizer. FloatingPointError,
        before anything is updated, where the loss or a gradient is not finite.
        """
        groups = self.optimizer.param_groups
        norm = optim.grad_norm(p for group in groups for p in group["params"])
        self._check_finite(loss, norm)
        for group, rate in zip(groups, np.broadcast_to(lr, len(groups)).tolist(), strict=True):
            group["lr"] = rate
        self.optimizer.step(grad_scale=optim.clip_factor(norm, max_norm) if max_norm else 1.0)
        return norm

    def _check_finite(self, loss: float, norm: float) -> None:
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise FloatingPointError(_describe_overflow(self.model, self.steps_done + 1, "loss", loss, self.companion))

    @np.errstate(all="ignore")
    def evaluate(self, batches: int | None = None) -> float:
        """The mean loss of the validation text: all of it, or `batches` batches spread evenly over it."""
        total = targets = 0.0
        with no_grad():
            for batch in self.data.validation_batches(self.config.batch_size, batches):
                loss = self.model.loss(batch.ids, batch.targets, documents=batch.documents)
                total += loss.item() * batch.num_targets
                targets += batch.num_targets
        if not math.isfinite(total):
            raise FloatingPointError(_describe_overflow(self.model, self.steps_done, "validation loss", total))
        return total / targets

    def look(self) -> dict[str, float]:
        """What is measured after a step beside training: the validation loss now and then; at the end, of all text."""
        if self.steps_done == self.config.steps:
            return {"val_loss": self.evaluate()}
        if self.steps_done % self.config.eval_every == 0:
            return {"val_loss": self.evaluate(self.config.eval_batches)}
        return {}

    def run(
        self, on_step: Callable[[dict[str, Any]], None] | None = None, progress: bool = True
    ) -> list[dict[str, Any]]:
        """Train to the end, from wherever the run is; returns the history.

        `on_step` sees each step's metrics, with those of `look` after it. Ctrl-C finishes the step at hand, writes a
        checkpoint and returns; a second one stops at once.
        """
        config = self.config
        with _metrics_file(self) as write, _progress_bar(self, progress) as show, _interruptible() as interrupted:
            while self.steps_done < config.steps and not interrupted():
                metrics = {**self.step(), **self.look()}
                write(metrics)
                self.history.append(metrics)
                if self.steps_done % config.checkpoint_every == 0:
                    self.save()
                show(metrics)
                if on_step is not None:
                    on_step(metrics)
            self.save()
            if self.out is not None and self.steps_done == config.steps and is_whole(self.model):
                self.model.save_pretrained(self.out)
        return self.history

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one or the run has no folder."""
        if self.out is None:
            return
        _claim(self, self.out)
        if _latest_step(self.out) == self.steps_done:
            return
        if bad := _first_not_finite(self.model, "value", self.companion):
            raise FloatingPointError(f"step {self.steps_done}: {bad} is not finite; no checkpoint is written of it")
        if (self.out / "metrics.jsonl").exists():
            checkpoint.sync(self.out / "metrics.jsonl")  # it must not end before the checkpoint does
        checkpoint.save(self.out, self.model, self.optimizer, _record(self), self.config.keep, self.companion)

    def resume(self) -> int:
        """Go on from the newest checkpoint in `out`, if there is one; returns the number of steps done.

        ValueError, naming the field, where it is of another model, other data or another configuration.
        """
        if self.out is None:
            raise ValueError("out: got None, expected the folder of the run to resume")
        checkpoint.clean(self.out)
        newest = checkpoint.latest(self.out)
        if newest is not None:
            saved = checkpoint.read_record(newest)
            _check_same_run(saved, _record(self), newest)
            checkpoint.load(newest, self.model, self.optimizer, self.companion)
            self.steps_done = saved["step"]
        self.history = _truncate_metrics(self.out / "metrics.jsonl", self.steps_done)
        self._owns_out = True
        return self.steps_done


def holds_a_run(folder: Path) -> bool:
    """Whether a folder holds a run or a model, which a new run must not overwrite."""
    return any((folder / name).exists() for name in ("metrics.jsonl", "checkpoints", "config.json"))


def _record(trainer: Trainer) -> dict[str, Any]:
    import tinymoe

    record = {
        "step": trainer.steps_done,
        "version": tinymoe.__version__,
        "data": trainer.data.fingerprint,
        "config": dataclasses.asdict(trainer.config),
        "model": dataclasses.asdict(trainer.model.config),
    }
    return json.loads(json.dumps(record))  # tuples become lists, as they are when it is read back


def _check_same_run(saved: dict[str, Any], here: dict[str, Any], folder: Path) -> None:
    for section in ("model", "config"):
        for field in (field for field in here[section] if field in saved[section]):  # another version may have more
            was, now = saved[section][field], here[section][field]
            if was != now and not (section == "config" and field in _MAY_CHANGE):
                raise ValueError(f"{section} {field}: the checkpoint {folder} has {was!r}, this run {now!r}")
    if saved["data"] != here["data"]:
        raise ValueError(
            f"data: the checkpoint {folder} was trained on other tokens (fingerprint {saved['data'][:12]}, "
            f"this run {here['data'][:12]}): another text, tokenizer or way of packing"
        )


def _check_config(config: TrainConfig) -> None:
    for name in ("steps", "batch_size", "context", "accumulate", "eval_every", "checkpoint_every", "keep"):
        value = getattr(config, name)
        _expect(name, value, isinstance(value, int | np.integer) and bool(value >= 1), "a whole number ≥ 1")
    for name in ("warmup", "seed", "min_lr", "weight_decay", "grad_clip"):
        value = getattr(config, name)
        _expect(name, value, 0 <= value < math.inf, "a number ≥ 0")
    for name in ("beta1", "beta2"):
        _expect(name, getattr(config, name), 0 <= getattr(config, name) < 1, "a number in [0, 1)")
    _expect("cuda_graph", config.cuda_graph, isinstance(config.cuda_graph, bool), "True or False")
    _expect("lr", config.lr, 0 < config.lr < math.inf, "a number > 0")
    _expect("decay", config.decay, config.decay is None or config.decay >= 0, "a number of steps ≥ 0, or None")
    _expect(
        "eval_batches",
        config.eval_batches,
        config.eval_batches is None or config.eval_batches >= 1,
        "a whole number ≥ 1, or None for all",
    )
    _expect("schedule", config.schedule, config.schedule in ("cosine", "wsd", "constant"), "cosine, wsd or constant")
    _expect("decay_shape", config.decay_shape, config.decay_shape in ("linear", "1-sqrt"), "linear or 1-sqrt")


def _expect(name: str, got: Any, ok: bool, expected: str) -> None:
    if not ok:
        raise ValueError(f"{name}: got {got!r}, expected {expected}")


def _check_fits(model: CausalLM, data: TokenData, config: TrainConfig) -> None:
    if data.context != config.context:
        raise ValueError(f"context: the data is cut for {data.context} tokens, the configuration says {config.context}")
    if config.context > model.config.max_position_embeddings:
        raise ValueError(
            f"context: got {config.context}, expected at most the model's "
            f"max_position_embeddings {model.config.max_position_embeddings}"
        )
    if data.max_id >= model.config.vocab_size:
        raise ValueError(
            f"data: holds token id {data.max_id}, expected ids below the model's "
            f"vocabulary size {model.config.vocab_size}"
        )


def _describe_overflow(model: Module, step: int, what: str, loss: float, companion: Module | None = None) -> str:
    found = (_first_not_finite(model, kind, companion) for kind in ("value", "gradient"))
    bad = next(filter(None, found), "none of the parameters")
    return f"step {step}: the {what} is {loss}; first not finite: {bad}; a lower learning rate may help"


def _first_not_finite(model: Module, what: str, companion: Module | None = None) -> str | None:
    others = () if companion is None else companion.named_parameters("companion.")
    for name, p in (*model.named_parameters(), *others):
        array = p.data if what == "value" else p.grad
        if array is not None and not bool(np.isfinite(array).all()):
            return f"the {what} of {name}"
    return None


def _claim(trainer: Trainer, out: Path) -> None:
    """Make the folder of the run, unless it is another run's."""
    if not trainer._owns_out and holds_a_run(out):
        raise FileExistsError(f"out: {out} already holds a run; resume it, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    trainer._owns_out = True


def _latest_step(out: Path) -> int | None:
    newest = checkpoint.latest(out)
    return None if newest is None else int(newest.name.removeprefix("step-"))


@contextmanager
def _metrics_file(trainer: Trainer) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Appends metrics to `out/metrics.jsonl`, each line handed to the system at once."""
    if trainer.out is None:
        yield lambda metrics: None
        return
    _claim(trainer, trainer.out)
    with open(trainer.out / "metrics.jsonl", "a", encoding="utf-8") as file:

        def write(metrics: dict[str, Any]) -> None:
            file.write(json.dumps(metrics) + "\n")
            file.flush()

        yield write


def _truncate_metrics(file: Path, steps: int) -> list[dict[str, Any]]:
    """Drop the lines after `steps`, and a torn last line: they are about to be written again."""
    if not file.exists():
        return []
    try:
        # The last element is what follows the last newline: nothing, or a torn line.
        history = [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]]
    except ValueError as error:
        raise ValueError(f"{file}: it is damaged ({error})") from error
    kept = [metrics for metrics in history if metrics["step"] <= steps]
    write_atomically(file, "".join(json.dumps(metrics) + "\n" for metrics in kept).encode())
    return kept


@contextmanager
def _progress_bar(trainer: Trainer, wanted: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    try:
        from tqdm import tqdm
    except ImportError:
        wanted = False
    if not wanted:
        yield lambda metrics: None
        return
    if sys.platform == "emscripten":
        tqdm.monitor_interval = 0  # it would start a thread, which a browser has not got
    shown: dict[str, str] = {}
    with tqdm(total=trainer.config.steps, initial=trainer.steps_done, unit="step", dynamic_ncols=True) as bar:

        def show(metrics: dict[str, Any]) -> None:
            names = ("loss", "val_loss", "reward", "eval_reward")
            shown.update({name: f"{metrics[name]:.3f}" for name in names if name in metrics})
            bar.set_postfix(shown, refresh=False)
            bar.update()

        yield show


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a flag, so that no step is cut in half: half an update is no state to save."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    flagged = threading.Event()

    def on_interrupt(number: int, frame: Any) -> None:
        flagged.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flagged.is_set
    finally:
        signal.signal(signal.SIGINT, before)
