"""Benchmarks: how fast a training iteration is, here and in a plain PyTorch version of the same."""
