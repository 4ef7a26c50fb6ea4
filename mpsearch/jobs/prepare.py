"""From a job to the values that its stages work on: model, data, space and device, checked together."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from mpsearch.cost.device import Device, read_device, split_point
from mpsearch.data.batches import Batches, read_batches
from mpsearch.data.fit import check_batches, data_shapes, fitting_axes
from mpsearch.errors import JobError, ModelError, SpaceError, UnknownNameError
from mpsearch.graph.importer import import_onnx, read_inputs
from mpsearch.graph.model import ModelGraph
from mpsearch.graph.onnx_file.digests import digest_weights
from mpsearch.losses.outputs import read_heads
from mpsearch.program.compile import compile_graph
from mpsearch.recovery.recover import AUTO
from mpsearch.recovery.task import parse_methods
from mpsearch.registry import DataFolder, data_file, data_folder, find, list_names
from mpsearch.runs.job import Job
from mpsearch.runs.sources import Sources
from mpsearch.settings import check_settings
from mpsearch.simulate.batch_form import find_batch_form
from mpsearch.space.allowed import tie_groups
from mpsearch.space.files import read_space
from mpsearch.space.rules import Rule
from mpsearch.space.space import SearchSpace, choose_ranges


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the stages of a job read.

    Attributes:
        job: The job, with file names and digests.
        graph: The model, groups joined as the space ties them.
        space: The space, cut to the job's schemes and with its kept layers as rules.
        device: What latencies are modelled for.
        batches: Calibration data; None without any.
        evaluation: Held-out data; None without any.
    """

    job: Job
    graph: ModelGraph
    space: SearchSpace
    device: Device
    batches: Batches | None
    evaluation: Batches | None


def prepare(job: Job, sources: Sources) -> Prepared:
    """Read and check everything that ``job`` names; writes nothing.

    Raises:
        MpsearchError: A name is unknown, or a file is damaged or does not fit the others.
    """
    check_names(job)
    if job.threads:
        torch.set_num_threads(job.threads)
    device = read_device(sources.device)
    space_name = sources.space or default_space(device)
    space = read_space(
        space_name,
        target=job.target or None,
        base=job.base or None,
        recovery=None if not job.recovery else "obs" if job.recovery == "obs" else "none",
    )
    space = cut_space(space, job.schemes)
    if job.ranges:
        space = choose_ranges(space, job.ranges)
    if job.recovery == "obs" and not any(scheme.sparsity for scheme in space.schemes):
        raise JobError(
            f"recovery obs is for sparse schemes, but {', '.join(space.names)} are dense; "
            "search a space that has some, such as fp8_2of4"
        )
    check_recovery(job, space)
    batches = evaluation = None
    if sources.data is not None:
        batches = read_batches(sources.data, limit=job.samples or None, batch_size=job.batch_size)
    if sources.evaluation is not None:
        evaluation = read_batches(sources.evaluation, batch_size=job.batch_size)
    if job.quality and evaluation is None:
        raise JobError("quality is judged on held-out data; give them with --eval PATH")
    graph = read_model(sources.model, job, batches)
    for data in (batches, evaluation):
        if data is not None:
            check_batches(data, graph)
    graph = tie_groups(graph, space)
    space = keep_layers(space, graph, job.keep)
    digests = {
        "model": graph.structure_digest,
        "weights": digest_weights(graph),
        "device": _device_digest(sources.device),
        "space": _file_digest("search_spaces", space_name, "space"),
    }
    if batches is not None:
        digests["data"] = batches.digest
    if evaluation is not None:
        digests["eval"] = evaluation.digest
    for key, wanted in job.digests.items():
        if key in digests and digests[key] != wanted:
            raise JobError(
                f"digests.{key}: the job was made for another {key} ({wanted[:12]}…), "
                f"this one has {digests[key][:12]}…"
            )
    named = job.model_copy(
        update={
            "model": sources.model.name,
            "data": sources.data.name if sources.data is not None else "",
            "eval": sources.evaluation.name if sources.evaluation is not None else "",
            "device": Path(sources.device).name,
            "space": Path(space_name).name,
            "digests": digests,
        }
    )
    return Prepared(named, graph, space, device, batches, evaluation)


def check_names(job: Job) -> None:
    """Check the metric, the method and the risk of ``job`` before anything is read.

    Raises:
        UnknownNameError: One is unknown; the message lists the choices.
        SettingError: A setting of the method's or the metric's own is unknown or of another kind.
        JobError: The confidence is out of range, or only one of quality and max_drop is given.
    """
    for kind, noun, name in (
        ("metrics", "metric", job.metric),
        ("searchers", "search method", job.method),
        *(("rules", "a rule of thumb", name) for name in job.rule_names),
    ):
        names = list_names(kind)  # type: ignore[arg-type]  # both are kinds
        if name and name not in names:
            raise UnknownNameError(f"{noun} must be one of {', '.join(names)}; got {name!r}")
    if job.recovers and job.recovery != "auto":
        try:
            parse_methods(job.recovery)
        except UnknownNameError as error:
            raise UnknownNameError(
                f"recovery must be none, auto, obs or methods: {error}"
            ) from None
    if job.search.settings:
        settings = find("searchers", job.method).settings
        check_settings(f"search method {job.method}", settings, job.search.settings)
    if job.metric_settings:
        settings = find("metrics", job.metric).settings
        check_settings(f"metric {job.metric}", settings, job.metric_settings)
    if job.confidence and job.confidence < 0.5:
        raise JobError(f"`0.5 <= confidence < 1` must hold, got {job.confidence}")
    if bool(job.quality) != (job.max_drop is not None):
        raise JobError("quality and max_drop must be given together, or neither")
    if job.quality and job.limits.loss is not None:
        raise JobError(
            "a limit on the loss and one on quality cannot both choose; give one of them"
        )


def check_recovery(job: Job, space: SearchSpace) -> None:
    """Check that the space's target takes what a job's recovery makes of weights.

    Raises:
        JobError: It takes no weights but the model's own, or no biases of layers that have none.
    """
    runtime = space.runtime
    if runtime is None or runtime.changes == "all":
        return
    sparse = any(scheme.recovery != "none" for scheme in space.schemes)
    if runtime.changes == "none" and (job.recovers or sparse):
        raise JobError(
            f"{runtime.name} rounds the model's own weights, so recovery must be none; got {job.recovery}"
        )
    names = AUTO if job.recovery == "auto" else parse_methods(job.recovery) if job.recovers else ()
    if "bias" in names:
        others = ",".join(name for name in names if name != "bias")
        raise JobError(
            f"{runtime.name} takes no bias for layers that have none, so recovery must do without `bias`, such as "
            f"{others or 'gptq'}; got {job.recovery}"
        )


def read_model(path: Path, job: Job, batches: Batches | None) -> ModelGraph:
    """Import the model, its dynamic axes bound by the job or else by the data.

    Raises:
        ModelError: The model cannot be read, or the job's shapes do not fit it.
        DataError: The data do not fit it.
    """
    given = {name: tuple(size or None for size in sizes) for name, sizes in job.shapes.items()}
    axes: dict[str, int | None] = dict(job.batch_axes)
    if batches is None:
        return import_onnx(path, shapes=given or None, batch_axes=axes)
    axes = axes or _find_axes(path, given, batches)
    of_data = data_shapes(batches, *read_inputs(path, axes), axes)
    try:
        return import_onnx(path, shapes=of_data | given, batch_axes=axes)
    except ModelError:
        free = import_onnx(path, shapes=given or None, batch_axes=axes)
        check_batches(batches, free)  # if data are to blame
        raise


def _find_axes(
    path: Path, shapes: Mapping[str, tuple[int | None, ...]], batches: Batches
) -> dict[str, int | None]:
    """Return the axes of the samples where running them shows others than the first free ones.

    Only a model is run that has several free axes which sizes alone do not tell apart.
    """
    inputs, unbound = read_inputs(path)
    likely = {
        value.name: fitting_axes(batches.arrays[value.name], value, unbound, {})
        for value in inputs
        if value.name in batches.arrays
    }
    if all(len(axes) < 2 for axes in likely.values()) or len(likely) < len(inputs):
        return {}
    try:
        graph = import_onnx(path, shapes=shapes or None)
        program = compile_graph(graph)
    except ModelError:  # said again where it matters
        return {}
    heads = [head.value for head in read_heads(graph)]
    found = find_batch_form(graph, program, check_batches(batches, graph), heads).axes
    return {} if all(found[name] == axes[0] for name, axes in likely.items()) else dict(found)


def default_space(device: Device) -> str:
    """Return the space that ships for a device of this kind.

    Raises:
        SpaceError: There is none; the message lists the spaces.
    """
    names = sorted(path.stem for path in data_folder("search_spaces").glob("*.toml"))
    for text in (device.name, device.architecture):
        for name in names:
            if text.lower() == name or text.lower().split(" ")[0] == name:
                return name
    for name in names:
        if device.name.startswith(f"{name}_"):
            return name
    raise SpaceError(f"{device.name} has no space of its own; give one of {', '.join(names)}")


def cut_space(space: SearchSpace, schemes: tuple[str, ...]) -> SearchSpace:
    """Return ``space`` with only ``schemes``, and its base; all where none are named.

    Raises:
        UnknownNameError: The space has no such scheme.
    """
    if not schemes:
        return space
    kept = {space.index(name) for name in schemes} | {space.index(space.base)}
    return replace(space, schemes=tuple(space.schemes[i] for i in sorted(kept)))


def keep_layers(space: SearchSpace, graph: ModelGraph, patterns: tuple[str, ...]) -> SearchSpace:
    """Return ``space`` with a rule that keeps the layers of ``patterns`` in the base format.

    Raises:
        JobError: A pattern matches no layer.
    """
    for pattern in patterns:
        if not any(fnmatchcase(layer.name, pattern) for layer in graph.layers):
            raise JobError(
                f"keep: {pattern!r} must match a layer of {graph.name}, such as "
                f"{graph.layers[0].name!r}; `mpsearch inspect` lists them"
            )
    rules = tuple(
        Rule(reason=f"kept in {space.base} as asked", allow=(space.base,), name=pattern)
        for pattern in patterns
    )
    return replace(space, rules=space.rules + rules)


def _device_digest(name: str) -> str:
    """Digest of a device's file, and of the operating point where one is chosen."""
    name, point = split_point(name)
    digest = _file_digest("cost_models", name, "device")
    return hashlib.sha256(f"{digest}@{point}".encode()).hexdigest() if point else digest


def _file_digest(folder: DataFolder, name: str, noun: str) -> str:
    return hashlib.sha256(data_file(folder, name, noun).read_bytes()).hexdigest()
