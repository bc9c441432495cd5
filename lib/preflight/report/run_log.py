"""What a run did, collected while it runs: for the report, the closing table and the log."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

log = logging.getLogger("preflight")

StageOutcome = Literal["built", "reused"]


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of one stage, and the seconds it took."""

    outcome: StageOutcome
    seconds: float


@dataclass
class RunLog:
    """Counts and facts of one run. Counters: engines_built, engines_reused, descriptors_generated, indexes_built."""

    stages: dict[str, StageResult] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    built: bool = False

    def stage(self, name: str, outcome: StageOutcome, seconds: float) -> None:
        """Note the end of a stage. A stage that was built stays built when it is judged again."""
        if name not in self.stages or outcome == "built":
            self.stages[name] = StageResult(outcome, seconds)
        self.built = self.built or outcome == "built"

    def warn(self, event: str, text: str, **fields: object) -> None:
        """Say something the operator should know although the build goes on."""
        log.warning(text, extra={"event": event, "fields": fields})
