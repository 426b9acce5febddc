"""The walker: one compiled call a thread runs a whole epoch over the table, without Python, allocation or recompiling.

A row of the table is `ROW_WORDS` int64: the address of the op's entry (0 is a barrier), then its operands. Ops are called by address, so a new op
or a new network changes nothing here. A lane is the table of one thread; all lanes have the same number of barriers, and with several lanes the
last row of each is one.

`control` (its words: layout.py) is shared by the threads of a run. STOP asks all of them to stop after the same step; ABORT, looked at before
every row and while waiting, makes each leave where it stands.

Where the cores are shared with other programs, a team is as fast as its slowest member: a thread that loses its core for a time slice (some ms)
holds up all others at the next barrier. So the last thread to arrive at the end of a step keeps the time, and where the team has become slower
than one thread, it walks all lanes by itself for a while, the others asleep at the barrier. It is the one that is certain to have a core. The
bits are the same: between two barriers lanes may run in any order.
"""

from __future__ import annotations

import numpy as np

from .layout import (
    ABORT,
    AGREED,
    ALONE_COST,
    ALONE_SPAN,
    ALONE_UNTIL,
    ARRIVED,
    DONE,
    FIRST_ARRIVAL,
    GENERATION,
    LANE_WORDS,
    POSITION,
    ROW_WORDS,
    ROWS,
    SLEEPERS,
    STOP,
    TABLE,
    WAITED,
    WINDOW_START,
    WINDOW_STEPS,
)
from .simd import (
    FLUSH_DENORMALS,
    address_to,
    atomic_add,
    atomic_load,
    call_address,
    cycles,
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

# All times in ns. Waiting threads spin so long before they sleep: longer than threads of one step are apart, shorter than a time slice.
# Yielding instead of sleeping was measured and starves the other thread when neighbours are busy.
SPIN = 20_000
PAUSES = 8  # between two looks at the clock
# The team's pace is judged over windows of two or more of the scheduler's usual ticks (4 ms): shorter ones see luck.
WINDOW = 8_000_000
# One thread works alone for so long at first, then twice as long each time that proves right, up to the longest span: a try of the team
# costs a window.
SHORTEST_SPAN = 8_000_000
LONGEST_SPAN = 256_000_000
ABORTED = -1


@inline
def walk_to_barrier(table, first, n_rows, control, counters, counting):
    """Run the rows from `first` up to the next barrier; returns its index, `n_rows` where there is none, or ABORTED."""
    last = cycles()
    i = first
    while i < n_rows:
        row = offset(table, i * ROW_WORDS)
        if row[0] == 0:
            break
        if atomic_load(offset(control, ABORT)) != 0:
            return ABORTED
        call_address(row[0], row)
        if counting != 0:
            now = cycles()
            counters[i] += now - last
            last = now
        i += 1
    return i


@inline
def walk_step_alone(lanes, n_lanes, control, counters, counting):
    """Run one step of all lanes, from barrier to barrier one lane after the other; returns 0 or ABORTED."""
    for t in range(n_lanes):
        lanes[t * LANE_WORDS + POSITION] = 0
    while lanes[POSITION] < lanes[ROWS]:
        for t in range(n_lanes):
            lane = offset(lanes, t * LANE_WORDS)
            i = walk_to_barrier(_pointer(lane[TABLE]), lane[POSITION], lane[ROWS], control, counters, counting)
            if i == ABORTED:
                return ABORTED
            lane[POSITION] = i + 1
    return 0


@inline
def walk_alone(lanes, n_lanes, steps, until, control):
    """Run steps of all lanes until `steps` are done, a stop is asked for, or the clock shows `until`; returns how many, or ABORTED."""
    start = nanoseconds()
    now = start
    done = 0
    while done < steps and control[AGREED] == 0 and now < until:
        if walk_step_alone(lanes, n_lanes, control, control, 0) == ABORTED:
            return ABORTED
        done += 1
        control[AGREED] = atomic_load(offset(control, STOP))
        now = nanoseconds()
    if done > 0:
        control[ALONE_COST] = (now - start) // done
    control[WINDOW_START] = 0
    return done


@inline
def alone_until(control):
    """Keep the team's time at the end of a step; returns until when one thread had better work alone (0: not at all).

    Steps cost the team what the clock says, waiting included. Only where it waits for a good part of the time is that compared with what they
    cost one thread when it was last tried. That memory fades, so that another try follows when the load has changed.
    """
    now = nanoseconds()
    if now < control[ALONE_UNTIL]:
        return control[ALONE_UNTIL]
    if control[WINDOW_START] == 0:
        control[WINDOW_START], control[WINDOW_STEPS], control[WAITED] = now, 0, 0
        return 0
    control[WINDOW_STEPS] += 1
    elapsed = now - control[WINDOW_START]
    if elapsed < WINDOW:
        return 0
    control[WINDOW_START] = 0
    if control[WAITED] < elapsed // 4:
        control[ALONE_SPAN] //= 2
        return 0
    if control[ALONE_COST] > 0 and elapsed // control[WINDOW_STEPS] <= control[ALONE_COST]:
        control[ALONE_COST] -= control[ALONE_COST] // 32
        control[ALONE_SPAN] = 0
        return 0
    control[ALONE_SPAN] = min(max(2 * control[ALONE_SPAN], SHORTEST_SPAN), LONGEST_SPAN)
    control[ALONE_UNTIL] = now + control[ALONE_SPAN]
    return control[ALONE_UNTIL]


@inline
def wait(control, generation):
    """Wait until the barrier's generation is `generation`: spin, then sleep; returns 0 or ABORTED."""
    gate = offset(control, GENERATION)
    start = nanoseconds()
    while atomic_load(gate) < generation:
        if atomic_load(offset(control, ABORT)) != 0:
            return ABORTED
        if nanoseconds() - start < SPIN:
            for _ in range(PAUSES):
                if atomic_load(gate) < generation:
                    pause()
        else:
            atomic_add(offset(control, SLEEPERS), 1)
            if atomic_load(gate) < generation:
                sleep_while(gate, generation - 1)
            atomic_add(offset(control, SLEEPERS), -1)
    return 0


@inline
def barrier(lanes, n_threads, control, steps_left):
    """Wait until all threads have arrived; returns 0 or ABORTED.

    `steps_left` is 0 within a step; at its end the steps that are left, this one included. Then the last one to arrive also settles whether
    to stop, so that all stop after the same step, and how many steps are done: this one, and those that it walks alone.
    """
    generation = atomic_load(offset(control, GENERATION)) + 1  # can't change before this thread has arrived
    arrived = atomic_add(offset(control, ARRIVED), 1) + 1
    if arrived < n_threads * generation:
        if arrived == n_threads * (generation - 1) + 1:
            control[FIRST_ARRIVAL] = nanoseconds()
        return wait(control, generation)
    if atomic_load(offset(control, SLEEPERS)) > 0:
        control[WAITED] += nanoseconds() - control[FIRST_ARRIVAL]
    if steps_left > 0:
        control[AGREED] = atomic_load(offset(control, STOP))
        control[DONE] += 1
        until = alone_until(control)
        if until > 0:
            more = walk_alone(lanes, n_threads, steps_left - 1, until, control)
            if more == ABORTED:
                return ABORTED
            control[DONE] += more
    atomic_add(offset(control, GENERATION), 1)
    if atomic_add(offset(control, SLEEPERS), 0) > 0:
        wake_all(offset(control, GENERATION))
    return 0


@inline
def walk_with_others(lanes, n_threads, thread, steps, control, counters, counting):
    """Run `steps` steps of lane `thread`, its like beside it; returns the steps completed."""
    table, n_rows = _pointer(lanes[thread * LANE_WORDS + TABLE]), lanes[thread * LANE_WORDS + ROWS]
    before = control[DONE]
    while control[DONE] - before < steps and control[AGREED] == 0:
        i = 0
        while i < n_rows:
            i = walk_to_barrier(table, i, n_rows, control, counters, counting)
            if i == ABORTED:
                return control[DONE] - before
            start = cycles()
            steps_left = steps - (control[DONE] - before) if i == n_rows - 1 else 0
            if barrier(lanes, n_threads, control, steps_left) == ABORTED:
                return control[DONE] - before
            if counting != 0:
                counters[i] += cycles() - start
            i += 1
    return control[DONE] - before


def walk(lanes, n_lanes, thread, steps, control, counters, counting):
    """Run `steps` steps of a table.

    Parameters
    ----------
    lanes : pointer to int64 (n_lanes, LANE_WORDS)
    n_lanes, thread : int64
        There are as many threads as lanes; this one walks lane `thread`.
    counters : pointer to int64 (rows of the lane,)
        With `counting` not 0, the cycles spent in each row are added to it.

    Returns
    -------
    int64
        Steps completed; after ABORT the last one may be half done.
    """
    mode = two_words()
    read_float_mode(mode)
    before = mode[0]
    # Adam's moments of always-black pixels decay into denormals, which would halve the speed; restored below.
    mode[0] = before | np.int32(FLUSH_DENORMALS)
    write_float_mode(mode)
    done = np.int64(0)
    if n_lanes > 1:
        done = walk_with_others(lanes, n_lanes, thread, steps, control, counters, counting)
    else:
        stopping = np.int64(0)
        while done < steps and stopping == 0:
            if walk_step_alone(lanes, 1, control, counters, counting) == ABORTED:
                break
            done += 1
            stopping = atomic_load(offset(control, STOP))
    mode[0] = before
    write_float_mode(mode)
    return done
