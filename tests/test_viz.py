"""Plots and widgets: what Python sends, what the scripts compute of it (in Node), and how they draw (in a browser)."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget", reason="the widgets need anywidget: pip install anywidget")

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from widget_page import widget_page as _page

from tinymoe import ops, viz
from tinymoe.tensor import Tensor, keep_tape
from tinymoe.text.tokenizer import CharTokenizer, Tokenizer
from tinymoe.train import schedule
from tinymoe.viz import assets, widgets
from tinymoe.viz.data import Generation, Run, Settings, TokenStep, Vocabulary, graph_of, token_steps, vocabulary_of

STATIC = Path(assets.__file__).parent / "static"
SCRIPTS = sorted(path.stem for path in STATIC.glob("*.js"))
WIDGETS = ["attention", "generation", "graph", "scheduleplay", "tokenizer", "training"]
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed, so the scripts cannot be run")

TEXT = "The fox couldn't count: 1, 22, 333, 4444 stones!\n\n  def f(x):\n\treturn x  # été, 中文, 𝒳 🦊\n" * 4
TRICKY = [
    "", " ", "  ", "\n", " \n\n  x", "a  b   c", "\t\ttabs\r\nand\rreturns", "don't DON'T I'LL we'Ve a'ſx b'qx it'S",
    "x\u00a0y\u3000z", "1234567 ½ ² Ⅷ ٣٤٥", "naïve nai\u0308ve", "中文字符，標點。", "हिन्दी में",
    "שלום עולם", "مرحبا بالعالم",
    "👩‍👩‍👧 🇫🇷 🏞️", "\u200b\ufeffzero", "\x00\x1c\x1d\x85\u2028", "<|end|>", "a<|end|><|end|>b <|end",
    "𐍈𝒳", "end.  ", "____--==>>", "ǅ ﬁ ß ẞ K",
]  # fmt: skip


def node(code: str, **data: Any) -> Any:
    """Run a module that may import the scripts and sees `data`; returns what it gives to `answer`."""
    assert NODE is not None
    folder = Path(node.folder)  # type: ignore[attr-defined]
    (folder / "data.json").write_text(json.dumps(data))
    header = (
        'import { readFileSync, writeFileSync } from "node:fs";\n'
        'const data = JSON.parse(readFileSync("data.json"));\n'
        'const answer = (x) => writeFileSync("answer.json", JSON.stringify(x));\n'
    )
    (folder / "main.js").write_text(header + textwrap.dedent(code))
    run = subprocess.run([NODE, "main.js"], cwd=folder, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "answer.json").read_text())


@pytest.fixture(autouse=True)
def _scripts(tmp_path: Path) -> None:
    for file in STATIC.glob("*.js"):
        shutil.copy(file, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    node.folder = tmp_path  # type: ignore[attr-defined]


def sent_by(view: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], list[bytes]]]:
    messages: list[tuple[dict[str, Any], list[bytes]]] = []
    monkeypatch.setattr(view, "send", lambda content, buffers=(): messages.append((content, list(buffers))))
    return messages


def floats(data: bytes, columns: int) -> np.ndarray:
    return np.frombuffer(data, "<f4").reshape(-1, columns)


# The package


def test_importing_tinymoe_and_viz_imports_neither_matplotlib_nor_widgets():
    code = "import sys, tinymoe, tinymoe.viz; print({'matplotlib', 'anywidget', 'ipywidgets'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_every_name_of_viz_can_be_had():
    for name in viz.__all__:
        assert getattr(viz, name).__name__ == name
    assert dir(viz) == sorted(viz.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        viz.nothing  # noqa: B018


def test_scripts_fetch_nothing_from_the_web():
    for file in STATIC.iterdir():
        addresses = re.findall(r"https?://[^\s\"')]+", file.read_text("utf-8"))
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file.name
        assert not re.search(r"@import|\bfetch\(|\bimport\(|from \"(?!\./)", file.read_text("utf-8")), file.name


def test_joined_script_has_each_module_once_and_one_default_export():
    joined = assets.script("scheduleplay")
    assert not re.search(r"^import ", joined, re.MULTILINE)
    assert re.findall(r"^export .*", joined, re.MULTILINE)[-1] == "export default { render };"
    assert joined.count("class LineChart") == joined.count("function card(") == joined.count("const SCHEDULES") == 1
    assert joined.index("function card(") < joined.index("class LineChart") < joined.index("function render(")


@needs_node
@pytest.mark.parametrize("name", SCRIPTS)
def test_script_parses(name: str, tmp_path: Path):
    (tmp_path / "whole.mjs").write_text(assets.script(name))
    for file in (tmp_path / f"{name}.js", tmp_path / "whole.mjs"):
        run = subprocess.run([NODE, "--check", file], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr


# Tokenizer


def _tokenizers() -> dict[str, Tokenizer]:
    trained = {name: Tokenizer.train([TEXT], 330, name, ["<|end|>"]) for name in ("gpt2", "llama3", "qwen2")}
    trained["own"] = Tokenizer.train([TEXT], 300, r"\w+|\W", ["<|end|>", "<|"])
    whole = json.loads(json.dumps(trained["gpt2"].spec))
    whole["model"]["ignore_merges"] = True
    whole["model"]["vocab"]["couldn"] = max(trained["gpt2"].vocab.values()) + 1
    trained["ignore_merges"] = Tokenizer(whole)
    return trained


@needs_node
def test_script_encodes_as_python_does():
    tokenizers = _tokenizers()
    del tokenizers["own"]  # \w differs between the engines
    packed = [_as_json(widgets._packed(name, tokenizer)) for name, tokenizer in tokenizers.items()]
    texts = [*TRICKY, TEXT]
    got = node(
        """
        import { unpack } from "./bpe.js";
        const bytes = (text, Type) => new Type(Uint8Array.from(Buffer.from(text, "base64")).buffer);
        answer(data.packed.map((one) => {
          const types = { tokens: Uint8Array, sizes: Uint16Array, merges: Uint32Array };
          const arrays = Object.entries(types).map(([key, Type]) => [key, bytes(one[key], Type)]);
          const bpe = unpack({ ...one, ...Object.fromEntries(arrays) });
          return data.texts.map((text) => [bpe.encode(text), bpe.split(text).map(([piece, id]) => id ?? piece)]);
        }));
        """,
        packed=packed,
        texts=texts,
    )
    for (name, tokenizer), rows in zip(tokenizers.items(), got, strict=True):
        for text, (ids, pieces) in zip(texts, rows, strict=True):
            parts = [[part] if isinstance(part, int) else part for part in tokenizer.pipeline(text)]
            assert pieces == list(itertools.chain(*parts)), (name, text)
            assert ids == tokenizer.encode(text), (name, text)
    assert len(got[0][-1][0]) < len(TEXT.encode()) / 2  # merges really happened


def _as_json(packed: dict[str, Any]) -> dict[str, Any]:
    return {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in packed.items()}


@needs_node
def test_script_replays_merges_in_the_order_they_apply_and_knows_characters():
    tokens = [*(bytes([b]) for b in range(256)), b"lo", b"ow", b"low"]
    vocabulary = Vocabulary(tokens, [(108, 111, 256), (111, 119, 257), (256, 119, 258)], r"\p{L}+")
    letters = CharTokenizer.train(["abc é"], ["<s>"])
    got = node(
        """
        import { BPE, decode, hex } from "./bpe.js";
        const bpe = new BPE({ ...data.low, tokens: data.low.tokens.map((t) => Uint8Array.from(t)) });
        const letters = new BPE({ ...data.letters, tokens: data.letters.tokens.map((t) => Uint8Array.from(t)) });
        answer({ history: bpe.history("slow"), split: bpe.split("low, low"), letters: letters.encode("<s>aé?"),
          text: [decode(Uint8Array.of(0xc3, 0xa9)), decode(Uint8Array.of(0xc3))], hex: hex(Uint8Array.of(0, 255)) });
        """,
        low=_script_vocabulary(vocabulary),
        letters=_script_vocabulary(vocabulary_of(letters)),
    )
    assert [stage["ids"] for stage in got["history"]] == [[115, 108, 111, 119], [115, 256, 119], [115, 258]]
    assert [(stage["at"], stage["rank"]) for stage in got["history"]] == [(-1, -1), (1, 0), (1, 2)]
    assert got["split"] == [["low", None], [", ", None], ["low", None]]
    assert got["letters"] == [*letters.encode("<s>aé"), -1]
    assert got["text"] == ["é", None] and got["hex"] == "00 ff"


def _script_vocabulary(v: Vocabulary) -> dict[str, Any]:
    return {
        "tokens": [list(token) for token in v.tokens], "merges": [i for merge in v.merges for i in merge],
        "pattern": v.pattern, "special": dict(v.special_tokens), "characters": v.characters,
    }  # fmt: skip


def test_tokenizer_view_holds_vocabularies_as_bytes():
    tokenizer = _tokenizers()["llama3"]
    view = viz.TokenizerView({"small": tokenizer}, {"English": "the longest word wins", "中文": "中文"})
    (packed,) = view.tokenizers
    sizes, merges = np.frombuffer(packed["sizes"], "<u2"), np.frombuffer(packed["merges"], "<u4").reshape(-1, 3)
    assert len(sizes) == tokenizer.vocab_size and packed["tokens"][: sizes[0]] == b"<|end|>"
    left, right, result = tokenizer.tokens(merges[0].tolist())
    assert left + right == result
    assert packed["special"] == {"<|end|>": 0} and not packed["characters"]
    assert view.text == "the longest word wins" and view.word == "longest"
    assert repr(view) == f"<TokenizerView: small ({tokenizer.vocab_size} tokens); texts English, 中文>"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([b"a"], [], "x"), "tokens: no token for 255 of the 256 bytes, for example 0x00"),
        (([bytes([b]) for b in range(256)], [], ""), "pattern: got none"),
        (([b"a", b"b", b"ab"], [(0, 1, 3)], "x"), r"merges\[0\]: got \(0, 1, 3\), expected three ids below 3"),
        (([b"a", b"b", b"ab"], [(1, 0, 2)], "x"), r"merges\[0\]: b'b' \+ b'a' is not b'ab'"),
    ],
)
def test_vocabulary_names_what_is_wrong(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        Vocabulary(*arguments)


def test_what_the_tokenizer_view_cannot_show_is_refused():
    with pytest.raises(TypeError, match="tokenizer: got int"):
        vocabulary_of(3)  # type: ignore[arg-type]
    tokenizer = _tokenizers()["gpt2"]
    tokenizer.pipeline.stages = (str.split, *tokenizer.pipeline.stages)
    with pytest.raises(ValueError, match="splits text in more ways"):
        vocabulary_of(tokenizer)
    with pytest.raises(ValueError, match="tokenizers: got none"):
        viz.TokenizerView({}, {"a": "b"})
    with pytest.raises(ValueError, match="texts: got none"):
        viz.TokenizerView({"a": CharTokenizer.train(["a"])}, {})


# Graph


def _graph(x: float = 1.5, w: float = -0.7) -> tuple[dict[str, Any], dict[str, Tensor], Tensor]:
    """A graph through every operation that the browser knows."""
    leaves = {
        "x": Tensor(x, requires_grad=True),
        "w": Tensor(w, requires_grad=True),
        "b": Tensor(0.4, requires_grad=True),
    }
    a, b, c = leaves.values()
    with keep_tape() as tape:
        z = a * b + c
        y = (2 - z.tanh()) / (1 + (z * z).exp()) - (-b).sigmoid() * ops.silu(a)
        out = y**2 + (y * y + 0.5).log() + (a - 1).relu() * 3.0
        graph = graph_of(out, **leaves, z=z, out=out)
    assert len(tape) > 15
    return graph, leaves, out


def test_graph_of_gives_values_names_and_gradients_and_touches_nothing():
    graph, leaves, out = _graph()
    nodes = {node["label"]: node for node in graph["nodes"] if node["label"]}
    assert graph["output"] == nodes["out"]["id"] == graph["nodes"][-1]["id"]
    assert nodes["out"]["value"] == out.item() and nodes["out"]["grad"] == 1
    assert all(tensor.grad is None for tensor in leaves.values())
    out.backward()  # the graph is still there
    for name, tensor in leaves.items():
        assert nodes[name]["op"] is None and nodes[name]["value"] == pytest.approx(tensor.item())
        assert nodes[name]["grad"] == pytest.approx(tensor.grad)
    constants = sorted(node["value"] for node in graph["nodes"] if node.get("constant"))
    assert constants == [0.5, 1, 1, 2, 3]
    assert [node["options"] for node in graph["nodes"] if node["op"] == "power"] == [{"exponent": 2}]


def test_graph_of_names_a_constant_tensor_and_shows_arrays():
    x, w = Tensor([[1.0, 2.0]]), Tensor([[3.0], [4.0]], requires_grad=True)
    with keep_tape() as tape:
        graph = graph_of((x @ w).sum(), x=x, w=w)
    assert len(tape) == 2
    first, second, product, total = graph["nodes"]
    assert first == {
        "id": "n0",
        "op": None,
        "label": "x",
        "value": [[1, 2]],
        "grad": None,
        "inputs": [],
        "constant": True,
    }
    assert second["grad"] == [[1], [2]] and product["value"] == [[11]] and total["value"] == 11


def test_graph_of_says_why_it_cannot():
    w = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"output: got a tensor of shape \(2,\), expected a scalar"):
        graph_of(w * 2)
    with pytest.raises(ValueError, match="expected a scalar computed from others"):
        graph_of(Tensor(1.0, requires_grad=True))
    with pytest.raises(RuntimeError, match="values in between are gone"):
        graph_of((w * 2).sum())
    with keep_tape() as tape:
        loss = (w * 2).sum()
    loss.backward()
    assert tape
    with pytest.raises(RuntimeError, match="released by backward"):
        graph_of(loss)


@needs_node
def test_script_computes_the_same_values_and_gradients_after_inputs_change():
    graph, _, _ = _graph()
    changed, _, _ = _graph(x=0.3, w=1.1)
    got = node(
        """
        import { backward, computable, forward, reverseOrder } from "./scalar.js";
        const index = new Map(data.graph.nodes.map((node, i) => [node.id, i]));
        const nodes = data.graph.nodes.map((node) => ({ ...node, inputs: node.inputs.map((id) => index.get(id)) }));
        const known = computable(nodes);
        for (const node of nodes) if (node.label in data.values) node.value = data.values[node.label];
        forward(nodes);
        backward(nodes, nodes.length - 1);
        answer({ known, values: nodes.map((n) => n.value), grads: nodes.map((n) => n.grad),
          order: reverseOrder(nodes, nodes.length - 1),
          array: computable([{ op: null, value: [1] }]),
          unknown: computable([{ op: "matmul", value: 1, inputs: [] }]) });
        """,
        graph=graph,
        values={"x": 0.3, "w": 1.1},
    )
    assert got["known"] and not got["array"] and not got["unknown"]
    assert got["values"] == pytest.approx([node["value"] for node in changed["nodes"]], rel=1e-4, abs=1e-5)
    trained = [i for i, node in enumerate(changed["nodes"]) if not node.get("constant")]
    assert [got["grads"][i] for i in trained] == pytest.approx(
        [changed["nodes"][i]["grad"] for i in trained], rel=1e-4, abs=1e-5
    )
    operations = [i for i, node in enumerate(graph["nodes"]) if node["op"]]
    assert got["order"] == operations[::-1]


@needs_node
def test_layout_puts_inputs_left_of_their_users_and_nothing_on_top_of_another():
    graph, _, _ = _graph()
    index = {node["id"]: i for i, node in enumerate(graph["nodes"])}
    nodes = [{"inputs": [index[source] for source in node["inputs"]]} for node in graph["nodes"]]
    got = node(
        """
        import { layered } from "./layout.js";
        const plan = layered(data.nodes, { columnGap: 100, rowGap: 80 });
        answer({ ...plan, routes: [...plan.routes] });
        """,
        nodes=nodes,
    )
    spots = [(spot["x"], spot["y"]) for spot in got["spots"]]
    for user, entry in enumerate(nodes):
        assert all(spots[source][0] < spots[user][0] for source in entry["inputs"])
    for i, (x, y) in enumerate(spots):
        assert 0 <= x <= got["width"] and 0 <= y <= got["height"]
        assert all(x != other_x or abs(y - other_y) >= 79.9 for other_x, other_y in spots[:i])
    assert len(got["routes"]) == sum(len(entry["inputs"]) for entry in nodes)
    for _, points in got["routes"]:
        assert all(q["x"] - p["x"] == 100 for p, q in itertools.pairwise(points))


def _leaf(name: str, value: Any = 1.0) -> dict[str, Any]:
    return {"id": name, "op": None, "value": value, "inputs": []}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"nodes": []}, "graph: got no nodes"),
        ({"nodes": [_leaf("a"), _leaf("a")]}, "two nodes have the id 'a'"),
        ({"nodes": [{"id": "b", "op": "neg", "inputs": ["a"]}, _leaf("a")]}, "'b' has the input 'a', which does not"),
        ({"nodes": [{"id": "b", "op": "neg", "inputs": []}]}, "a leaf has neither"),
        ({"nodes": [_leaf("a")], "output": "z"}, "the output 'z' is not the id of a node"),
    ],
)  # fmt: skip
def test_graph_view_names_what_is_wrong(graph: dict, message: str):
    with pytest.raises(ValueError, match=message):
        viz.GraphView(graph)


def test_graph_view_recomputes_through_python(monkeypatch: pytest.MonkeyPatch):
    def recompute(values: dict[str, float]) -> dict[str, Any]:
        return {"nodes": [_leaf("a", values["a"])]}

    view = viz.GraphView({"nodes": [_leaf("a", np.array([1, np.nan]))]}, recompute=recompute)
    assert view.graph["nodes"][0]["value"] == [1, None] and view.callable
    messages = sent_by(view, monkeypatch)
    view._receive(view, {"kind": "recompute", "values": {"a": 5.0}}, [])
    assert view.graph["nodes"][0]["value"] == 5
    view._receive(view, {"kind": "recompute", "values": {}}, [])
    assert messages == [({"kind": "failed", "text": "KeyError: 'a'"}, [])]
    assert repr(viz.GraphView(_graph()[0])) == "<GraphView: 22 operations on 8 leaves>"


# Training curves


def test_training_curve_holds_all_rows_and_sends_new_ones_ten_times_a_second(monkeypatch: pytest.MonkeyPatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(widgets, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    curve = viz.TrainingCurve(total_steps=300, references={"guessing": 4.2})
    messages = sent_by(curve, monkeypatch)
    for step in range(1, 301):
        clock.now += 0.01
        curve.on_step({"step": step, "loss": 3 / step, "lr": 1e-3, "tokens_per_s": 5000.0, "grad_norm": 1.0}
                      | ({"val_loss": 0.5} if step == 300 else {}))  # fmt: skip
    assert 26 <= len(messages) <= 30  # in 3 seconds
    meta, (data,) = messages[0][0], messages[0][1]
    assert meta["from"] == 1 and meta["run"]["running"]
    assert floats(data, 4)[0, 0] == 2
    assert curve.runs[0]["count"] == 1  # the page has the rest from messages
    curve.finish()
    (run,) = curve.runs
    rows = floats(curve.rows, 4)
    assert run["count"] == 300 and not run["running"] and run["tokens_per_s"] == pytest.approx(5000)
    assert run["elapsed"] == pytest.approx(2.99) and run["steps_per_s"] == pytest.approx(100)
    np.testing.assert_allclose(rows[:, 0], np.arange(1, 301))
    np.testing.assert_allclose(rows[:, 1], 3 / np.arange(1, 301), rtol=1e-6)
    assert np.isnan(rows[:-1, 2]).all() and rows[-1, 2] == 0.5
    assert repr(curve) == "<TrainingCurve: 'training' 300 steps>"


def test_training_curve_overlays_runs_and_replaces_one_of_the_same_name():
    curve = viz.TrainingCurve()
    assert repr(curve) == "<TrainingCurve: no steps yet>"
    curve.finish()
    for name, steps in (("a", 3), ("b", 2), ("a", 1)):
        curve.start(name, total_steps=steps)
        for step in range(steps):
            curve.add(step, 1.0)
            assert curve.runs[-1 if name == "b" else 0]["running"]
    curve.finish()
    assert [(run["name"], run["count"], run["total_steps"]) for run in curve.runs] == [("a", 1, 1), ("b", 2, 2)]
    assert len(floats(curve.rows, 4)) == 3


def test_training_curve_refuses_steps_that_go_backwards():
    curve = viz.TrainingCurve()
    curve.add(5, 1.0)
    with pytest.raises(ValueError, match=r"step: got 4 after 5 in run 'training'.*start\(name\)"):
        curve.add(4, 1.0)


def test_training_curve_is_complete_when_the_cell_ends(monkeypatch: pytest.MonkeyPatch):
    hooks: list[Any] = []
    events = SimpleNamespace(register=lambda _, f: hooks.append(f), unregister=lambda _, f: hooks.remove(f))
    monkeypatch.setattr(widgets, "_ipython", lambda: SimpleNamespace(events=events))
    curve = viz.TrainingCurve()
    for step in range(50):
        curve.add(step, 1.0)
    assert len(hooks) == 1 and curve.runs[0]["running"]
    hooks[0](None)
    assert curve.runs[0]["count"] == 50 and not curve.runs[0]["running"] and not hooks
    curve.add(50, 1.0)  # a later cell goes on
    curve._sync()
    assert curve.runs[0]["running"] and len(hooks) == 1


@needs_node
def test_script_reads_training_rows():
    nan = float("nan")
    rows = np.array([[1, 4, nan, 0.1], [2, 3, 3.5, 0.2], [3, nan, nan, 0.3], [1, 9, nan, nan]], "<f4")
    got = node(
        """
        import { columns, split } from "./training.js";
        const rows = new Float32Array(Uint8Array.from(Buffer.from(data.rows, "base64")).buffer);
        const plain = ({ x, y }) => [[...x], [...y]];
        answer(split(data.runs, rows).map((run) => {
          const { loss, val, lr, last } = columns(run.rows);
          return { name: run.name, loss: plain(loss), val: plain(val), lr: plain(lr), last };
        }));
        """,
        rows=base64.b64encode(rows.tobytes()).decode(),
        runs=[{"name": "a", "count": 3}, {"name": "b", "count": 1}],
    )
    assert got[0]["loss"] == [[1, 2], [4, 3]] and got[0]["val"] == [[2], [3.5]] and got[0]["last"] == 3
    assert got[0]["lr"][1] == pytest.approx([0.1, 0.2, 0.3])
    assert got[1] == {"name": "b", "loss": [[1], [9]], "val": [[], []], "lr": [[], []], "last": 1}


@needs_node
def test_script_draws_axes_and_lines():
    got = node("""
        import { nearest, path, smooth, ticks } from "./chart.js";
        const line = Array.from({ length: 5000 }, (_, i) => i);
        const same = (x) => x;
        answer({
          ticks: [ticks(0, 1, 5), ticks(0.93, 4.4, 4), ticks(0, 2000, 9), ticks(3, 3, 4)],
          nearest: [nearest([1, 5, 9], 6), nearest([1, 5, 9], 8), nearest([1], 4)],
          gap: path([0, 1, 2, 3], [1, NaN, 2, 3], same, same),
          dense: path(line, line.map((i) => (i === 2500 ? 99 : i % 2)), (x) => x / 50, same),
          smooth: [...smooth([8, 4, 2, 1, 1, 1, 1, 1, 9], 2)],
        });
    """)
    assert got["ticks"] == [[0, 0.2, 0.4, 0.6, 0.8, 1], [1, 2, 3, 4], list(range(0, 2001, 200)), [3]]
    assert got["nearest"] == [1, 2, 0]
    assert got["gap"] == "M0.0 1.0M2.0 2.0L3.0 3.0"
    assert "L50.0 99.0" in got["dense"] and got["dense"].count("L") < 210  # a spike survives thinning
    assert got["smooth"] == pytest.approx([8, 4, 2, 1, 1, 1, 1, (1 + 1 + 9) / 3, (1 + 1 + 9) / 3])


@needs_node
def test_script_writes_numbers_for_people():
    got = node("""
        import { duration, fixed, formatRate, number, percent, short, visible } from "./common.js";
        answer([
          number(-0.5), number(1234567), number(0.00012), number(NaN), number(2), fixed(-1.23456, 2),
          formatRate(3e-4), formatRate(0.25), percent(0.5), percent(0.0123), percent(0.00001),
          short(61234), short(3.2e6), short(7.25), duration(7), duration(65), duration(7800),
          visible(" a\\n\\t\\u0000"),
        ]);
    """)
    assert got == [
        "−0.5", "1.23e6", "1.2e−4", "NaN", "2", "−1.23", "3e−4", "0.25",
        "50 %", "1.2 %", "< 0.1 %", "61k", "3.2M", "7.3", "7 s", "1 min 05 s", "2 h 10 min", "·a↵→␀",
    ]  # fmt: skip


# Generation


def _steps(prompt: str) -> list[TokenStep]:
    return [TokenStep(f" {word}", 0.5, [(f" {word}", 0.5), (" or", 0.25)]) for word in prompt.split()]


def test_generation_view_streams_tokens_and_keeps_what_was_generated(monkeypatch: pytest.MonkeyPatch):
    view = viz.GenerationView(lambda prompt: iter(_steps(prompt)), [Generation("old", _steps("a"))])
    messages = sent_by(view, monkeypatch)
    view._receive(view, {"kind": "ping"}, [])
    view._receive(view, {"kind": "generate", "prompt": "b c d"}, [])
    view._receive(view, "nonsense", [])
    kinds = [content["kind"] for content, _ in messages]
    assert kinds[0] == "pong" and kinds[-1] == "done" and set(kinds[1:-1]) == {"steps"}
    assert [step for content, _ in messages[1:-1] for step in content["steps"]] == view.recorded[1]["steps"]
    assert view.recorded[1]["steps"][0] == [" b", 0.5, [[" b", 0.5], [" or", 0.25]]]
    assert view.record("e").steps == _steps("e")
    assert repr(view) == "<GenerationView: recorded prompts 'old', 'b c d', 'e'>"


def test_generation_view_stops_and_tells_of_errors(monkeypatch: pytest.MonkeyPatch):
    def generate(prompt: str):
        if prompt == "bad":
            raise ValueError("prompt: too bad")
        for step in _steps(prompt):
            yield step
            view._receive(view, {"kind": "stop"}, [])

    view = viz.GenerationView(generate)
    assert repr(view) == "<GenerationView: nothing generated yet>"
    messages = sent_by(view, monkeypatch)
    view._receive(view, {"kind": "generate", "prompt": "a b c d"}, [])
    assert len(view.recorded[0]["steps"]) == 2 and messages[-1][0] == {"kind": "done"}
    view._receive(view, {"kind": "generate", "prompt": "bad"}, [])
    assert messages[-1][0] == {"kind": "failed", "text": "ValueError: prompt: too bad"}


def test_work_asked_for_on_another_thread_runs_on_the_main_one(monkeypatch: pytest.MonkeyPatch):
    waiting: list[Any] = []
    kernel = SimpleNamespace(io_loop=SimpleNamespace(add_callback=waiting.append))
    monkeypatch.setattr(widgets, "_ipython", lambda: SimpleNamespace(kernel=kernel))
    view = viz.GenerationView(lambda prompt: iter(_steps(prompt)))
    sent_by(view, monkeypatch)
    thread = threading.Thread(target=view._receive, args=(view, {"kind": "generate", "prompt": "a"}, []))
    thread.start()
    thread.join()
    assert not view.recorded and len(waiting) == 1
    waiting[0]()
    assert len(view.recorded) == 1


def test_generation_view_names_what_is_wrong():
    with pytest.raises(ValueError, match="neither `generate` nor `recorded`"):
        viz.GenerationView()
    with pytest.raises(ValueError, match=r"step ' a': got probability 1\.5"):
        viz.GenerationView(recorded=[Generation("x", [TokenStep(" a", 1.5, [])])])
    with pytest.raises(RuntimeError, match="record: this view was made without `generate`"):
        viz.GenerationView(recorded=[Generation("x", _steps("a"))]).record("b")


def test_token_steps_take_the_likeliest_candidates_and_write_out_broken_characters():
    probabilities = np.array([[0.1, 0.6, 0.3, 0.0]])
    steps = [SimpleNamespace(tokens=np.array([2]), probabilities=probabilities)]
    tokenizer = SimpleNamespace(tokens=lambda ids: [[b" a", b"b", b"\xe4\xb8", b"d"][i] for i in ids])
    (step,) = token_steps(steps, tokenizer, top=3)
    assert step == TokenStep("\\xe4\\xb8", 0.3, [("b", 0.6), ("\\xe4\\xb8", 0.3), (" a", 0.1)])


# Attention


def _weights(layers: int, heads: int, tokens: int, causal: bool = True) -> np.ndarray:
    weights = np.random.default_rng(0).random((layers, heads, tokens, tokens))
    weights = np.tril(weights) if causal else weights
    return weights / weights.sum(-1, keepdims=True)


@needs_node
@pytest.mark.parametrize("causal", [True, False])
def test_script_reads_attention_rows_and_pictures(causal: bool):
    weights = _weights(2, 3, 5, causal)
    view = viz.AttentionView(list("abcde"), weights, layer=1, head=2)
    assert len(view.weights) == 2 * 2 * 3 * (15 if causal else 25)
    got = node(
        """
        import { Maps, strongest } from "./attentiondata.js";
        const bits = new Uint16Array(Uint8Array.from(Buffer.from(data.weights, "base64")).buffer);
        const maps = new Maps(bits, { ...data.shape, tokens: 5 });
        const row = maps.row(1, 2, 3);
        answer({ row: [...row], best: strongest(row, 2), whole: [...maps.picture(1, 2, 5)],
          small: [...maps.picture(0, 1, 2)] });
        """,
        weights=base64.b64encode(view.weights).decode(),
        shape=view.shape,
    )
    expected = weights[1, 2, 3, : 4 if causal else 5]
    assert got["row"] == pytest.approx(expected, rel=1e-3)
    assert [key for key, _ in got["best"]] == np.argsort(-expected)[:2].tolist()
    np.testing.assert_allclose(np.reshape(got["whole"], (5, 5)), 255 * np.sqrt(weights[1, 2]), atol=0.6)
    blocks = [[weights[0, 1, a:b, c:d].max() for c, d in ((0, 3), (3, 5))] for a, b in ((0, 3), (3, 5))]
    np.testing.assert_allclose(np.reshape(got["small"], (2, 2)), 255 * np.sqrt(blocks), atol=0.6)


@needs_node
def test_script_knows_all_half_floats():
    got = node("""
        import { halves } from "./attentiondata.js";
        answer([...halves()].map((x) => (Number.isFinite(x) ? x : null)));
    """)
    with np.errstate(invalid="ignore"):
        expected = np.arange(65536, dtype=np.uint16).view(np.float16).astype(float)
    assert got == [x if math.isfinite(x) else None for x in expected.tolist()]


def test_attention_view_takes_what_trace_gives():
    weights = _weights(2, 3, 4)
    view = viz.AttentionView([b"\xe4\xb8", " a", "b", "c"], [layer[None] for layer in weights])
    assert view.tokens[0] == "\ufffd" and view.shape == {"layers": 2, "heads": 3, "causal": True}
    assert repr(view) == "<AttentionView: 2 layers of 3 heads over 4 tokens>"


@pytest.mark.parametrize(
    ("weights", "more", "message"),
    [
        (np.ones((1, 1, 3, 3)) / 3, {}, r"weights: got layers of shapes \[\(1, 3, 3\)\], expected \(heads, 2, 2\)"),
        ([], {}, r"weights: got layers of shapes \[\]"),
        (np.full((1, 1, 2, 2), 2.0), {}, "weights: expected probabilities"),
        (np.full((1, 1, 2, 2), np.nan), {}, "weights: expected probabilities"),
        (np.eye(2)[None, None], {"layer": 1}, "layer: got 1, expected 0 to 0"),
        (np.eye(2)[None, None], {"head": -1}, "head: got -1, expected 0 to 0"),
    ],
)
def test_attention_view_names_what_is_wrong(weights: Any, more: dict, message: str):
    with pytest.raises(ValueError, match=message):
        viz.AttentionView(["a", "b"], weights, **more)


# Schedules


def _train(settings: Settings):
    for step in range(1, settings.steps + 1):
        if settings.lr > 0.05 and step == 3:
            raise FloatingPointError("step 3: the loss is nan")
        yield {"step": step, "loss": 4.0 - step * settings.lr} | ({"val_loss": 3.0} if step == settings.steps else {})


@needs_node
@pytest.mark.parametrize("warmup", [0, 7])
def test_script_has_the_schedules_of_the_package(warmup: int):
    common = {"lr": 0.003, "warmup": warmup}
    expected = {
        "constant": lambda step: schedule.constant(step, **common),
        "cosine": lambda step: schedule.cosine(step, steps=50, min_lr=0.0003, **common),
        "wsd": lambda step: schedule.warmup_stable_decay(step, steps=50, decay=10, min_lr=0.0003, **common),
    }
    settings = [asdict(Settings(**common, schedule=name, steps=50)) | {"decay": 10} for name in expected]
    got = node(
        'import { rates } from "./schedule.js"; answer(data.settings.map((s) => [...rates(s)]));', settings=settings
    )
    for rates, rate in zip(got, expected.values(), strict=True):
        assert rates == pytest.approx([rate(step) for step in range(50)], rel=1e-5)


def test_schedule_play_keeps_recorded_runs_and_replaces_equal_settings():
    play = viz.SchedulePlay(_train, settings=Settings(steps=4, batch_size=8))
    for lr in (1e-3, 1e-2, 0.1, 1e-3):
        play.record(Settings(lr=lr, steps=4))
    assert [run["settings"]["lr"] for run in play.runs] == [1e-2, 0.1, 1e-3]
    assert [run["count"] for run in play.runs] == [4, 3, 4]
    rows = floats(play.rows, 3)
    assert rows[3].tolist() == pytest.approx([4, 3.96, 3.0])
    assert rows[6, 0] == 3 and np.isnan(rows[6, 1])  # diverged
    again = viz.SchedulePlay(
        settings=Settings(steps=4), recorded=[Run(Settings(steps=4), list(_train(Settings(steps=4))))]
    )
    assert again.runs[0]["count"] == 4 and not again.callable
    assert repr(play) == "<SchedulePlay: 3 recorded runs of 4 steps>"


def test_schedule_play_trains_when_the_page_asks(monkeypatch: pytest.MonkeyPatch):
    play = viz.SchedulePlay(_train, settings=Settings(steps=4))
    messages = sent_by(play, monkeypatch)
    wanted = asdict(Settings(lr=2e-3, steps=4, min_lr=0.0))
    play._receive(play, {"kind": "train", "settings": wanted}, [])
    assert messages[-1] == ({"kind": "done"}, []) and messages[0][0] == {"kind": "rows"}
    assert play.runs == [{"settings": wanted, "count": 4}]

    def train_and_stop(settings: Settings):
        for metrics in _train(settings):
            yield metrics
            play._receive(play, {"kind": "stop"}, [])

    play._train = train_and_stop
    play._receive(play, {"kind": "train", "settings": wanted | {"lr": 5e-3}}, [])
    assert len(play.runs) == 1  # half a run is not kept
    play._receive(play, {"kind": "train", "settings": wanted | {"lr": -1.0}}, [])
    assert messages[-1][0] == {"kind": "failed", "text": "ValueError: lr: got -1.0, expected a number > 0"}


@needs_node
def test_script_sees_how_a_run_ended():
    rows = np.array([[1, 4, np.nan], [2, 3, 3.2], [3, 2, np.nan], [1, 4, np.nan], [2, np.nan, np.nan]], "<f4")
    got = node(
        """
        import { unpackRun } from "./scheduleplay.js";
        const rows = new Float32Array(Uint8Array.from(Buffer.from(data.rows, "base64")).buffer);
        const good = unpackRun({ settings: {}, count: 3 }, rows.subarray(0, 9));
        const bad = unpackRun({ settings: {}, count: 2 }, rows.subarray(9));
        answer({ end: good.end, val: [...good.val.y], loss: [...good.loss.x], diverged: bad.end === Infinity });
        """,
        rows=base64.b64encode(rows.tobytes()).decode(),
    )
    assert got == {"end": pytest.approx(3.2), "val": [pytest.approx(3.2)], "loss": [1, 2, 3], "diverged": True}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Settings(schedule="steps"), "schedule: got 'steps', expected 'constant', 'cosine' or 'wsd'"),
        (lambda: Settings(lr=0.0), "lr: got 0.0, expected a number > 0"),
        (lambda: Settings(warmup=-1), "warmup: got -1, expected a whole number ≥ 0"),
        (lambda: Settings(steps=0), "steps: got 0, expected a whole number ≥ 1"),
        (
            lambda: viz.SchedulePlay(settings=Settings(batch_size=3)),
            r"settings.batch_size: got 3, expected one of \[4, 8",
        ),
        (lambda: viz.SchedulePlay(lr_range=(1, 0.1)), r"lr_range: got \(1, 0.1\), expected two rates"),
        (
            lambda: viz.SchedulePlay(recorded=[Run(Settings(steps=7), [])]),
            "recorded: got a run of 7 steps, expected 200",
        ),
    ],
)
def test_schedule_play_names_what_is_wrong(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(RuntimeError, match="made without `train`"):
        viz.SchedulePlay().record(Settings())


# In a browser


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="drawing is tested with playwright, which is not installed"
    )
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("drawing is tested in Chromium, which is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def _all_views() -> dict[str, Any]:
    curve = viz.TrainingCurve("Curves", total_steps=40)
    for name in ("first", "second"):
        curve.start(name)
        for step in range(1, 41):
            curve.add(step, 4 / step, val_loss=5 / step if step % 10 == 0 else None, lr=1e-3)
    curve.finish()
    play = viz.SchedulePlay(_train, settings=Settings(steps=20, lr=1e-3, batch_size=8))
    for lr in (1e-3, 1e-2, 0.1):
        play.record(Settings(lr=lr, steps=20, batch_size=8))
    tokenizers = {"gpt2": _tokenizers()["gpt2"], "letters": CharTokenizer.train([TEXT])}
    texts = {"English": "The fox couldn't count ☃", "Code": "def f(x):"}
    recorded = [Generation("Once", _steps("upon a time")), Generation("Two", _steps("b"))]

    def generate(prompt: str):
        return iter(_steps(prompt))

    return {
        "training": curve,
        "generation": viz.GenerationView(generate, recorded),
        "tokenizer": viz.TokenizerView(tokenizers, texts, word="count"),
        "graph": viz.GraphView(_graph()[0]),
        "attention": viz.AttentionView([" a", "b", "\n", " c"], _weights(2, 3, 4)),
        "scheduleplay": play,
    }  # fmt: skip


def test_every_widget_is_alive_in_a_page_without_a_kernel(chromium: Any, tmp_path: Path):
    (tmp_path / "page.html").write_text(_page(_all_views()), encoding="utf-8")
    page = chromium.new_page(viewport={"width": 900, "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("window.ready && document.querySelectorAll('#attention .tm-bars li').length", timeout=20_000)
    page.wait_for_timeout(300)

    training = page.locator("#training")
    assert training.locator("dd").all_inner_texts()[:2] == ["40 / 40", "0.100"]
    training.locator(".tm-chart").first.focus()
    page.keyboard.press("ArrowLeft")
    assert training.locator(".tm-tip").first.inner_text().startswith("step 40")
    lines = training.locator(".tm-mark-line").count()
    training.locator(".tm-chip").first.click()
    page.wait_for_timeout(100)
    assert training.locator(".tm-mark-line").count() == lines - 2  # the run's loss and its rate

    generation = page.locator("#generation")
    assert "recorded" in generation.locator(".tm-badge").inner_text() and generation.locator(".tm-form").is_hidden()
    generation.locator(".tm-text").focus()
    page.keyboard.press("ArrowRight")
    assert "·a was drawn with probability 50 %" in generation.locator("h4").inner_text()
    page.evaluate("models.generation.emit('msg:custom', { kind: 'pong' })")
    generation.locator("input").fill("Hi")
    page.keyboard.press("Enter")
    assert page.evaluate("models.generation.sent.at(-1)") == {"kind": "generate", "prompt": "Hi"}
    page.evaluate("models.generation.emit('msg:custom', { kind: 'steps', steps: [[' you', 0.9, [[' you', 0.9]]]] })")
    page.evaluate("models.generation.emit('msg:custom', { kind: 'failed', text: 'no more' })")
    page.wait_for_timeout(200)
    assert generation.locator(".tm-piece").count() == 1 and "no more" in generation.locator(".tm-hint").inner_text()

    tokenizer = page.locator("#tokenizer")
    tokenizer.locator("textarea").fill("xé☃")
    page.wait_for_timeout(150)
    assert tokenizer.locator(".tm-facts b").all_inner_texts() == ["5", "3"]
    assert tokenizer.locator(".tm-partial").all_inner_texts() == ["e2", "98", "83"]
    assert tokenizer.locator(".tm-unknown").all_inner_texts() == ["☃"]
    tokenizer.locator(".tm-tokens").first.focus()
    page.keyboard.press("ArrowRight")
    assert re.search(r"id\s*\d+\s*bytes\s*78", tokenizer.locator(".tm-tip").inner_text())
    merges = tokenizer.locator(".tm-replay input[type=range]")
    symbols = tokenizer.locator(".tm-symbol").count()
    merges.focus()
    page.keyboard.press("ArrowRight")
    assert tokenizer.locator(".tm-symbol").count() == symbols - 1 == 4

    graph = page.locator("#graph")
    for _ in range(3):
        graph.locator(".tm-button").click()
    assert "3 of 22" in graph.locator(".tm-tape").inner_text() and graph.locator(".tm-grad:not(:empty)").count() == 5
    graph.locator("input[type=range]").first.focus()
    page.keyboard.press("ArrowRight")
    assert "the gradient foretold" in graph.locator(".tm-inputs").inner_text()

    attention = page.locator("#attention")
    attention.locator(".tm-thumb[aria-selected=true]").focus()
    page.keyboard.press("ArrowDown")
    assert attention.locator(".tm-side h4").inner_text() == "Layer 1, head 0"
    attention.locator(".tm-words").focus()
    page.keyboard.press("Home")
    assert "token 1" in attention.locator(".tm-panel h4").inner_text() and attention.locator(".tm-bars li").count() == 1

    page.evaluate("document.addEventListener('keydown', (event) => (window.heard ??= []).push(event.key))")
    for key in ("x", "ArrowDown", "Control+s"):  # the first two are commands of JupyterLab
        page.keyboard.press(key)
    assert page.evaluate("heard") == ["Control", "s"]

    play = page.locator("#scheduleplay")
    assert play.locator(".tm-cell").all_inner_texts() == ["3.00", "3.00", "diverged"]
    play.locator(".tm-cell").nth(1).click()
    assert play.locator(".tm-slider-value").first.inner_text() == "1e−2" and play.locator(".tm-button").is_hidden()
    page.evaluate("models.scheduleplay.emit('msg:custom', { kind: 'pong' })")
    play.locator(".tm-button").click()
    sent = page.evaluate("models.scheduleplay.sent.at(-1)")
    assert sent["kind"] == "train" and Settings(**sent["settings"]) == Settings(lr=1e-2, steps=20, batch_size=8)

    assert page.evaluate("Object.values(models).map((m) => { m.leave(); return m.left(); })") == [0] * 6
    assert not problems
    page.close()


@pytest.mark.parametrize(("attribute", "scheme", "dark"), [
    (None, "light", False), (None, "dark", True),
    ("data-theme='dark'", "light", True), ("data-theme='light'", "dark", False),
    ("data-jp-theme-light='false'", "light", True), ("data-jp-theme-light='true'", "dark", False),
])  # fmt: skip
def test_widgets_follow_the_page_and_else_the_system(
    chromium: Any, tmp_path: Path, attribute: str | None, scheme: str, dark: bool
):
    page = chromium.new_page(color_scheme=scheme)
    page.set_content(
        f"<style>{assets.style_sheet('common')}</style><div {attribute or ''}><section class='tm'>x</section></div>"
    )
    color = page.evaluate("getComputedStyle(document.querySelector('.tm')).backgroundColor")
    assert (color != "rgb(255, 255, 255)") == dark
    page.close()


# Plots


@pytest.fixture
def plt():
    plt = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    yield plt
    plt.close("all")


def _drawn(figure: Any) -> None:
    figure.canvas.draw()  # warnings about missing glyphs, or a layout that does not fit, are errors


def test_style_is_worn_only_inside_the_block(plt: Any):
    before = plt.rcParams["axes.spines.top"]
    with viz.style():
        assert not plt.rcParams["axes.spines.top"] and plt.rcParams["figure.constrained_layout.use"]
    assert plt.rcParams["axes.spines.top"] == before
    with plt.rc_context():
        viz.use_style()
        assert not plt.rcParams["axes.spines.top"]


def test_plots_label_their_axes_and_survive_any_text(plt: Any):
    history = [{"step": i, "loss": 4 / i} | ({"val_loss": 5 / i} if i % 10 == 0 else {}) for i in range(1, 101)]
    with viz.style():
        curves = viz.loss_curves({"$a$": history, "b": history}, references={"guessing": 4.0}, title="t")
        lines = viz.lines({"a": ([1, 10], [1, 2])}, x_label="context (tokens)", y_label="s", log_x=True, log_y=True)
        sizes = viz.bars({"a": 128256, "b": 2.5}, value_label="vocabulary (tokens)", highlight=["b"])
        next_token = viz.probability_bars([(" 狐$", 0.5), ("\n", 0.25)], chosen="\n")
    assert (curves.get_xlabel(), curves.get_ylabel(), curves.get_title("left")) == (
        "step",
        "loss (nats per token)",
        "t",
    )
    assert [text.get_text() for text in curves.get_legend().get_texts()] == [
        r"\$a\$",
        r"\$a\$, validation",
        "b",
        "b, validation",
    ]
    assert (
        lines.get_xlabel() == "context (tokens)"
        and lines.get_xscale() == lines.get_yscale() == "log"
        and not lines.get_legend()
    )
    assert [text.get_text() for text in sizes.texts] == ["128,256", "2.5"]
    assert [text.get_text() for text in next_token.texts] == ["50.0%", "25.0%"]
    assert [tick.get_text() for tick in next_token.get_yticklabels()] == [r"·▯\$", "↵"]
    for ax in (curves, lines, sizes, next_token):
        _drawn(ax.figure)


def test_heatmap_is_white_at_zero_for_both_signs(plt: Any):
    with viz.style():
        signed = viz.heatmap([[-1, 3], [0, np.nan]], x_label="x", y_label="y", value_label="v", number_format="{:.1f}",
                             x_ticks=["a", " b"])  # fmt: skip
        plain = viz.heatmap([[0, 3]], x_label="x", y_label="y", value_label="v", limits=(0, 4))
    assert signed.images[0].get_clim() == (-3, 3) and plain.images[0].get_clim() == (0, 4)
    assert [text.get_text() for text in signed.texts] == ["-1.0", "3.0", "0.0", "–"]
    assert [tick.get_text() for tick in signed.get_xticklabels()] == ["a", "·b"]
    _drawn(signed.figure)


def test_attention_grid_has_a_map_for_each_head(plt: Any):
    weights = _weights(2, 3, 4)
    with viz.style():
        figure = viz.attention_grid([layer[None] for layer in weights], [" a", "狐", "\n", "c"], title="Heads")
        large = viz.attention_grid(_weights(1, 2, 20), ["x"] * 20)
    assert len(figure.axes) == 6 and figure.axes[4].get_title("left") == "layer 1, head 1"
    np.testing.assert_allclose(figure.axes[4].images[0].get_array() ** 2, weights[1, 1])
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["·a", "▯", "↵", "c"]
    assert not large.axes[0].get_xticklabels() and figure.get_supxlabel() == "key position (tokens)"
    _drawn(figure)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: viz.loss_curves({"a": []}), "runs: the run 'a' is empty"),
        (lambda: viz.bars({"a": 1}, value_label="v", highlight=["z"]), "highlight: got 'z', expected names of bars: a"),
        (lambda: viz.probability_bars([(" ", 0.5), ("·", 0.5)]), "candidates: two of them look the same"),
        (lambda: viz.heatmap([1, 2], x_label="x", y_label="y", value_label="v"), r"matrix: got shape \(2,\)"),
        (
            lambda: viz.heatmap([[1]], x_label="x", y_label="y", value_label="v", y_ticks="ab"),
            "y_ticks: got 2 names, expected 1",
        ),
        (lambda: viz.attention_grid(np.ones((2, 2, 2))), r"weights: got shape \(2, 2, 2\)"),
        (lambda: viz.attention_grid(_weights(1, 1, 3), ["a"]), "tokens: got 1, expected 3"),
    ],
)
def test_plots_name_what_is_wrong(plt: Any, draw: Any, message: str):
    with pytest.raises(ValueError, match=message):
        draw()
