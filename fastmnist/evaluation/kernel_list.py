"""Every op of the contract with its cost at a standard size: what `fastmnist kernels` prints."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Any

from fastmnist.kernel_call import STANDARD_DIMS
from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, Operand
from fastmnist.kernels.gpu import NOT_ON_GPU


@dataclass(frozen=True)
class ListedKernel:
    """An op for people.

    Attributes
    ----------
    name : str
    outputs, inputs : list of str
        As in "w[I,O]".
    parameters, backends : list of str
        Backends that have it, whether or not they can run here.
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
                for backend, has in (
                    ("numpy", hasattr(reference, op.name)),
                    ("numba", op.name in compiled),
                    ("cupy", op.name not in NOT_ON_GPU),
                )
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
