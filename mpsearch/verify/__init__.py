"""Exported plans run in real runtimes and compared with the simulation, layer by layer."""
