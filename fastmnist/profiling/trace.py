"""A profile's events in the trace format of Chrome and Perfetto.

Format: "Trace Event Format" (Google, 2016), which ui.perfetto.dev and chrome://tracing open: complete events ("X") with microseconds, and
metadata ("M") that name processes, here the backends, and threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmnist.profiling.profiles import Profile


def trace_events(profile: Profile) -> dict[str, Any]:
    """The trace: one process a backend, one lane a thread (of a GPU: its stream).

    Parameters
    ----------
    profile : Profile

    Returns
    -------
    dict
        Ready for JSON. Times are microseconds since the backend's first event.
    """
    events: list[dict[str, Any]] = []
    for process, (backend, recorded) in enumerate(profile.events.items(), start=1):
        events.append(_name("process_name", process, 0, f"{backend}: {profile.model}"))
        lane = "stream" if backend == "cupy" else "thread"
        for thread in sorted({event.thread for event in recorded}):
            events.append(_name("thread_name", process, thread, f"{lane} {thread}"))
        first = min((event.start for event in recorded), default=0.0)
        for event in recorded:
            line = event.line
            events.append(
                {
                    "name": line.op,
                    "cat": "waiting" if line.op == "barrier" else "kernel",
                    "ph": "X",
                    "pid": process,
                    "tid": event.thread,
                    "ts": round(1e6 * (event.start - first), 3),
                    "dur": round(1e6 * event.seconds, 3),
                    "args": {"place": line.place, "sizes": line.sizes, "flops": line.flops, "bytes": line.nbytes},
                }
            )
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
