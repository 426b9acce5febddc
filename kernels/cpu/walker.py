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

`walk_recording` is `walk` that keeps in each lane's record (layout.py) the cycles of every row, the waiting at barriers as the time of their
rows, and when the rows of some steps began and ended. Reading the cycle counter prolongs a row by 6 ns on Zen 5, which is 4 % of a small
network's step. So the rows of some steps only are timed, and the shortest steps of both kinds tell what the readings cost. It is compiled when
somebody profiles; `walk` has no trace of it.
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
    BEGAN_CYCLES,
    BEGAN_NS,
    BUSY_FOR_OTHERS,
    DONE,
    ENDED_CYCLES,
    ENDED_NS,
    EVENT_WORDS,
    FIRST_ARRIVAL,
    GENERATION,
    LANE_WORDS,
    MAX_EVENTS,
    N_EVENTS,
    NEXT_TIMED,
    POSITION,
    RECORD,
    RECORD_STEPS,
    RECORD_WORDS,
    ROW_WORDS,
    ROWS,
    SHORTEST_PLAIN,
    SHORTEST_TIMED,
    SLEEPERS,
    STOP,
    TABLE,
    TIMED_EVERY,
    TIMED_STEPS,
    TIMING,
    TRACED_FROM,
    TRACED_TO,
    WAITED,
    WAITED_ALONE,
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
def begin_step(record):
    """Count a step of the lane, and settle whether its rows are timed."""
    step = record[RECORD_STEPS]
    record[TIMING] = 0
    if step >= record[NEXT_TIMED]:
        record[TIMING] = 1
        record[NEXT_TIMED] = step + record[TIMED_EVERY]
    if record[TRACED_FROM] <= step < record[TRACED_TO]:
        record[TIMING] = 2
    if record[TIMING] != 0:
        record[TIMED_STEPS] += 1
    record[RECORD_STEPS] = step + 1


@inline
def keep(record, n_rows, row, thread, start, end):
    """Add the cycles from `start` to `end` to a row of the table, and an event while there is room; returns `end`."""
    record[RECORD_WORDS + row] += end - start
    if record[TIMING] == 2 and record[N_EVENTS] < record[MAX_EVENTS]:
        event = offset(record, RECORD_WORDS + n_rows + record[N_EVENTS] * EVENT_WORDS)
        event[0], event[1], event[2], event[3] = row, thread, start, end
        record[N_EVENTS] += 1
    return end


@inline
def end_step(record, timing, cycles_taken):
    """Keep the shortest steps."""
    shortest = SHORTEST_PLAIN if timing == 0 else SHORTEST_TIMED
    if record[shortest] == 0 or cycles_taken < record[shortest]:
        record[shortest] = cycles_taken


@inline
def walk_to_barrier(lane, first, control, thread, recording):
    """Run a lane's rows from `first` up to the next barrier; returns its index, the number of rows where there is none, or ABORTED."""
    table, n_rows, record = _pointer(lane[TABLE]), lane[ROWS], _pointer(lane[RECORD])
    last = timing = np.int64(0)
    if recording != 0:
        if first == 0:
            begin_step(record)
        timing = record[TIMING]
        if timing != 0:
            last = cycles()
    i = first
    while i < n_rows:
        row = offset(table, i * ROW_WORDS)
        if row[0] == 0:
            break
        if atomic_load(offset(control, ABORT)) != 0:
            return ABORTED
        call_address(row[0], row)
        if recording != 0 and timing != 0:
            last = keep(record, n_rows, i, thread, last, cycles())
        i += 1
    return i


@inline
def walk_step_alone(lanes, n_lanes, control, thread, recording):
    """Run one step of all lanes, from barrier to barrier one lane after the other; returns 0 or ABORTED."""
    for t in range(n_lanes):
        lanes[t * LANE_WORDS + POSITION] = 0
    while lanes[POSITION] < lanes[ROWS]:
        for t in range(n_lanes):
            lane = offset(lanes, t * LANE_WORDS)
            i = walk_to_barrier(lane, lane[POSITION], control, thread, recording)
            if i == ABORTED:
                return ABORTED
            lane[POSITION] = i + 1
    return 0


@inline
def walk_alone(lanes, n_lanes, steps, until, control, thread, recording):
    """Run steps of all lanes until `steps` are done, a stop is asked for, or the clock shows `until`; returns how many, or ABORTED."""
    start = nanoseconds()
    now = start
    done = 0
    while done < steps and control[AGREED] == 0 and now < until:
        if walk_step_alone(lanes, n_lanes, control, thread, recording) == ABORTED:
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
def barrier(lanes, n_threads, thread, control, steps_left, recording):
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
            start = cycles() if recording != 0 else np.int64(0)
            more = walk_alone(lanes, n_threads, steps_left - 1, until, control, thread, recording)
            if recording != 0:
                _pointer(lanes[thread * LANE_WORDS + RECORD])[BUSY_FOR_OTHERS] += cycles() - start
            if more == ABORTED:
                return ABORTED
            control[DONE] += more
    atomic_add(offset(control, GENERATION), 1)
    if atomic_add(offset(control, SLEEPERS), 0) > 0:
        wake_all(offset(control, GENERATION))
    return 0


@inline
def walk_with_others(lanes, n_threads, thread, steps, control, recording):
    """Run `steps` steps of lane `thread`, its like beside it; returns the steps completed."""
    lane = offset(lanes, thread * LANE_WORDS)
    n_rows, record = lane[ROWS], _pointer(lane[RECORD])
    began = start = busy = busy_before = timing = np.int64(0)
    before = control[DONE]
    while control[DONE] - before < steps and control[AGREED] == 0:
        done = control[DONE]
        if recording != 0:
            began, busy_before = cycles(), record[BUSY_FOR_OTHERS]
        i = 0
        while i < n_rows:
            i = walk_to_barrier(lane, i, control, thread, recording)
            if i == ABORTED:
                return control[DONE] - before
            if recording != 0:
                timing, busy, start = record[TIMING], record[BUSY_FOR_OTHERS], cycles()
            steps_left = steps - (control[DONE] - before) if i == n_rows - 1 else 0
            if barrier(lanes, n_threads, thread, control, steps_left, recording) == ABORTED:
                return control[DONE] - before
            if recording != 0:  # waiting, without what this thread did for others meanwhile
                waited_until = cycles() - (record[BUSY_FOR_OTHERS] - busy)
                if control[DONE] > done + 1:
                    record[WAITED_ALONE] += waited_until - start
                elif timing != 0:
                    keep(record, n_rows, i, thread, start, waited_until)
            i += 1
        if recording != 0 and control[DONE] == done + 1:
            end_step(record, timing, cycles() - began - (record[BUSY_FOR_OTHERS] - busy_before))
    return control[DONE] - before


@inline
def walk_steps(lanes, n_lanes, thread, steps, control, recording):
    """Run `steps` steps of a table with denormals flushed; returns the steps completed."""
    mode = two_words()
    read_float_mode(mode)
    before = mode[0]
    # Adam's moments of always-black pixels decay into denormals, which would halve the speed; restored below.
    mode[0] = before | np.int32(FLUSH_DENORMALS)
    write_float_mode(mode)
    done = np.int64(0)
    if n_lanes > 1:
        done = walk_with_others(lanes, n_lanes, thread, steps, control, recording)
    else:
        stopping = start = np.int64(0)
        while done < steps and stopping == 0:
            if recording != 0:
                start = cycles()
            if walk_step_alone(lanes, 1, control, thread, recording) == ABORTED:
                break
            if recording != 0:
                record = _pointer(lanes[RECORD])
                end_step(record, record[TIMING], cycles() - start)
            done += 1
            stopping = atomic_load(offset(control, STOP))
    mode[0] = before
    write_float_mode(mode)
    return done


def walk(lanes, n_lanes, thread, steps, control):
    """Run `steps` steps of a table.

    Parameters
    ----------
    lanes : pointer to int64 (n_lanes, LANE_WORDS)
    n_lanes, thread : int64
        There are as many threads as lanes; this one walks lane `thread`.

    Returns
    -------
    int64
        Steps completed; after ABORT the last one may be half done.
    """
    return walk_steps(lanes, n_lanes, thread, steps, control, 0)


def walk_recording(lanes, n_lanes, thread, steps, control):
    """`walk` that fills the lanes' records."""
    record = _pointer(lanes[thread * LANE_WORDS + RECORD])
    record[BEGAN_CYCLES], record[BEGAN_NS] = cycles(), nanoseconds()
    done = walk_steps(lanes, n_lanes, thread, steps, control, 1)
    record[ENDED_CYCLES], record[ENDED_NS] = cycles(), nanoseconds()
    return done
