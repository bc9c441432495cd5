"""Model input: of which size a backbone takes an image, and what is done to its pixels before."""

from __future__ import annotations

from preflight.records import PREPROCESSING_VERSION, BackboneSpec


def preprocessing_text(spec: BackboneSpec) -> str:
    """What is done to pixels before a backbone sees them, as a component of action keys."""
    section = spec.preprocessing
    return f"version {PREPROCESSING_VERSION} mean {section.mean} std {section.std}"


def image_size(spec: BackboneSpec) -> tuple[int, int] | None:
    """(height, width) of a backbone that takes one image; None for any other."""
    shapes = list(spec.inputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
        return None
    return shapes[0][2], shapes[0][3]
