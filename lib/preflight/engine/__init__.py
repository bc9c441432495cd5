"""Inference engines: names, precisions, compilation and the parity gate.

compiler           compiles the backbones of a corpus
compile_process    runs one compilation in a process of its own
file_names         engine file names (D-C10-7)
precisions         which runtime builds which precision
calibration_table  value ranges of tensors (D-C10-6)
parity             compares an engine with its ONNX reference
model_input        size and preprocessing of a backbone's input
static_batch       runs any number of samples through an engine with a fixed batch size
"""
