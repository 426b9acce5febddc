"""CSV files: a header, one column of labels, features that are numbers."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np

from fastmnist.datasets.dataset import DatasetError

_LABEL_COLUMNS = ("label", "class", "target")  # taken when no label column is named
_CSV_ROWS = 4096  # rows converted at once: bounds the float64 copy of a table of bytes
Table = tuple[np.ndarray, np.ndarray]


def read_csv(path: Path, label_column: str | None) -> Table:
    """The features and the labels, not yet checked."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
            label_index = _find_label_column(path, header, label_column)
            return _read_csv_rows(path, file, header, label_index)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not text in UTF-8: {error}. Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise DatasetError(f"{path}: not a readable CSV file: {error}. Save it as CSV, with commas.") from error


def _find_label_column(path: Path, header: list[str], label_column: str | None) -> int:
    if not any(header):
        raise DatasetError(f"{path}: the first line must name the columns, separated by commas; it is empty.")
    shown = ", ".join(header[:10]) + (f", ... ({len(header)} in all)" if len(header) > 10 else "")
    candidates = _LABEL_COLUMNS if label_column is None else (label_column,)
    matches = [i for i, name in enumerate(header) if name in candidates]
    if len(matches) == 1:
        return matches[0]
    hint = _header_hint(header)
    if label_column is None:
        raise DatasetError(
            f"{path}: name the column of labels with label_column: there is not exactly one called "
            f"{', '.join(_LABEL_COLUMNS)}. Columns: {shown}.{hint}"
        )
    raise DatasetError(
        f"{path}: label_column must name exactly one column; {label_column!r} names {len(matches) or 'none'}. "
        f"Columns: {shown}.{hint}"
    )


def _header_hint(header: list[str]) -> str:
    """What the first line is instead of names with commas between them, if one can tell."""
    if all(map(_is_number, header)):
        return " The first line looks like data: it must name the columns."
    separator = next((c for c in (";", "\t", "|") if len(header) == 1 and c in header[0]), None)
    return f" Cells seem to be separated by {separator!r}: save the file with commas." if separator else ""


def _read_csv_rows(path: Path, file: Iterable[str], header: list[str], label_index: int) -> Table:
    codes: dict[str, int] = {}  # by label, in order of appearance: so the table is all numbers, and read in one pass

    def encode(cell: str) -> int:
        if _is_missing(cell):
            raise ValueError(f"missing label {cell!r}")
        return codes.setdefault(cell.strip(), len(codes))

    features, labels = [], []
    lines = (line for line in file if line.strip())
    while chunk := list(itertools.islice(lines, _CSV_ROWS)):
        try:
            rows = np.loadtxt(
                chunk, delimiter=",", quotechar='"', comments=None, converters={label_index: encode}, ndmin=2
            )
        except ValueError as error:
            _explain_csv(path, header, label_index, error)
        if rows.shape != (len(chunk), len(header)) or not np.isfinite(rows).all():
            _explain_csv(path, header, label_index, ValueError(f"{len(chunk)} lines gave rows of shape {rows.shape}"))
        labels.append(rows[:, label_index].astype(np.intp))
        values = np.delete(rows, label_index, axis=1)
        small = values.astype(np.uint8) if values.size and values.min() >= 0 and values.max() <= 255 else None
        features.append(small if small is not None and np.array_equal(small, values) else values)
    if not features:
        raise DatasetError(f"{path}: at least one row must follow the header; there is none.")
    return np.concatenate(features), _decode_labels(list(codes))[np.concatenate(labels)]


def _decode_labels(names: list[str]) -> np.ndarray:
    """Numbers if all of them are (whether they can be labels, `load_table` says), else the words themselves."""
    return np.array([float(name) for name in names]) if all(map(_is_number, names)) else np.array(names)


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in ("", "nan")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _explain_csv(path: Path, header: list[str], label_index: int, error: ValueError) -> NoReturn:
    """Find the first bad cell again, slowly, to say where it is."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        for row in reader:
            if not "".join(row).strip() and len(row) <= 1:
                continue  # a blank line
            if len(row) != len(header):
                raise DatasetError(
                    f"{path}: line {reader.line_num} must have {len(header)} cells, as the header; got {len(row)}."
                ) from error
            for index, cell in enumerate(row):
                if index == label_index and _is_missing(cell):
                    raise DatasetError(
                        f"{path}: line {reader.line_num}, column {header[index]!r}: the label is missing; got "
                        f"{cell!r}. Drop the row or fill it in."
                    ) from error
                if index != label_index and not _is_number(cell):
                    raise DatasetError(
                        f"{path}: line {reader.line_num}, column {header[index]!r}: every feature must be a finite "
                        f"number; got {cell!r}. Drop, fill or encode it first."
                    ) from error
    raise DatasetError(
        f"{path}: not a table of numbers: {error}. Save it as CSV, with commas, one line a row."
    ) from error
