"""The rule that a kernel is judged by, a budget.

max |kernel - float64| <= 4 x max |NumPy float32 - float64| + 2 ulp of the largest magnitude in
that output (8 x for long sums), over several draws; NaN and inf stand in the same places; integers agree.

What NaN and inf do is what the formula makes of them in IEEE 754, as in the oracle: no kernel hides one, none makes one of finite values whose
result float32 can hold. Where the formula has no value (`determined`) anything goes. Denormal results may be flushed to zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from kernel_cases import IN_PLACE, ONE_VS_REST, TINY, Case, make_case
from kernel_sizes import is_image_op

from fastmnist.kernels import reference
from fastmnist.kernels.contract import CONTRACT, QUAD

Kernel = Callable[..., None]

DRAWS = (3, 20)  # at least, at most
ENOUGH = 100  # elements of an output that make its largest error a fair sample
# Of one element, or of values of which one dwarfs the others, a few draws are a poor sample of NumPy's errors, and one of many thousand cases fails
# by that alone. What fails is therefore drawn again, so often, and judged by that once and for all.
APPEAL = 200
FACTOR, ULPS = 4, 2
# Long sums may err twice as much. A kernel adds in one fixed order, whatever the number of threads; BLAS adds blocks
# whose number depends on the machine, and its error falls with the root of it. Among 16,000 cases 3 came to 5-6 times.
LONG_SUM, LONG_SUM_FACTOR = 64, 8


def run_reference(case: Case, dtype: type[np.floating]) -> dict[str, np.ndarray]:
    """What the oracle gives for a case when it computes in `dtype`, by output name; the case is left as it is."""
    copies = {name: a.astype(dtype) if a.dtype == np.float32 else a.copy() for name, a in case.arrays.items()}
    getattr(reference, case.op)(*copies.values(), **case.params)
    return {name: copies[name] for name in case.out_names}


def determined(case: Case, name: str) -> np.ndarray:
    """Which elements of an output the contract determines, as a mask."""
    shape = case.arrays[name].shape
    mask = np.ones(shape, bool)
    if case.op in ("sparse_quads", "skipping_quads") and name in ("rows", "entries"):
        counts = run_reference(case, np.float64)["counts"] * (QUAD if name == "entries" else 1)
        mask &= np.arange(shape[1]) < counts[:, np.newaxis]
    if case.op == "conv2d_grey_pooled" and name == "argmax":
        mask &= _clear_winners(case)
    if case.op == "max_pool" and name == "argmax":
        mask &= ~np.isnan(run_reference(case, np.float64)["y"])
    if case.op in ("softmax_cross_entropy", "softmax_twice_cross_entropy", *ONE_VS_REST):
        z, start = case.arrays["z"], int(case.arrays["cursor"][0])
        batch = slice(start, start + len(z))
        if name == "hits":  # no largest logit beside a NaN
            mask[batch] &= ~np.isnan(z).any(axis=1)
        if case.op in ONE_VS_REST and name == "losses":  # inf - inf or inf - 0 inf: the formula has no value
            if case.op.endswith("sums"):
                mask[case.arrays["cursor"][1]] &= ~np.isinf(z).any(axis=0)
            else:
                mask[batch] &= ~(np.isinf(z) if mask.ndim == 2 else np.isinf(z).any(axis=1))
    return mask


def _clear_winners(case: Case) -> np.ndarray:
    """Where rounding cannot change which of 2 x 2 sums is the largest, nor whether one is above 0."""
    x, w, b = (case.arrays[name].astype(np.float64) for name in ("x", "w", "b"))
    height, width, rows, columns = (
        int(case.params[name]) for name in ("height", "width", "kernel_height", "kernel_width")
    )
    made = height - rows + 1, width - columns + 1, len(b)
    sums, sizes = (np.empty((len(x), math.prod(made))) for _ in range(2))
    with np.errstate(all="ignore"):
        reference.conv2d(sums, x, w, b, height, width, 1, rows, columns, 1)
        reference.conv2d(sizes, abs(x), abs(w), abs(b), height, width, 1, rows, columns, 1)
        pooled = made[0] // 2, 2, made[1] // 2, 2, made[2]
        cut = (slice(None), slice(2 * pooled[0]), slice(2 * pooled[2]))
        four, size = (
            np.moveaxis(a.reshape(-1, *made)[cut].reshape(-1, *pooled), 4, 3).reshape(-1, pooled[0], 4, *pooled[2::2])
            for a in (sums, sizes)
        )
        slack = 1e-5 * size.max(axis=2) + TINY
        ordered = np.sort(four, axis=2)
        clear = (ordered[:, :, 3] > slack) & (ordered[:, :, 3] - ordered[:, :, 2] > slack)
        return (clear | (ordered[:, :, 3] < -slack)).reshape(case.arrays["argmax"].shape)


@dataclass
class Errors:
    """Largest errors of one output over the draws so far."""

    factor: int
    ours: float = 0.0
    numpy: float = 0.0
    largest: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def budget(self) -> float:
        # Compiled kernels may flush denormals to zero: below the smallest normal number there is no ulp to count.
        ulp = max(float(np.spacing(np.float32(self.largest))), TINY)
        return self.factor * self.numpy + ULPS * ulp

    @property
    def is_outside(self) -> bool:
        return not (self.ours <= self.budget)


def assert_within_budget(
    kernel: Kernel,
    op: str,
    dims: dict[str, int],
    *,
    values: str = "normal",
    strided: bool | str = False,
    variant: int = 0,
    in_place: bool = False,
    seed: int = 0,
) -> None:
    """Run `kernel(op, *arrays, **params)` on several random cases and compare it with the oracle.

    Raises
    ------
    AssertionError
        Outside the budget, NaN or inf in other places, an integer that differs, a write outside the outputs; the
        message says how many and where.
    """
    case = dict(values=values, strided=strided, variant=variant, in_place=in_place, seed=seed)
    errors = _sample(kernel, op, dims, *DRAWS, **case)
    if any(error.is_outside for error in errors.values()):
        errors = _sample(kernel, op, dims, APPEAL, APPEAL, **case)
    for name, error in errors.items():
        if error.is_outside:
            notes = "\n  ".join(error.notes)
            raise AssertionError(
                f"{op}: {name} is off by {error.ours:.3g}, budget {error.budget:.3g} (NumPy's float32 error "
                f"{error.numpy:.3g}, largest value {error.largest:.3g}); values={values}, strided={strided}, "
                f"variant={variant}, in_place={in_place}\n  {notes}"
            )


def _sample(
    kernel: Kernel,
    op: str,
    dims: dict[str, int],
    at_least: int,
    at_most: int,
    *,
    values: str,
    strided: bool | str,
    variant: int,
    in_place: bool,
    seed: int,
) -> dict[str, Errors]:
    """The errors of each output over random cases: so many, or as many as make a fair sample if these are fewer."""
    rng = np.random.default_rng([seed, *dims.values(), *op.encode()])
    factor = LONG_SUM_FACTOR if _terms(op, dims) > LONG_SUM else FACTOR
    errors = {operand.name: Errors(factor) for operand in CONTRACT[op].outs}
    for draw in range(at_most):
        case = make_case(op, dims, rng, values=values, strided=strided, variant=variant)
        if in_place:
            shared = IN_PLACE[op]
            case.buffers[case.out_names[0]] = case.buffers[shared]
            case.arrays[case.out_names[0]] = case.arrays[shared]
        exact, single = run_reference(case, np.float64), run_reference(case, np.float32)
        masks = {name: determined(case, name) for name in case.out_names}
        before = {name: buffer.copy() for name, buffer in case.buffers.items()}
        kernel(op, *case.arrays.values(), **case.params)
        _assert_nothing_else_written(case, before)
        for name in case.out_names:
            _compare(case, name, exact[name], single[name], masks[name], errors[name])
        size = case.arrays[case.out_names[0]].size
        if draw + 1 >= at_least and ((draw + 1) * size >= ENOUGH or size == 0):
            break
    return errors


def _terms(op: str, dims: dict[str, int]) -> int:
    """How many products each element of the first output sums: over the main dimensions that it does not have."""
    if op == "block_linear":  # its features are drawn
        return LONG_SUM + 1
    if op in ("conv2d_dx", "conv2d_pooled_dx"):
        return dims["kernel_height"] * dims["kernel_width"] * dims["O"]
    if op.startswith(("conv2d_dw", "conv2d_db", "conv2d_pooled_dw")) or op in ("batch_moments", "batch_norm_sums"):
        return dims["B"] * dims["Y"] // dims["O"]
    if op in ("conv2d", "conv2d_relu", "conv2d_grey_pooled"):
        return dims["K"]
    if op.startswith("conv2d_winograd"):
        return dims["V"]
    if op.startswith("winograd_filters"):
        return 9
    if op == "avg_pool":
        return dims["pool_height"] * dims["pool_width"]
    if is_image_op(op) or {"Y", "O"} <= set(CONTRACT[op].dims):
        return 1
    return math.prod(size for name, size in dims.items() if name not in CONTRACT[op].outs[0].shape)


def _assert_nothing_else_written(case: Case, before: dict[str, np.ndarray]) -> None:
    writable = {id(case.buffers[name]) for name in case.out_names}
    for name, buffer in case.buffers.items():
        after = buffer.copy()
        if id(buffer) in writable:  # put the old content back into the operand: what still differs lies outside it
            _view_like(after, buffer, case.arrays[name])[...] = _view_like(before[name], buffer, case.arrays[name])
        changed = np.flatnonzero(_bits(after) != _bits(before[name]))
        if len(changed):
            what = "outside of" if id(buffer) in writable else "into the input"
            raise AssertionError(
                f"{case}: {len(changed)} elements written {what} {name} (shape {case.arrays[name].shape}, strides "
                f"{case.arrays[name].strides}), at {(changed[:8] - _start(buffer, case.arrays[name])).tolist()} from its start"
            )


def _view_like(buffer: np.ndarray, original: np.ndarray, view: np.ndarray) -> np.ndarray:
    """The part of `buffer` that corresponds to `view`, a view of `original`."""
    start = _start(original, view)
    return np.lib.stride_tricks.as_strided(buffer[start:], view.shape, view.strides)


def _start(buffer: np.ndarray, view: np.ndarray) -> int:
    """Index in `buffer` of the first element of `view`."""
    return (view.__array_interface__["data"][0] - buffer.__array_interface__["data"][0]) // buffer.itemsize


def _bits(a: np.ndarray) -> np.ndarray:
    return a.view(f"u{a.itemsize}")  # NaN equals NaN here, and -0 differs from 0


def _compare(case: Case, name: str, exact: np.ndarray, single: np.ndarray, mask: np.ndarray, errors: Errors) -> None:
    got = case.arrays[name]
    if got.dtype.kind != "f":
        wrong = mask & (got != exact)
        assert not wrong.any(), f"{case}: {name}: {_where(wrong)}, e.g. {got[wrong][0]} instead of {exact[wrong][0]}"
        return
    got = got.astype(np.float64)
    single = single.astype(np.float64)
    for kind, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        assert np.array_equal(test(exact) & mask, test(single) & mask), f"{case}: {name}: float32 cannot hold this case"
        missing, surplus = mask & test(exact) & ~test(got), mask & test(got) & ~test(exact)
        assert not missing.any(), f"{case}: {name}: {kind} missing: {_where(missing)}"
        assert not surplus.any(), f"{case}: {name}: {kind} where there is none: {_where(surplus)}"
    mask = mask & np.isfinite(exact)
    if not mask.any():
        return
    error = np.zeros(got.shape)
    error[mask] = np.abs(got[mask] - exact[mask])
    errors.ours = max(errors.ours, float(error.max()))
    errors.numpy = max(errors.numpy, float(np.abs(single[mask] - exact[mask]).max()))
    errors.largest = max(errors.largest, float(np.abs(exact[mask]).max()))
    wrong = ~(error <= errors.budget)
    if wrong.any():
        worst = np.unravel_index(int(error.argmax()), error.shape)
        errors.notes.append(f"{case}: {_where(wrong)}; worst {got[worst]:.9g} instead of {exact[worst]:.9g}")


def _where(wrong: np.ndarray) -> str:
    places = ", ".join(str(tuple(map(int, index))) for index in np.argwhere(wrong)[:6])
    return f"{int(wrong.sum())} of {wrong.size} elements, at {places}" + (", ..." if wrong.sum() > 6 else "")
