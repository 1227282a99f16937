"""NVIDIA GPUs: what stands between the backends `cuda`, `nullgpu` and a driver."""
