"""Learning-rate schedules: their values at the corners, their shape, and their bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinymoe.train import schedule


def test_warmup_rises_linearly_to_the_peak():
    rates = [schedule.cosine(s, lr=1.0, steps=100, warmup=4) for s in range(5)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [schedule.constant(s, lr=1.0, warmup=4) for s in range(7)] == pytest.approx([*rates, 1.0, 1.0])
    assert [schedule.warmup_stable_decay(s, lr=1.0, steps=100, decay=10, warmup=4) for s in range(5)] == pytest.approx(
        rates
    )


def test_cosine_is_half_way_down_in_the_middle_and_stays_at_its_floor():
    def rate(step):
        return schedule.cosine(step, lr=1.0, steps=110, warmup=10, min_lr=0.1)

    assert rate(10) == 1.0
    assert rate(35) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert rate(60) == pytest.approx(0.55)
    assert rate(110) == rate(500) == pytest.approx(0.1)


def test_warmup_stable_decay_keeps_its_peak_until_the_decay():
    def rate(step, shape="linear"):
        return schedule.warmup_stable_decay(step, lr=1.0, steps=100, decay=20, warmup=5, min_lr=0.1, shape=shape)

    assert {rate(s) for s in range(5, 81)} == {1.0}
    assert [rate(85), rate(90), rate(100), rate(200)] == pytest.approx([0.775, 0.55, 0.1, 0.1])
    assert rate(85, "1-sqrt") == pytest.approx(0.1 + 0.9 * 0.5)
    assert rate(100, "1-sqrt") == pytest.approx(0.1)


def test_warmup_stable_decay_without_a_decay_stays_at_its_peak_to_the_last_step():
    assert schedule.warmup_stable_decay(99, lr=1.0, steps=100, decay=0) == 1.0


def test_unknown_shape_is_named():
    with pytest.raises(ValueError, match=r"shape: got 'square', expected 'linear' or '1-sqrt'"):
        schedule.warmup_stable_decay(0, lr=1.0, steps=10, decay=2, shape="square")


@given(
    steps=st.integers(1, 300),
    warmup=st.integers(0, 400),
    decay=st.integers(0, 400),
    floor=st.floats(0, 1),
    shape=st.sampled_from(["linear", "1-sqrt"]),
)
def test_rates_rise_then_fall_and_stay_in_bounds(steps, warmup, decay, floor, shape):
    schedules = [
        lambda s: schedule.constant(s, lr=1.0, warmup=warmup),
        lambda s: schedule.cosine(s, lr=1.0, steps=steps, warmup=warmup, min_lr=floor),
        lambda s: schedule.warmup_stable_decay(
            s, lr=1.0, steps=steps, decay=decay, warmup=warmup, min_lr=floor, shape=shape
        ),
    ]
    for rate in schedules:
        rates = [rate(s) for s in range(steps + 3)]
        assert all(0 < r <= 1 for r in rates[:warmup])
        assert all(floor - 1e-12 <= r <= 1 for r in rates[warmup:])
        assert rates[:warmup] == sorted(rates[:warmup])
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
