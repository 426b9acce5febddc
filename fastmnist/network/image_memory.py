"""The tensors of the image layers: what is kept for the whole batch, and what is scratch of a thread, one chunk of images or one matrix large."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmnist.network.image_nodes import Activate, BackByTiles, Convolution, Drop, ImageChain, MaxPool, Norm
from fastmnist.network.layers import IN_PLACE
from fastmnist.network.program import Tensor

if TYPE_CHECKING:
    from fastmnist.network.lowering import Lowering


class ImageMemory:
    """Gives the nodes of a chain their tensors.

    Parameters
    ----------
    chain : ImageChain
        Its ways are chosen.
    low : Lowering
        Of the whole network, whose workspace is taken from.
    n_groups : int
        Parts of a batch whose filter gradients are summed apart.

    Attributes
    ----------
    chunk : int
        Images that a thread drives through all layers before the next ones.
    """

    def __init__(self, chain: ImageChain, low: Lowering, n_groups: int) -> None:
        self._chain, self._low, self._groups = chain, low, min(n_groups, low.rows)
        self._mark_kept()
        largest = max(4 * image.size for image in chain.images() if image not in chain.unmade())
        self.chunk = min(max(low.target.chunk_bytes // largest, 1) if low.target.chunk_bytes else low.rows, low.rows)
        self._reserve_images()
        for node in chain.convolutions:
            self._reserve_tiles(node)
        if low.purpose != "inference":
            self._reserve_backward()

    def _mark_kept(self) -> None:
        """What is read later than by the next node: by the backward pass, and by the Dense layers."""
        chain = self._chain
        if self._low.purpose != "inference":
            for node in chain.nodes:
                if isinstance(node, Convolution):
                    node.source.kept = True
                    node.output.kept |= node.relu and node.mask
                elif isinstance(node, Activate):
                    (node.output if node.name in IN_PLACE else node.source).kept = True
                elif isinstance(node, MaxPool):
                    node.output.kept |= node.mask
                elif isinstance(node, Norm):
                    node.source.kept = node.output.gradient_kept = True
        chain.output.kept = chain.output.gradient_kept = True

    def _reserve_images(self) -> None:
        """Images, their gradients, and the places of largest values."""
        chain, learns = self._chain, self._low.purpose != "inference"
        unsent = [node.output for node in chain.convolutions if node.pooled]
        unmade = chain.unmade()
        for image in chain.images():
            if image not in unmade:
                image.tensors = self._images(image.name, image.size, image.kept)
            if learns and image not in unsent:
                image.gradients = self._images(f"d{image.name}", image.size, image.gradient_kept)
        for node in chain.nodes:
            if isinstance(node, MaxPool):
                node.argmax = self._images(f"argmax_{node.output.name}", node.output.size, learns, "uint8")

    def _reserve_tiles(self, node: Convolution) -> None:
        """What transformed tiles need, there and back."""
        low, number = self._low, node.index + 1
        if node.winograd:
            shape = (36 * node.source.shape[2], node.layer.filters)
            node.tile_filters = self._one_a_thread(f"u{number}", shape)
            if low.purpose == "inference":  # zeros at first, of which the filters are zeros too
                node.seen_filters = self._one_a_thread(f"seen{number}", low.spec.parameter_shapes[2 * node.index])
        if node.back:
            self._reserve_back(node, node.back)

    def _reserve_back(self, node: Convolution, back: BackByTiles) -> None:
        (height, width, channels), filters, number = node.source.shape, node.layer.filters, node.index + 1
        back.filters = self._one_a_thread(f"turned{number}", (36 * filters, channels))
        padded = (height + 2) * (width + 2) * filters
        back.padded = self._images(f"padded_d{node.output.name}", padded, False)
        back.zeros = self._tensor(f"zeros{number}", (channels,))

    def _reserve_backward(self) -> None:
        """Masks of dropout, moments of normalisations, gradients of filters."""
        for i, node in enumerate(self._chain.nodes):
            if isinstance(node, Drop):
                shape = (self._low.rows, node.output.size)
                node.mask = self._low.workspace.tensor(f"mask_{i}", shape, self._low.target.dtype, odd_lines=True)
            elif isinstance(node, Norm):
                both = (2, node.output.shape[2])
                for g in range(self._groups):
                    node.moments.append(self._tensor(f"moments_{i}_{g}", both))
                    node.sums.append(self._tensor(f"sums_{i}_{g}", both))
            elif isinstance(node, Convolution):
                self._reserve_filter_gradient(node)

    def _reserve_filter_gradient(self, node: Convolution) -> None:
        low, number = self._low, node.index + 1
        inputs, filters = low.spec.parameter_shapes[2 * node.index]
        if low.purpose == "training":
            for g in range(self._groups):
                shape = (filters, inputs) if node.pooled else (inputs, filters)
                node.partial.append(
                    (self._tensor(f"dw{number}_{g}", shape), self._tensor(f"db{number}_{g}", (filters,)))
                )
        if node.pooled:
            rows = min(low.target.row_block or inputs, inputs)
            node.blocks = self._one_a_thread(f"dw{number}_rows", (rows, filters))
        if self._chain.needs_gradient(node):
            node.transposed = self._one_a_thread(f"wt{number}", (filters, inputs))

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._low.workspace.tensor(name, shape, self._low.target.dtype)

    def _one_a_thread(self, name: str, shape: tuple[int, ...]) -> list[Tensor]:
        return [self._tensor(f"{name}_{t}", shape) for t in range(self._low.n_threads)]

    def _images(self, name: str, size: int, kept: bool, dtype: str = "") -> list[Tensor]:
        """Of the whole batch, or a chunk for each thread."""
        make, dtype = self._low.workspace.tensor, dtype or self._low.target.dtype
        if kept:
            return [make(name, (self._low.rows, size), dtype, odd_lines=True)]
        return [make(f"{name}_{t}", (self.chunk, size), dtype, odd_lines=True) for t in range(self._low.n_threads)]
