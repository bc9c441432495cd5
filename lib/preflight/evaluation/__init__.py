"""How well an index finds places: simulated aerial queries, baselines and figures. Pure; pixels and models are handed in."""
