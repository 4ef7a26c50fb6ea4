"""Processes that measure for a run, and queues of whole jobs: on this machine, and on Ray."""
