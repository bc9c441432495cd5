"""Writes golden.npy: descriptors of synthetic images, computed by the PyTorch prototype of the ONNX graph.

    python make_golden.py PATH/TO/backbone_prototype.py

It needs torch 2.13.0 and numpy. The images are made with integer arithmetic only, so a test can compute them on any
machine.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np

COUNT = 6
SIDE = 224
HERE = Path(__file__).parent


def synthetic_images() -> np.ndarray:
    """Return images as (COUNT, 3, SIDE, SIDE) uint8, with patches, lines and grain.

    They come from a hash of each pixel's position.
    """
    return np.stack([_image(seed) for seed in range(1, COUNT + 1)])


def _image(seed: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.uint64)
    slant = (x * np.uint64(seed) + y * np.uint64(7 - seed)) // np.uint64(5)
    planes = []
    for channel in range(3):
        salt = 101 * seed + channel
        patches = _hash(slant // np.uint64(23), y // np.uint64(31), 7 * seed) % np.uint64(110)
        blocks = _hash(x // np.uint64(5 + seed), y // np.uint64(9), salt) % np.uint64(60)
        grain = _hash(x, y, salt + 50) % np.uint64(30)
        lines = np.where((slant % np.uint64(41)) < np.uint64(4), np.uint64(50), np.uint64(0))
        planes.append(patches + blocks + grain + lines)
    return np.stack(planes).astype(np.uint8)


def _hash(x: np.ndarray, y: np.ndarray, salt: int) -> np.ndarray:
    mask = np.uint64(0xFFFFFFFF)
    h = (x * np.uint64(374761393) + y * np.uint64(668265263) + np.uint64(salt * 2246822519 % 2**32)) & mask
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(1274126177)) & mask
    return (h ^ (h >> np.uint64(16))) >> np.uint64(3)


def main(prototype: str) -> None:
    import torch

    spec = importlib.util.spec_from_file_location("prototype", prototype)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    with torch.no_grad():
        golden = module.PolarShift()(torch.tensor(synthetic_images(), dtype=torch.float32)).numpy()
    np.save(HERE / "golden.npy", golden.astype(np.float32))


if __name__ == "__main__":
    main(sys.argv[1])
