"""A Program: one training step, gradient or prediction as a table of instructions over named tensors.

Lowering (`lowering.py`) writes Programs; executors (`backends/`) run them. Three kinds of memory:

- *state* lives as long as the model trains: parameters and the optimizer's moments;
- *workspace* is overwritten every step: activations, gradients, scratch;
- *bound* belongs to the caller: the data set, the order of its rows, learning rates, recorded losses.

State and workspace are laid out here, once, as offsets into one block each: nothing is allocated while a program runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ALIGNMENT = 128  # bytes: two cache lines, because the hardware prefetcher fetches lines in pairs (no false sharing across tensors)
CACHE_LINE = 64
_ITEMSIZE = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4}


def split(n: int, parts: int) -> list[tuple[int, int]]:
    """Bounds of `parts` consecutive parts of `range(n)`, as equal as can be."""
    return [(n * part // parts, n * (part + 1) // parts) for part in range(parts)]


@dataclass(frozen=True)
class Tensor:
    """A named array. `strides` are in elements, the last one is 1; `offset` is in bytes from the start of its memory."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]
    memory: str  # "state" | "workspace" | "bound"
    offset: int = 0

    @property
    def view(self) -> View:
        """The whole tensor."""
        rows, columns = self.shape[0], self.shape[1] if len(self.shape) == 2 else 1
        return View(self, 0, rows, 0, columns)


@dataclass(frozen=True)
class View:
    """A rectangle of a tensor: rows `r0:r1` and, of matrices, columns `c0:c1`."""

    tensor: Tensor
    r0: int
    r1: int
    c0: int
    c1: int
    as_row: bool = False  # a vector seen as a matrix of one row

    def rows(self, lo: int, hi: int) -> View:
        """Rows `lo:hi` of this view."""
        return View(self.tensor, self.r0 + lo, self.r0 + hi, self.c0, self.c1)

    def from_row(self, lo: int) -> View:
        """Rows `lo` to the end of a bound tensor, whose size is known only when it is bound (it stands as 0)."""
        return View(self.tensor, lo, 0, self.c0, self.c1)

    def columns(self, lo: int, hi: int) -> View:
        """Columns `lo:hi` of this view of a matrix."""
        return View(self.tensor, self.r0, self.r1, self.c0 + lo, self.c0 + hi)

    def row_matrix(self) -> View:
        """The vector as a 1 x n matrix: optimizers take matrices."""
        return View(self.tensor, self.r0, self.r1, self.c0, self.c1, as_row=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as the op sees it."""
        if len(self.tensor.shape) == 1:
            return (1, self.r1 - self.r0) if self.as_row else (self.r1 - self.r0,)
        return (self.r1 - self.r0, self.c1 - self.c0)

    @property
    def leading_dimension(self) -> int:
        """Distance of two rows in elements."""
        return self.r1 - self.r0 if self.as_row else self.tensor.strides[0]

    @property
    def byte_offset(self) -> int:
        """Distance of the first element from the start of the tensor's memory (of a bound tensor: of its array)."""
        elements = self.r0 * self.tensor.strides[0] + self.c0
        return self.tensor.offset + elements * _ITEMSIZE[self.tensor.dtype]

    def __str__(self) -> str:
        columns = f",{self.c0}:{self.c1}" if len(self.tensor.shape) == 2 else ""
        return f"{self.tensor.name}[{self.r0}:{self.r1 or ''}{columns}]"


@dataclass(frozen=True)
class Instruction:
    """One call of an op: the operands in the contract's order."""

    op: str
    outs: tuple[View, ...]
    ins: tuple[View, ...]
    params: tuple[float, ...] = ()
    label: str = ""

    def __str__(self) -> str:
        arguments = ", ".join([*map(str, self.outs), *map(str, self.ins), *(f"{p:g}" for p in self.params)])
        return f"{self.op}({arguments})"


BARRIER = Instruction("barrier", (), (), label="barrier")


@dataclass
class Memory:
    """Lays out tensors one behind the other."""

    kind: str
    size: int = 0

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str, *, odd_lines: bool = False) -> Tensor:
        """Reserve a tensor.

        With `odd_lines` a matrix gets a row stride of an odd number of cache lines, so that walking down a column touches every cache set
        instead of a few; without it the rows are packed to whole vectors.
        """
        itemsize = _ITEMSIZE[dtype]
        strides: tuple[int, ...] = (1,)
        if len(shape) == 2:
            line = CACHE_LINE // itemsize
            lines = -(-shape[1] // line)
            if odd_lines and lines % 2 == 0:
                lines += 1
            strides = (lines * line, 1)
        tensor = Tensor(name, shape, dtype, strides, self.kind, self.size)
        nbytes = shape[0] * strides[0] * itemsize
        self.size += -(-nbytes // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        return tensor


@dataclass
class Table:
    """The instructions of one step, a list for each thread; barriers stand at the same places of all lists."""

    threads: list[list[Instruction]] = field(default_factory=list)

    @property
    def n_instructions(self) -> int:
        """Instructions of all threads, barriers not counted."""
        return sum(i is not BARRIER for thread in self.threads for i in thread)


Box = tuple[int, int, int, int]


class TableBuilder:
    """Collects a step stage by stage and inserts the barriers.

    A barrier goes in front of a stage when a region that one thread reads or writes there was written, or will be overwritten, by another
    thread since the last barrier. No barrier is placed by hand; two threads that clash within one stage are a bug of the lowering.
    Bound memory takes no part: the data set is only read, and recorded losses are addressed through the cursor, each thread its own rows.
    """

    def __init__(self, n_threads: int) -> None:
        self.table = Table([[] for _ in range(n_threads)])
        # For each tensor the bounding box of what each thread has read and written since the last barrier.
        self._touched: dict[str, dict[tuple[int, bool], Box]] = defaultdict(dict)

    def stage(self, per_thread: Sequence[Iterable[Instruction]]) -> None:
        """Append one stage: the instructions of each thread."""
        stage = [list(instructions) for instructions in per_thread]
        touched = [
            (thread, view, written)
            for thread, instructions in enumerate(stage)
            for instruction in instructions
            for views, written in ((instruction.outs, True), (instruction.ins, False))
            for view in views
            if view.tensor.memory != "bound"
        ]
        if any(self._conflict(*item) for item in touched):
            self.barrier()
        for thread, view, written in touched:
            if self._conflict(thread, view, written):
                raise AssertionError(f"threads clash on {view} within one stage")
            self._remember(thread, view, written)
        for thread_instructions, new in zip(self.table.threads, stage, strict=True):
            thread_instructions.extend(new)

    def barrier(self) -> None:
        """All threads wait for each other; with one thread there is nothing to wait for."""
        if len(self.table.threads) > 1:
            for thread in self.table.threads:
                thread.append(BARRIER)
        self._touched.clear()

    def _conflict(self, thread: int, view: View, written: bool) -> bool:
        return any(
            thread != other
            and (written or other_written)
            and view.r0 < box[1]
            and box[0] < view.r1
            and view.c0 < box[3]
            and box[2] < view.c1
            for (other, other_written), box in self._touched[view.tensor.name].items()
        )

    def _remember(self, thread: int, view: View, written: bool) -> None:
        boxes = self._touched[view.tensor.name]
        r0, r1, c0, c1 = boxes.get((thread, written), (view.r0, view.r1, view.c0, view.c1))
        boxes[thread, written] = (min(r0, view.r0), max(r1, view.r1), min(c0, view.c0), max(c1, view.c1))


@dataclass(frozen=True)
class Placement:
    """Where columns `c0:c1` of one parameter live: a tensor of the state, and of its moments."""

    tensor: Tensor
    moments: tuple[Tensor, ...]
    c0: int
    c1: int


@dataclass
class Program:
    """Everything an executor needs: memory sizes, bound tensors by name, and one table per number of rows of a batch.

    Attributes
    ----------
    tables : dict of int to Table
        The step for a full batch and, where asked for, for the shorter last one.
    placements : list of list of Placement
        For each parameter `[W0, b0, W1, b1, ...]` its pieces.
    bound : dict of str to Tensor
        What the executor must bind before it runs.
    decisions : list of str
        What the lowering chose, with reasons; shown by `fastmnist explain`.
    """

    state: Memory
    workspace: Memory
    bound: dict[str, Tensor]
    placements: list[list[Placement]]
    tables: dict[int, Table]
    decisions: list[str]

    def describe(self) -> list[str]:
        """Lines for people: the decisions, the memory, then thread 0's table with runs of the same op folded."""
        rows = max(self.tables)
        table = self.tables[rows]
        lines = [*self.decisions, f"memory: state {self.state.size:,} bytes, workspace {self.workspace.size:,} bytes"]
        lines.append(
            f"table for {rows} rows: {table.n_instructions} instructions, barriers not counted, on {len(table.threads)} thread(s); those of thread 0:"
        )
        instructions = table.threads[0]
        at = 0
        while at < len(instructions):
            period, repeats = _repeats(instructions, at)
            lines += [f"  {instruction}" for instruction in instructions[at : at + period]]
            if repeats:
                lines.append(f"    ... {repeats} more of this, block by block")
            at += period * (1 + repeats)
        return lines


LONGEST_PERIOD = 128  # instructions that are repeated: longer than a chunk of images needs, the longest there are


def _repeats(instructions: Sequence[Instruction], at: int) -> tuple[int, int]:
    """Length of the run of instructions at `at` that repeats with the same labels, and how often it does after the first time.

    Of all runs the one that, repeated, takes the most instructions; of equals the shortest.
    """
    labels = [(instruction.op, instruction.label) for instruction in instructions]
    best, best_repeats = 1, 0
    for period in range(1, LONGEST_PERIOD + 1):
        block, repeats = labels[at : at + period], 0
        while len(block) == period and labels[at + (repeats + 1) * period : at + (repeats + 2) * period] == block:
            repeats += 1
        if repeats and period * (repeats + 1) > best * (best_repeats + 1):
            best, best_repeats = period, repeats
    return best, best_repeats
