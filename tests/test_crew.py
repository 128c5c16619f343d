"""Threads that share tasks in compiled code: every share is done once, by whoever comes, and nobody waits in vain."""

import threading

import numpy as np
import pytest

numba = pytest.importorskip("numba")
crew = pytest.importorskip("tinymoe.backend.numba_crew")

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="without the compiler nobody helps")
NONE, CLOSED = crew.NONE, crew.CLOSED


@numba.njit(nogil=True)
def lead(board, sizes, times, task):
    """Tasks of so many shares each; how many shares were not done exactly once by the end of their task."""
    wrong = 0
    for number in range(len(sizes)):
        shares, mine = sizes[number], 0
        task[0] = number
        if not crew.helped(board):
            times[number, :shares] += 1
        else:
            crew.post(board, shares)
            first, stop = crew.take(board, True)
            while first != NONE:
                times[task[0], first:stop] += 1
                mine += stop - first
                first, stop = crew.take(board, True)
            crew.finish(board, shares - mine)
        for share in range(shares):
            wrong += times[number, share] != 1
    return wrong


@numba.njit(nogil=True)
def follow(board, times, task):
    """Shares done until the board is closed."""
    mine, total, looks = 0, 0, 0
    first, stop = crew.take(board, False)
    while first != CLOSED:
        if first != NONE:
            times[task[0], first:stop] += 1
            mine += stop - first
        elif mine:
            crew.done(board, mine)
            total, mine, looks = total + mine, 0, 0
        else:
            looks += 1
            crew.wait(looks)
        first, stop = crew.take(board, False)
    return total


def work(helpers: int, sizes: np.ndarray, coming: int) -> tuple[int, list[int], np.ndarray]:
    """What `lead` and each `follow` return, and how often each share was done, with so many helpers that do come."""
    board, task, totals = crew.new_board(), np.zeros(1, dtype=np.int64), []
    times = np.zeros((len(sizes), sizes.max()), dtype=np.int8)
    crew.open_board(board, helpers)
    threads = [threading.Thread(target=lambda: totals.append(follow(board, times, task))) for _ in range(coming)]
    for thread in threads:
        thread.start()
    wrong = lead(board, sizes, times, task)
    crew.close_board(board)
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return wrong, totals, times


@pytest.mark.parametrize("helpers", [1, 2, 5])
def test_every_share_is_done_once(helpers):
    sizes = np.random.default_rng(helpers).integers(1, 300, size=2000)
    wrong, totals, times = work(helpers, sizes, helpers)
    assert wrong == 0 and sum(totals) < sizes.sum()
    assert (times.sum(axis=1) == sizes).all()


def test_the_largest_task():
    wrong, _, times = work(1, np.array([crew.MOST, 1, crew.MOST]), 1)
    assert wrong == 0 and times.sum() == 2 * crew.MOST + 1


@pytest.mark.parametrize(("helpers", "coming"), [(0, 0), (3, 0), (3, 1), (0, 2)])
def test_nobody_waits_for_helpers_that_do_not_come(helpers, coming):
    wrong, totals, _ = work(helpers, np.full(50, 20), coming)
    assert wrong == 0 and (helpers > 0 or sum(totals) == 0)


def test_who_comes_after_closing_goes_home():
    board = crew.new_board()
    crew.open_board(board, 1)
    crew.close_board(board)
    assert follow(board, np.zeros((1, 1), dtype=np.int8), np.zeros(1, dtype=np.int64)) == 0


def test_a_helper_that_was_put_to_sleep_is_not_asked_for_a_while():
    board, alone, asked = crew.new_board(), [], numba.njit(lambda board: crew.helped(board))
    crew.open_board(board, 1)
    assert asked(board)
    sleeper = threading.Timer(0.2, numba.njit(lambda board: crew.done(board, 3), nogil=True), [board])
    numba.njit(lambda board: crew.done(board, 0))(board)
    sleeper.start()
    numba.njit(lambda board: crew.finish(board, 3), nogil=True)(board)
    while not asked(board):
        alone.append(1)
    assert len(alone) == crew._REST - 1
