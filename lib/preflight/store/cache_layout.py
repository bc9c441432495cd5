"""The paths below a cache root. See DESIGN.md, "Cache root"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The paths below one cache root. No property reads or writes the disk."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / ".c10.lock"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def generations(self) -> Path:
        return self.root / "gen"

    @property
    def current(self) -> Path:
        return self.root / "current"

    @property
    def previous(self) -> Path:
        return self.root / "previous"

    @property
    def digests(self) -> Path:
        return self.work / "digests.db"

    @property
    def doit_database(self) -> Path:
        return self.work / "doit.db"

    @property
    def report(self) -> Path:
        return self.work / "build_report.json"

    @property
    def history(self) -> Path:
        """The folder with the newest build of each step, for `doit why`."""
        return self.work / "history"

    @property
    def rates(self) -> Path:
        """The seconds that each stage took, for `doit plan`."""
        return self.work / "rates.json"

    @property
    def refused(self) -> Path:
        """The result of a failed verification, for the next provision."""
        return self.work / "refused.json"

    @property
    def inventory(self) -> Path:
        return self.work / "tiles" / "tiles.inventory"

    @property
    def tile_lines(self) -> Path:
        return self.work / "tiles" / "tiles.lines"

    @property
    def tile_times(self) -> Path:
        return self.work / "tiles" / "tiles.times"

    @property
    def first_seen(self) -> Path:
        return self.work / "tiles" / "first_seen"

    @property
    def tile_findings(self) -> Path:
        return self.work / "tiles" / "tiles.remarks"

    @property
    def windows(self) -> Path:
        return self.work / "tiles" / "windows.inventory"

    @property
    def coverage(self) -> Path:
        return self.work / "tiles" / "coverage.json"

    @property
    def parity_sample(self) -> Path:
        return self.work / "samples" / "parity.npy"

    @property
    def calibration_sample(self) -> Path:
        return self.work / "samples" / "calibration.npy"

    @property
    def calibration(self) -> Path:
        """The folder of the calibration tables."""
        return self.work / "calibration"

    @property
    def onnx(self) -> Path:
        return self.work / "onnx"

    @property
    def engines(self) -> Path:
        return self.work / "engines"

    @property
    def descriptors(self) -> Path:
        return self.work / "descriptors"

    @property
    def descriptor_set(self) -> Path:
        return self.work / "descriptors" / "descriptors.json"

    @property
    def index(self) -> Path:
        return self.work / "index" / "descriptors.faiss"

    @property
    def handed_over(self) -> Path:
        """Says which descriptors an index of the caller's has received."""
        return self.work / "index" / "handed_over.json"

    @property
    def selftest(self) -> Path:
        return self.work / "selftest" / "selftest.json"

    @property
    def corpus(self) -> Path:
        return self.work / "manifest" / "corpus.json"

    @property
    def provenance(self) -> Path:
        return self.work / "manifest" / "provenance.json"

    @property
    def manifest(self) -> Path:
        return self.work / "manifest" / "manifest.json"

    @property
    def signing(self) -> Path:
        """The folder where a statement waits for an offline signature."""
        return self.work / "signing"

    @property
    def envelope(self) -> Path:
        return self.work / "manifest" / "manifest.dsse.json"
