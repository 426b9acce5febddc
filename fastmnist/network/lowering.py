"""From a Spec to Programs: which ops run, in which order, on which thread, over which piece of which tensor.

Three programs, one way down:

- `training_program`: one optimizer step of a batch, shared by all threads. A thread owns *columns* of a wide layer (its panels of weights,
  moments and activations stay in its core's cache) and *rows* of a narrow one, never a part of a sum: the bits do not depend on the number
  of threads.
- `gradient_program`: loss and summed gradient of a block of rows, for full-batch solvers; each thread runs it on its own blocks.
- `inference_program`: outputs of a block of rows; likewise.

Weights of the training program are stored in *panels*: some columns of all rows as one contiguous matrix. The update of a layer is emitted
in blocks of rows: gradient rows into a scratch that stays in L1, then the optimizer's stream over the same rows of weights and moments. So any
gradient (dense, compressed) goes with any optimizer, and the gradient never travels through memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from fastmnist.network.crossover import Crossover
from fastmnist.network.image_choices import STATED_WINOGRAD
from fastmnist.network.image_lowering import ImageLayers
from fastmnist.network.layers import IN_PLACE, Activation, Dense, Dropout
from fastmnist.network.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SoftmaxTwiceCrossEntropy
from fastmnist.network.optimizers import SGD, Optimizer
from fastmnist.network.program import Instruction, Memory, Placement, Program, TableBuilder, Tensor, View, split
from fastmnist.network.spec import Spec

BLOCK_SLOTS = 16  # features of a block, as the ops on rows in occupied blocks have them


QUAD = 4  # neighbouring features that the first layer takes at once of many rows


def blocks_of(n_features: int) -> int:
    """How many blocks hold so many features."""
    return -(-n_features // BLOCK_SLOTS)


def quads_of(n_features: int) -> int:
    """How many quads hold so many features."""
    return -(-n_features // QUAD)


@dataclass(frozen=True)
class Target:
    """What the lowering must know of the machine.

    Attributes
    ----------
    n_threads : int
    panel_widths : tuple of int
        Allowed widths of a weight panel, widest first; empty: no panels, every matrix is stored whole.
    row_block : int
        Weight rows of one update (gradient rows in L1, then the optimizer); 0: all rows at once.
    dtype : str
        "float32" or "float64".
    gradient_groups : int
        Parts of a batch of images whose filter gradients are summed apart; must not depend on the number of threads, whose work they are.
    lanes : int
        float32 values of a vector, by which ways to compute are compared; 0: every image layer as it is written.
    chunk_bytes : int
        Images that a thread drives through the image layers at once: as many as make the largest tensor between them that large; 0: a group.
    winograd : Crossover
        Up to which part of the direct products convolutions go by Winograd's algorithm, where vectors have `lanes`.
    fuses_sgd : bool
        Whether plain gradient descent is taken by the product that makes the gradient of a dense layer's weights: then in no blocks.
    sums_losses : bool
        Whether gradient programs with `BinaryCrossEntropy` sum each output's losses over a block of rows instead of recording them row by row.
    lists_bytes : bool
        Whether rows of bytes are listed by quads of features so fast that it pays for a forward pass alone.
    """

    n_threads: int = 1
    panel_widths: tuple[int, ...] = ()
    row_block: int = 0
    dtype: str = "float32"
    gradient_groups: int = 1
    lanes: int = 0
    chunk_bytes: int = 0
    winograd: Crossover = STATED_WINOGRAD
    fuses_sgd: bool = False
    sums_losses: bool = False
    lists_bytes: bool = False


@dataclass(frozen=True)
class DataFormat:
    """How the rows of X are stored.

    Attributes
    ----------
    dtype : str
        Of the stored values: "uint8", "float32" or "float64".
    scale : float
        Multiplies every value when it is read.
    column_dtype : str
        Of the column indices of compressed rows ("uint16" or "int32"); "" for dense rows.
    reason : str
        Why this format, for `explain`.
    blocked : bool
        Rows in occupied blocks of features, which gradient programs of a single layer read.
    skipping : bool
        Dense rows, of which the first layer multiplies the nonzero values alone; training and inference programs whose first layer is Dense.
    """

    dtype: str
    scale: float = 1.0
    column_dtype: str = ""
    reason: str = ""
    blocked: bool = False
    skipping: bool = False

    @property
    def compressed(self) -> bool:
        """Whether only nonzero values are stored."""
        return bool(self.column_dtype)

    @property
    def dense(self) -> bool:
        """Whether every value is stored, row by row, and multiplied."""
        return not (self.compressed or self.blocked or self.skipping)

    def same_program(self, other: DataFormat) -> bool:
        """Whether programs for one serve the other: all but the reason agrees."""
        return replace(self, reason="") == replace(other, reason="")


@dataclass
class _Value:
    """A batch of activations, who owns which part of it, and where its gradient goes."""

    tensor: Tensor
    gradient: Tensor | None
    by_columns: bool  # threads own columns (else rows)
    panels: list[tuple[int, int]] = field(default_factory=list)
    rectified: bool = False  # ReLU has made it: its gradient is to be set to 0 where it is not above 0


@dataclass(frozen=True)
class _DenseNode:
    index: int
    inputs: int
    layer: Dense
    source: _Value | None  # None: rows of X that are not dense
    output: _Value
    fused_relu: bool


@dataclass(frozen=True)
class _ActivationNode:
    name: str
    source: _Value
    output: _Value  # the same value when it works in place


@dataclass(frozen=True)
class _DropoutNode:
    index: int
    rate: float
    source: _Value
    output: _Value
    mask: Tensor


_Node = _DenseNode | _ActivationNode | _DropoutNode


def _blocks(lo: int, hi: int, size: int) -> Iterator[tuple[int, int]]:
    size = size or max(hi - lo, 1)
    for start in range(lo, hi, size):
        yield start, min(start + size, hi)


def training_program(spec: Spec, target: Target, data: DataFormat, batch_sizes: tuple[int, ...]) -> Program:
    """One optimizer step, for each of `batch_sizes` rows (the full batch, and perhaps a shorter last one)."""
    return Lowering(spec, target, data, max(batch_sizes), "training").program(batch_sizes)


def gradient_program(
    spec: Spec,
    data: DataFormat,
    block_sizes: tuple[int, ...],
    dtype: str = "float32",
    chunk_bytes: int = 0,
    sums_losses: bool = False,
) -> Program:
    """Adds the gradient of a block of rows to the workspace tensors `gradient_0`, `gradient_1`, ...; the parameters lie in its
    workspace (`place_parameters`).

    With `BinaryCrossEntropy` the bound tensor `losses` has a column for each output, in `dtype`, with `sums_losses` a row for each block: the sums
    of its weighted losses; otherwise one float32 value for each row.
    """
    target = Target(dtype=dtype, chunk_bytes=chunk_bytes, sums_losses=sums_losses)
    return Lowering(spec, target, data, max(block_sizes), "gradient").program(block_sizes)


def inference_program(
    spec: Spec,
    data: DataFormat,
    block_sizes: tuple[int, ...],
    dtype: str = "float32",
    chunk_bytes: int = 0,
    lanes: int = 0,
    winograd: Crossover = STATED_WINOGRAD,
    lists_bytes: bool = False,
    link: bool = True,
) -> Program:
    """Writes the outputs of a block of rows, without the loss's link its logits, to the bound tensor `outputs`; parameters are bound as
    `parameter_<i>`.
    """
    target = Target(dtype=dtype, lanes=lanes, chunk_bytes=chunk_bytes, winograd=winograd, lists_bytes=lists_bytes)
    return Lowering(spec, target, data, max(block_sizes), "inference", link=link).program(block_sizes)


def optimizer_op(optimizer: Optimizer) -> tuple[str, int, tuple[float, ...]]:
    """The op of an optimizer, how many moments it keeps, and its constant parameters."""
    if isinstance(optimizer, SGD):
        if not optimizer.momentum:
            return "sgd", 0, ()
        return ("nesterov" if optimizer.nesterov else "momentum"), 1, (optimizer.momentum,)
    return "adam", 2, (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon)


class Lowering:
    """Lowers one Spec for one purpose: "training", "gradient" or "inference"."""

    def __init__(
        self, spec: Spec, target: Target, data: DataFormat, rows: int, purpose: str, *, link: bool = True
    ) -> None:
        self.spec, self.target, self.data, self.rows, self.purpose = spec, target, data, rows, purpose
        self.link = link
        self.n_threads = target.n_threads
        # Full-batch solvers want the loss of each one-vs-rest problem by itself.
        self.loss_by_class = purpose == "gradient" and isinstance(spec.loss, BinaryCrossEntropy)
        self.state, self.workspace = Memory("state"), Memory("workspace")
        self.bound: dict[str, Tensor] = {}
        stored = "compressed" if data.compressed else "blocks of" if data.blocked else "dense"
        self.decisions = [f"rows of X: {stored} {data.dtype}. {data.reason}".strip()]
        self.op, self.n_moments, self.op_params = optimizer_op(spec.optimizer)
        self._bind_data()
        self.cursors = [self.workspace.tensor(f"cursor_{t}", (2,), "int64") for t in range(self.n_threads)]
        # Image layers first, if there are any; what follows them are rows of numbers.
        self.images = ImageLayers(self) if spec.image_shape is not None else None
        self.nodes = self._build_nodes()
        self.dense = [node for node in self.nodes if isinstance(node, _DenseNode)]
        self.placements = self._place_parameters()
        self._reserve_scratch()
        if self._skips_zeros(self.dense[0]):
            # Where the only row stands, as ops that read rows of X where they lie ask for it: zeros that nobody writes.
            self.only_row = self.workspace.tensor("only_row", (1,), "int64"), self.workspace.tensor("at", (2,), "int64")
            self.decisions.append(f"dense {self.dense[0].index + 1}: the zeros of an only row are skipped")

    # --- memory -------------------------------------------------------------------------------------------------------------------

    def _bind(self, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        strides = (shape[1], 1) if len(shape) == 2 else (1,)
        return self.bound.setdefault(name, Tensor(name, shape, dtype, strides, "bound"))

    def _bind_data(self) -> None:
        # Sizes of bound tensors that change from fit to fit stand as 0: the executor knows them, the ops address them through the cursor.
        if self.data.compressed:
            self._bind("indptr", (0,), "int64")
            self._bind("columns", (0,), self.data.column_dtype)
            self._bind("values", (0,), self.data.dtype)
        elif self.data.blocked:
            self._bind("indptr", (0,), "int64")
            self._bind("bitmap", (0, -(-blocks_of(self.spec.n_features) // 64)), "int64")
            self._bind("values", (0,), self.data.dtype)
        else:
            self._bind("source", (0, self.spec.n_features), self.data.dtype)
        self._bind("order", (0,), "int64")
        if self.purpose == "inference":
            self._bind("outputs", (0, self.spec.n_outputs), self.target.dtype)
            return
        for name, shape, dtype in (
            ("labels", (0,), "int32"),
            ("sample_weight", (0,), "float32"),
            ("scale", (0,), "float32"),
            ("hits", (0,), "uint8"),
        ):
            self._bind(name, shape, dtype)
        if self.loss_by_class:
            self._bind("losses", (0, self.spec.n_outputs), self.target.dtype)
        else:
            self._bind("losses", (0,), "float32")
        if self.purpose == "training":
            self._bind("hyper_weights", (0, 3), self.target.dtype)
            self._bind("hyper_biases", (0, 3), self.target.dtype)
            self._bind("key", (2,), "uint32")

    def _value(
        self, name: str, width: int, by_columns: bool = False, panels: list[tuple[int, int]] | None = None
    ) -> _Value:
        tensor = self.workspace.tensor(name, (self.rows, width), self.target.dtype, odd_lines=True)
        gradient = None
        if self.purpose != "inference":
            gradient = self.workspace.tensor(f"d{name}", (self.rows, width), self.target.dtype, odd_lines=True)
        return _Value(tensor, gradient, by_columns, panels or [(0, width)])

    def _panels(self, width: int) -> tuple[list[tuple[int, int]], bool]:
        """Panels of a layer's columns, and whether threads own columns."""
        wide = next((w for w in self.target.panel_widths if width // w >= self.n_threads), 0)
        if not wide:
            return [(0, width)], self.n_threads == 1
        return list(_blocks(0, width, wide)), True

    def _build_nodes(self) -> list[_Node]:
        nodes: list[_Node] = []
        value: _Value | None
        first = n_dense = 0
        if self.images:
            made, first, n_dense = self.images.output, self.images.n_layers, self.images.n_pairs
            gradient = made.gradients[0] if made.gradients else None
            value = _Value(made.tensors[0], gradient, False, [(0, made.size)], self.images.ends_rectified)
        else:
            value = self._value("x", self.spec.n_features) if self.data.dense else None
        for i, layer in enumerate(self.spec.layers[first:], start=first):
            if isinstance(layer, Dense):
                panels, by_columns = self._panels(layer.units)
                output = self._value(f"h{n_dense + 1}", layer.units, by_columns, panels)
                inputs = self.spec.n_features if value is None else value.tensor.shape[1]
                fused = output.rectified = layer.activation == "relu"
                nodes.append(_DenseNode(n_dense, inputs, layer, value, output, fused))
                owner = f"columns in panels of {panels[0][1]}" if by_columns else "rows"
                self.decisions.append(f"dense {n_dense + 1} ({inputs} -> {layer.units}): threads own {owner}")
                value, n_dense = output, n_dense + 1
                if layer.activation not in ("identity", "relu"):
                    value = self._activation(nodes, layer.activation, value, i)
            elif isinstance(layer, Activation):
                if layer.name != "identity":
                    assert value is not None
                    value = self._activation(nodes, layer.name, value, i)
            elif isinstance(layer, Dropout) and self.purpose == "training" and layer.rate > 0:
                assert value is not None
                output = self._value(f"dropout_{i}", value.tensor.shape[1], value.by_columns, value.panels)
                mask = self.workspace.tensor(f"mask_{i}", output.tensor.shape, self.target.dtype, odd_lines=True)
                nodes.append(_DropoutNode(i, layer.rate, value, output, mask))
                value = output
        return nodes

    def _activation(self, nodes: list[_Node], name: str, value: _Value, i: int) -> _Value:
        output = value
        last = nodes[-1] if nodes else None
        # Not in place on the output of another activation: that one's derivative still needs it.
        in_place = name in IN_PLACE and isinstance(last, _DenseNode) and not last.fused_relu
        if not in_place:
            output = self._value(f"{name}_{i}", value.tensor.shape[1], value.by_columns, value.panels)
        output.rectified = in_place and name == "relu"
        nodes.append(_ActivationNode(name, value, output))
        return output

    def _place_parameters(self) -> list[list[Placement]]:
        placements = self.images.place_parameters() if self.images else []
        for node in self.dense:
            shapes: dict[str, tuple[int, ...]] = {"w": (node.inputs, node.layer.units), "b": (node.layer.units,)}
            for kind, shape in shapes.items():
                if self.purpose != "training":
                    name = f"parameter_{len(placements)}"
                    # Copied for each gradient: rows that start on a cache line are worth more than the copy.
                    reserve = self.workspace.tensor if self.purpose == "gradient" else self._bind
                    stored = self._stored_shape(shape)
                    tensor = reserve(name, stored, self.target.dtype)
                    placements.append([Placement(tensor, (), 0, stored[-1])])
                    continue
                pieces = []
                for c0, c1 in node.output.panels:
                    name, size = f"{kind}{node.index + 1}_{c0}", (*shape[:-1], c1 - c0)
                    tensor = self.state.tensor(name, size, self.target.dtype)
                    moments = tuple(
                        self.state.tensor(f"{name}_m{k}", size, self.target.dtype) for k in range(self.n_moments)
                    )
                    pieces.append(Placement(tensor, moments, c0, c1))
                placements.append(pieces)
        return placements

    def _stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of a parameter, or its gradient: weights that multiply blocks lie block by block, as a vector."""
        if self.data.blocked and len(shape) == 2:
            return (blocks_of(shape[0]) * BLOCK_SLOTS * shape[1],)
        return shape

    def _reserve_scratch(self) -> None:
        widest = max(c1 - c0 for node in self.dense for c0, c1 in node.output.panels)
        dtype = self.target.dtype
        if self.purpose == "gradient":
            self.gradients = [
                self.workspace.tensor(f"gradient_{i}", self._stored_shape(shape), dtype)
                for i, shape in enumerate(self.spec.parameter_shapes)
            ]
        if self._takes_quads:
            self._reserve_quads()
        if self.purpose != "training":
            return
        deepest = self.target.row_block or max(node.inputs for node in self.dense)
        self.dw = [self.workspace.tensor(f"dw_{t}", (deepest, widest), dtype) for t in range(self.n_threads)]
        self.db = [self.workspace.tensor(f"db_{t}", (widest,), dtype) for t in range(self.n_threads)]

    def _reserve_quads(self) -> None:
        """Lists for each thread: making them twice costs less than fetching them from the other core's cache."""
        n_quads, dtype = quads_of(self.spec.n_features), self.target.dtype
        self.by_quad = [
            (
                self.workspace.tensor(f"counts_{t}", (n_quads,), "int32"),
                self.workspace.tensor(f"rows_{t}", (n_quads, self.rows), "int32"),
                self.workspace.tensor(f"entries_{t}", (n_quads, QUAD * self.rows), dtype),
            )
            for t in range(self.n_threads)
        ]

    # --- the step -----------------------------------------------------------------------------------------------------------------

    def program(self, batch_sizes: tuple[int, ...]) -> Program:
        """Lower the step for each number of rows."""
        tables = {}
        for rows in dict.fromkeys(batch_sizes):
            self.builder = TableBuilder(self.n_threads)
            self._lower(rows)
            tables[rows] = self.builder.table
        return Program(self.state, self.workspace, self.bound, self.placements, tables, self.decisions)

    def _lower(self, rows: int) -> None:
        self.row_shares = split(rows, self.n_threads)
        if self.images:
            self.images.forward(rows)
        elif self.data.dense:
            self._gather()
        for node in self.nodes:
            if isinstance(node, _DenseNode) and node.source is None and self._takes_quads:
                self._forward_quads(node, rows)
            else:
                self._forward(node, rows)
        if self.purpose == "inference":
            self._emit_outputs()
        else:
            self._emit_loss()
            for node in reversed(self.nodes):
                self._backward(node, rows)
            if self.images:
                self.images.backward(rows, isinstance(self.nodes[0], _DenseNode))
            for node in self.dense:
                if self.purpose == "training":
                    self._update(node, rows)
                else:
                    self._add_gradient(node, rows)
            if self.images and self.purpose == "training":
                self.images.update(rows)
        self.builder.stage(
            [[Instruction("advance", (cursor.view,), (), (rows,), "advance")] for cursor in self.cursors]
        )
        self.builder.barrier()

    def _shares(self, value: _Value, rows: int) -> list[tuple[int, int, list[tuple[int, int]]]]:
        """For each thread the rows and the panels of a value that it owns."""
        if not value.by_columns:
            return [(r0, r1, value.panels) for r0, r1 in self.row_shares]
        panels = value.panels
        return [(0, rows, panels[lo:hi]) for lo, hi in split(len(panels), self.n_threads)]

    def _regions(self, value: _Value, rows: int) -> list[tuple[int, int, int, int] | None]:
        """For each thread the rectangle `r0, r1, c0, c1` of a value that it owns; None for an empty one."""
        return [
            (r0, r1, panels[0][0], panels[-1][1]) if r1 > r0 and panels else None
            for r0, r1, panels in self._shares(value, rows)
        ]

    @staticmethod
    def _block(tensor: Tensor, region: tuple[int, int, int, int]) -> View:
        r0, r1, c0, c1 = region
        return View(tensor, r0, r1, c0, c1)

    def _gather(self) -> None:
        source = self.nodes[0].source
        assert source is not None
        stage = []
        for t, (r0, r1) in enumerate(self.row_shares):
            ins = (self.bound["source"].view, self.bound["order"].view.from_row(r0), self.cursors[t].view)
            out = (source.tensor.view.rows(r0, r1),)
            stage.append([Instruction("gather_rows", out, ins, (self.data.scale,), "gather")] if r1 > r0 else [])
        self.builder.stage(stage)

    def _stored_rows(self, t: int, r0: int) -> tuple[tuple[View, ...], tuple[View, ...]]:
        """Operands of ops that read X's rows where they lie: the arrays that hold them, and where the batch is."""
        names: tuple[str, ...] = ("indptr", "bitmap" if self.data.blocked else "columns", "values")
        arrays = tuple(self.bound[name].view for name in (("source",) if self.data.skipping else names))
        return arrays, (self.bound["order"].view.from_row(r0), self.cursors[t].view)

    @property
    def _kind(self) -> str:
        """Of ops that read X's rows where they lie."""
        return "block" if self.data.blocked else "skipping" if self.data.skipping else "sparse"

    def _forward(self, node: _Node, rows: int) -> None:
        stage: list[list[Instruction]] = []
        if isinstance(node, _DenseNode):
            label = f"forward {node.index + 1}"
            op = "linear_relu" if node.fused_relu else "linear"
            for t, (r0, r1, panels) in enumerate(self._shares(node.output, rows)):
                instructions = []
                for c0, c1 in panels if r1 > r0 else []:
                    y = View(node.output.tensor, r0, r1, c0, c1)
                    weights = self._panel(2 * node.index, c0), self._panel(2 * node.index + 1, c0)
                    if node.source is None:
                        arrays, position = self._stored_rows(t, r0)
                        ins: tuple[View, ...] = (*arrays, *weights, *position)
                        instructions.append(Instruction(f"{self._kind}_{op}", (y,), ins, (self.data.scale,), label))
                    else:
                        x = node.source.tensor.view.rows(r0, r1)
                        if self._skips_zeros(node):
                            ins = (x, *weights, *(tensor.view for tensor in self.only_row))
                            instructions.append(Instruction(f"skipping_{op}", (y,), ins, (1.0,), label))
                        else:
                            instructions.append(Instruction(op, (y,), (x, *weights), (), label))
                stage.append(instructions)
        else:
            for t, region in enumerate(self._regions(node.output, rows)):
                instructions = []
                if region:
                    y, x = self._block(node.output.tensor, region), self._block(node.source.tensor, region)
                    if isinstance(node, _ActivationNode):
                        instructions.append(Instruction(node.name, (y,), (x,), (), node.name))
                    else:
                        ins = (x, self.bound["key"].view, self.cursors[t].view)
                        outs = (y, self._block(node.mask, region))
                        params = (node.rate, node.index, region[0], region[2])
                        instructions.append(Instruction("dropout", outs, ins, params, "dropout"))
                stage.append(instructions)
        self.builder.stage(stage)

    def _skips_zeros(self, node: _DenseNode) -> bool:
        """Of a single image's rectified pixels: then weights are read for one row alone, and those that 0 multiplies need not be."""
        after_images = self.images is not None and node is self.nodes[0] and self.images.ends_rectified
        return self.purpose == "inference" and self.rows == 1 and self.target.lanes > 0 and after_images

    def _panel(self, parameter: int, c0: int) -> View:
        return next(p for p in self.placements[parameter] if p.c0 == c0).tensor.view

    @property
    def _takes_quads(self) -> bool:
        """Whether the first layer reads the batch by quads of features: in training twice, forward and for the gradient."""
        if self.purpose == "inference":
            return self.target.lists_bytes and self.data.skipping and self.data.dtype == "uint8"
        return self.purpose == "training" and (self.data.compressed or self.data.skipping)

    def _list_quads(self, shares: list[tuple[int, int]]) -> None:
        """Rows r0 ... r1 - 1 of the batch by quads of features, for each thread its own."""
        stage = []
        for t, (r0, r1) in enumerate(shares):
            arrays, position = self._stored_rows(t, r0)
            lists = self._quads(t, r1 - r0)
            op = Instruction(f"{self._kind}_quads", lists, (*arrays, *position), (self.data.scale,), "batch by feature")
            stage.append([op] if r1 > r0 else [])
        self.builder.stage(stage)

    def _quads(self, t: int, rows: int, features: tuple[int, int] | None = None) -> tuple[View, ...]:
        """A thread's lists of so many rows, of all features or from one on to before another; the first begins a quad."""
        counts, numbers, entries = self.by_quad[t]
        lo, hi = (features[0] // QUAD, quads_of(features[1])) if features else (0, counts.shape[0])
        return (
            counts.view.rows(lo, hi),
            numbers.view.rows(lo, hi).columns(0, rows),
            entries.view.rows(lo, hi).columns(0, QUAD * rows),
        )

    def _forward_quads(self, node: _DenseNode, rows: int) -> None:
        """The first layer, of lists of the batch; a thread that owns rows lists its own first, and all of them for the gradient afterwards."""
        everything = [(0, rows)] * self.n_threads
        shares = self._shares(node.output, rows)
        self._list_quads(everything if node.output.by_columns else [(r0, r1) for r0, r1, _ in shares])
        op, label = "quad_linear_relu" if node.fused_relu else "quad_linear", f"forward {node.index + 1}"
        stage = []
        for t, (r0, r1, panels) in enumerate(shares):
            stage.append(
                [
                    Instruction(
                        op,
                        (View(node.output.tensor, r0, r1, c0, c1),),
                        (
                            *self._quads(t, r1 - r0),
                            self._panel(2 * node.index, c0),
                            self._panel(2 * node.index + 1, c0),
                        ),
                        (),
                        label,
                    )
                    for c0, c1 in panels
                    if r1 > r0
                ]
            )
        self.builder.stage(stage)
        if self.purpose == "training" and not node.output.by_columns:
            self._list_quads(everything)

    def _emit_loss(self) -> None:
        params: tuple[float, ...] = ()
        if isinstance(self.spec.loss, SoftmaxCrossEntropy):
            op, params = "softmax_cross_entropy", (self.spec.loss.label_smoothing,)
        elif isinstance(self.spec.loss, SoftmaxTwiceCrossEntropy):
            op = "softmax_twice_cross_entropy"
        else:
            op = "binary_cross_entropy_by_class" if self.loss_by_class else "binary_cross_entropy"
        sums = self.loss_by_class and self.target.sums_losses
        if sums:
            op = "binary_cross_entropy_sums"
        logits = self.nodes[-1].output
        assert logits.gradient is not None
        self.gradient_regions = {
            logits.tensor.name: [(r0, r1, 0, self.spec.n_outputs) if r1 > r0 else None for r0, r1 in self.row_shares]
        }
        stage = []
        for t, (r0, r1) in enumerate(self.row_shares):
            recorded = (
                (self.bound["losses"].view,) if sums else (self.bound[n].view.from_row(r0) for n in ("losses", "hits"))
            )
            outs = (logits.gradient.view.rows(r0, r1), *recorded)
            ins = (
                logits.tensor.view.rows(r0, r1),
                self.bound["labels"].view,
                self.bound["sample_weight"].view,
                self.bound["order"].view.from_row(r0),
                self.bound["scale"].view,
                self.cursors[t].view,
            )
            stage.append([Instruction(op, outs, ins, params, "loss")] if r1 > r0 else [])
        self.builder.stage(stage)

    def _emit_outputs(self) -> None:
        link = "sigmoid" if isinstance(self.spec.loss, BinaryCrossEntropy) else "softmax"
        z = self.nodes[-1].output.tensor.view.rows(0, self.row_shares[0][1])
        if self.link:
            self.builder.stage([[Instruction(link, (z,), (z,), (), link)]])
        scatter = Instruction("scatter_rows", (self.bound["outputs"].view,), (z, self.cursors[0].view), (), "outputs")
        self.builder.stage([[scatter]])

    def _backward(self, node: _Node, rows: int) -> None:
        """The gradient of a node's input from that of its output.

        Elementwise steps run on the regions in which the gradient was made, so they need no barrier.
        """
        if isinstance(node, _DenseNode) and node.fused_relu and not self._is_gated(node):
            self._elementwise_backward("relu_backward", node.output, node.output, node.output.tensor)
        source, output = node.source, node.output
        if source is None or not self._needs_gradient(node):
            return
        if isinstance(node, _ActivationNode):
            if self._is_gated(node):
                return
            kept = node.output if node.name in IN_PLACE else node.source
            self._elementwise_backward(f"{node.name}_backward", source, output, kept.tensor)
        elif isinstance(node, _DropoutNode):
            self._elementwise_backward("dropout_backward", source, output, node.mask)
        else:
            self._dense_backward(node, source, rows)

    def _is_gated(self, node: _Node) -> bool:
        """Whether the product of the layer behind takes the derivative of the ReLU that the node ends with (`_dense_backward`)."""
        behind = self.nodes[self.nodes.index(node) + 1 :]
        return node.output.rectified and bool(behind) and isinstance(behind[0], _DenseNode)

    def _elementwise_backward(self, op: str, source: _Value, output: _Value, kept: Tensor) -> None:
        assert source.gradient is not None and output.gradient is not None
        regions = self.gradient_regions[output.tensor.name]
        stage = []
        for region in regions:
            instructions = []
            if region:
                dx, dy = self._block(source.gradient, region), self._block(output.gradient, region)
                instructions.append(Instruction(op, (dx,), (dy, self._block(kept, region)), (), op))
            stage.append(instructions)
        self.builder.stage(stage)
        self.gradient_regions[source.tensor.name] = regions

    def _dense_backward(self, node: _DenseNode, source: _Value, rows: int) -> None:
        output = node.output
        assert source.gradient is not None and output.gradient is not None
        if source.by_columns and output.by_columns:
            regions = self._regions(source, rows)
        else:
            regions = [(r0, r1, 0, node.inputs) if r1 > r0 else None for r0, r1 in self.row_shares]
        stage = []
        for region in regions:
            instructions = []
            for c0, c1 in output.panels if region else []:
                assert region is not None
                dy = View(output.gradient, region[0], region[1], c0, c1)
                w = self._panel(2 * node.index, c0).rows(region[2], region[3])
                op = "linear_dx_add" if c0 else "linear_dx"
                gate: tuple[View, ...] = ()
                if source.rectified and c1 == node.layer.units:
                    op, gate = f"{op}_relu", (self._block(source.tensor, region),)
                dx = self._block(source.gradient, region)
                instructions.append(Instruction(op, (dx,), (dy, w, *gate), (), f"backward {node.index + 1}"))
            stage.append(instructions)
        self.builder.stage(stage)
        self.gradient_regions[source.tensor.name] = regions

    def _needs_gradient(self, node: _Node) -> bool:
        before = self.nodes[: self.nodes.index(node)]
        return any(isinstance(n, _DenseNode) for n in before) or bool(self.images and self.images.n_pairs)

    def _update(self, node: _DenseNode, rows: int) -> None:
        """Gradient and optimizer, block by block: each thread its panels, or its rows of a narrow layer's weights."""
        assert node.output.gradient is not None
        stage = []
        if node.output.by_columns:
            shares = [(0, node.inputs, panels) for _, _, panels in self._shares(node.output, rows)]
        else:
            shares = [(k0, k1, node.output.panels) for k0, k1 in self._feature_shares(node)]
        for t, (k0, k1, panels) in enumerate(shares):
            instructions = []
            # The next forward pass begins with the first panel: it is in L2 if it was updated last.
            for c0, c1 in reversed(panels):
                dy = View(node.output.gradient, 0, rows, c0, c1)
                fused = self.target.fuses_sgd and self.op == "sgd"
                for lo, hi in _blocks(k0, k1, 0 if fused else self.target.row_block):
                    instructions += self._update_block(node, t, lo, hi, c0, dy, fused)
                if k1 == node.inputs and node.layer.use_bias:
                    db = self.db[t].view.rows(0, c1 - c0)
                    instructions.append(Instruction("linear_db", (db,), (dy,), (), f"gradient {node.index + 1}"))
                    instructions.append(self._step(node, t, 1, c0, None, db.row_matrix()))
            stage.append(instructions)
        self.builder.stage(stage)

    def _feature_shares(self, node: _DenseNode) -> list[tuple[int, int]]:
        """Each thread's rows of a narrow layer's weights; no quad of features is cut."""
        if node.source is not None:
            return split(node.inputs, self.n_threads)
        shares = split(quads_of(node.inputs), self.n_threads)
        return [(QUAD * lo, min(QUAD * hi, node.inputs)) for lo, hi in shares]

    def _update_block(
        self, node: _DenseNode, t: int, lo: int, hi: int, c0: int, dy: View, fused: bool
    ) -> list[Instruction]:
        label = f"gradient {node.index + 1}"
        factors: tuple[View, ...]
        if node.source is None:
            op, factors = "quad_linear_dw", (*self._quads(t, dy.shape[0], (lo, hi)), dy)
        else:
            op, factors = "linear_dw", (View(node.source.tensor, 0, dy.shape[0], lo, hi), dy)
        if fused:
            w = self._panel(2 * node.index, c0).rows(lo, hi)
            position = self.bound["hyper_weights"].view, self.cursors[t].view
            return [Instruction(f"{op}_sgd", (w,), (*factors, *position), (), label)]
        dw = self.dw[t].view.rows(0, hi - lo).columns(0, dy.shape[1])
        gradient = Instruction(op, (dw,), factors, (), label)
        return [gradient, self._step(node, t, 0, c0, (lo, hi), dw)]

    def _step(
        self, node: _DenseNode, t: int, kind: int, c0: int, rows: tuple[int, int] | None, gradient: View
    ) -> Instruction:
        """The optimizer on rows of a weight panel (kind 0) or on a bias (kind 1)."""
        placement = next(p for p in self.placements[2 * node.index + kind] if p.c0 == c0)
        tensors = (placement.tensor, *placement.moments)
        outs = tuple(t.view.rows(*rows) if rows else t.view.row_matrix() for t in tensors)
        hyper = self.bound["hyper_biases" if kind else "hyper_weights"].view
        return Instruction(
            self.op, outs, (gradient, hyper, self.cursors[t].view), self.op_params, f"{self.op} {node.index + 1}"
        )

    def _add_gradient(self, node: _DenseNode, rows: int) -> None:
        assert node.output.gradient is not None
        dy = node.output.gradient.view.rows(0, rows)
        dw, db = (self.gradients[2 * node.index + k].view for k in (0, 1))
        label = f"gradient {node.index + 1}"
        if node.source is None:
            arrays, position = self._stored_rows(0, 0)
            add = Instruction(f"{self._kind}_linear_dw_add", (dw,), (*arrays, dy, *position), (self.data.scale,), label)
        else:
            add = Instruction("linear_dw_add", (dw,), (node.source.tensor.view.rows(0, rows), dy), (), label)
        self.builder.stage([[add, Instruction("linear_db_add", (db,), (dy,), (), label)]])
