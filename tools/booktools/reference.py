"""The reference: a page for each module, made from its docstrings, with the source of every public definition."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path

from chaptertools.package import Definition, Module, Package

from .course import ChapterFacts, Course

Taught = dict[str, ChapterFacts]
# Folders and files in the order of the house, from the ground up, with what each is for.
FLOORS = {
    "backend": "arrays and kernels: NumPy's, which define what is right, and faster ones",
    "tensor.py": "the tensor and its tape",
    "ops.py": "every differentiable operation",
    "nn": "the parts of a model",
    "models": "the decoder, the families, files of weights",
    "text": "tokenizers, chat templates, corpora, packing",
    "generate": "sampling and the loop that writes",
    "train": "optimizers, schedules, the trainer, checkpoints",
    "posttrain": "instruction tuning, LoRA, preferences, rewards, distillation",
    "viz": "figures and widgets",
    "course": "exercises, hints, progress",
    "cli": "the command line",
}
_CODE = re.compile(r"(`+[^`]*`+)")


def page_name(path: str) -> str:
    """The page of a module: `nn/attention.py` stands on `reference/nn-attention`."""
    return f"reference/{path.removesuffix('.py').replace('/', '-')}"


def address(package: Package, path: str, name: str, root: str) -> str:
    """The address of a definition in the reference; `root` leads to the first page.

    Constants and private names have no place of their own: theirs is the module's page, if it has one, else "".
    """
    if path not in shown_modules(package):
        return ""
    definition = package.definitions.get(f"{path}::{name}")
    return f"{root}{page_name(path)}.html" + (f"#{name}" if definition and _is_shown(definition) else "")


def shown_modules(package: Package) -> dict[str, Module]:
    """The modules that get a page, by their paths: those that define something public, and no package's `__init__`."""
    return {
        path: module
        for path, module in package.modules.items()
        if not path.rsplit("/", 1)[-1].startswith("_") and any(map(_is_shown, module.definitions.values()))
    }


def write_reference(package: Package, taught: Taught, course: Course, target: Path) -> list[str]:
    """Write the pages, and the list of them, into `target`; return the names of the modules' pages."""
    modules = shown_modules(package)
    (target / "reference").mkdir(exist_ok=True)
    for path, module in modules.items():
        (target / f"{page_name(path)}.md").write_text(_module_page(module, taught, course), "utf-8")
    (target / "pages" / "reference.md").write_text(_list_page(modules), "utf-8")
    return [page_name(path) for path in modules]


def docstring_text(text: str) -> str:
    """A docstring as Markdown: what is no code is taken literally, and indented lines stay code."""
    lines = []
    for line in text.splitlines():
        parts = _CODE.split(line)
        escaped = [part if i % 2 else re.sub(r"([\\*_\[\]<>$#|~])", r"\\\1", part) for i, part in enumerate(parts)]
        lines.append(line if line.startswith("    ") else "".join(escaped))
    return "\n".join(lines)


def _public(module: Module) -> Iterator[Definition]:
    yield from filter(_is_shown, module.definitions.values())


def _is_shown(definition: Definition) -> bool:
    return definition.kind != "constant" and not definition.name.startswith("_")


def _list_page(modules: dict[str, Module]) -> str:
    parts = [
        "# Reference\n",
        "Every module of `tinymoe`, from the ground floor up, with each public definition, its docstring and its"
        " source. All of it is made from the package itself. `import tinymoe as tm` brings the names of everyday use:"
        " `tm.Tensor`, `tm.Tokenizer`, `tm.zoo`, `tm.from_pretrained`, `tm.AdamW`.\n",
    ]
    floors: dict[str, list[str]] = {floor: [] for floor in FLOORS}
    for path in modules:
        floors.setdefault(path.partition("/")[0], []).append(path)
    for floor, paths in floors.items():
        if not paths:
            continue
        says = f": {FLOORS[floor]}" if floor in FLOORS else ""
        parts.append(f"\n## {floor.removesuffix('.py')}{says}\n\n| module | |\n|---|---|")
        for path in paths:
            first = (ast.get_docstring(modules[path].tree) or "").partition("\n\n")[0].replace("\n", " ")
            name = path.removesuffix(".py")
            parts.append(f"| [`{name}`](/{page_name(path)}.md) | {docstring_text(first)} |")
    return "\n".join(parts) + "\n"


def _module_page(module: Module, taught: Taught, course: Course) -> str:
    name = module.path.removesuffix(".py")
    parts = [f"# `{name}`\n", docstring_text(ast.get_docstring(module.tree) or "")]
    where = f"`tinymoe/{module.path}`"
    if url := course.source_url(f"tinymoe/{module.path}"):
        where = f"[{where}]({url})"
    parts.append(f"\n{where}\n")
    for definition in _public(module):
        parts.append(_definition(definition, taught.get(definition.key), course))
    return "\n".join(parts) + "\n"


def _definition(definition: Definition, chapter: ChapterFacts | None, course: Course) -> str:
    node = ast.parse(definition.text).body[0]
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    taught = f" Built in [chapter {chapter.number}](/chapters/{chapter.stem}.ipynb)." if chapter else ""
    url = course.source_url(f"tinymoe/{definition.path}", (definition.first, definition.last))
    where = f"lines {definition.first} to {definition.last}"
    return "\n".join([
        f'\n<span id="{html.escape(definition.name)}" class="tm-anchor"></span>\n',
        f"## {definition.name}\n",
        f"```python\n{_signature(node)}\n```\n",
        docstring_text(ast.get_docstring(node) or "") + taught,
        *_methods(node),
        f"\n:::{{dropdown}} Source, {where}\n```python\n{definition.text}\n```",
        f"[On GitHub]({url})\n:::" if url else ":::",
        "",
    ])  # fmt: skip


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """The head of a definition, without decorators and body; long ones with one argument a line."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"def {node.name}({ast.unparse(node.args)}){returns}"
    if len(line) <= 90:
        return line
    arguments = re.sub(r", (?=(?:\*{0,2}\w+(?::|=|,|$)|\*,))", ",\n    ", ast.unparse(node.args))
    return f"def {node.name}(\n    {arguments},\n){returns}"


def _methods(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[str]:
    """The public methods of a class that say something about themselves."""
    for method in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)) and (says := ast.get_docstring(method)):
            if method.name.startswith("_") and method.name not in ("__call__", "__init__"):
                continue
            text = docstring_text(says).replace("\n", "\n  ")
            yield f"\n- `{_signature(method).removeprefix('def ')}`\n\n  {text}"
