"""The demonstration: a made-up landscape, and a backbone without learned weights."""
