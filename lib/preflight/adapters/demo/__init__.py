"""The demo: a synthetic landscape, and a backbone without learned weights.

landscape        the tiles of the landscape
landscape_plan   its geometry
landscape_paint  paints the geometry
weight_free_vpr  the ONNX graph of the backbone
polar_filters    the constants of that graph
"""
