"""Looking at a run's ranges: how large values are on its calibration data, and what each scheme cuts off."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpsearch.errors import JobError
from mpsearch.jobs.prepare import Prepared, prepare
from mpsearch.jobs.stage_inputs import Watch, unwatched
from mpsearch.numerics.ranges import RangeObserver
from mpsearch.program.compile import compile_graph
from mpsearch.program.memory_of_machine import find_device
from mpsearch.runs.job_file import check_trust, read_job
from mpsearch.runs.record import read_record
from mpsearch.runs.sources import locate
from mpsearch.schemes import Spec
from mpsearch.simulate.observation import Observation, activation_inputs, observe_model
from mpsearch.simulate.ranges_file import HIGHEST, LOWEST, STEP, Magnitudes, write_ranges
from mpsearch.simulate.reference import iterate_feeds

FILE = "ranges.json"
_BLOCK_SCALE_MAX = 448.0  # e4m3: what a block's scale multiplies the tensor's by


def observe_ranges(
    run: Path, *, model: Path, data: Path, trust_code: bool = False, watch: Watch = unwatched
) -> tuple[Magnitudes, ...]:
    """Run the fp32 model over the run's calibration data, write ``ranges.json`` into the run, and return what it says.

    Args:
        run: The run folder.
        model: The model of the run.
        data: Its calibration data.
        trust_code: Whether functions that the run's job names may be run.
        watch: Told of progress.

    Raises:
        JobError: The folder is no run, or model or data are not its own.
    """
    record = read_record(run)
    job = read_job(run / "job.toml").model_copy(
        update={"eval": "", "quality": "", "max_drop": None}
    )
    if not trust_code:
        check_trust(job, run.name)
    prepared = prepare(job, locate(job, run, model=model, data=data))
    if prepared.batches is None:
        raise JobError(f"{run.name}: ranges need the run's calibration data")
    first = prepared.batches.take(record.calibrated or len(prepared.batches))
    told = watch("observe")
    told(0, 1, f"{len(first)} samples")
    program = compile_graph(prepared.graph, find_device("auto"))
    feeds = iterate_feeds(program, first)
    heads = [output.name for output in prepared.graph.outputs]
    seen = observe_model(prepared.graph, program, feeds, heads)
    told(1, 1, f"{len(first)} samples")
    layers = _describe(prepared, seen)
    write_ranges(run / FILE, layers, len(first))
    return layers


def _describe(prepared: Prepared, seen: Observation) -> tuple[Magnitudes, ...]:
    specs = {
        scheme.name: scheme.activation
        for scheme in prepared.space.schemes
        if not scheme.activation.is_cast and scheme.activation.range == "static"
    }
    found = []
    for layer in prepared.graph.layers:
        for value, _, _ in activation_inputs(layer).values():
            observer = seen.observers.get(value)
            if observer is not None:
                found.append(_magnitudes(layer.name, value, observer, specs))
    return tuple(found)


def _magnitudes(
    layer: str, value: str, observer: RangeObserver, specs: Mapping[str, Spec]
) -> Magnitudes:
    counts = observer.counts
    total = float(counts.sum()) or 1.0
    pattern = np.arange(len(counts))
    octave = ((pattern >> 6) & 0x1FF) / 2 - 127  # exponent and the first bit below it
    zero = (pattern & 0x7FFF) == 0
    bins = np.clip(((octave - LOWEST) / STEP).astype(np.int64), 0, round((HIGHEST - LOWEST) / STEP))
    shares = np.bincount(bins[~zero], counts[~zero]) / total
    clips, clipped = {}, {}
    for name, spec in specs.items():
        scale = observer.finish(spec).scale
        if scale > 0:
            block = _BLOCK_SCALE_MAX if spec.tensor_scale else 1.0
            clips[name] = scale * block * spec.element.max_value
            beyond = octave >= np.log2(clips[name])
            clipped[name] = float(counts[beyond & ~zero].sum() / total)
    return Magnitudes(
        layer,
        value,
        tuple(shares.tolist()),
        float(counts[zero].sum() / total),
        max(-observer.low, observer.high),
        clips,
        clipped,
    )
