"""The image layers of a Spec as a chain of nodes: what each reads, what it makes, and the tensors that it is given.

Nodes are closer to the ops than layers: a convolution's border is a node of its own, an activation that no convolution takes along too, and dropout
is none where nothing is trained. Which way a node is computed `image_choices.py` decides, its tensors come from `image_memory.py`, its instructions
from `image_lowering.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fastmnist.network.layers import (
    Activation,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    MaxPool2D,
)
from fastmnist.network.program import Tensor, View
from fastmnist.network.shapes import Shape, conv_padding, pool_stride
from fastmnist.network.spec import Spec


@dataclass
class Image:
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

    def view(self, piece: Piece) -> View:
        """A chunk of the images."""
        return chunk_rows(self.tensors, self.kept, piece)

    def gradient(self, piece: Piece) -> View:
        """A chunk of their gradient."""
        return chunk_rows(self.gradients, self.gradient_kept, piece)


@dataclass(frozen=True)
class Piece:
    """Rows `r0:r1` of the batch, which thread `thread` works on as a part of `group`."""

    thread: int
    group: int
    r0: int
    r1: int
    first_of_group: bool


def chunk_rows(tensors: list[Tensor], kept: bool, piece: Piece) -> View:
    """A chunk of images: within the whole batch, or the whole of the thread's scratch."""
    if kept:
        return tensors[0].view.rows(piece.r0, piece.r1)
    return tensors[piece.thread].view.rows(0, piece.r1 - piece.r0)


@dataclass
class Node:
    """What makes one batch of images of another."""

    source: Image
    output: Image


@dataclass
class Pad(Node):
    """Zeros around the images: rows above and below, columns left and right."""

    border: tuple[int, int, int, int]


@dataclass
class Convolution(Node):
    """A convolution without its border, with the ReLU behind it."""

    layer: Conv2D
    index: int  # of its weights among the pairs of parameters
    relu: bool
    mask: bool = True  # the derivative of relu is taken here, not after a pooling that follows
    pooled: MaxPool | None = None  # the pooling behind it, if gradients are taken from what was pooled
    fused: MaxPool | None = None  # the pooling behind it, if it is computed with it
    # Gradients of weights and bias of each group, those of the weights transposed if `pooled`.
    partial: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    transposed: list[Tensor] = field(default_factory=list)
    winograd: bool = False  # forward by transformed tiles
    tile_filters: list[Tensor] = field(default_factory=list)  # the filters for them, of each thread
    seen_filters: list[Tensor] = field(default_factory=list)  # prediction: the filters that those were made of
    back: BackByTiles | None = None  # the gradient of its input by transformed tiles
    blocks: list[Tensor] = field(default_factory=list)  # if `pooled`: rows of the weights' gradient, of each thread


@dataclass
class BackByTiles:
    """What the gradient of a convolution's input by transformed tiles needs, of each thread; the zeros serve all."""

    filters: list[Tensor] = field(default_factory=list)
    padded: list[Tensor] = field(default_factory=list)  # the gradient of the output with its border, a chunk
    zeros: Tensor | None = None  # in place of a bias


@dataclass
class MaxPool(Node):
    """Max pooling; `params` is its geometry, as the op has it."""

    params: tuple[float, ...]
    mask: bool  # also takes the derivative of the relu before it
    sends: bool = True  # to its input; else the convolution before it reads the gradient of what was pooled
    fused: bool = False  # computed by the convolution before it
    argmax: list[Tensor] = field(default_factory=list)


@dataclass
class AvgPool(Node):
    """Means of windows, or of whole images; `params` is the geometry, as the op has it."""

    params: tuple[float, ...]


@dataclass
class Activate(Node):
    """An activation function that no convolution takes along; `name` is its op."""

    name: str


@dataclass
class Drop(Node):
    """Dropout while training."""

    layer_number: int
    rate: float
    mask: Tensor | None = None


@dataclass
class Norm(Node):
    """Batch normalisation."""

    layer: BatchNorm
    index: int  # of gamma and beta among the pairs of parameters; the running mean and variance are the next pair
    moments: list[Tensor] = field(default_factory=list)  # of each group; the first is the batch's once they are merged
    sums: list[Tensor] = field(default_factory=list)


class ImageChain:
    """The image layers, each node reading what the one before it makes.

    Attributes
    ----------
    input : Image
        The gathered pixels.
    nodes : list of Node
    n_layers : int
        How many layers of the Spec they are.
    n_pairs : int
        How many pairs of parameters they have.
    """

    def __init__(self, spec: Spec, *, training: bool) -> None:
        assert spec.image_shape is not None
        self.input = Image("x", spec.image_shape)
        self.nodes: list[Node] = []
        self.n_layers = self.n_pairs = 0
        for layer, after in zip(spec.layers, spec.shapes[1:], strict=True):
            if isinstance(layer, Flatten):
                self.n_layers += 1
                break
            self._append(layer, after, training)
            self.n_layers += 1
            if isinstance(layer, GlobalAvgPool2D):
                break
        self.convolutions = [node for node in self.nodes if isinstance(node, Convolution)]
        self.norms = [node for node in self.nodes if isinstance(node, Norm)]

    @property
    def output(self) -> Image:
        """What the first Dense reads."""
        return self.nodes[-1].output if self.nodes else self.input

    @property
    def ends_rectified(self) -> bool:
        """Whether the gradient of what the first Dense reads goes through the derivative of a ReLU before anything else."""
        return bool(self.nodes) and takes_derivative(self.nodes[-1])

    def images(self) -> list[Image]:
        """All, made in memory or not."""
        return [self.input, *(node.output for node in self.nodes)]

    def unmade(self) -> list[Image]:
        """Outputs of convolutions that are pooled at once."""
        return [node.output for node in self.convolutions if node.fused]

    def needs_gradient(self, node: Node) -> bool:
        """Whether something that learns stands before the node."""
        return any(isinstance(one, (Convolution, Norm)) for one in self.nodes[: self.nodes.index(node)])

    def _append(self, layer: Layer, shape: Shape, training: bool) -> None:
        """The nodes of a layer whose output has that shape."""
        source, number = self.output, self.n_layers + 1
        output = Image(f"{type(layer).__name__.lower()}_{number}", shape)
        if isinstance(layer, Conv2D):
            self._append_convolution(layer, output, number)
        elif isinstance(layer, MaxPool2D):
            before = self.nodes[-1] if self.nodes else None
            takes_over = isinstance(before, Convolution) and before.relu
            if isinstance(before, Convolution):
                before.mask = False
            self.nodes.append(MaxPool(source, output, _pooling(layer, source), takes_over))
        elif isinstance(layer, AvgPool2D):
            self.nodes.append(AvgPool(source, output, _pooling(layer, source)))
        elif isinstance(layer, GlobalAvgPool2D):
            mean = Image(f"mean_{number}", (1, 1, *shape))
            self.nodes.append(AvgPool(source, mean, (*source.shape, *source.shape[:2], 1)))
        elif isinstance(layer, BatchNorm):
            self.nodes.append(Norm(source, output, layer, self.n_pairs))
            self.n_pairs += 2
        elif isinstance(layer, Activation):
            if layer.name != "identity":
                self._append_activation(layer.name, number)
        else:
            assert isinstance(layer, Dropout)
            if training and layer.rate > 0:
                self.nodes.append(Drop(source, output, self.n_layers, layer.rate))

    def _append_convolution(self, layer: Conv2D, output: Image, number: int) -> None:
        border = conv_padding(layer, self.output.shape)
        if any(border):
            height, width, channels = self.output.shape
            wide = height + border[0] + border[1], width + border[2] + border[3], channels
            self.nodes.append(Pad(self.output, Image(f"padded_{number}", wide), border))
        self.nodes.append(Convolution(self.output, output, layer, self.n_pairs, layer.activation == "relu"))
        self.n_pairs += 1
        if layer.activation not in ("identity", "relu"):
            self._append_activation(layer.activation, number)

    def _append_activation(self, name: str, number: int) -> None:
        source = self.output
        self.nodes.append(Activate(source, Image(f"{name}_{number}", source.shape), name))


def takes_derivative(node: Node) -> bool:
    """Of the ReLU that the node ends with, or that stands before its pooling."""
    return node.mask if isinstance(node, MaxPool) else isinstance(node, Convolution) and node.relu and node.mask


def _pooling(layer: MaxPool2D | AvgPool2D, source: Image) -> tuple[float, ...]:
    return (*source.shape, *layer.window, pool_stride(layer))


def is_grey(node: Convolution, after: MaxPool) -> bool:
    """Of one channel with stride 1, pooled 2 x 2: pooled pixels can be the lanes of a vector."""
    return (node.source.shape[2], node.layer.stride, *after.params[3:]) == (1, 1, 2, 2, 2)


def pooled_window(node: Convolution) -> tuple[float, ...]:
    """Geometry of a convolution and of the pooling behind it."""
    assert node.pooled is not None
    return (*window(node), *node.pooled.params[3:])


def window(node: Convolution) -> tuple[float, ...]:
    """Geometry of a convolution."""
    return (*node.source.shape, *node.layer.window, node.layer.stride)
