"""PyTorch in fp16, for descriptor backbones."""
