"""An export opened in a runtime, with its plan's model beside it: fp32, and simulated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from mpsearch.data.batches import Batches
from mpsearch.data.fit import check_batches
from mpsearch.errors import PlanError
from mpsearch.graph.model import ModelGraph
from mpsearch.losses.outputs import Head, choose_heads, read_heads
from mpsearch.plan.match import import_planned
from mpsearch.plan.plan import Plan
from mpsearch.plan.restore import rebuild_weights, restore
from mpsearch.program.tensors import to_tensor
from mpsearch.registry import find
from mpsearch.runtimes.checkpoint import CheckpointRuntime, CheckpointSession
from mpsearch.runtimes.rounding import Rounding
from mpsearch.runtimes.session import Array, Session
from mpsearch.simulate.batch_form import BatchForm, find_batch_form
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.simulate.probe import run_outputs
from mpsearch.verify.runnable import runnable
from mpsearch.verify.verify_checkpoint import find_folder, name_outputs


@dataclass(frozen=True, slots=True)
class CheckpointOutputs:
    """A checkpoint as a session that shows its outputs and nothing inside.

    Attributes:
        checkpoint: It, in its runtime.
        graph: The model.
        runtime: The runtime's name.
    """

    checkpoint: CheckpointSession
    graph: ModelGraph
    runtime: str
    is_standard: bool = False

    @property
    def rounding(self) -> Rounding:
        """What the runtime documents about its rounding."""
        return self.checkpoint.rounding

    @property
    def note(self) -> str:
        """What a reader of results must know of how it was run."""
        return self.checkpoint.note

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Return the named outputs.

        Raises:
            PlanError: One is no output of the model, or the runtime fails.
        """
        found = name_outputs(self.graph, self.checkpoint.run(inputs, []), self.runtime)
        hidden = [name for name in outputs if name not in found]
        if hidden:
            raise PlanError(f"{self.runtime} shows no values inside of a model, got {hidden[0]!r}")
        return {name: found[name].numpy() for name in outputs}


@dataclass(frozen=True, slots=True)
class Opened:
    """An export in a runtime.

    Attributes:
        plan: What was exported, its sums exact as runtimes have them.
        graph: The model.
        path: The ONNX file that the runtime opened, or the folder of a checkpoint.
        runtime: Name of the runtime.
        session: The export there.
        reopen: Opens it there once more.
        calibrated: The model as the plan's file says.
        batches: The data, checked.
        form: How the model takes samples.
        heads: What a loss without labels reads.
        kind: ``kl`` or ``mse``.
        note: What a reader must know of how the export was run.
    """

    plan: Plan
    graph: ModelGraph
    path: Path
    runtime: str
    session: Session
    reopen: Callable[[], Session]
    calibrated: Calibrated
    batches: Batches
    form: BatchForm
    heads: tuple[Head, ...]
    kind: str
    note: str

    def chosen(self, samples: int | None) -> Batches:
        """Return the first ``samples`` (None: all) as a runtime takes them."""
        batches = self.batches if samples is None else self.batches.take(samples)
        return self.form.keep_size(self.graph).apply(batches)

    def run(self, batches: Batches, names: Sequence[str] = ()) -> list[dict[str, Tensor]]:
        """Return what the runtime gives of each run: the model's outputs and values called ``names``."""
        wanted = list(dict.fromkeys((*(value.name for value in self.graph.outputs), *names)))
        return [
            {n: to_tensor(np.array(x)) for n, x in self.session.run(feed, wanted).items()}
            for feed in batches.iterate()
        ]

    def run_fp32(self, batches: Batches) -> list[dict[str, Tensor]]:
        """Return the outputs of the fp32 program of each run."""
        return [run_outputs(self.calibrated.unchanged, feed) for feed in batches.iterate()]


@contextmanager
def open_export(
    plan: Plan,
    model: str | Path | ModelGraph,
    exported: str | Path | Sequence[str | Path],
    batches: Batches,
    runtime: str,
) -> Iterator[Opened]:
    """Yield the export of ``plan`` in ``runtime``; see :func:`mpsearch.verify.verify_plan.verify_plan`."""
    opener = find("runtimes", runtime)
    if isinstance(opener, CheckpointRuntime):
        folder = find_folder(exported)
        graph = import_planned(plan, model)

        def reopen() -> Session:
            return CheckpointOutputs(opener.open(folder), graph, runtime)

        yield _open(plan, graph, folder, runtime, reopen, batches, "")
        return
    with runnable(exported) as (path, packed):
        session = partial(opener, path)
        yield _open(plan, import_planned(plan, model), path, runtime, session, batches, packed)


def _open(
    plan: Plan,
    graph: ModelGraph,
    path: Path,
    runtime: str,
    reopen: Callable[[], Session],
    batches: Batches,
    packed: str,
) -> Opened:
    session, plan = reopen(), with_exact_sums(plan)
    batches = check_batches(batches, graph)
    heads, kind = choose_heads(read_heads(graph), None, replace(batches, labels=None), graph)
    calibrated = restore(rebuild_weights(plan, graph, batches), graph)
    form = find_batch_form(graph, calibrated.program, batches, [h.output for h in heads])
    note = "; ".join(filter(None, (session.note, packed)))
    return Opened(
        plan, graph, path, runtime, session, reopen, calibrated, batches, form, heads, kind, note
    )


def with_exact_sums(plan: Plan) -> Plan:
    """Return ``plan`` as runtimes run it: narrow accumulators are the processor's, and no file says anything of them."""
    schemes = {name: replace(s, accumulate="fp32") for name, s in plan.schemes.items()}
    return replace(plan, schemes=schemes)
