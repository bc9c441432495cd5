"""The ground that a mission covers, and the map tiles that lie on it.

area          a bounding box or polygon, and the tiles that cover it
tile_ranges   the cover as ranges of tiles, one range a row
web_mercator  tile coordinates to and from WGS84 degrees
corridor      the area around a route
routes        flight plans in the formats of ground stations
"""
