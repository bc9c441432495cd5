"""The stages of a build, as steps that the up-to-date rule judges.

tiles        the sealed tile set; `samples` draws the gates' samples, `units` lists the retrieval units
engines      ONNX to engine; `prepare_onnx` writes the precision before it, `parity_gate` checks the engine after it
descriptors  one vector for each unit; `unit_images` gives the pixels
index        the HNSW graph
selftest     recall on simulated photographs
manifest     the signature; `statement` gathers the facts, `corpus` and `provenance` are signed with it
publish      staging, verification, the new `current`

`reading` and `artifacts` hold no step.
"""
