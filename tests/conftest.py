"""Threads are fixed, so that results do not depend on the machine; idle ones sleep, so that it can be shared."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch loads OpenMP
os.environ.pop(
    "COLUMNS", None
)  # workers of a parallel run set one; tables have the width of a pipe here

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

# How long examples take says nothing on a machine that others use too.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

pytest_plugins = (
    "tests.support.browser",
    "tests.support.command_line",
    "tests.support.made_run",
)
