"""The image layers of a Spec, from the gathered pixels to the rows of numbers that the first Dense reads.

A batch is cut into *groups* of rows, whose number does not depend on the number of threads, and a group into *chunks*, small enough for a core's
cache. A thread takes whole groups and drives each chunk through all image layers, forward, and later backward, before it touches the next: what
only the next layer reads lies in scratch of the thread and never leaves its cache; only what the backward pass will read is kept for the batch.

The gradient of a filter is summed group by group into a tensor of the group; the groups' tensors are added in their order by the thread that owns
those rows of the weights. So the bits do not depend on the number of threads, and no thread waits within the image layers.

Batch normalisation is the exception: its statistics are those of the whole batch, so it parts the layers into *segments*. All threads end one
segment, the groups' statistics are merged in their order, and the next segment begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastmnist.network.image_choices import choose_ways
from fastmnist.network.image_memory import ImageMemory
from fastmnist.network.image_nodes import (
    Activate,
    AvgPool,
    Convolution,
    Drop,
    ImageChain,
    MaxPool,
    Node,
    Norm,
    Pad,
    Piece,
    chunk_rows,
    pooled_window,
    takes_derivative,
    window,
)
from fastmnist.network.layers import IN_PLACE
from fastmnist.network.program import Instruction, Placement, View, split

if TYPE_CHECKING:
    from fastmnist.network.lowering import Lowering


class ImageLayers(ImageChain):
    """Lowers the image layers; `low` is the lowering of the whole network."""

    def __init__(self, low: Lowering) -> None:
        super().__init__(low.spec, training=low.purpose == "training")
        self.low = low
        if self.norms and low.purpose == "gradient":
            raise ValueError(
                "BatchNorm has no gradient of blocks of rows: its statistics are those of a mini-batch. Train it with mini-batches (run_epoch)."
            )
        choose_ways(self, low)
        self.chunk = ImageMemory(self, low, self.n_groups).chunk
        low.decisions.append(
            f"image layers: {min(self.n_groups, low.rows)} groups of rows for {low.n_threads} thread(s), driven through in chunks of "
            f"{self.chunk} image(s)"
        )

    @property
    def n_groups(self) -> int:
        """Parts of a batch whose filter gradients are summed apart."""
        return self.low.target.gradient_groups if self.low.purpose == "training" else 1

    def place_parameters(self) -> list[list[Placement]]:
        """Every parameter whole; what an optimizer does not touch has no moments."""
        low = self.low
        owners: list[Convolution | Norm] = [*self.convolutions, *self.norms]
        learned = {2 * node.index + k for node in owners for k in (0, 1)}
        placements: list[list[Placement]] = []
        for i, shape in enumerate(low.spec.parameter_shapes[: 2 * self.n_pairs]):
            if low.purpose != "training":
                reserve = low.workspace.tensor if low.purpose == "gradient" else low._bind
                placements.append([Placement(reserve(f"parameter_{i}", shape, low.target.dtype), (), 0, shape[-1])])
                continue
            name, n_moments = f"{'wb'[i % 2]}{i // 2 + 1}", low.n_moments if i in learned else 0
            tensor = low.state.tensor(name, shape, low.target.dtype)
            moments = tuple(low.state.tensor(f"{name}_m{k}", shape, low.target.dtype) for k in range(n_moments))
            placements.append([Placement(tensor, moments, 0, shape[-1])])
        return placements

    # --- the step -----------------------------------------------------------------------------------------------------------------

    def _pieces(self, rows: int) -> list[list[Piece]]:
        """For each thread the chunks of its groups."""
        n_groups = max(min(self.n_groups, rows), 1)
        groups = split(rows, n_groups)
        return [
            [piece for g in range(lo, hi) for piece in self._chunks(t, g, *groups[g])]
            for t, (lo, hi) in enumerate(split(n_groups, self.low.n_threads))
        ]

    def _chunks(self, thread: int, group: int, r0: int, r1: int) -> Iterator[Piece]:
        for start in range(r0, r1, self.chunk):
            yield Piece(thread, group, start, min(start + self.chunk, r1), start == r0)

    def _segments(self) -> list[list[Node]]:
        """The nodes, parted before each batch normalisation; prediction has none to part."""
        segments: list[list[Node]] = [[]]
        for node in self.nodes:
            if isinstance(node, Norm) and self.low.purpose == "training":
                segments.append([])
            segments[-1].append(node)
        return segments

    def forward(self, rows: int) -> None:
        """Gather the pixels and make the rows of numbers."""
        pieces = self._pieces(rows)
        for number, segment in enumerate(self._segments()):
            if number:
                norm = segment[0]
                assert isinstance(norm, Norm)
                self._merge_statistics(norm, rows, pieces)
            stage = []
            for thread, mine in enumerate(pieces):
                instructions = self._filters_for_tiles(segment, thread) if mine else []
                for piece in mine:
                    if not number:
                        instructions.append(self._gather(piece))
                    for node in segment:
                        instructions += self._forward(node, piece, rows)
                stage.append(instructions)
            self.low.builder.stage(stage)

    def _filters_for_tiles(self, segment: list[Node], thread: int) -> list[Instruction]:
        instructions = []
        for node in segment:
            if isinstance(node, Convolution) and node.winograd:
                made = node.tile_filters[thread : thread + 1] + node.seen_filters[thread : thread + 1]
                op = "winograd_filters_kept" if node.seen_filters else "winograd_filters"
                outs = tuple(tensor.view for tensor in made)
                instructions.append(Instruction(op, outs, (self._weights(node)[0],), (), "filters"))
        return instructions

    def _group_bounds(self, pieces: list[Piece]) -> Iterator[Piece]:
        """The groups of a thread as one piece each."""
        for group in dict.fromkeys(piece.group for piece in pieces):
            parts = [piece for piece in pieces if piece.group == group]
            yield Piece(parts[0].thread, group, parts[0].r0, parts[-1].r1, True)

    def _merge_statistics(self, node: Norm, rows: int, pieces: list[list[Piece]]) -> None:
        """Mean and variance of the batch, group by group, and the running ones, by the first thread."""
        low = self.low
        groups = [list(self._group_bounds(mine)) for mine in pieces]
        low.builder.stage(
            [
                [
                    Instruction("batch_moments", (node.moments[g.group].view,), (node.source.view(g),), (), "moments")
                    for g in mine
                ]
                for mine in groups
            ]
        )
        total, merged, done = node.moments[0].view, [], 0
        for g in (g for mine in groups for g in mine):
            n = (g.r1 - g.r0) * self._pixels(node)
            if done:
                part = node.moments[g.group].view
                merged.append(Instruction("merge_moments", (total,), (part,), (done, n), "moments"))
            done += n
        running = tuple(low.placements[2 * node.index + k][0].tensor.view for k in (2, 3))
        merged.append(Instruction("moving_moments", running, (total,), (done, node.layer.momentum), "moments"))
        low.builder.stage([merged, *([[]] * (low.n_threads - 1))])

    @staticmethod
    def _pixels(node: Norm) -> int:
        return node.source.shape[0] * node.source.shape[1]

    def _gather(self, piece: Piece) -> Instruction:
        low = self.low
        ins = (low.bound["source"].view, low.bound["order"].view.from_row(piece.r0), low.cursors[piece.thread].view)
        return Instruction("gather_rows", (self.input.view(piece),), ins, (low.data.scale,), "gather")

    def _forward(self, node: Node, piece: Piece, rows: int) -> Iterator[Instruction]:
        low = self.low
        if isinstance(node, MaxPool) and node.fused:
            return
        x = node.source.view(piece)
        if isinstance(node, Convolution) and node.fused:
            outs = node.fused.output.view(piece), self._places(node.fused, piece)
            geometry = (*node.source.shape[:2], *node.layer.window)
            yield Instruction(
                "conv2d_grey_pooled", outs, (x, *self._weights(node)), geometry, f"forward {node.index + 1}"
            )
            return
        y = node.output.view(piece)
        if isinstance(node, Pad):
            yield Instruction("pad", (y,), (x,), (*node.source.shape, *node.border), "pad")
        elif isinstance(node, Convolution) and node.winograd:
            op = "conv2d_winograd_relu" if node.relu else "conv2d_winograd"
            ins = (x, node.tile_filters[piece.thread].view, self._weights(node)[1])
            yield Instruction(op, (y,), ins, node.source.shape, f"forward {node.index + 1}")
        elif isinstance(node, Convolution):
            op = "conv2d_relu" if node.relu else "conv2d"
            yield Instruction(op, (y,), (x, *self._weights(node)), window(node), f"forward {node.index + 1}")
        elif isinstance(node, MaxPool):
            yield Instruction("max_pool", (y, self._places(node, piece)), (x,), node.params, "max_pool")
        elif isinstance(node, AvgPool):
            yield Instruction("avg_pool", (y,), (x,), node.params, "avg_pool")
        elif isinstance(node, Activate):
            yield Instruction(node.name, (y,), (x,), (), node.name)
        elif isinstance(node, Norm):
            gamma, beta, mean, variance = (low.placements[2 * node.index + k][0].tensor.view for k in range(4))
            if low.purpose == "training":
                params = (rows * self._pixels(node), node.layer.epsilon)
                yield Instruction("batch_norm", (y,), (x, node.moments[0].view, gamma, beta), params, "batch_norm")
            else:
                everything = (x, gamma, beta, mean, variance)
                yield Instruction("batch_norm_inference", (y,), everything, (node.layer.epsilon,), "batch_norm")
        else:
            assert isinstance(node, Drop) and node.mask is not None
            mask = node.mask.view.rows(piece.r0, piece.r1)
            ins = (x, low.bound["key"].view, low.cursors[piece.thread].view)
            yield Instruction("dropout", (y, mask), ins, (node.rate, node.layer_number, piece.r0, 0), "dropout")

    def _places(self, node: MaxPool, piece: Piece) -> View:
        """Where the largest values stood; prediction has no use for them, but the op writes them."""
        return chunk_rows(node.argmax, self.low.purpose != "inference", piece)

    def _weights(self, node: Convolution) -> tuple[View, View]:
        w, b = (self.low.placements[2 * node.index + k][0].tensor.view for k in (0, 1))
        return w, b

    def backward(self, rows: int, gated: bool) -> None:
        """From the gradient of the rows of numbers to those of all filters; `gated`: the derivative of a ReLU at the end is already taken."""
        low, pieces = self.low, self._pieces(rows)
        low.builder.stage([self._transposed_filters(t) if mine else [] for t, mine in enumerate(pieces)])
        after: Norm | None = None  # the batch normalisation that parts this segment from the one behind it
        for segment in reversed(self._segments()):
            begins_with = segment[0] if segment and isinstance(segment[0], Norm) else None
            stage = []
            for mine in pieces:
                instructions = []
                for piece in mine:
                    if after is not None and self.needs_gradient(after):
                        instructions.append(self._norm_backward(after, piece, rows))
                    for node in reversed(segment):
                        if node is not begins_with:
                            instructions += self._backward(node, piece, gated and node is self.nodes[-1])
                stage.append(instructions)
            low.builder.stage(stage)
            if begins_with is not None:
                self._merge_sums(begins_with, rows, pieces)
            after = begins_with

    def _transposed_filters(self, thread: int) -> list[Instruction]:
        instructions = []
        for node in self.convolutions:
            if node.transposed:
                wt = node.transposed[thread].view
                instructions.append(Instruction("transpose", (wt,), (self._weights(node)[0],), (), "transpose"))
                if node.back:
                    outs = (node.back.filters[thread].view,)
                    instructions.append(Instruction("winograd_filters_turned", outs, (wt,), (), "filters"))
        return instructions

    def _merge_sums(self, node: Norm, rows: int, pieces: list[list[Piece]]) -> None:
        """The gradients of gamma and beta, which that of the input needs as well, added group by group by the first thread."""
        params = (rows * self._pixels(node), node.layer.epsilon)
        groups = [list(self._group_bounds(mine)) for mine in pieces]
        stage = []
        for mine in groups:
            instructions = []
            for g in mine:
                ins = (node.output.gradient(g), node.source.view(g), node.moments[0].view)
                instructions.append(Instruction("batch_norm_sums", (node.sums[g.group].view,), ins, params, "sums"))
            stage.append(instructions)
        self.low.builder.stage(stage)
        total, *parts = (node.sums[g.group].view for mine in groups for g in mine)
        added = [Instruction("add", (total,), (part,), (), "sums") for part in parts]
        self.low.builder.stage([added, *([[]] * (self.low.n_threads - 1))])

    def _norm_backward(self, node: Norm, piece: Piece, rows: int) -> Instruction:
        gamma = self.low.placements[2 * node.index][0].tensor.view
        ins = (node.output.gradient(piece), node.source.view(piece), node.moments[0].view, gamma, node.sums[0].view)
        params = (rows * self._pixels(node), node.layer.epsilon)
        return Instruction("batch_norm_dx", (node.source.gradient(piece),), ins, params, "batch_norm_dx")

    def _backward(self, node: Node, piece: Piece, gated: bool) -> Iterator[Instruction]:
        after = node.pooled.output if isinstance(node, Convolution) and node.pooled else node.output
        dy = after.gradient(piece)
        if takes_derivative(node) and not gated:
            yield Instruction("relu_backward", (dy,), (dy, node.output.view(piece)), (), "relu_backward")
        if isinstance(node, Convolution):
            yield from self._filter_gradient(node, piece)
        if not self.needs_gradient(node) or (isinstance(node, MaxPool) and not node.sends):
            return
        dx = node.source.gradient(piece)
        if isinstance(node, Pad):
            yield Instruction("crop", (dx,), (dy,), (*node.source.shape, *node.border), "crop")
        elif isinstance(node, Convolution):
            wt, label = node.transposed[piece.thread].view, f"backward {node.index + 1}"
            if node.pooled:
                ins = (dy, self._places(node.pooled, piece), wt)
                yield Instruction("conv2d_pooled_dx", (dx,), ins, pooled_window(node), label)
            elif node.back:
                assert node.back.zeros is not None
                (height, width, _), filters = node.source.shape, node.layer.filters
                padded = chunk_rows(node.back.padded, False, piece)
                yield Instruction("pad", (padded,), (dy,), (*node.output.shape, 2, 2, 2, 2), label)
                ins = (padded, node.back.filters[piece.thread].view, node.back.zeros.view)
                yield Instruction("conv2d_winograd", (dx,), ins, (height + 2, width + 2, filters), label)
            else:
                yield Instruction("conv2d_dx", (dx,), (dy, wt), window(node), label)
        elif isinstance(node, MaxPool):
            yield Instruction("max_pool_dx", (dx,), (dy, self._places(node, piece)), node.params, "max_pool_dx")
        elif isinstance(node, AvgPool):
            yield Instruction("avg_pool_dx", (dx,), (dy,), node.params, "avg_pool_dx")
        elif isinstance(node, Activate):
            kept = (node.output if node.name in IN_PLACE else node.source).view(piece)
            yield Instruction(f"{node.name}_backward", (dx,), (dy, kept), (), f"{node.name}_backward")
        else:
            assert isinstance(node, Drop) and node.mask is not None
            mask = node.mask.view.rows(piece.r0, piece.r1)
            yield Instruction("dropout_backward", (dx,), (dy, mask), (), "dropout_backward")

    def _filter_gradient(self, node: Convolution, piece: Piece) -> Iterator[Instruction]:
        low, label = self.low, f"gradient {node.index + 1}"
        if low.purpose == "training":
            dw, db = (tensor.view for tensor in node.partial[piece.group])
            add = "" if piece.first_of_group else "_add"
        else:
            dw, db = (low.gradients[2 * node.index + k].view for k in (0, 1))
            add = "_add"
        x = node.source.view(piece)
        if node.pooled:
            dy = node.pooled.output.gradient(piece)
            ins = (x, dy, self._places(node.pooled, piece))
            yield Instruction(f"conv2d_pooled_dwt{add}", (dw,), ins, pooled_window(node), label)
        else:
            dy = node.output.gradient(piece)
            yield Instruction(f"conv2d_dw{add}", (dw,), (x, dy), window(node), label)
        if node.layer.use_bias:
            yield Instruction(f"conv2d_db{add}", (db,), (dy,), (), label)
        elif low.purpose == "gradient":
            yield Instruction("conv2d_db", (db,), (dy.rows(0, 0),), (), label)  # the sum over no images: 0

    def update(self, rows: int) -> None:
        """Add the groups' gradients in their order and take the optimizer's step: each thread on its rows of the weights."""
        low = self.low
        n_groups = max(min(self.n_groups, rows), 1)
        for node in self.convolutions:
            inputs = low.spec.parameter_shapes[2 * node.index][0]
            stage = []
            for t, (lo, hi) in enumerate(split(inputs, low.n_threads)):
                instructions: list[Instruction] = []
                for start in range(lo, hi, low.target.row_block or inputs):
                    block = start, min(start + (low.target.row_block or inputs), hi)
                    views = [dw.view for dw, _ in node.partial[:n_groups]]
                    parts = [dw.columns(*block) if node.pooled else dw.rows(*block) for dw in views]
                    instructions += self._step(node, t, 0, block, parts)
                if hi == inputs and node.layer.use_bias:
                    parts = [db.view.row_matrix() for _, db in node.partial[:n_groups]]
                    instructions += self._step(node, t, 1, None, parts)
                stage.append(instructions)
            low.builder.stage(stage)

        if self.norms:
            stage = [[instruction for node in self.norms for instruction in self._norm_step(node)]]
            low.builder.stage([*stage, *([[]] * (low.n_threads - 1))])

    def _norm_step(self, node: Norm) -> Iterator[Instruction]:
        """The optimizer on gamma and beta, as on biases: no L2."""
        low = self.low
        for k, row in ((0, 1), (1, 0)):
            placement = low.placements[2 * node.index + k][0]
            outs = tuple(tensor.view.row_matrix() for tensor in (placement.tensor, *placement.moments))
            ins = (node.sums[0].view.rows(row, row + 1), low.bound["hyper_biases"].view, low.cursors[0].view)
            yield Instruction(low.op, outs, ins, low.op_params, f"{low.op} {node.index + 1}")

    def _step(
        self, node: Convolution, thread: int, kind: int, rows: tuple[int, int] | None, parts: list[View]
    ) -> Iterator[Instruction]:
        low, placement = self.low, self.low.placements[2 * node.index + kind][0]
        for part in parts[1:]:
            yield Instruction("add", (parts[0],), (part,), (), f"sum {node.index + 1}")
        gradient = parts[0]
        if node.pooled and rows:
            gradient = node.blocks[thread].view.rows(0, rows[1] - rows[0])
            yield Instruction("transpose", (gradient,), (parts[0],), (), f"sum {node.index + 1}")
        tensors = (placement.tensor, *placement.moments)
        outs = tuple(t.view.rows(*rows) if rows else t.view.row_matrix() for t in tensors)
        hyper = low.bound["hyper_biases" if kind else "hyper_weights"].view
        ins = (gradient, hyper, low.cursors[thread].view)
        yield Instruction(low.op, outs, ins, low.op_params, f"{low.op} {node.index + 1}")
