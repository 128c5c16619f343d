"""What the widgets show, as plain data, and how to get it from tokenizers, models and tapes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..backend import current
from ..tensor import OPS, Node, Tensor, Vjp
from ..text.pipeline import Splitter
from ..text.tokenizer import CharTokenizer, Tokenizer


class TokenStep(NamedTuple):
    """One generated token, its probability, and the likeliest candidates at that place as (text, probability)."""

    text: str
    probability: float
    top: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Generation:
    """A prompt and the steps that followed it."""

    prompt: str
    steps: Sequence[TokenStep]


def token_steps(steps: Iterable[Any], tokenizer: Any, top: int = 8) -> Iterator[TokenStep]:
    """Turn the steps of `generate.stream` for one prompt into what `GenerationView` shows.

    Each step has `tokens` (1,) and `probabilities` (1, vocabulary); the tokenizer gives `tokens(ids) -> list[bytes]`.
    """
    for step in steps:
        chosen, probabilities = int(step.tokens[0]), np.asarray(step.probabilities[0])
        best = np.argsort(-probabilities, kind="stable")[:top]
        texts = [_readable(token) for token in tokenizer.tokens([chosen, *best.tolist()])]
        candidates = [(text, float(p)) for text, p in zip(texts[1:], probabilities[best], strict=True) if p > 0]
        yield TokenStep(texts[0], float(probabilities[chosen]), candidates)


def _readable(token: bytes | str) -> str:
    """The text of a token; bytes that are no whole character are written in hexadecimal."""
    if isinstance(token, str):
        return token
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in token)


@dataclass(frozen=True)
class Vocabulary:
    """All that encoding takes: the bytes of each token by id, and the merges by rank as (left, right, result) ids.

    `pattern` is the regular expression that cuts a text into pieces; with `characters`, there are no merges and each
    character is a token. With `ignore_merges`, a piece that is itself a token is taken whole. `normalize` is the
    Unicode normal form applied first, if any.
    """

    tokens: Sequence[bytes]
    merges: Sequence[tuple[int, int, int]] = ()
    pattern: str = ""
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    characters: bool = False
    ignore_merges: bool = False
    normalize: str | None = None

    def __post_init__(self) -> None:
        size = len(self.tokens)
        for rank, merge in enumerate(self.merges):
            if len(merge) != 3 or not all(0 <= part < size for part in merge):
                raise ValueError(f"merges[{rank}]: got {tuple(merge)}, expected three ids below {size}")
            left, right, result = merge
            if self.tokens[left] + self.tokens[right] != self.tokens[result]:
                raise ValueError(
                    f"merges[{rank}]: {self.tokens[left]!r} + {self.tokens[right]!r} is not {self.tokens[result]!r}"
                )
        if not self.characters and not self.pattern:
            raise ValueError("pattern: got none, expected the regular expression that splits a text into pieces")
        if not self.characters:
            missing = set(range(256)) - {token[0] for token in self.tokens if len(token) == 1}
            if missing:
                raise ValueError(
                    f"tokens: no token for {len(missing)} of the 256 bytes, for example {min(missing):#04x}"
                )


@dataclass(frozen=True)
class Settings:
    """One choice of `SchedulePlay`, named as in `TrainConfig`: `TrainConfig(**asdict(settings), context=64)`."""

    lr: float = 1e-3
    warmup: int = 20
    schedule: str = "cosine"  # or "wsd" or "constant"
    batch_size: int = 16
    steps: int = 200
    min_lr: float | None = None  # a tenth of lr unless given

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "cosine", "wsd"):
            raise ValueError(f"schedule: got {self.schedule!r}, expected 'constant', 'cosine' or 'wsd'")
        if not (0 < self.lr < math.inf):
            raise ValueError(f"lr: got {self.lr!r}, expected a number > 0")
        for name, least in (("warmup", 0), ("batch_size", 1), ("steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected a whole number ≥ {least}")
        if self.min_lr is None:
            object.__setattr__(self, "min_lr", self.lr / 10)


@dataclass(frozen=True)
class Run:
    """Settings and the metrics of each step they led to: step, loss, and val_loss where it was measured.

    A run that ended with a loss that is not finite has diverged.
    """

    settings: Settings
    history: Sequence[Mapping[str, float]]


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The `Vocabulary` of a Tokenizer or CharTokenizer.

    Raises ValueError for one whose splitting takes more than a pattern, which the browser would not follow.
    """
    if not isinstance(tokenizer, Tokenizer):
        raise TypeError(f"tokenizer: got {type(tokenizer).__name__}, expected a Tokenizer or a Vocabulary")
    pipeline, characters = tokenizer.pipeline, isinstance(tokenizer, CharTokenizer)
    plain = not any(token.single_word or token.lstrip or token.rstrip for token in pipeline.added_tokens)
    stages = pipeline.stages
    if not plain or not (characters or (len(stages) == 1 and isinstance(stages[0], Splitter) and stages[0].gaps)):
        raise ValueError("tokenizer: it splits text in more ways than by one pattern, which TokenizerView cannot show")
    known = [index for index in range(tokenizer.vocab_size) if tokenizer.id_to_token(index) is not None]
    tokens = dict.fromkeys(range(tokenizer.vocab_size), b"") | dict(zip(known, tokenizer.tokens(known), strict=True))
    merges = [(*pair, result) for pair, (_, result) in tokenizer.ranks.items()]
    return Vocabulary(
        tokens=list(tokens.values()),
        merges=merges,
        pattern="" if characters else stages[0].pattern,
        special_tokens={token.content: token.id for token in pipeline.added_tokens},
        characters=characters,
        ignore_merges=bool(tokenizer.spec["model"].get("ignore_merges")),
        normalize=pipeline.form,
    )


def graph_of(output: Tensor, **names: Tensor) -> dict[str, Any]:
    """The graph that a scalar tensor was computed by, with all gradients, for `GraphView`.

    Compute inside `with keep_tape() as tape:`, so that values in between are kept, and call this before `backward`,
    which releases the graph; `.grad` is left alone. Keywords give tensors the names they are shown by.

    Raises RuntimeError where the graph or its values are gone, ValueError for an output that is not a scalar.
    """
    if output.node is None or output.size != 1:
        raise ValueError(f"output: got a tensor of shape {output.shape}, expected a scalar computed from others")
    tape = _tape(output.node)
    sketch = _Sketch(names, _gradients(tape))
    for node, vjp, result in tape:
        saved = inspect.getclosurevars(vjp).nonlocals if inspect.isfunction(vjp) else {}
        arguments = list(inspect.signature(OPS[node.op]).parameters)[1:]
        inputs = [
            sketch.input(source, saved.get(argument)) for source, argument in zip(node.inputs, arguments, strict=False)
        ]
        options = {"exponent": saved["exponent"]} if "exponent" in saved else {}
        sketch.add(node, node.op, result, inputs=inputs, options=options)
    return {"nodes": sketch.nodes, "output": sketch.nodes[-1]["id"]}


class _Sketch:
    """The entries of a graph for `GraphView`, in the order they are added."""

    def __init__(self, names: Mapping[str, Tensor], grads: Mapping[int, np.ndarray]):
        self.labels = {id(thing): name for name, tensor in names.items() for thing in (tensor, tensor.data)}
        self.grads = grads
        self.nodes: list[dict[str, Any]] = []
        self.known: dict[int, str] = {}

    def add(self, key: Node | Tensor | None, op: str | None, shown: Any, **more: Any) -> str:
        """Add a node, or a leaf where `op` is None; without a `key` it is a constant. Returns its id."""
        name = f"n{len(self.nodes)}"
        if key is not None:
            self.known[id(key)] = name
        values = {"value": _numbers(shown), "grad": _numbers(self.grads.get(id(key)))}
        self.nodes.append(
            {"id": name, "op": op, "label": self.labels.get(id(shown), ""), **values, "inputs": [], **more}
        )
        return name

    def input(self, source: Node | Tensor | None, saved: Any) -> str:
        """The id of an input. Of one that needs no gradient the tape knows only what the vjp saved."""
        if source is None:
            return self.add(None, None, saved, constant=True)
        return self.known.get(id(source)) or self.add(source, None, source)


def _numbers(values: Any) -> Any:
    """A number, or nested lists of them; None stays None."""
    if values is None:
        return None
    return current().to_numpy(values.data if isinstance(values, Tensor) else values).tolist()


def _tape(output: Node) -> list[tuple[Node, Vjp, Tensor]]:
    """The nodes that lead to `output`, oldest first, each with its vjp and its result."""
    found: dict[int, tuple[Node, Vjp, Tensor]] = {}
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node.index in found:
            continue
        vjp, result = node.vjp, node.output()
        if vjp is None:
            raise RuntimeError("output: its graph was released by backward(); call graph_of before it")
        if result is None:
            raise RuntimeError("output: values in between are gone; compute it inside `with keep_tape() as tape:`")
        found[node.index] = node, vjp, result
        waiting += [source for source in node.inputs if isinstance(source, Node)]
    return [found[index] for index in sorted(found)]


def _gradients(tape: list[tuple[Node, Vjp, Tensor]]) -> dict[int, np.ndarray]:
    """Gradients of the last node with respect to every node and leaf, by `id`, without touching any `.grad`."""
    last, _, result = tape[-1]
    grads = {id(last): np.ones_like(result.data)}
    for node, vjp, _ in reversed(tape):
        for source, grad in zip(node.inputs, vjp(grads[id(node)]), strict=True):
            if source is not None and grad is not None:
                grads[id(source)] = grads.get(id(source), 0) + grad
    return grads
