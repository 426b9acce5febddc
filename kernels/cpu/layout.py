"""Sizes that the compiled walker and the executor above it agree on."""

# int64 words of a table's row: the entry's address, then operands, params, dims and leading dimensions.
ROW_WORDS = 24
# int64 words of the control block that the threads of a run share, each used word on a cache line of its own.
CONTROL_WORDS = 48
ARRIVED, GENERATION, SLEEPERS, STOP, AGREED = 0, 8, 16, 24, 32
