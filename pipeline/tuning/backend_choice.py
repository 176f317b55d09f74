"""Which backend a run uses, and what was found of the others: values that run.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BackendChoice", "TriedBackend", "fastest_backend"]


@dataclass(frozen=True)
class TriedBackend:
    """What a trial found of one backend in one precision.

    Attributes:
        backend: its name.
        precision: of its arithmetic.
        seconds: for a megapixel; None: the backend was refused.
        agreement: share of pixels with the class that eager float32 chooses; None: the backend did not run.
        sure: pixels with another class although eager float32 was sure of theirs (margin over 0.1 of the logits' standard deviation).
        refused: the reason; empty: the backend may be chosen.
        passing: whether the failure may be over in the next run, such as short memory.
    """

    backend: str
    precision: str
    seconds: float | None = None
    agreement: float | None = None
    sure: int | None = None
    refused: str = ""
    passing: bool = False

    def __str__(self) -> str:
        """For a note."""
        agreement = "" if self.agreement is None else f"{self.agreement:.2%} of the pixels agree with eager float32"
        result = f"refused, {self.refused}" if self.seconds is None else f"{self.seconds:.2g} s a megapixel, {agreement}"
        return f"{self.backend} {self.precision} {result}"


@dataclass(frozen=True)
class BackendChoice:
    """The backend of a run, by a trial.

    Attributes:
        backend: the fastest that agrees with eager float32.
        precision: that the backend was tried in.
        seconds: that the trial took.
        tried: every candidate; empty: the trial is still to come, and the backend is only expected.
        cached: whether an earlier run held the trial.
    """

    backend: str
    precision: str
    seconds: float = 0.0
    tried: tuple[TriedBackend, ...] = ()
    cached: bool = False

    def __str__(self) -> str:
        """For a note."""
        if not self.tried:
            return f"compute.backend: decided by a trial when the run begins; {self.backend} is expected"
        trial = f"a trial of {self.seconds:.1f} s{' that an earlier run held (--fresh holds it again)' if self.cached else ''}"
        return f"compute.backend: {self.backend} {self.precision}, by {trial}: {'; '.join(map(str, self.tried))}"


def fastest_backend(tried: Sequence[TriedBackend], tolerance: float = 1.0) -> TriedBackend | None:
    """Return the fastest that may be chosen; None: all were refused.

    Args:
        tried: in order of preference.
        tolerance: times the fewest seconds that counts as equally fast; of equals the first is returned.

    Example:
        >>> tried = [TriedBackend("a", "fp32", 1.05), TriedBackend("b", "fp32", 1.0), TriedBackend("c", "fp32", refused="no operator")]
        >>> fastest_backend(tried).backend, fastest_backend(tried, tolerance=1.1).backend
        ('b', 'a')
    """
    allowed = [(candidate, candidate.seconds) for candidate in tried if candidate.seconds is not None]
    if not allowed:
        return None
    fewest = min(seconds for _, seconds in allowed)
    return next(candidate for candidate, seconds in allowed if seconds <= tolerance * fewest)
