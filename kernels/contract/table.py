"""What describes an op, and the table that each topic fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Dims = Mapping[str, int]


@dataclass(frozen=True)
class Operand:
    """One array an op reads or writes.

    Attributes
    ----------
    name : str
    shape : tuple of str
        Names of dimensions, or decimal numbers.
    dtypes : tuple of str
        The types it may have. "float" stands for the executor's arithmetic type: float32 in compiled kernels, float32 or float64 in the oracle.
    """

    name: str
    shape: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float",)


@dataclass(frozen=True)
class Op:
    """One line of the contract.

    Attributes
    ----------
    name : str
    outs : tuple of Operand
        Written. Those also named in `updates` are read first, the others are overwritten.
    ins : tuple of Operand
        Only read.
    params : tuple of str
        By-value scalars (float64), constant for a whole run.
    updates : tuple of str
        Names of the outs whose old content matters.
    flops, nbytes : callable
        From a mapping of dimensions to floating-point operations and to bytes of compulsory traffic (float32).
    doc : str
        The formula.
    """

    name: str
    outs: tuple[Operand, ...]
    ins: tuple[Operand, ...]
    params: tuple[str, ...]
    updates: tuple[str, ...]
    flops: Callable[[Dims], float]
    nbytes: Callable[[Dims], float]
    doc: str

    @property
    def operands(self) -> tuple[Operand, ...]:
        """Outputs, then inputs: the positional order of every implementation."""
        return self.outs + self.ins

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions, in order of first appearance."""
        seen = dict.fromkeys(d for operand in self.operands for d in operand.shape if not d.isdecimal())
        return tuple(seen)

    def bind_dims(self, shapes: list[tuple[int, ...]]) -> dict[str, int]:
        """Match the operands' shapes with the dimensions' names.

        Raises
        ------
        ValueError
            A rank or a dimension does not fit; the message names the operand.
        """
        dims: dict[str, int] = {}
        for operand, shape in zip(self.operands, shapes, strict=True):
            expected = f"{self.name}: {operand.name} must have shape ({', '.join(operand.shape)})"
            if len(shape) != len(operand.shape):
                raise ValueError(f"{expected}; got {shape}.")
            for name, size in zip(operand.shape, shape, strict=True):
                want = int(name) if name.isdecimal() else dims.setdefault(name, size)
                if want != size:
                    raise ValueError(f"{expected} with {name} = {want}; got {shape}.")
        return dims


_INTEGER = {"cursor": "int64", "order": "int64", "labels": "int32", "indptr": "int64"}


def _operands(text: str, types: Mapping[str, tuple[str, ...]]) -> tuple[Operand, ...]:
    """Parse "y[B,O] x[B,I]"."""
    result = []
    for word in text.split():
        name, shape = word.rstrip("]").split("[")
        dtypes = types.get(name) or ((_INTEGER[name],) if name in _INTEGER else ("float",))
        result.append(Operand(name, tuple(shape.split(",")), dtypes))
    return tuple(result)


class Table(dict[str, Op]):
    """The ops of a topic by name."""

    def add(
        self,
        name: str,
        outs: str,
        ins: str,
        doc: str,
        *,
        params: str = "",
        updates: str = "",
        flops: Callable[[Dims], float] = lambda d: 0,
        nbytes: Callable[[Dims], float] | None = None,
        types: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Describe an op.

        Parameters
        ----------
        name : str
        outs, ins : str
            Operands with their dimensions, as in "y[B,O] x[B,I]".
        doc : str
            The formula.
        params, updates : str, default=""
            Names, with spaces between them.
        flops, nbytes : callable, optional
            No operations unless told; every operand once, those in `updates` twice.
        types : dict, optional
            Dtypes of those operands that are neither of the arithmetic type nor what the cursor, the order, labels and row pointers always are.
        """
        outputs, inputs = _operands(outs, types or {}), _operands(ins, types or {})

        def traffic(d: Dims) -> float:
            def size(o: Operand) -> float:
                return 1.0 * _product(d[s] if not s.isdecimal() else int(s) for s in o.shape) * _itemsize(o.dtypes[0])

            return sum(map(size, outputs + inputs)) + sum(size(o) for o in outputs if o.name in updates.split())

        self[name] = Op(
            name,
            outputs,
            inputs,
            tuple(params.split()),
            tuple(updates.split()),
            flops,
            nbytes or traffic,
            " ".join(doc.split()),
        )


def _product(sizes) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _itemsize(dtype: str) -> int:
    return {"float": 4, "float32": 4, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "float64": 8}[dtype]
