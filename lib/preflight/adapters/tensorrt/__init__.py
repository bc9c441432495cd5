"""TensorRT 10.3 to 11.x and TensorRT-RTX, for NVIDIA GPUs."""
