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
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from fastmnist.network.crossover import STATED, Crossover
from fastmnist.network.layers import (
    IN_PLACE,
    Activation,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    MaxPool2D,
)
from fastmnist.network.program import Instruction, Placement, Tensor, View, split
from fastmnist.network.shapes import Shape, conv_padding, pool_stride

if TYPE_CHECKING:
    from fastmnist.network.lowering import Lowering

# Largest window whose filter gradient takes pooled pixels as lanes, that of its smaller tile, and the vectors that come with registers enough.
GREY_TAPS, FEW_GREY_TAPS, GREY_LANES = 5, 3, 16
# Convolutions by transformed tiles: most channels that the kernel takes, most bytes of filters (half of a level-2 cache, they are read for
# every few tiles), and what it costs, in products of vectors, to transform a vector of a tile, there or back, and one of filters (36 stores
# far apart).
WINOGRAD_CHANNELS, WINOGRAD_BYTES, WINOGRAD_TILE, WINOGRAD_FILTER = 128, 1 << 19, 200, 2600
# Up to this part of the direct products tiles are taken: by that count both ways take the same time at 0.57 (Zen 5, AVX-512; from 8 to 32 channels),
# and at 0.5 tiles save a tenth, without which they are not worth their rounding. `fastmnist info --measure` measures it.
STATED_WINOGRAD = Crossover(0.5, STATED)


def winograd_products(shape: Shape, filters: int, lanes: int, rows: int, *, ready: bool = False) -> tuple[int, int]:
    """Products of vectors of a convolution of 3 x 3 pixels with stride 1: by Winograd's algorithm, transformations included, and directly.

    Parameters
    ----------
    shape : tuple of int
        Height, width and channels of an image, its border included.
    filters, lanes, rows : int
        `rows` images are convolved with the filters, which are transformed once.
    ready : bool, default=False
        The filters are transformed already.
    """
    height, width, channels = shape
    tiles, vectors = -(-(height - 2) // 4) * -(-(width - 2) // 4), -(-filters // lanes)
    transformed = rows * tiles * WINOGRAD_TILE * (-(-channels // lanes) + vectors)
    by_tiles = rows * tiles * 36 * channels * vectors + transformed
    if not ready:
        by_tiles += WINOGRAD_FILTER * channels * vectors
    return by_tiles, rows * (height - 2) * (width - 2) * 9 * channels * vectors


@dataclass
class _Image:
    """A batch of images between two layers.

    Attributes
    ----------
    kept : bool
        For the whole batch; else it is scratch of a thread, a chunk at a time.
    tensors : list of Tensor
        One, or one a thread.
    gradients : list of Tensor
        Scratch, one a thread; of the image layers' output one for the whole batch.
    """

    name: str
    shape: Shape
    kept: bool = False
    tensors: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    gradient_kept: bool = False

    @property
    def size(self) -> int:
        """Values of an image."""
        height, width, channels = self.shape
        return height * width * channels

    def view(self, piece: _Piece) -> View:
        """A chunk of the images."""
        return _rows(self.tensors, self.kept, piece)

    def gradient(self, piece: _Piece) -> View:
        """A chunk of their gradient."""
        return _rows(self.gradients, self.gradient_kept, piece)


@dataclass(frozen=True)
class _Piece:
    """Rows `r0:r1` of the batch, which thread `thread` works on as a part of `group`."""

    thread: int
    group: int
    r0: int
    r1: int
    first_of_group: bool


def _rows(tensors: list[Tensor], kept: bool, piece: _Piece) -> View:
    if kept:
        return tensors[0].view.rows(piece.r0, piece.r1)
    return tensors[piece.thread].view.rows(0, piece.r1 - piece.r0)


@dataclass
class _Node:
    source: _Image
    output: _Image


@dataclass
class _Pad(_Node):
    border: tuple[int, int, int, int]


@dataclass
class _Conv(_Node):
    layer: Conv2D
    index: int  # of its weights among the pairs of parameters
    relu: bool
    mask: bool = True  # the derivative of relu is taken here, not after a pooling that follows
    pooled: _MaxPool | None = None  # the pooling behind it, if gradients are taken from what was pooled
    fused: _MaxPool | None = None  # the pooling behind it, if it is computed with it
    partial: list[tuple[Tensor, Tensor]] = field(
        default_factory=list
    )  # of each group; the weights' transposed if `pooled`
    transposed: list[Tensor] = field(default_factory=list)
    winograd: bool = False  # forward by transformed tiles
    tile_filters: list[Tensor] = field(default_factory=list)  # the filters for them, of each thread
    seen_filters: list[Tensor] = field(default_factory=list)  # prediction: the filters that those were made of
    back: _BackByTiles | None = None  # the gradient of its input by transformed tiles
    blocks: list[Tensor] = field(
        default_factory=list
    )  # if `pooled`: rows of the weights' gradient, scratch of each thread


@dataclass
class _BackByTiles:
    """What the gradient of a convolution's input by transformed tiles needs, of each thread; the zeros serve all."""

    filters: list[Tensor] = field(default_factory=list)
    padded: list[Tensor] = field(default_factory=list)  # the gradient of the output with its border, a chunk
    zeros: Tensor | None = None  # in place of a bias


@dataclass
class _MaxPool(_Node):
    params: tuple[float, ...]
    mask: bool  # also takes the derivative of the relu before it
    sends: bool = True  # to its input; else the convolution before it reads the gradient of what was pooled
    fused: bool = False  # computed by the convolution before it
    argmax: list[Tensor] = field(default_factory=list)


@dataclass
class _AvgPool(_Node):
    params: tuple[float, ...]


@dataclass
class _Activate(_Node):
    name: str


@dataclass
class _Drop(_Node):
    layer_number: int
    rate: float
    mask: Tensor | None = None


@dataclass
class _Norm(_Node):
    layer: BatchNorm
    index: int  # of gamma and beta among the pairs of parameters; the running mean and variance are the next pair
    moments: list[Tensor] = field(
        default_factory=list
    )  # of each group; the first is that of the batch once they are merged
    sums: list[Tensor] = field(default_factory=list)


class ImageLayers:
    """Lowers the image layers; `low` is the lowering of the whole network."""

    def __init__(self, low: Lowering) -> None:
        self.low = low
        assert low.spec.image_shape is not None
        self.input = _Image("x", low.spec.image_shape)
        self.nodes: list[_Node] = []
        self.n_layers = 0
        self._build_nodes()
        self.convolutions = [node for node in self.nodes if isinstance(node, _Conv)]
        self.norms = [node for node in self.nodes if isinstance(node, _Norm)]
        if self.norms and low.purpose == "gradient":
            raise ValueError(
                "BatchNorm has no gradient of blocks of rows: its statistics are those of a mini-batch. Train it with mini-batches (run_epoch)."
            )
        self._decide_what_is_pooled_at_once()
        self._decide_which_gradients_are_pooled()
        self._decide_what_goes_by_tiles()
        self._decide_what_is_kept()
        largest = max(4 * image.size for image in self._images() if image not in self._unmade())
        self.chunk = min(max(low.target.chunk_bytes // largest, 1) if low.target.chunk_bytes else low.rows, low.rows)
        self._reserve()
        low.decisions.append(
            f"image layers: {min(self.n_groups, low.rows)} groups of rows for {low.n_threads} thread(s), driven through in chunks of "
            f"{self.chunk} image(s)"
        )

    @property
    def output(self) -> _Image:
        """What the first Dense reads."""
        return self.nodes[-1].output if self.nodes else self.input

    @property
    def n_groups(self) -> int:
        """Parts of a batch whose filter gradients are summed apart."""
        return self.low.target.gradient_groups if self.low.purpose == "training" else 1

    @property
    def ends_rectified(self) -> bool:
        """Whether the gradient of what the first Dense reads goes through the derivative of a ReLU before anything else."""
        return bool(self.nodes) and self._takes_derivative(self.nodes[-1])

    @staticmethod
    def _takes_derivative(node: _Node) -> bool:
        """Of the ReLU that the node ends with, or that stands before its pooling."""
        return node.mask if isinstance(node, _MaxPool) else isinstance(node, _Conv) and node.relu and node.mask

    # --- from layers to nodes -----------------------------------------------------------------------------------------------------

    def _build_nodes(self) -> None:
        low, shapes = self.low, self.low.spec.shapes
        self.n_pairs = 0
        for i, layer in enumerate(low.spec.layers):
            self.n_layers = i + 1
            source, after = self.output, shapes[i + 1]
            window = (*source.shape,)
            if isinstance(layer, Flatten):
                return
            if isinstance(layer, GlobalAvgPool2D):
                output = _Image(f"mean_{i + 1}", (1, 1, *after))
                self.nodes.append(_AvgPool(source, output, (*window, *source.shape[:2], 1)))
                return
            output = _Image(f"{type(layer).__name__.lower()}_{i + 1}", after)
            if isinstance(layer, Conv2D):
                border = conv_padding(layer, source.shape)
                if any(border):
                    height, width, channels = source.shape
                    wide = height + border[0] + border[1], width + border[2] + border[3], channels
                    self.nodes.append(_Pad(source, _Image(f"padded_{i + 1}", wide), border))
                    source = self.output
                self.nodes.append(_Conv(source, output, layer, self.n_pairs, layer.activation == "relu"))
                self.n_pairs += 1
                if layer.activation not in ("identity", "relu"):
                    self._activate(layer.activation, i)
            elif isinstance(layer, (MaxPool2D, AvgPool2D)):
                params = (*window, *layer.window, pool_stride(layer))
                if isinstance(layer, AvgPool2D):
                    self.nodes.append(_AvgPool(source, output, params))
                else:
                    before = self.nodes[-1] if self.nodes else None
                    moves = isinstance(before, _Conv) and before.relu
                    if moves:
                        assert isinstance(before, _Conv)
                        before.mask = False
                    self.nodes.append(_MaxPool(source, output, params, moves))
            elif isinstance(layer, BatchNorm):
                self.nodes.append(_Norm(source, output, layer, self.n_pairs))
                self.n_pairs += 2
            elif isinstance(layer, Activation):
                if layer.name != "identity":
                    self._activate(layer.name, i)
            else:
                assert isinstance(layer, Dropout)
                if low.purpose == "training" and layer.rate > 0:
                    self.nodes.append(_Drop(source, output, i, layer.rate))

    def _activate(self, name: str, i: int) -> None:
        source = self.output
        self.nodes.append(_Activate(source, _Image(f"{name}_{i + 1}", source.shape), name))

    def _images(self) -> list[_Image]:
        return [self.input, *(node.output for node in self.nodes)]

    def _decide_what_is_kept(self) -> None:
        """What the backward pass reads, and what the Dense layers read."""
        if self.low.purpose != "inference":
            for node in self.nodes:
                if isinstance(node, _Conv):
                    node.source.kept = True
                    node.output.kept |= node.relu and node.mask
                elif isinstance(node, _Activate):
                    (node.output if node.name in IN_PLACE else node.source).kept = True
                elif isinstance(node, _MaxPool):
                    node.output.kept |= node.mask
                elif isinstance(node, _Norm):
                    node.source.kept = node.output.gradient_kept = True
        self.output.kept = self.output.gradient_kept = True

    def _pooled_convolutions(self) -> Iterator[tuple[_Conv, _MaxPool]]:
        """Those that nothing but max pooling follows, where a vector has a length by which ways to compute can be compared."""
        for node, after in pairwise(self.nodes):
            if self.low.target.lanes and isinstance(node, _Conv) and isinstance(after, _MaxPool):
                yield node, after

    def _decide_what_is_pooled_at_once(self) -> None:
        """Of grey images, where vectors of pixels are no more than vectors of filters."""
        low, lanes = self.low, self.low.target.lanes
        for node, after in self._pooled_convolutions():
            if not (_is_grey(node, after) and node.relu):
                continue
            out_height, out_width, filters = node.output.shape
            by_filter = out_height * out_width * -(-filters // lanes)
            by_pixel = 2 * (out_height // 2) * 2 * -(-(out_width // 2) // lanes) * filters
            if by_pixel <= by_filter:
                node.fused, after.fused = after, True
                low.decisions.append(
                    f"convolution {node.index + 1}: pooled at once, pixels along the vectors: {by_pixel:,} sums of vectors an image instead of "
                    f"{by_filter:,}"
                )

    def _decide_which_gradients_are_pooled(self) -> None:
        """Of convolutions that nothing but max pooling follows: by the vectors of either way, those of the pooled one by half dearer."""
        low, lanes = self.low, self.low.target.lanes
        for node, after in self._pooled_convolutions():
            if low.purpose != "training":
                continue
            out_height, out_width, filters = node.output.shape
            rows, columns = node.layer.window
            run = columns * node.source.shape[2]
            dense = out_height * out_width * rows * run * -(-filters // lanes)
            pooled = after.output.size * rows * -(-run // lanes)
            if lanes >= GREY_LANES and _is_grey(node, after) and max(rows, columns) <= GREY_TAPS:
                taps = FEW_GREY_TAPS if max(rows, columns) <= FEW_GREY_TAPS else GREY_TAPS
                pooled = min(pooled, (out_height // 2) * -(-(out_width // 2) // lanes) * filters * 2 * taps**2)
            if 1.5 * pooled < dense:
                node.pooled, after.sends = after, False
                low.decisions.append(
                    f"convolution {node.index + 1}: its gradients are taken from the pooled pixels alone, {pooled:,} vectors an image instead of "
                    f"{dense:,}"
                )

    def _decide_what_goes_by_tiles(self) -> None:
        """Of 3 x 3 pixels with stride 1: by the products of vectors either way."""
        low, lanes = self.low, self.low.target.lanes
        for node in self.convolutions:
            if not lanes or node.fused or (*node.layer.window, node.layer.stride) != (3, 3, 1):
                continue
            shape, filters = node.source.shape, node.layer.filters
            ready = low.purpose == "inference"  # filters are kept from call to call
            products = winograd_products(shape, filters, lanes, low.rows, ready=ready)
            node.winograd, why = self._tiles_or_direct(shape[2], filters, products)
            low.decisions.append(f"convolution {node.index + 1}: {why}")
            if low.purpose == "training" and self._needs_gradient(node) and not node.pooled:
                # The output's gradient within two pixels of zeros, convolved with the turned filters.
                (height, width, channels), (out_height, out_width, _) = shape, node.output.shape
                by_tiles, _ = winograd_products((height + 2, width + 2, filters), channels, lanes, low.rows)
                vectors = min(-(-3 * channels // lanes), 3 * -(-channels // lanes))
                products = by_tiles, low.rows * out_height * out_width * 3 * filters * vectors
                chosen, why = self._tiles_or_direct(filters, channels, products)
                node.back = _BackByTiles() if chosen else None
                low.decisions.append(f"convolution {node.index + 1}, the gradient of its input: {why}")

    def _tiles_or_direct(self, channels: int, filters: int, products: tuple[int, int]) -> tuple[bool, str]:
        """Whether Winograd's algorithm serves a convolution of 3 x 3 pixels that takes so many products of vectors either way, and why."""
        (by_tiles, direct), limit, rows = products, self.low.target.winograd, self.low.rows
        nbytes = 4 * 36 * channels * filters
        if channels > WINOGRAD_CHANNELS:
            return False, f"direct, Winograd's algorithm is for {WINOGRAD_CHANNELS} channels at most"
        if nbytes > WINOGRAD_BYTES:
            return False, (
                f"direct, Winograd's filters would take {nbytes:,} bytes of the cache, above the limit of {WINOGRAD_BYTES:,}"
            )
        share = f"{by_tiles / direct:.0%}"
        if by_tiles > limit.share * direct:
            return (
                False,
                f"direct, Winograd's algorithm would take {share} of its products of vectors, above the limit of {limit}",
            )
        return True, (
            f"by Winograd's algorithm F(4 x 4, 3 x 3), as dear as {by_tiles // rows:,} products of vectors an image instead of "
            f"{direct // rows:,}: {share}, at most {limit}"
        )

    def _unmade(self) -> list[_Image]:
        """Outputs of convolutions that are pooled at once."""
        return [node.output for node in self.convolutions if node.fused]

    # --- memory -------------------------------------------------------------------------------------------------------------------

    def _reserve(self) -> None:
        low = self.low
        unsent = [node.output for node in self.convolutions if node.pooled]
        unmade = self._unmade()
        for image in self._images():
            if image not in unmade:
                image.tensors = self._tensors(image.name, image.size, image.kept)
            if low.purpose != "inference" and image not in unsent:
                image.gradients = self._tensors(f"d{image.name}", image.size, image.gradient_kept)
        for node in self.nodes:
            if isinstance(node, _MaxPool):
                name, kept = f"argmax_{node.output.name}", low.purpose != "inference"
                node.argmax = self._tensors(name, node.output.size, kept, "uint8")
        for node in self.convolutions:
            if node.winograd:
                shape = (36 * node.source.shape[2], node.layer.filters)
                node.tile_filters = self._one_a_thread(f"u{node.index + 1}", shape)
                if low.purpose == "inference":  # zeros at first, of which the filters are zeros too
                    seen = low.spec.parameter_shapes[2 * node.index]
                    node.seen_filters = self._one_a_thread(f"seen{node.index + 1}", seen)
            if node.back:
                self._reserve_back(node, node.back)
        if low.purpose == "inference":
            return
        for i, node in enumerate(self.nodes):
            shape = (low.rows, node.output.size)
            if isinstance(node, _Drop):
                node.mask = low.workspace.tensor(f"mask_{i}", shape, low.target.dtype, odd_lines=True)
            elif isinstance(node, _Norm):
                both = (2, node.output.shape[2])
                for g in range(min(self.n_groups, low.rows)):
                    node.moments.append(low.workspace.tensor(f"moments_{i}_{g}", both, low.target.dtype))
                    node.sums.append(low.workspace.tensor(f"sums_{i}_{g}", both, low.target.dtype))
            elif isinstance(node, _Conv):
                inputs, filters = low.spec.parameter_shapes[2 * node.index]
                if low.purpose == "training":
                    for g in range(min(self.n_groups, low.rows)):
                        shape = (filters, inputs) if node.pooled else (inputs, filters)
                        dw = low.workspace.tensor(f"dw{node.index + 1}_{g}", shape, low.target.dtype)
                        db = low.workspace.tensor(f"db{node.index + 1}_{g}", (filters,), low.target.dtype)
                        node.partial.append((dw, db))
                if node.pooled:
                    rows = min(low.target.row_block or inputs, inputs)
                    node.blocks = [
                        low.workspace.tensor(f"dw{node.index + 1}_rows_{t}", (rows, filters), low.target.dtype)
                        for t in range(low.n_threads)
                    ]
                if self._needs_gradient(node):
                    node.transposed = [
                        low.workspace.tensor(f"wt{node.index + 1}_{t}", (filters, inputs), low.target.dtype)
                        for t in range(low.n_threads)
                    ]

    def _reserve_back(self, node: _Conv, back: _BackByTiles) -> None:
        (height, width, channels), filters, name = node.source.shape, node.layer.filters, f"{node.index + 1}"
        back.filters = self._one_a_thread(f"turned{name}", (36 * filters, channels))
        padded = (height + 2) * (width + 2) * filters
        back.padded = self._tensors(f"padded_d{node.output.name}", padded, False)
        back.zeros = self.low.workspace.tensor(f"zeros{name}", (channels,), self.low.target.dtype)

    def _one_a_thread(self, name: str, shape: tuple[int, ...]) -> list[Tensor]:
        low = self.low
        return [low.workspace.tensor(f"{name}_{t}", shape, low.target.dtype) for t in range(low.n_threads)]

    def _tensors(self, name: str, size: int, kept: bool, dtype: str = "") -> list[Tensor]:
        make, dtype = self.low.workspace.tensor, dtype or self.low.target.dtype
        if kept:
            return [make(name, (self.low.rows, size), dtype, odd_lines=True)]
        return [make(f"{name}_{t}", (self.chunk, size), dtype, odd_lines=True) for t in range(self.low.n_threads)]

    def place_parameters(self) -> list[list[Placement]]:
        """Every parameter whole; what an optimizer does not touch has no moments."""
        low = self.low
        owners: list[_Conv | _Norm] = [*self.convolutions, *self.norms]
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

    def _pieces(self, rows: int) -> list[list[_Piece]]:
        """For each thread the chunks of its groups."""
        n_groups = max(min(self.n_groups, rows), 1)
        groups = split(rows, n_groups)
        return [
            [piece for g in range(lo, hi) for piece in self._chunks(t, g, *groups[g])]
            for t, (lo, hi) in enumerate(split(n_groups, self.low.n_threads))
        ]

    def _chunks(self, thread: int, group: int, r0: int, r1: int) -> Iterator[_Piece]:
        for start in range(r0, r1, self.chunk):
            yield _Piece(thread, group, start, min(start + self.chunk, r1), start == r0)

    def _segments(self) -> list[list[_Node]]:
        """The nodes, parted before each batch normalisation; prediction has none to part."""
        segments: list[list[_Node]] = [[]]
        for node in self.nodes:
            if isinstance(node, _Norm) and self.low.purpose == "training":
                segments.append([])
            segments[-1].append(node)
        return segments

    def forward(self, rows: int) -> None:
        """Gather the pixels and make the rows of numbers."""
        pieces = self._pieces(rows)
        for number, segment in enumerate(self._segments()):
            if number:
                norm = segment[0]
                assert isinstance(norm, _Norm)
                self._merge_statistics(norm, rows, pieces)
            stage = []
            for thread, mine in enumerate(pieces):
                instructions = self._filters_for_tiles(segment, thread) if mine else []
                for piece in mine:
                    if not number:
                        # Augmentation will stand behind this: an op on the gathered chunk, its draws from the cursor's counters.
                        instructions.append(self._gather(piece))
                    for node in segment:
                        instructions += self._forward(node, piece, rows)
                stage.append(instructions)
            self.low.builder.stage(stage)

    def _filters_for_tiles(self, segment: list[_Node], thread: int) -> list[Instruction]:
        instructions = []
        for node in segment:
            if isinstance(node, _Conv) and node.winograd:
                made = node.tile_filters[thread : thread + 1] + node.seen_filters[thread : thread + 1]
                op = "winograd_filters_kept" if node.seen_filters else "winograd_filters"
                outs = tuple(tensor.view for tensor in made)
                instructions.append(Instruction(op, outs, (self._weights(node)[0],), (), "filters"))
        return instructions

    def _group_bounds(self, pieces: list[_Piece]) -> Iterator[_Piece]:
        """The groups of a thread as one piece each."""
        for group in dict.fromkeys(piece.group for piece in pieces):
            parts = [piece for piece in pieces if piece.group == group]
            yield _Piece(parts[0].thread, group, parts[0].r0, parts[-1].r1, True)

    def _merge_statistics(self, node: _Norm, rows: int, pieces: list[list[_Piece]]) -> None:
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
    def _pixels(node: _Norm) -> int:
        return node.source.shape[0] * node.source.shape[1]

    def _gather(self, piece: _Piece) -> Instruction:
        low = self.low
        ins = (low.bound["source"].view, low.bound["order"].view.from_row(piece.r0), low.cursors[piece.thread].view)
        return Instruction("gather_rows", (self.input.view(piece),), ins, (low.data.scale,), "gather")

    def _forward(self, node: _Node, piece: _Piece, rows: int) -> Iterator[Instruction]:
        low = self.low
        if isinstance(node, _MaxPool) and node.fused:
            return
        x = node.source.view(piece)
        if isinstance(node, _Conv) and node.fused:
            outs = node.fused.output.view(piece), self._places(node.fused, piece)
            geometry = (*node.source.shape[:2], *node.layer.window)
            yield Instruction(
                "conv2d_grey_pooled", outs, (x, *self._weights(node)), geometry, f"forward {node.index + 1}"
            )
            return
        y = node.output.view(piece)
        if isinstance(node, _Pad):
            yield Instruction("pad", (y,), (x,), (*node.source.shape, *node.border), "pad")
        elif isinstance(node, _Conv) and node.winograd:
            op = "conv2d_winograd_relu" if node.relu else "conv2d_winograd"
            ins = (x, node.tile_filters[piece.thread].view, self._weights(node)[1])
            yield Instruction(op, (y,), ins, node.source.shape, f"forward {node.index + 1}")
        elif isinstance(node, _Conv):
            op = "conv2d_relu" if node.relu else "conv2d"
            yield Instruction(op, (y,), (x, *self._weights(node)), _window(node), f"forward {node.index + 1}")
        elif isinstance(node, _MaxPool):
            yield Instruction("max_pool", (y, self._places(node, piece)), (x,), node.params, "max_pool")
        elif isinstance(node, _AvgPool):
            yield Instruction("avg_pool", (y,), (x,), node.params, "avg_pool")
        elif isinstance(node, _Activate):
            yield Instruction(node.name, (y,), (x,), (), node.name)
        elif isinstance(node, _Norm):
            gamma, beta, mean, variance = (low.placements[2 * node.index + k][0].tensor.view for k in range(4))
            if low.purpose == "training":
                params = (rows * self._pixels(node), node.layer.epsilon)
                yield Instruction("batch_norm", (y,), (x, node.moments[0].view, gamma, beta), params, "batch_norm")
            else:
                everything = (x, gamma, beta, mean, variance)
                yield Instruction("batch_norm_inference", (y,), everything, (node.layer.epsilon,), "batch_norm")
        else:
            assert isinstance(node, _Drop) and node.mask is not None
            mask = node.mask.view.rows(piece.r0, piece.r1)
            ins = (x, low.bound["key"].view, low.cursors[piece.thread].view)
            yield Instruction("dropout", (y, mask), ins, (node.rate, node.layer_number, piece.r0, 0), "dropout")

    def _places(self, node: _MaxPool, piece: _Piece) -> View:
        """Where the largest values stood; prediction has no use for them, but the op writes them."""
        return _rows(node.argmax, self.low.purpose != "inference", piece)

    def _weights(self, node: _Conv) -> tuple[View, View]:
        w, b = (self.low.placements[2 * node.index + k][0].tensor.view for k in (0, 1))
        return w, b

    def backward(self, rows: int, gated: bool) -> None:
        """From the gradient of the rows of numbers to those of all filters; `gated`: the derivative of a ReLU at the end is already taken."""
        low, pieces = self.low, self._pieces(rows)
        low.builder.stage([self._transposed_filters(t) if mine else [] for t, mine in enumerate(pieces)])
        after: _Norm | None = None  # the batch normalisation that parts this segment from the one behind it
        for segment in reversed(self._segments()):
            begins_with = segment[0] if segment and isinstance(segment[0], _Norm) else None
            stage = []
            for mine in pieces:
                instructions = []
                for piece in mine:
                    if after is not None and self._needs_gradient(after):
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

    def _merge_sums(self, node: _Norm, rows: int, pieces: list[list[_Piece]]) -> None:
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

    def _norm_backward(self, node: _Norm, piece: _Piece, rows: int) -> Instruction:
        gamma = self.low.placements[2 * node.index][0].tensor.view
        ins = (node.output.gradient(piece), node.source.view(piece), node.moments[0].view, gamma, node.sums[0].view)
        params = (rows * self._pixels(node), node.layer.epsilon)
        return Instruction("batch_norm_dx", (node.source.gradient(piece),), ins, params, "batch_norm_dx")

    def _backward(self, node: _Node, piece: _Piece, gated: bool) -> Iterator[Instruction]:
        after = node.pooled.output if isinstance(node, _Conv) and node.pooled else node.output
        dy = after.gradient(piece)
        if self._takes_derivative(node) and not gated:
            yield Instruction("relu_backward", (dy,), (dy, node.output.view(piece)), (), "relu_backward")
        if isinstance(node, _Conv):
            yield from self._filter_gradient(node, piece)
        if not self._needs_gradient(node) or (isinstance(node, _MaxPool) and not node.sends):
            return
        dx = node.source.gradient(piece)
        if isinstance(node, _Pad):
            yield Instruction("crop", (dx,), (dy,), (*node.source.shape, *node.border), "crop")
        elif isinstance(node, _Conv):
            wt, label = node.transposed[piece.thread].view, f"backward {node.index + 1}"
            if node.pooled:
                ins = (dy, self._places(node.pooled, piece), wt)
                yield Instruction("conv2d_pooled_dx", (dx,), ins, _pooled_window(node), label)
            elif node.back:
                assert node.back.zeros is not None
                (height, width, _), filters = node.source.shape, node.layer.filters
                padded = _rows(node.back.padded, False, piece)
                yield Instruction("pad", (padded,), (dy,), (*node.output.shape, 2, 2, 2, 2), label)
                ins = (padded, node.back.filters[piece.thread].view, node.back.zeros.view)
                yield Instruction("conv2d_winograd", (dx,), ins, (height + 2, width + 2, filters), label)
            else:
                yield Instruction("conv2d_dx", (dx,), (dy, wt), _window(node), label)
        elif isinstance(node, _MaxPool):
            yield Instruction("max_pool_dx", (dx,), (dy, self._places(node, piece)), node.params, "max_pool_dx")
        elif isinstance(node, _AvgPool):
            yield Instruction("avg_pool_dx", (dx,), (dy,), node.params, "avg_pool_dx")
        elif isinstance(node, _Activate):
            kept = (node.output if node.name in IN_PLACE else node.source).view(piece)
            yield Instruction(f"{node.name}_backward", (dx,), (dy, kept), (), f"{node.name}_backward")
        else:
            assert isinstance(node, _Drop) and node.mask is not None
            mask = node.mask.view.rows(piece.r0, piece.r1)
            yield Instruction("dropout_backward", (dx,), (dy, mask), (), "dropout_backward")

    def _needs_gradient(self, node: _Node) -> bool:
        """Whether something that learns stands before the node."""
        return any(isinstance(one, (_Conv, _Norm)) for one in self.nodes[: self.nodes.index(node)])

    def _filter_gradient(self, node: _Conv, piece: _Piece) -> Iterator[Instruction]:
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
            yield Instruction(f"conv2d_pooled_dwt{add}", (dw,), ins, _pooled_window(node), label)
        else:
            dy = node.output.gradient(piece)
            yield Instruction(f"conv2d_dw{add}", (dw,), (x, dy), _window(node), label)
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

    def _norm_step(self, node: _Norm) -> Iterator[Instruction]:
        """The optimizer on gamma and beta, as on biases: no L2."""
        low = self.low
        for k, row in ((0, 1), (1, 0)):
            placement = low.placements[2 * node.index + k][0]
            outs = tuple(tensor.view.row_matrix() for tensor in (placement.tensor, *placement.moments))
            ins = (node.sums[0].view.rows(row, row + 1), low.bound["hyper_biases"].view, low.cursors[0].view)
            yield Instruction(low.op, outs, ins, low.op_params, f"{low.op} {node.index + 1}")

    def _step(
        self, node: _Conv, thread: int, kind: int, rows: tuple[int, int] | None, parts: list[View]
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


def _is_grey(node: _Conv, after: _MaxPool) -> bool:
    """Of one channel with stride 1, pooled 2 x 2: pooled pixels can be the lanes of a vector."""
    return (node.source.shape[2], node.layer.stride, *after.params[3:]) == (1, 1, 2, 2, 2)


def _pooled_window(node: _Conv) -> tuple[float, ...]:
    """Geometry of a convolution and of the pooling behind it."""
    assert node.pooled is not None
    return (*_window(node), *node.pooled.params[3:])


def _window(node: _Conv) -> tuple[float, ...]:
    return (*node.source.shape, *node.layer.window, node.layer.stride)
