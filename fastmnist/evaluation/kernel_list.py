"""Every op of the contract with its cost at a standard size: what `fastmnist kernels` prints."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Any

from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, Operand

# The first layer of the default network (batch 32, 784-128) on MNIST, whose 60,000 images have some 150 nonzero
# pixels each; images of 13 x 13 pixels and 32 channels, and 3 x 3 filters, which make 11 x 11 pixels.
STANDARD_DIMS = {
    "B": 32,
    "I": 784,
    "O": 128,
    "C": 10,
    "R": 784,
    "Q": 128,
    "N": 60_000,
    "M": 60_000,
    "S": 1_875,
    "P": 60_001,
    "Z": 9_000_000,
    "X": 13 * 13 * 32,
    "Y": 11 * 11 * 128,
    "K": 3 * 3 * 32,
    "F": 784,
    "W": 1,
    "E": 784 * 10,
}


@dataclass(frozen=True)
class ListedKernel:
    """An op for people.

    Attributes
    ----------
    name : str
    outputs, inputs : list of str
        As in "w[I,O]".
    parameters, backends : list of str
    flops, nbytes : float
        At `STANDARD_DIMS`.
    doc : str
        The formula.
    """

    name: str
    outputs: list[str]
    inputs: list[str]
    parameters: list[str]
    backends: list[str]
    flops: float
    nbytes: float
    doc: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def list_kernels() -> list[ListedKernel]:
    """The ops of the contract, in its order.

    Returns
    -------
    list of ListedKernel
    """
    compiled = _compiled()
    return [
        ListedKernel(
            name=op.name,
            outputs=[_signature(o) for o in op.outs],
            inputs=[_signature(o) for o in op.ins],
            parameters=list(op.params),
            backends=[
                backend
                for backend, has in (("numpy", hasattr(reference, op.name)), ("numba", op.name in compiled))
                if has
            ],
            flops=float(op.flops(STANDARD_DIMS)),
            nbytes=float(op.nbytes(STANDARD_DIMS)),
            doc=op.doc,
        )
        for op in CONTRACT.values()
    ]


def _signature(operand: Operand) -> str:
    return f"{operand.name}[{','.join(operand.shape)}]"


def _compiled() -> tuple[str, ...]:
    if importlib.util.find_spec("numba") is None:
        return ()
    from fastmnist.kernels import cpu

    return cpu.available()
