"""Georeferenced pictures, resampled into Web Mercator tiles."""
