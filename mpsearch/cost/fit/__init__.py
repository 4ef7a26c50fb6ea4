"""Measured kernels turned into a device file's parameters."""
