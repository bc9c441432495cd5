"""Reads ONNX files, and writes a precision into them.

models     reads and checks the interface of a model
precision  writes fp16 or int8 into a model
fp16_cast  casts nodes of a graph to fp16
"""
