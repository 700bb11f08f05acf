"""Compilation apart from the run, by JAX's own account."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import jax

__all__ = ["compile_time", "union_length"]

COMPILE_EVENTS = "/jax/core/compile/"


@dataclass
class _Spans:
    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return union_length(self.spans)


@contextmanager
def compile_time() -> Iterator[_Spans]:
    """Seconds that JAX spends on tracing, lowering and compiling inside the block.

    JAX announces these as time spans; traces nest, so that the length of their union is taken.
    """
    record = _Spans()

    def listen(event: str, start_time: float, end_time: float, **_: str | int) -> None:
        if event.startswith(COMPILE_EVENTS):
            record.spans.append((start_time, end_time))

    jax.monitoring.register_event_time_span_listener(listen)
    try:
        yield record
    finally:
        jax.monitoring.unregister_event_time_span_listener(listen)


def union_length(spans: list[tuple[float, float]]) -> float:
    """Total length of the union of intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
