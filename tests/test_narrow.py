"""With 32 bits, as in a browser, NumPy counts no further than two billion; published models have more numbers."""

from __future__ import annotations

import sys

import pytest

from tinymoe.models import zoo
from tinymoe.models.published import PUBLISHED
from tinymoe.models.size import measure
from tinymoe.nn import module


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_models_are_measured_as_on_any_other_computer(name, monkeypatch):
    wide = measure(zoo.config(name))
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert measure(zoo.config(name)) == wide


def test_an_outline_is_counted_like_what_it_stands_for(monkeypatch):
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    with module.shapes_only():
        small, large = (module.constant((n, n), 0.0) for n in (20_000, 30_000))
    assert (small.shape, small.size, small.ndim, small.dtype) == ((20_000, 20_000), 400_000_000, 2, "float32")
    assert (large.shape, large.size, large.ndim, large.dtype) == ((30_000, 30_000), 900_000_000, 2, "float32")
    assert isinstance(large.data, module._Outline) and not isinstance(small.data, module._Outline)
