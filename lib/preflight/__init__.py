"""Builds the place-recognition cache an aircraft flies on, signs it and publishes it."""

__version__ = "0.1.0"
