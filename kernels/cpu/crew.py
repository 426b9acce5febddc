"""Helpers: threads that stand by to share one table's rows with their caller, handed over in less than a microsecond.

A helper is a thread inside `serve`: it waits for its caller's next turn, first spinning, then asleep. In `share_out` the caller announces a turn
and then works like everybody: who is free claims the next row. So a helper that gets no core costs nothing but its help; and no Python and no lock
of the interpreter stands between them, which is what makes two threads pay for products of some 10 us.

`crew` is a pointer to int64 (CREW_WORDS,), its words: layout.py. A claim takes one off CREW_LEFT, which the caller sets last of all: whoever gets
a number that is not negative owns that row of the current turn.
"""

from __future__ import annotations

import numpy as np

from .layout import CREW_ENDED, CREW_LEFT, CREW_MODE, CREW_QUITS, CREW_ROWS, CREW_SLEEPERS, CREW_TURN, ROW_WORDS
from .simd import (
    address_to,
    atomic_add,
    atomic_exchange,
    atomic_load,
    call_address,
    inline,
    nanoseconds,
    offset,
    pause,
    read_float_mode,
    sleep_while,
    two_words,
    wake_all,
    write_float_mode,
)

_pointer = address_to["int64"]

# Spinning before sleeping, in ns: longer than what a program does between two products that belong together, shorter than a time slice.
SPIN = 50_000
PAUSES = 8  # between two looks at the clock


@inline
def _await(crew, word, value):
    """Wait until `crew[word]`, which only rises, is `value` or more."""
    start = nanoseconds()
    now = atomic_load(offset(crew, word))
    while now < value:
        if nanoseconds() - start < SPIN:
            for _ in range(PAUSES):
                pause()
        else:
            atomic_add(offset(crew, CREW_SLEEPERS), 1)
            now = atomic_load(offset(crew, word))
            if now < value:
                sleep_while(offset(crew, word), now)
            atomic_add(offset(crew, CREW_SLEEPERS), -1)
        now = atomic_load(offset(crew, word))


@inline
def _raise(crew, word):
    """Add one to `crew[word]`, and wake who sleeps on it."""
    atomic_add(offset(crew, word), 1)
    if atomic_add(offset(crew, CREW_SLEEPERS), 0) > 0:
        wake_all(offset(crew, word))


@inline
def _work(crew, mode):
    """Run rows until none is left."""
    mine = atomic_add(offset(crew, CREW_LEFT), -1) - 1
    while mine >= 0:
        # Denormals count or do not as they do for the caller: the bits must not depend on who computes.
        mode[0] = np.int32(crew[CREW_MODE])
        write_float_mode(mode)
        row = _pointer(crew[CREW_ROWS] + mine * (ROW_WORDS * 8))
        call_address(row[0], row)
        _raise(crew, CREW_ENDED)
        mine = atomic_add(offset(crew, CREW_LEFT), -1) - 1


def serve(crew):
    """Help until CREW_QUITS is set; returns the last turn seen."""
    turn = np.int64(0)
    mode = two_words()
    while atomic_load(offset(crew, CREW_QUITS)) == 0:
        _await(crew, CREW_TURN, turn + 1)
        turn = atomic_load(offset(crew, CREW_TURN))
        _work(crew, mode)
    return turn


def share_out(crew, rows, n_rows):
    """Run the rows of a table, int64 (n_rows, ROW_WORDS) at address `rows`, here and by the helpers; returns when all have ended."""
    mode = two_words()
    read_float_mode(mode)
    all_ended = atomic_load(offset(crew, CREW_ENDED)) + n_rows
    crew[CREW_ROWS], crew[CREW_MODE] = rows, np.int64(mode[0])
    atomic_exchange(offset(crew, CREW_LEFT), n_rows)
    _raise(crew, CREW_TURN)
    _work(crew, mode)
    _await(crew, CREW_ENDED, all_ended)
    return n_rows
