"""Figures in one style. Every helper asks for the names of its axes, with units, so that none goes without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_STYLE = Path(__file__).with_name("tinymoe.mplstyle")
ACCENT, MUTED = "#0072b2", "#c3c9d1"


def style() -> AbstractContextManager[None]:
    """The course's look inside a block: `with viz.style(): …`."""
    return plt.style.context(_STYLE)


def use_style() -> None:
    """The course's look from here on; in a notebook also pictures that are sharp on dense screens."""
    plt.style.use(_STYLE)
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    from IPython.core.getipython import get_ipython

    if get_ipython() is not None:
        set_matplotlib_formats("retina")


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Curves {name: (x, y)}, with a legend where there are several."""
    ax = _axes(ax)
    for name, (x, y) in series.items():
        ax.plot(np.asarray(x), np.asarray(y), label=_plain(name))
    if log_x:
        ax.set_xscale("log")
    if log_y:
        ax.set_yscale("log")
    return _labelled(ax, x_label, y_label, title, legend=len(series) > 1)


def loss_curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    x_label: str = "step",
    y_label: str = "loss (nats per token)",
    references: Mapping[str, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Losses of runs {name: history}, a history being one dict of metrics a step, as `Trainer.run` returns.

    Training losses are drawn faintly with their running mean, validation losses as dots. `references` are
    horizontal lines {name: loss}.
    """
    ax = _axes(ax)
    for i, (name, history) in enumerate(runs.items()):
        if not history:
            raise ValueError(f"runs: the run {name!r} is empty, expected a list with one dict of metrics a step")
        step, loss = _column(history, "step", "loss")
        ax.plot(step, loss, color=f"C{i}", alpha=0.25, linewidth=1)
        ax.plot(step, _smooth(loss), color=f"C{i}", label=_plain(name))
        step, loss = _column(history, "step", "val_loss")
        if len(step):
            ax.plot(step, loss, "o-", color=f"C{i}", linewidth=1, label=_plain(f"{name}, validation"))
    for name, value in (references or {}).items():
        ax.axhline(value, color="#6b7280", linewidth=1, linestyle=":")
        ax.annotate(
            _plain(name), (1, value), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            ha="right", color="#5a6370", fontsize="small",
        )  # fmt: skip
    return _labelled(ax, x_label, y_label, title, legend=True)


def bars(
    values: Mapping[str, float],
    *,
    value_label: str,
    group_label: str = "",
    title: str = "",
    highlight: Sequence[str] = (),
    number_format: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Horizontal bars {name: value}, the first on top, each with its number; those in `highlight` stand out."""
    if unknown := sorted(set(highlight) - set(values)):
        raise ValueError(f"highlight: got {unknown[0]!r}, expected names of bars: {', '.join(values)}")
    ax = _axes(ax, height=0.9 + 0.34 * len(values))
    names = list(values)
    colors = [ACCENT if not highlight or name in highlight else MUTED for name in names]
    drawn = ax.barh(range(len(names)), list(values.values()), color=colors, height=0.72)
    ax.bar_label(drawn, [_number(value, number_format) for value in values.values()], padding=4, fontsize="small")
    ax.set_yticks(range(len(names)), [_plain(name) for name in names])
    ax.invert_yaxis()
    ax.grid(False)
    ax.margins(x=0.12)
    ax.xaxis.set_major_formatter(lambda value, _: _number(value))
    ax.spines["left"].set_visible(False)
    return _labelled(ax, value_label, group_label, title)


def probability_bars(
    candidates: Sequence[tuple[str, float]], *, chosen: str | None = None, title: str = "", ax: Axes | None = None
) -> Axes:
    """Next-token candidates [(text, probability)…] as bars, the chosen one in color; blanks are made visible."""
    values = {_visible(text): float(p) for text, p in candidates}
    if len(values) < len(candidates):
        raise ValueError("candidates: two of them look the same; give each token a text of its own")
    highlight = [] if chosen is None else [_visible(chosen)]
    ax = bars(
        values, value_label="probability", group_label="next token", title=title, highlight=highlight,
        number_format="{:.1%}", ax=ax,
    )  # fmt: skip
    ax.xaxis.set_major_formatter(lambda p, _: f"{p:.0%}")
    return ax


def heatmap(
    matrix: Any,
    *,
    x_label: str,
    y_label: str,
    value_label: str,
    x_ticks: Sequence[Any] | None = None,
    y_ticks: Sequence[Any] | None = None,
    number_format: str | None = None,
    limits: tuple[float, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """A matrix (rows, columns) in colors with a scale; values of both signs get a scale that is white at zero.

    `x_ticks` and `y_ticks` name columns and rows. `number_format`, such as "{:.2f}", also writes the numbers.
    """
    values = np.asarray(matrix, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"matrix: got shape {values.shape}, expected (rows, columns)")
    for name, ticks, size in (("x_ticks", x_ticks, values.shape[1]), ("y_ticks", y_ticks, values.shape[0])):
        if ticks is not None and len(ticks) != size:
            raise ValueError(f"{name}: got {len(ticks)} names, expected {size}")
    low, high = limits or (np.nanmin(values), np.nanmax(values))
    signed = low < 0 < high
    if signed and limits is None:
        low, high = -max(-low, high), max(-low, high)
    ax = _axes(ax, height=min(8, 1.2 + 0.34 * values.shape[0]))
    image = ax.imshow(values, cmap="RdBu_r" if signed else "Blues", vmin=low, vmax=high, aspect="auto")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    for axis, ticks in ((ax.xaxis, x_ticks), (ax.yaxis, y_ticks)):
        axis.set_tick_params(length=0)
        if ticks is not None:
            axis.set_ticks(range(len(ticks)), [_plain(_visible(str(tick))) for tick in ticks])
    if number_format is not None:
        _write_numbers(ax, values, image, number_format)
    scale = ax.figure.colorbar(image, ax=ax, label=value_label, pad=0.02)
    scale.outline.set_visible(False)
    return _labelled(ax, x_label, y_label, title)


def attention_grid(weights: Any, tokens: Sequence[str] | None = None, *, title: str = "") -> Figure:
    """Maps of all heads: rows are layers, columns heads; queries run down and keys to the right in each.

    weights (layers, heads, queries, keys) are probabilities, drawn on a square-root scale so that faint ones show.
    Up to 16 tokens are named along the axes.
    """
    maps = np.stack([np.asarray(layer, dtype=float) for layer in weights])
    if maps.ndim == 5 and maps.shape[1] == 1:
        maps = maps[:, 0]
    if maps.ndim != 4:
        raise ValueError(f"weights: got shape {maps.shape}, expected (layers, heads, queries, keys)")
    if tokens is not None and len(tokens) != maps.shape[-1]:
        raise ValueError(f"tokens: got {len(tokens)}, expected {maps.shape[-1]}, one for each key")
    layers, heads = maps.shape[:2]
    names = [_plain(_visible(token)) for token in tokens or ()] if len(tokens or ()) <= 16 else []
    size = 2.6 if names else min(1.8, 10 / heads)
    figure, grid = plt.subplots(
        layers, heads, figsize=(size * heads + 0.6, size * layers + 0.5), squeeze=False, sharex=True, sharey=True
    )
    for (layer, head), ax in np.ndenumerate(grid):
        ax.imshow(np.sqrt(maps[layer, head]), cmap="Blues", vmin=0, vmax=1)
        ax.grid(False)
        ax.spines[:].set_visible(True)
        ax.set_title(f"layer {layer}, head {head}", fontsize="small", fontweight="normal", pad=4)
        ax.tick_params(length=0)
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize="x-small")
        ax.set_yticks(range(len(names)), names, fontsize="x-small")
    figure.supxlabel("key position (tokens)", fontsize="medium")
    figure.supylabel("query position (tokens)", fontsize="medium")
    if title:
        figure.suptitle(_plain(title), x=0.01, ha="left")
    return figure


def _axes(ax: Axes | None, height: float | None = None) -> Axes:
    if ax is not None:
        return ax
    width, default = plt.rcParams["figure.figsize"]
    return plt.subplots(figsize=(width, height or default))[1]


def _labelled(ax: Axes, x_label: str, y_label: str, title: str, legend: bool = False) -> Axes:
    ax.set_xlabel(_plain(x_label))
    ax.set_ylabel(_plain(y_label))
    if title:
        ax.set_title(_plain(title))
    if legend:
        ax.legend()
    return ax


def _column(history: Sequence[Mapping[str, float]], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [(metrics[x], metrics[y]) for metrics in history if metrics.get(y) is not None]
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a window around each value that is short at the start, where losses fall steeply."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    half = np.minimum(len(values) // 60, at // 4)
    high = np.minimum(len(values), at + half + 1)
    low = at - half
    return (sums[high] - sums[low]) / (high - low)


def _write_numbers(ax: Axes, values: np.ndarray, image: Any, number_format: str) -> None:
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = image.to_rgba(value)
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        text = number_format.format(value) if np.isfinite(value) else "–"
        ax.text(column, row, text, ha="center", va="center", fontsize="small", color="white" if dark else "#1d2229")


def _number(value: float, number_format: str | None = None) -> str:
    if number_format is not None:
        return number_format.format(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _visible(text: str) -> str:
    return text.replace(" ", "·").replace("\n", "↵").replace("\t", "→")


def _plain(text: str) -> str:
    """A text as it stands: no dollar sign begins a formula, and characters the font lacks become a box."""
    glyphs = font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap()
    return "".join(c if ord(c) in glyphs or c == "\n" else "▯" for c in text).replace("$", r"\$")
