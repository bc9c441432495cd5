"""ONNX files: reading what they declare, and writing fp16 or int8 into them."""
