"""The walker: one compiled call a thread runs a whole epoch over the table, without Python, allocation or recompiling.

A row of the table is `ROW_WORDS` int64: the address of the op's entry (0 is a barrier), then its operands. Ops are called by address, so a new op
or a new network changes nothing here.

`control` is shared by the threads of a run: words 0, 8, 16, 24 and 32 (each on a cache line of its own) count arrivals at the barrier, its
generation, sleepers, the request to stop and the agreement to stop.
"""

from __future__ import annotations

import numpy as np

from .layout import AGREED, ARRIVED, GENERATION, ROW_WORDS, SLEEPERS, STOP
from .simd import (
    FLUSH_DENORMALS,
    FUTEX_WAIT,
    FUTEX_WAKE,
    atomic_add,
    atomic_load,
    call_address,
    cycles,
    futex,
    inline,
    offset,
    pause,
    read_float_mode,
    two_words,
    write_float_mode,
)

# Pauses before sleeping, some 20 us: longer than threads of one step are apart, shorter than a time slice. Yielding instead of sleeping was
# measured and starves the other thread when neighbours are busy.
SPINS = 500
EVERYONE = 1 << 30


@inline
def barrier(control, n_threads, generation):
    """Wait until all threads have arrived; the last one to arrive also settles whether to stop, so that all stop after the same step."""
    generation += 1
    gate, sleepers = offset(control, GENERATION), offset(control, SLEEPERS)
    if atomic_add(offset(control, ARRIVED), 1) == n_threads * generation - 1:
        control[AGREED] = atomic_load(offset(control, STOP))
        atomic_add(gate, 1)
        if atomic_add(sleepers, 0) > 0:
            futex(gate, FUTEX_WAKE, EVERYONE)
    else:
        spins = 0
        while atomic_load(gate) < generation:
            spins += 1
            if spins < SPINS:
                pause()
            else:
                atomic_add(sleepers, 1)
                if atomic_load(gate) < generation:
                    futex(gate, FUTEX_WAIT, generation - 1)
                atomic_add(sleepers, -1)
    return generation


def walk(table, n_rows, steps, n_threads, control, generation, counters, counting):
    """Run `steps` steps of this thread's table.

    Parameters
    ----------
    table : pointer to int64 (n_rows, ROW_WORDS)
    generation : int64
        Barriers that were passed in `control` before.
    counters : pointer to int64 (n_rows,)
        With `counting` not 0, the cycles spent in each row are added to it.

    Returns
    -------
    int64
        Steps completed; the last row of a step with several threads is a barrier, where they agree on stopping.
    """
    mode = two_words()
    read_float_mode(mode)
    before = mode[0]
    # Adam's moments of always-black pixels decay into denormals, which would halve the speed; restored below.
    mode[0] = before | np.int32(FLUSH_DENORMALS)
    write_float_mode(mode)
    done = np.int64(0)
    stopping = np.int64(0)
    last = cycles()
    while done < steps and stopping == 0:
        for i in range(n_rows):
            row = offset(table, i * ROW_WORDS)
            if row[0] == 0:
                generation = barrier(control, n_threads, generation)
            else:
                call_address(row[0], row)
            if counting != 0:
                now = cycles()
                counters[i] += now - last
                last = now
        done += 1
        stopping = control[AGREED] if n_threads > 1 else atomic_load(offset(control, STOP))
    mode[0] = before
    write_float_mode(mode)
    return done
