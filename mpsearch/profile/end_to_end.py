"""An exported model and the model that it was made of, measured in turns."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpsearch.graph.model import ModelGraph
from mpsearch.problem.tables import Progress
from mpsearch.profile.kernel_models import Array, reference_model
from mpsearch.profile.stopwatch import Timing, time_all
from mpsearch.profile.timed_runtime import TimedRuntime


def time_models(
    models: Mapping[str, Path],
    feeds: Mapping[str, Array],
    runtime: TimedRuntime,
    *,
    tolerance: float = 0.005,
    budget_s: float = 60.0,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Return what each of ``models`` takes on ``feeds``, measured in shuffled rounds.

    Args:
        models: Name to ONNX file.
        feeds: Data of the models' inputs.
        runtime: Where they run.
        tolerance: Relative standard error at which a model is known.
        budget_s: Wall-clock time after which no further round begins.
        progress: Called with (stable, all, what goes on).

    Raises:
        PlanError: The runtime cannot load or run one of them.
    """
    known = reference_model()
    reference = runtime.open_timed(known.model, known.feeds)
    runs = {name: runtime.open_timed(path, feeds) for name, path in models.items()}
    return time_all(
        runs, reference=reference, tolerance=tolerance, budget_s=budget_s, progress=progress
    )


def made_feeds(graph: ModelGraph, *, seed: int = 0) -> dict[str, Array]:
    """Return inputs of the sizes of ``graph``, at its batch: normal numbers, and ones for integers."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        sizes = [graph.batch if size is None else size for size in value.shape or ()]
        dtype = np.dtype(value.dtype or "float32")
        if dtype.kind == "f":
            feeds[value.name] = rng.standard_normal(sizes).astype(dtype)
        else:
            feeds[value.name] = np.ones(sizes, dtype)
    return feeds
