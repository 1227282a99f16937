"""Tensor expressions to bundles."""
