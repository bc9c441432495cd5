"""The input of a backbone: the size of its image, and the preprocessing of its pixels."""

from __future__ import annotations

from preflight.records import PREPROCESSING_VERSION, BackboneSpec


def preprocessing_text(spec: BackboneSpec) -> str:
    """Returns the preprocessing of a backbone's pixels as a component of action keys."""
    section = spec.preprocessing
    return f"version {PREPROCESSING_VERSION} mean {section.mean} std {section.std}"


def image_size(spec: BackboneSpec) -> tuple[int, int] | None:
    """Returns (height, width) for a backbone that takes one image; None for any other."""
    shapes = list(spec.inputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
        return None
    return shapes[0][2], shapes[0][3]
