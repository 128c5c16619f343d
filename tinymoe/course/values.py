"""Values as a check needs them: copied, compared, and shown in little room."""

from __future__ import annotations

import copy
import dataclasses
import numbers
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from tinymoe.tensor import Tensor

SHOWN = 400  # characters of a value that a message shows


def clone(value: Any) -> Any:
    """A copy that shares no array with `value`. Modules, functions and what cannot be copied are shared."""
    if isinstance(value, Tensor):
        return Tensor(value.data.copy(), requires_grad=value.requires_grad)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(clone, value))
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(clone, value))
    if type(value) is dict:
        return {key: clone(item) for key, item in value.items()}
    if isinstance(value, ModuleType):
        return value
    try:
        return copy.deepcopy(value)
    except (TypeError, copy.Error):
        return value


def difference(expected: Any, got: Any, rtol: float = 1e-5, atol: float = 1e-6) -> str | None:
    """Where `got` differs from `expected`, in a few words; None where it does not.

    Floats may differ by `atol + rtol * |expected|`; kinds of container, shapes and float precisions may not.
    """
    if isinstance(expected, np.ndarray) or (isinstance(expected, np.generic) and isinstance(got, np.ndarray)):
        return _array_difference(np.asarray(expected), got, rtol, atol)
    if isinstance(expected, Tensor):
        if not isinstance(got, Tensor):
            return f"expected a Tensor, got {_kind(got)}"
        return _array_difference(expected.numpy(), got.numpy(), rtol, atol)
    if isinstance(expected, (numbers.Number, np.generic)):
        return _number_difference(expected, got, rtol, atol)
    if isinstance(expected, tuple) and hasattr(expected, "_fields") and type(got) is not type(expected):
        return f"expected {_kind(expected)}, got {_kind(got)}"
    if isinstance(expected, (list, tuple)):
        return _sequence_difference(expected, got, rtol, atol)
    if isinstance(expected, Mapping):
        return _mapping_difference(expected, got, rtol, atol)
    if callable(expected):
        return None if callable(got) else f"expected a function, got {_kind(got)}"
    if isinstance(got, type(expected)) and dataclasses.is_dataclass(expected):
        fields = [(field.name, getattr(expected, field.name)) for field in dataclasses.fields(expected)]
        found = ((name, difference(value, getattr(got, name), rtol, atol)) for name, value in fields)
        return next((f".{name}: {what}" for name, what in found if what), None)
    if not isinstance(got, type(expected)):
        return f"expected {_kind(expected)}, got {_kind(got)}"
    return None if bool(np.all(expected == got)) else "the values differ"


def show(value: Any, limit: int = SHOWN) -> str:
    """One value as text, arrays with their shape and dtype, cut off after `limit` characters."""
    if isinstance(value, Tensor):
        text = f"Tensor {_array_text(value.numpy())}"
    elif isinstance(value, np.ndarray):
        text = _array_text(value)
    elif isinstance(value, np.generic):
        text = repr(value.item())
    elif type(value) in (list, tuple) and len(value):
        inner = ", ".join(show(item, limit) for item in value[:limit])
        text = f"[{inner}]" if type(value) is list else f"({inner}{',' * (len(value) == 1)})"
    elif type(value) is dict and value:
        text = "{" + ", ".join(f"{show(key, limit)}: {show(item, limit)}" for key, item in value.items()) + "}"
    elif callable(value) and hasattr(value, "__name__"):
        text = f"the function {value.__name__}"
    elif type(value).__repr__ is object.__repr__:
        text = f"<{type(value).__name__}>"  # the usual repr holds an address, which changes from run to run
    else:
        text = repr(value)
    return text if len(text) <= limit else text[:limit] + " …"


def _array_text(array: np.ndarray) -> str:
    if array.ndim == 0:
        return f"{show(array.item())} ({array.dtype})"
    body = np.array2string(array, precision=5, threshold=40, edgeitems=3, separator=", ", max_line_width=90)
    return f"{body} {array.shape} {array.dtype}" if array.size else f"empty array {array.shape} {array.dtype}"


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return "an array" if name == "ndarray" else f"a{'n' * (name[0] in 'aeiou')} {name}"


def _array_difference(expected: np.ndarray, got: Any, rtol: float, atol: float) -> str | None:
    if not isinstance(got, (np.ndarray, np.generic)):
        return f"expected an array, got {_kind(got)}"
    if expected.shape != got.shape:
        return f"expected shape {expected.shape}, got {got.shape}"
    # How wide an integer is does not matter here; how precise a float is does.
    if expected.dtype.kind != got.dtype.kind or (expected.dtype.kind == "f" and expected.dtype != got.dtype):
        return f"expected dtype {expected.dtype}, got {got.dtype}"
    if expected.dtype.kind in "fc":
        bad = ~np.isclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)
    else:
        bad = np.asarray(expected != got)
    if not bad.any():
        return None
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    first = f"expected {show(expected[where])}, got {show(np.asarray(got)[where])}"
    if expected.ndim == 0:
        return first
    return f"{int(bad.sum())} of {expected.size} values differ; at {list(where)}: {first}"


def _number_difference(expected: Any, got: Any, rtol: float, atol: float) -> str | None:
    if not isinstance(got, (numbers.Number, np.generic)) and not (isinstance(got, np.ndarray) and got.ndim == 0):
        return f"expected a number, got {_kind(got)}"
    if isinstance(expected, (float, np.floating)):
        same = bool(np.isclose(np.asarray(got, complex), expected, rtol=rtol, atol=atol, equal_nan=True))
    else:
        same = bool(expected == got)
    return None if same else f"expected {show(expected)}, got {show(got)}"


def _sequence_difference(expected: Any, got: Any, rtol: float, atol: float) -> str | None:
    if not isinstance(got, list if isinstance(expected, list) else tuple):
        return f"expected {_kind(expected)}, got {_kind(got)}"
    for i, (a, b) in enumerate(zip(expected, got, strict=False)):
        if what := difference(a, b, rtol, atol):
            return f"at [{i}]: {what}"
    if len(expected) != len(got):
        return f"expected {len(expected)} items, got {len(got)}"
    return None


def _mapping_difference(expected: Mapping[Any, Any], got: Any, rtol: float, atol: float) -> str | None:
    if not isinstance(got, Mapping):
        return f"expected {_kind(expected)}, got {_kind(got)}"
    for key, value in expected.items():
        if key not in got:
            return f"the key {show(key)} is missing"
        if what := difference(value, got[key], rtol, atol):
            return f"at [{show(key)}]: {what}"
    extra = [key for key in got if key not in expected]
    return f"the key {show(extra[0])} should not be there" if extra else None
