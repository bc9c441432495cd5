"""Measures how well an index finds places. The functions are pure: callers pass pixels, model and index as callables.

retrieval_quality  the self-test of an index
queries            simulated aerial photographs
baselines          thumbnails and chance
metrics            recall and position errors
result             the figures and their JSON
backbone_card      facts about a backbone that its graph does not hold
"""
