"""Figures of experts: their load while a model trains, and what they specialize in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from ..nn.balance import load_entropy, max_violation
from .plots import _labelled, _plain, _write_numbers


def expert_load(
    history: Sequence[Mapping[str, Any]],
    *,
    key: str = "expert_load",
    layers: Sequence[int | str] | None = None,
    title: str = "",
) -> Figure:
    """The load of each expert over training: a row for each expert, a column for each step, the balance above.

    `history` holds one dict of metrics a step, as `Trainer.run` returns; those with `key` are drawn. A load is (E,) or
    (layers, E), in any unit: counts, or shares. Colors are loads over the average; the curves are the max violation
    (max / mean - 1) and the entropy (of equal loads: 1), of all layers together their mean.

    Raises ValueError where no step has a load, or loads change their shape.
    """
    rows = [metrics for metrics in history if metrics.get(key) is not None]
    shapes = sorted({np.shape(row[key]) for row in rows})
    if len(shapes) != 1 or len(shapes[0]) not in (1, 2) or 0 in shapes[0]:
        raise ValueError(
            f"history: got loads {key!r} of shapes {shapes}, expected one shape, (experts,) or (layers, experts)"
        )
    steps = np.array([row["step"] for row in rows])
    loads = np.stack([np.atleast_2d(np.asarray(row[key], dtype=float)) for row in rows])  # (steps, layers, E)
    if not np.isfinite(loads).all() or loads.min() < 0 or not loads.sum(axis=-1).all():
        raise ValueError(f"history: expected loads {key!r} that are not negative, and not all of them zero")
    count, experts = loads.shape[1:]
    names = [str(name) for name in (range(count) if layers is None else layers)]
    if len(names) != count:
        raise ValueError(f"layers: got {len(names)} names, expected {count}")
    width, _ = plt.rcParams["figure.figsize"]
    tall = min(6.5, max(2.0, 0.16 * count * experts))  # inches of the table
    figure = plt.figure(figsize=(width, 2.9 + tall))
    above, table = figure.subplots(2, 1, sharex=True, height_ratios=[1.4, tall])
    _draw_balance(above, steps, loads)
    _draw_loads(table, steps, loads, names)
    if title:
        figure.suptitle(_plain(title), x=0.01, ha="left")
    return figure


def _draw_balance(ax: Axes, steps: np.ndarray, loads: np.ndarray) -> None:
    violation, entropy = (measure(loads).mean(axis=1) for measure in (max_violation, load_entropy))
    ax.plot(steps, violation, color="C1")
    ax.set_ylim(0, max(0.25, 1.1 * violation.max()))
    ax.set_ylabel("max violation", color="C1")
    right = ax.twinx()
    right.plot(steps, entropy, color="C0", linestyle="--")
    right.set_ylim(min(0.9, 0.98 * entropy.min()), 1.005)
    right.set_ylabel("entropy (even: 1)", color="C0")
    right.grid(False)
    ax.tick_params(axis="x", length=0)


def _draw_loads(ax: Axes, steps: np.ndarray, loads: np.ndarray, names: list[str]) -> None:
    _, count, experts = loads.shape
    relative = loads / loads.mean(axis=-1, keepdims=True)
    rows = relative.reshape(len(steps), -1).T  # (layers * E, steps)
    # The edges of a column lie halfway to its neighbors: steps need not be evenly spaced.
    middles = (steps[1:] + steps[:-1]) / 2
    half = (middles[0] - steps[0], steps[-1] - middles[-1]) if len(middles) else (0.5, 0.5)
    edges = np.concatenate([[steps[0] - half[0]], middles, [steps[-1] + half[1]]])
    image = ax.pcolormesh(edges, np.arange(len(rows) + 1), rows, cmap="RdBu_r", vmin=0, vmax=2, rasterized=True)
    ax.invert_yaxis()
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="y", length=0)
    for layer in range(1, count):
        ax.axhline(layer * experts, color="white", linewidth=3)
    if count > 1:
        ax.set_yticks(np.arange(count) * experts + experts / 2, [_plain(f"layer {name}") for name in names])
    else:
        every = 1 if experts <= 16 else 8
        ax.set_yticks(np.arange(0, experts, every) + 0.5, [str(e) for e in range(0, experts, every)])
    extend = "max" if rows.max() > 2 else "neither"
    scale = ax.figure.colorbar(
        image, ax=ax, label="load over the average", location="bottom", extend=extend, shrink=0.6, aspect=40
    )
    scale.outline.set_visible(False)
    _labelled(ax, "step", "expert" if count == 1 else "expert in its layer", "")


def specialization(
    table: Any,
    names: Sequence[str],
    *,
    layers: Sequence[int | str] | None = None,
    label: str = "domain",
    title: str = "",
) -> Figure:
    """What each expert is used for: rows are experts, columns domains (or kinds of tokens), a panel for each layer.

    `table` holds counts (E, D) as `expert_domain_table` and `expert_kind_table` give, or (layers, E, D). Drawn is which
    share of a domain's choices an expert gets, over the equal share 1 / E: 1 is white, 2 means twice as many. A domain
    without tokens stays empty. `label` is what a column is.

    Raises ValueError for a table of another shape.
    """
    counts = np.asarray(table, dtype=float)
    counts = counts[None] if counts.ndim == 2 else counts
    if counts.ndim != 3 or counts.shape[-1] != len(names):
        raise ValueError(
            f"table: got shape {np.shape(table)}, expected (experts, {len(names)}) or (layers, experts, {len(names)})"
        )
    panels, experts, columns = counts.shape
    titles = [f"layer {name}" for name in (range(panels) if layers is None else layers)]
    if len(titles) != panels:
        raise ValueError(f"layers: got {len(titles)} names, expected {panels}")
    totals = counts.sum(axis=1, keepdims=True)
    times = np.divide(counts * experts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    across = 2 if panels == 4 else min(panels, 3)
    down = -(-panels // across)
    size = (1.8 + across * max(1.9, 0.62 * columns), 1.1 + down * (0.9 + max(1.4, min(7, 0.28 * experts))))
    figure, grid = plt.subplots(down, across, figsize=size, squeeze=False, sharex=True, sharey=True)
    for ax in grid.flat[panels:]:
        ax.set_visible(False)
    images = [_draw_shares(ax, shares, names) for ax, shares in zip(grid.flat, times, strict=False)]
    for i, ax in enumerate(grid.flat[:panels]):
        lowest = i + across >= panels
        ax.tick_params(labelbottom=lowest)
        name = titles[i] if panels > 1 or layers is not None else ""
        _labelled(ax, label if lowest else "", "expert" if i % across == 0 else "", name)
    scale = figure.colorbar(images[0], ax=grid, label="choices over the equal share", pad=0.02, extend="max", aspect=30)
    scale.outline.set_visible(False)
    if title:
        figure.suptitle(_plain(title), x=0.01, ha="left")
    return figure


def _draw_shares(ax: Axes, times: np.ndarray, names: Sequence[str]) -> AxesImage:
    """One table (E, D) of shares over the equal share."""
    experts, columns = times.shape
    image = ax.imshow(times, cmap="RdBu_r", vmin=0, vmax=2, aspect="auto")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    slanted = max(len(name) for name in names) > 6 and columns > 2
    ax.set_xticks(
        range(columns), [_plain(name) for name in names], rotation=35 if slanted else 0,
        ha="right" if slanted else "center", rotation_mode="anchor" if slanted else "default",
    )  # fmt: skip
    ax.set_yticks(range(0, experts, 1 if experts <= 16 else 8))
    if experts <= 16 and columns <= 8:
        _write_numbers(ax, times, image, "{:.1f}")
    return image
