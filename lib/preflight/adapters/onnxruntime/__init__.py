"""ONNX Runtime: the fp32 reference, and a runtime for CPUs and CUDA."""
