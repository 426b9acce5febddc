"""Sizes that compiled code and the executors above it agree on."""

# int64 words of a table's row: the entry's address, then operands, params, dims and leading dimensions.
ROW_WORDS = 24
# int64 words of a lane's row: the address of its table, the table's rows, and where a thread that walks all lanes stands in it.
LANE_WORDS = 3
TABLE, ROWS, POSITION = range(LANE_WORDS)
# int64 words of the control block that the threads of a run share; words that different threads write stand on cache lines of their own.
CONTROL_WORDS = 72
ARRIVED, GENERATION, SLEEPERS, STOP, ABORT = 0, 8, 16, 24, 32
# Written by the last thread to arrive at the barrier that ends a step, before it lets the others go on.
AGREED, DONE = 40, 41
FIRST_ARRIVAL = 48
# What the last one to arrive knows of the team's pace, see walker.py. From REMEMBERED on it is kept from run to run.
WINDOW_START, WINDOW_STEPS, WAITED = 56, 57, 58
REMEMBERED = 64
ALONE_COST, ALONE_UNTIL, ALONE_SPAN = 64, 65, 66
# int64 words that a caller shares with its helpers (crew.py): what the caller writes, then what all write.
CREW_WORDS = 40
CREW_TURN, CREW_ROWS, CREW_MODE, CREW_QUITS = 0, 1, 2, 3
CREW_LEFT, CREW_ENDED, CREW_SLEEPERS = 8, 16, 24


def block_stride(n_rows: int) -> int:
    """Bytes from one feature to the next in a block of a tree: whole tiles of 16 rows, an odd number of them.

    An even number would put the same row of many features into the same few sets of the cache.
    """
    return ((n_rows + 15) // 16 | 1) * 16


def warp_scratch(height: int, width: int, channels: int, n_taps: int) -> int:
    """Floats that the jobs on images need as scratch.

    The image with a border, plane by plane; a line; and, where displacements are smoothed, noise with room for the taps on both sides, the same
    smoothed along the lines, and the two fields.
    """
    size = channels * (height + 3) * (width + 3) + width
    if n_taps:
        size += height * (width + n_taps - 1) + (height + n_taps - 1) * width + 2 * height * width
    return size
