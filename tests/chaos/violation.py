"""A broken promise."""

from __future__ import annotations

import attrs


@attrs.frozen
class Violation:
    """A broken promise: which, of which job, and what was seen."""

    promise: str
    job_id: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.promise}: {'' if self.job_id is None else f'job {self.job_id}: '}{self.text}"
