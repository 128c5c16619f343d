"""How far a chapter trains: all the way, unless a computer is slow or TINYMOE_SCALE says so."""

from __future__ import annotations

import sys

import pytest

from tinymoe.course import pace, steps_here


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    monkeypatch.delenv("TINYMOE_SCALE", raising=False)
    monkeypatch.setattr(pace, "_told", set())


def test_nothing_changes_where_nothing_is_set(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "linux")
    assert [steps_here(wanted) for wanted in (1, 7, 1500)] == [1, 7, 1500]
    assert capsys.readouterr().out == ""


def test_a_browser_takes_fewer_steps_and_says_so_once(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "emscripten")
    assert 1 <= steps_here(1) <= steps_here(100) < 100
    said = capsys.readouterr().out
    assert said.count("shortened") == 1 and f"{pace.scale():.0%}" in said
    monkeypatch.setenv("TINYMOE_SCALE", "1")
    assert steps_here(1500) == 1500 and capsys.readouterr().out == ""


@pytest.mark.parametrize(("share", "taken"), [("0.1", 150), ("1e-9", 1), ("1", 1500), (" 0.5 ", 750)])
def test_the_setting(monkeypatch, share, taken):
    monkeypatch.setenv("TINYMOE_SCALE", share)
    assert steps_here(1500) == taken


@pytest.mark.parametrize("share", ["", "half", "0", "-1", "1.5", "nan", "inf"])
def test_what_is_no_share(monkeypatch, share):
    monkeypatch.setenv("TINYMOE_SCALE", share)
    with pytest.raises(ValueError, match=r"TINYMOE_SCALE: got .* expected a number above 0 and up to 1"):
        steps_here(10)
