"""What an exporter may declare about itself; a plain function of plan, graph, weights and folder is one too."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpsearch.export.planned import PlannedWeights
from mpsearch.graph.model import ModelGraph
from mpsearch.plan.plan import Plan

Write = Callable[[Plan, ModelGraph, PlannedWeights, Path, Path | None], list[Path]]


@dataclass(frozen=True, slots=True)
class Exporter:
    """An exporter that reads the configuration of the model's own framework.

    Attributes:
        write: Writes into a folder what the consumer takes, given plan, graph, weights, folder and configuration,
            and returns the files.
        prepare: Makes of a plan what the consumer can run as it is simulated, before its weights are taken.
    """

    write: Write
    prepare: Callable[[Plan, ModelGraph], Plan]
