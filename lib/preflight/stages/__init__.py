"""The stages of a build, as steps that the rule judges, and what several of them share.

tiles            the sealed tile set; `samples` draws from it once; `units` are what is embedded of it
engines          an ONNX file to an engine; `calibration` brings it to its precision before, `parity` is the gate after
descriptors, index, selftest
manifest         the signature; `corpus` and `provenance` are signed with it, `statement` is what it says
publish

engine_compiler, model_input, reading and artifacts hold no step.
"""
