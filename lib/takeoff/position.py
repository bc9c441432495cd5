"""A position as flight plans give it."""

from __future__ import annotations

from typing import NamedTuple


class LatLonAlt(NamedTuple):
    """lat and lon are WGS84 degrees; alt is metres above mean sea level.

    Nothing converts a height: there is no geoid model here.
    """

    lat: float
    lon: float
    alt: float
