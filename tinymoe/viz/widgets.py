"""Interactive views. Python holds the data; looking, comparing and replaying happen in the browser, without a kernel.

Each view is an anywidget whose script and style sheet stand in `static/`; nothing is fetched from the web. Where a
view can also train or generate, it does so through a function it is given, and only while a kernel is connected.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import anywidget
import numpy as np
import traitlets as t

from .assets import script, style_sheet
from .data import Generation, Run, Settings, TokenStep, Vocabulary, vocabulary_of

_REFRESH = 0.1  # seconds between pictures of a running loop
_SYNC = 5.0  # seconds between updates that hold the whole of a running curve
_Train = Callable[[Settings], Iterator[Mapping[str, float]]]


class _View(anywidget.AnyWidget):
    """A widget that says "pong" to "ping", so that the page knows whether there is a kernel."""

    title = t.Unicode("").tag(sync=True)

    def __init__(self, **traits: Any):
        super().__init__(**traits)
        self.on_msg(self._receive)

    def _receive(self, _: Any, message: Any, buffers: Any) -> None:
        kind = message.get("kind") if isinstance(message, dict) else None
        if kind == "ping":
            self.send({"kind": "pong"})
        else:
            self._answer(kind, message)

    def _answer(self, kind: str | None, message: dict[str, Any]) -> None:
        """What else a page may ask for."""

    def _work(self, job: Callable[[], None]) -> None:
        """Run a job that calls the reader's code; its exception becomes a message on the page.

        Recent Jupyter answers widgets on a thread of their own. Models must not run on two threads at once, so the
        job waits for the main one, after the cell that is running there.
        """

        def guarded() -> None:
            try:
                job()
            except Exception as error:
                self.send({"kind": "failed", "text": f"{type(error).__name__}: {error}"})

        loop = getattr(getattr(_ipython(), "kernel", None), "io_loop", None)
        if loop is None or threading.current_thread() is threading.main_thread():
            guarded()
        else:
            loop.add_callback(guarded)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._summary()}>"

    def _summary(self) -> str:
        raise NotImplementedError


class _Throttle:
    """True at the first call, and then at most once in `seconds`."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.last = -math.inf

    def __call__(self) -> bool:
        now = time.perf_counter()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def _ipython() -> Any:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()


def _when_cell_ends(callback: Callable[[], None]) -> None:
    shell = _ipython()
    if shell is None:
        return

    def once(*_: Any) -> None:
        shell.events.unregister("post_run_cell", once)
        callback()

    shell.events.register("post_run_cell", once)


class _Curve:
    """One run of a `TrainingCurve`: rows of (step, loss, val_loss, lr), and what the header says of it."""

    COLUMNS = 4

    def __init__(self, name: str, total_steps: int | None):
        self.name, self.total_steps = name, total_steps
        self.rows = array("f")
        self.sent = 0  # rows the page has
        self.tokens_per_s: float | None = None
        self.running = True
        self.began: tuple[float, float] | None = None  # (time, step) of the first row
        self.elapsed = 0.0
        self.steps_per_s: float | None = None

    @property
    def count(self) -> int:
        return len(self.rows) // self.COLUMNS

    def add(self, step: float, loss: float, val_loss: float, lr: float) -> None:
        if self.count and step < self.rows[-self.COLUMNS]:
            raise ValueError(
                f"step: got {step} after {self.rows[-self.COLUMNS]:g} in run {self.name!r}; "
                "steps must not go backwards. Call start(name) to begin a new run"
            )
        self.rows.extend((step, loss, val_loss, lr))
        self.running = True
        now = time.perf_counter()
        if self.began is None:
            self.began = (now, step)
        self.elapsed = now - self.began[0]
        if self.elapsed > 0:
            self.steps_per_s = (step - self.began[1]) / self.elapsed

    def meta(self) -> dict[str, Any]:
        names = ("name", "total_steps", "count", "running", "elapsed", "steps_per_s", "tokens_per_s")
        return {name: getattr(self, name) for name in names}


class TrainingCurve(_View):
    """A loss curve that moves while a model trains, and can be explored afterwards, in a static page too.

    `curve = TrainingCurve(total_steps=2000); display(curve); trainer.run(on_step=curve.on_step)`, or call `add` in a
    loop of your own. `start(name)` begins another run, drawn over the others. `references` are horizontal lines,
    such as {"guessing": math.log(65)}, in nats per token like the losses.
    """

    _esm = script("training")
    _css = style_sheet("common", "chart", "training")
    references = t.Dict().tag(sync=True)
    runs = t.List().tag(sync=True)
    rows = t.Bytes().tag(sync=True)  # all runs' rows one after the other, float32

    def __init__(
        self, title: str = "Training", *, total_steps: int | None = None, references: Mapping[str, float] | None = None
    ):
        super().__init__(title=title, references=dict(references or {}))
        self._curves: dict[str, _Curve] = {}
        self._current: _Curve | None = None
        self._total_steps = total_steps
        self._refresh, self._full = _Throttle(_REFRESH), _Throttle(_SYNC)
        self._waiting = False

    def start(self, name: str, *, total_steps: int | None = None) -> None:
        """Begin a run; what is added from now on belongs to it. A run of the same name is replaced."""
        self.finish()
        self._start(name, total_steps or self._total_steps)

    def add(
        self,
        step: float,
        loss: float | None = None,
        *,
        val_loss: float | None = None,
        lr: float | None = None,
        tokens_per_s: float | None = None,
    ) -> None:
        """Add a step's losses (nats per token), learning rate and speed. The page is updated ten times a second.

        Raises ValueError when steps go backwards: `start` begins a new run.
        """
        curve = self._current or self._start("training", self._total_steps)
        curve.add(step, *(math.nan if value is None else float(value) for value in (loss, val_loss, lr)))
        if tokens_per_s is not None:
            before = curve.tokens_per_s or tokens_per_s
            curve.tokens_per_s = 0.9 * before + 0.1 * float(tokens_per_s)
        if not self._waiting:
            self._waiting = True
            _when_cell_ends(self.finish)
        if self._refresh():
            self._show(curve)

    def on_step(self, metrics: Mapping[str, float]) -> None:
        """Add what `Trainer.run(on_step=…)` reports: step, loss, and val_loss, lr, tokens_per_s where present."""
        optional = {key: metrics[key] for key in ("val_loss", "lr", "tokens_per_s") if key in metrics}
        self.add(metrics["step"], metrics.get("loss"), **optional)

    def finish(self) -> None:
        """Say that the current run has ended, and show all of it. Happens by itself at the end of a notebook's cell."""
        self._waiting = False
        if self._current is not None:
            self._current.running = False
            self._sync()

    def _start(self, name: str, total_steps: int | None) -> _Curve:
        self._current = self._curves[name] = _Curve(name, total_steps)
        self._refresh.last = self._full.last = -math.inf  # a page hears of a new run at once
        return self._current

    def _show(self, curve: _Curve) -> None:
        """Send the new rows only; now and then everything, for pages that were opened later."""
        if self._full():
            self._sync()
            return
        rows = curve.rows[curve.sent * _Curve.COLUMNS :]
        self.send({"kind": "rows", "run": curve.meta(), "from": curve.sent}, [rows.tobytes()])
        curve.sent = curve.count

    def _sync(self) -> None:
        curves = self._curves.values()
        with self.hold_sync():
            self.rows = b"".join(curve.rows.tobytes() for curve in curves)
            self.runs = [curve.meta() for curve in curves]
        for curve in curves:
            curve.sent = curve.count

    def _summary(self) -> str:
        parts = [f"{curve.name!r} {curve.count} steps" for curve in self._curves.values()]
        return ", ".join(parts) or "no steps yet"


class GenerationView(_View):
    """Text appearing token by token, each token with the probabilities it was drawn from.

    `generate(prompt)` yields a `TokenStep` for each new token (see `token_steps`); with a kernel the page has a box for
    prompts that calls it. `recorded` generations can be browsed in any page; what is generated later joins them.
    """

    _esm = script("generation")
    _css = style_sheet("common", "generation")
    callable = t.Bool(False).tag(sync=True)
    recorded = t.List().tag(sync=True)

    def __init__(
        self,
        generate: Callable[[str], Iterator[TokenStep]] | None = None,
        recorded: Sequence[Generation] = (),
        *,
        title: str = "What comes next?",
    ):
        if generate is None and not recorded:
            raise ValueError("GenerationView: got neither `generate` nor `recorded`, expected at least one of them")
        super().__init__(title=title, callable=generate is not None, recorded=[_plain(one) for one in recorded])
        self._generate = generate
        self._stopped = False

    def record(self, prompt: str) -> Generation:
        """Generate now, and keep the result for pages without a kernel."""
        if self._generate is None:
            raise RuntimeError("record: this view was made without `generate`")
        generation = Generation(prompt, list(self._generate(prompt)))
        self.recorded = [*self.recorded, _plain(generation)]
        return generation

    def _answer(self, kind: str | None, message: dict[str, Any]) -> None:
        if kind == "stop":
            self._stopped = True
        elif kind == "generate" and (generate := self._generate) is not None:
            self._stopped = False
            self._work(lambda: self._stream(generate, message["prompt"]))

    def _stream(self, generate: Callable[[str], Iterator[TokenStep]], prompt: str) -> None:
        steps: list[TokenStep] = []
        sent, due = 0, _Throttle(_REFRESH / 2)
        for step in generate(prompt):
            steps.append(step)
            if due():
                self.send({"kind": "steps", "steps": [_plain_step(one) for one in steps[sent:]]})
                sent = len(steps)
            if self._stopped:
                break
        self.send({"kind": "steps", "steps": [_plain_step(one) for one in steps[sent:]]})
        self.recorded = [*self.recorded, _plain(Generation(prompt, steps))]
        self.send({"kind": "done"})

    def _summary(self) -> str:
        prompts = ", ".join(repr(one["prompt"]) for one in self.recorded)
        return f"recorded prompts {prompts}" if prompts else "nothing generated yet"


def _plain(generation: Generation) -> dict[str, Any]:
    return {"prompt": generation.prompt, "steps": [_plain_step(step) for step in generation.steps]}


def _plain_step(step: TokenStep) -> list[Any]:
    text, probability, top = step
    candidates = [[str(other), float(p)] for other, p in top]
    for p in (probability, *(p for _, p in candidates)):
        if not 0 <= p <= 1.0001:
            raise ValueError(f"step {text!r}: got probability {p!r}, expected a number from 0 to 1")
    return [str(text), float(probability), candidates]


class TokenizerView(_View):
    """Any text colored by token, in several vocabularies side by side, and the merges of a word replayed.

    `tokenizers` maps a name to a Tokenizer or a `Vocabulary`; `texts` maps a name, such as a language, to a sample.
    The merging is done in the browser, with the ids that Python gives. `word` is the first to have its merges replayed.
    """

    _esm = script("tokenizer")
    _css = style_sheet("common", "tokenizer")
    tokenizers = t.List().tag(sync=True)
    texts = t.Dict().tag(sync=True)
    text = t.Unicode("").tag(sync=True)
    word = t.Unicode("").tag(sync=True)

    def __init__(
        self, tokenizers: Mapping[str, Any], texts: Mapping[str, str], *, word: str = "", title: str = "Text as tokens"
    ):
        if not tokenizers:
            raise ValueError("tokenizers: got none, expected a mapping from names to tokenizers")
        if not texts:
            raise ValueError("texts: got none, expected a mapping from names to sample texts")
        packed = [_packed(name, tokenizer) for name, tokenizer in tokenizers.items()]
        first = next(iter(texts.values()))
        words = re.findall(r"[^\W\d_]{2,14}", first[:300]) or [""]
        super().__init__(
            title=title, tokenizers=packed, texts=dict(texts), text=first, word=word or max(words, key=len)
        )

    def _summary(self) -> str:
        sizes = ", ".join(f"{one['name']} ({len(one['sizes']) // 2} tokens)" for one in self.tokenizers)
        return f"{sizes}; texts {', '.join(self.texts)}"


def _packed(name: str, tokenizer: Any) -> dict[str, Any]:
    vocabulary = tokenizer if isinstance(tokenizer, Vocabulary) else vocabulary_of(tokenizer)
    return {
        "name": name,
        "tokens": b"".join(vocabulary.tokens),
        "sizes": np.array([len(token) for token in vocabulary.tokens], "<u2").tobytes(),
        "merges": np.array(vocabulary.merges, "<u4").tobytes(),
        "pattern": vocabulary.pattern,
        "special": dict(vocabulary.special_tokens),
        "characters": vocabulary.characters,
        "ignoreMerges": vocabulary.ignore_merges,
        "normalize": vocabulary.normalize,
    }


class GraphView(_View):
    """A computation graph to explore: values forwards, and gradients backwards, one entry of the tape at a time.

    `graph` is {"nodes": […], "output": id}, as `graph_of` makes it; nodes are in the order they were computed, each
    {"id", "op" (None for a leaf), "label", "value", "grad", "inputs": [ids]}, and may have "options" of the operation
    and "constant": True. Scalar graphs of simple operations have sliders that recompute in the browser; others need
    `recompute`, a function from {label of a leaf: new value} to a new graph, and a kernel.
    """

    _esm = script("graph")
    _css = style_sheet("common", "graph")
    graph = t.Dict().tag(sync=True)
    callable = t.Bool(False).tag(sync=True)

    def __init__(
        self,
        graph: Mapping[str, Any],
        *,
        recompute: Callable[[dict[str, float]], Mapping[str, Any]] | None = None,
        title: str = "A computation, forwards and backwards",
    ):
        super().__init__(title=title, graph=_checked_graph(graph), callable=recompute is not None)
        self._recompute = recompute

    def _answer(self, kind: str | None, message: dict[str, Any]) -> None:
        if kind == "recompute" and (recompute := self._recompute) is not None:
            self._work(lambda: setattr(self, "graph", _checked_graph(recompute(message["values"]))))

    def _summary(self) -> str:
        nodes = self.graph["nodes"]
        leaves = sum(node["op"] is None for node in nodes)
        return f"{len(nodes) - leaves} operations on {leaves} leaves"


def _checked_graph(graph: Mapping[str, Any]) -> dict[str, Any]:
    if not graph.get("nodes"):
        raise ValueError("graph: got no nodes, expected {'nodes': [...], 'output': id}")
    nodes: list[dict[str, Any]] = []
    seen: set[str] = set()
    for node in graph["nodes"]:
        name = str(node["id"])
        inputs = [str(source) for source in node.get("inputs", ())]
        if name in seen:
            raise ValueError(f"graph: two nodes have the id {name!r}")
        if unknown := [source for source in inputs if source not in seen]:
            raise ValueError(f"graph: node {name!r} has the input {unknown[0]!r}, which does not stand before it")
        seen.add(name)
        op = node.get("op")
        if (op is None) != (not inputs):
            raise ValueError(f"graph: node {name!r} has op {op!r} and inputs {inputs}; a leaf has neither")
        nodes.append({
            "id": name, "op": op, "label": node.get("label") or "", "value": _json_value(node.get("value")),
            "grad": _json_value(node.get("grad")), "inputs": inputs, "options": dict(node.get("options") or {}),
            "constant": bool(node.get("constant", False)),
        })  # fmt: skip
    output = str(graph.get("output", nodes[-1]["id"]))
    if output not in seen:
        raise ValueError(f"graph: the output {output!r} is not the id of a node")
    return {"nodes": nodes, "output": output}


def _json_value(value: Any) -> Any:
    """Numbers and nested lists of them; JSON has no NaN, so what is not finite becomes None."""
    if value is None:
        return None
    array_ = np.asarray(value, dtype=float)
    return json.loads(json.dumps(array_.tolist()), parse_constant=lambda _: None)


class AttentionView(_View):
    """Attention maps, token by token: choose a head among all of them, point at a query, see the keys it reads.

    `weights` are probabilities (layers, heads, queries, keys), or a list of one array a layer as `model.trace(ids)`
    gives, in which a batch axis of size 1 is allowed. `tokens` are their texts, or bytes. Sent as float16, and only
    the lower triangle where attention is causal. Layers and heads count from 0.
    """

    _esm = script("attention")
    _css = style_sheet("common", "attention")
    tokens = t.List(t.Unicode()).tag(sync=True)
    shape = t.Dict().tag(sync=True)
    weights = t.Bytes().tag(sync=True)
    layer = t.Int(0).tag(sync=True)
    head = t.Int(0).tag(sync=True)

    def __init__(
        self,
        tokens: Sequence[str | bytes],
        weights: Any,
        *,
        layer: int = 0,
        head: int = 0,
        title: str = "Who looks at whom",
    ):
        array_ = _attention_array(weights, len(tokens))
        layers, heads, count, _ = array_.shape
        for name, got, size in (("layer", layer, layers), ("head", head, heads)):
            if not 0 <= got < size:
                raise ValueError(f"{name}: got {got}, expected 0 to {size - 1}")
        lower = np.tril_indices(count)
        causal = not np.triu(array_, 1).any()
        packed = array_[:, :, lower[0], lower[1]] if causal else array_
        super().__init__(
            title=title,
            tokens=[_readable_token(token) for token in tokens],
            shape={"layers": layers, "heads": heads, "causal": causal},
            weights=packed.astype("<f2").tobytes(),
            layer=layer,
            head=head,
        )

    def _summary(self) -> str:
        return f"{self.shape['layers']} layers of {self.shape['heads']} heads over {len(self.tokens)} tokens"


def _readable_token(token: str | bytes) -> str:
    return token if isinstance(token, str) else token.decode("utf-8", errors="replace")


def _attention_array(weights: Any, tokens: int) -> np.ndarray:
    """(layers, heads, tokens, tokens) float32, checked."""
    layers = [np.asarray(layer, dtype=np.float32) for layer in weights]
    layers = [layer[0] if layer.ndim == 4 and len(layer) == 1 else layer for layer in layers]
    shapes = sorted({layer.shape for layer in layers})
    if not layers or len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][1:] != (tokens, tokens):
        raise ValueError(
            f"weights: got layers of shapes {shapes}, expected (heads, {tokens}, {tokens}) in each for {tokens} tokens"
        )
    array_ = np.stack(layers)
    if not np.isfinite(array_).all() or array_.min() < 0 or array_.max() > 1.001:
        raise ValueError("weights: expected probabilities, numbers from 0 to 1")
    return array_


class SchedulePlay(_View):
    """Learning rate, warm-up, schedule and batch size to play with, over recorded runs and new ones.

    `train(settings)` yields each step's metrics (step, loss, and val_loss where it was measured); with a kernel, the
    page has a button that calls it. `record` trains now, for pages without a kernel. The settings of the sliders
    begin at `settings`; `lr_range` bounds the peak rate.
    """

    _esm = script("scheduleplay")
    _css = style_sheet("common", "chart", "scheduleplay")
    settings = t.Dict().tag(sync=True)
    batch_sizes = t.List(t.Int()).tag(sync=True)
    lr_range = t.List(t.Float()).tag(sync=True)
    callable = t.Bool(False).tag(sync=True)
    runs = t.List().tag(sync=True)
    rows = t.Bytes().tag(sync=True)  # all runs' rows (step, loss, val_loss) one after the other, float32

    def __init__(
        self,
        train: _Train | None = None,
        *,
        settings: Settings | None = None,
        batch_sizes: Sequence[int] = (4, 8, 16, 32),
        lr_range: tuple[float, float] = (1e-4, 1e-1),
        recorded: Sequence[Run] = (),
        title: str = "The learning rate's shape",
    ):
        settings = settings or Settings(batch_size=batch_sizes[len(batch_sizes) // 2])
        if settings.batch_size not in batch_sizes:
            raise ValueError(f"settings.batch_size: got {settings.batch_size}, expected one of {list(batch_sizes)}")
        if not 0 < lr_range[0] < lr_range[1]:
            raise ValueError(f"lr_range: got {lr_range}, expected two rates, the smaller one first")
        self._train = train
        self._stopped = False
        super().__init__(
            title=title, settings=dataclasses.asdict(settings), batch_sizes=list(batch_sizes), lr_range=list(lr_range),
            callable=train is not None,
        )  # fmt: skip
        for run in recorded:
            self._keep(run)

    def record(self, settings: Settings) -> Run:
        """Train now and keep the run. A FloatingPointError, as `Trainer` raises, means that it diverged."""
        if self._train is None:
            raise RuntimeError("record: this view was made without `train`")
        run = Run(settings, list(_steps(self._train, settings)))
        self._keep(run)
        return run

    def _keep(self, run: Run) -> None:
        """Add a run; one with the same settings is replaced."""
        settings = dataclasses.asdict(run.settings)
        if settings["steps"] != self.settings["steps"]:
            raise ValueError(f"recorded: got a run of {settings['steps']} steps, expected {self.settings['steps']}")
        rows, start, kept, parts = _rows(run.history), 0, [], []
        for one in self.runs:
            size = one["count"] * rows.itemsize * 3
            if one["settings"] != settings:
                kept.append(one)
                parts.append(self.rows[start : start + size])
            start += size
        with self.hold_sync():
            self.rows = b"".join([*parts, rows.tobytes()])
            self.runs = [*kept, {"settings": settings, "count": len(rows) // 3}]

    def _answer(self, kind: str | None, message: dict[str, Any]) -> None:
        if kind == "stop":
            self._stopped = True
        elif kind == "train" and (train := self._train) is not None:
            self._stopped = False
            wanted = {field.name: message["settings"][field.name] for field in dataclasses.fields(Settings)}
            self._work(lambda: self._stream(train, Settings(**wanted)))

    def _stream(self, train: _Train, settings: Settings) -> None:
        history: list[Mapping[str, float]] = []
        sent, due = 0, _Throttle(_REFRESH)
        for metrics in _steps(train, settings):
            history.append(metrics)
            if due():
                self.send({"kind": "rows"}, [_rows(history[sent:]).tobytes()])
                sent = len(history)
            if self._stopped:
                break
        if not self._stopped:
            self._keep(Run(settings, history))
        self.send({"kind": "done"})

    def _summary(self) -> str:
        return f"{len(self.runs)} recorded runs of {self.settings['steps']} steps"


def _steps(train: _Train, settings: Settings) -> Iterator[Mapping[str, float]]:
    """The metrics that `train` yields, and a loss of NaN where it diverges."""
    step = 0.0
    try:
        for metrics in train(settings):
            step = metrics["step"]
            yield metrics
    except FloatingPointError:
        yield {"step": step + 1, "loss": math.nan}


def _rows(history: Sequence[Mapping[str, float]]) -> array:
    rows = array("f")
    for metrics in history:
        rows.extend((metrics["step"], metrics.get("loss", math.nan), metrics.get("val_loss", math.nan)))
    return rows
