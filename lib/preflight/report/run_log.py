"""Collects what a run does, for the build report, the closing table and the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

log = logging.getLogger("c10_provisioning")

StageOutcome = Literal["built", "reused"]


@dataclass(frozen=True, slots=True)
class StageResult:
    """The outcome of one stage, and the seconds that it took."""

    outcome: StageOutcome
    seconds: float


@dataclass
class RunLog:
    """The results of one run.

    Attributes:
        stages: stage name -> result, in the order in which the stages ended.
        counts: engines_built, engines_reused, descriptors_generated, indexes_built.
        built: whether any stage was built.
        checkpoint: ends the run by an error if the caller cancelled it. Stages call it between pieces of work.
    """

    stages: dict[str, StageResult] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    built: bool = False
    checkpoint: Callable[[], None] = lambda: None

    def stage(self, name: str, outcome: StageOutcome, seconds: float) -> None:
        """Record the end of a stage. A stage that was built in this run stays built when it is checked again."""
        if name not in self.stages or outcome == "built":
            self.stages[name] = StageResult(outcome, seconds)
        self.built = self.built or outcome == "built"

    def warn(self, event: str, text: str, **fields: object) -> None:
        """Log a warning for the operator. The build continues. fields: the values of the event."""
        log.warning(text, extra={"event": event, "fields": fields})
