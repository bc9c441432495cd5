"""The OpenVINO runtime, for CPUs."""
