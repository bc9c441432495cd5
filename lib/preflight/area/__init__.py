"""The area that a mission covers, and the map tiles in it.

area          a bounding box or polygons, and the tiles that cover them
tile_cover    the cover as rows and rectangles of tiles
web_mercator  conversion between tile coordinates and WGS84 degrees
corridor      the area around a route
routes        flight plans in the file formats of ground stations
"""
