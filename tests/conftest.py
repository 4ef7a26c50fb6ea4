"""Threads are fixed, so that results do not depend on the machine that runs the tests."""

import torch

torch.set_num_threads(2)
