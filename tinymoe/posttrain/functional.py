"""What the losses of post-training share: three small operations, means under a mask, and checks of arguments.

A mask is 1 (or True) where a token counts. Whatever stands elsewhere, be it NaN, has no influence and no gradient.
"""

from __future__ import annotations

from typing import Any

from ..backend import current
from ..backend.reference import Array
from ..ops import Result, op, unbroadcast
from ..tensor import Context, Tensor


@op
def minimum(ctx: Context, a: Array, b: Array) -> Result:
    """The smaller of a and b, element by element; where they tie, they share the gradient equally."""
    share = 0.5 * ((a < b).astype(a.dtype) + (a <= b))  # 1, 1/2 or 0
    return ctx.xp.minimum(a, b), lambda g: (unbroadcast(g * share, a), unbroadcast(g * (1 - share), b))


@op
def log_sigmoid(ctx: Context, a: Array) -> Result:
    """log(1 / (1 + exp(-a))), without overflow on either side."""
    y = ctx.xp.minimum(a, 0) - ctx.xp.log1p(ctx.xp.exp(-ctx.xp.abs(a)))
    return y, lambda g: (g * ctx.backend.sigmoid(-a),)


@op
def keep(ctx: Context, a: Array, *, mask: Array) -> Result:
    """a where the mask is true, 0 elsewhere; the two are broadcast. Unlike a product, it lets no NaN through."""
    return ctx.xp.where(mask, a, 0), lambda g: (unbroadcast(ctx.xp.where(mask, g, 0), a),)


def masked_mean(x: Tensor, mask: Array) -> Tensor:
    """The mean of x over the true entries of the mask, a scalar; 0 where there are none. Both (B, T)."""
    return keep(x, mask=mask).sum() / max(int(mask.sum()), 1)


def log_ratio(logps: Tensor, old_logps: Any, mask: Array) -> Tensor:
    """log(p / p_old) of each token, (B, T): how much likelier it has become since it was written; 0 outside the mask.

    old_logps None stands for logps themselves, for a step on what the present policy wrote: the ratio is 1, and still
    has a gradient.
    """
    old = logps.detach() if old_logps is None else old_logps
    return keep(logps, mask=mask) - constant("old_logps", old, logps, mask)


def as_mask(mask: Any, shape: tuple[int, ...], name: str = "mask") -> Array:
    """A mask of 0 and 1 as booleans. Raises ValueError for another shape."""
    mask = Tensor(mask).data > 0
    check_shape(name, mask, shape)
    return mask


def constant(name: str, values: Any, like: Tensor | Array, mask: Array | None = None) -> Array:
    """Values as an array of the shape and dtype of `like`, without their history; 0 where a mask is given and false.

    Raises ValueError for another shape.
    """
    values = Tensor(values).data.astype(like.dtype)
    check_shape(name, values, like.shape)
    return values if mask is None else current().xp.where(mask, values, 0)


def per_row(name: str, values: Any, like: Tensor | Array) -> Array:
    """One value for each row of `like`, (B,), as an array (B, 1) of its dtype. Raises ValueError for another shape."""
    values = Tensor(values).data.astype(like.dtype)
    check_shape(name, values, like.shape[:1])
    return values[:, None]


def check_ids(ids: Any, vocab_size: int) -> Array:
    """Token ids as an array. Raises ValueError where they are not (batch, tokens) of integers in [0, vocab_size)."""
    ids = current().asarray(ids)
    if ids.ndim != 2 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise ValueError(f"ids: got shape {ids.shape} of {ids.dtype}, expected (batch, tokens) of integers")
    wrong = (ids < 0) | (ids >= vocab_size)
    if wrong.any():
        raise ValueError(f"ids: got token id {ids[wrong][0]}, expected 0 to {vocab_size - 1}")
    return ids


def check_shape(name: str, array: Any, expected: tuple[int, ...]) -> None:
    """ValueError, naming the argument, where an array or Tensor has another shape."""
    if array.shape != expected:
        raise ValueError(f"{name}: got shape {array.shape}, expected {expected}")


def check_positive(name: str, value: float) -> None:
    """ValueError, naming the argument, where a number is not above 0."""
    if not value > 0:
        raise ValueError(f"{name}: got {value}, expected above 0")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """ValueError, naming the argument, where a number is below low or above high."""
    if not low <= value <= high:
        limits = f"{low} to {high}" if high < float("inf") else f"{low} or more"
        raise ValueError(f"{name}: got {value}, expected {limits}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """ValueError, naming the argument, where a word is not one of those there are."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, choices))}")
