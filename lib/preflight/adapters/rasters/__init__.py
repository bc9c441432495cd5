"""Sources of tiles that resample a georeferenced image into Web Mercator tiles.

geotiff    GeoTIFF files
corners    PNG or JPEG files with a CSV file of their corners
tile_grid  which tiles an image covers, and the checks before it is resampled
rendering  resamples an image into tiles
"""
