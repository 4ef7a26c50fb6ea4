"""Kernels and models timed in real runtimes, on machines that others use too."""
