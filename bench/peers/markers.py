"""Text that a program writes into a file between two marker lines."""

from __future__ import annotations


def between(text: str, begin: str, end: str, body: str) -> str:
    """The text with a new body between its markers.

    Raises
    ------
    ValueError
        It must have each marker once, in order.
    """
    head, found_begin, rest = text.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not (found_begin and found_end) or begin in tail or end in tail:
        raise ValueError(f"The text must have the lines {begin!r} and {end!r} once each, in this order.")
    return f"{head}{begin}\n\n{body}\n\n{end}{tail}"
