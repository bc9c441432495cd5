"""Facts about a backbone that its graph does not hold. Importing this module loads neither numpy nor ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["WEIGHT_FREE_VPR", "BackboneCard", "card_without_shifts"]


@dataclass(frozen=True, slots=True)
class BackboneCard:
    """Facts about a descriptor backbone, for the self-test and the reports.

    Attributes:
        name: the name in reports.
        description: one line about the backbone.
        descriptor_dim: length of a descriptor.
        shift_count: how many turns of the camera act on a descriptor as a cyclic shift. A turn by 360 / shift_count
            degrees rolls the descriptor, viewed as (-1, shift_count), by one along its last axis. It is 1 for a
            backbone without this property.
    """

    name: str
    description: str
    descriptor_dim: int
    shift_count: int = 1

    def __post_init__(self) -> None:
        if self.descriptor_dim < 1 or self.shift_count < 1 or self.descriptor_dim % self.shift_count:
            msg = f"{self.name}: {self.shift_count} shifts do not divide a descriptor of {self.descriptor_dim} numbers"
            raise ValueError(msg)

    def shifts(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute every turn of (N, descriptor_dim) descriptors.

        Returns (shift_count, N, descriptor_dim); the first entry is the input. Raises ValueError if the descriptors
        have another length.
        """
        import numpy as np  # noqa: PLC0415 - importing this module must not load numpy

        if descriptors.ndim != 2 or descriptors.shape[1] != self.descriptor_dim:
            msg = f"{self.name} gives descriptors of {self.descriptor_dim} numbers, not an array {descriptors.shape}"
            raise ValueError(msg)
        view = descriptors.reshape(len(descriptors), -1, self.shift_count)
        return np.stack([np.roll(view, k, axis=2).reshape(descriptors.shape) for k in range(self.shift_count)])


def card_without_shifts(name: str, descriptor_dim: int) -> BackboneCard:
    """Return the card of a backbone of which only the length of a descriptor is known."""
    return BackboneCard(name, "no card: nothing is known of its training", descriptor_dim)


WEIGHT_FREE_VPR = BackboneCard(
    name="weight_free_vpr",
    description="polar energy of oriented filters and opponent colours; no learned weights; not for flight",
    descriptor_dim=2080,
    shift_count=16,
)
"""The card of the built-in backbone. `adapters.demo.weight_free_vpr` builds its graph; a test compares the two."""
