"""The job file: everything that decides a search's result, in one TOML file.

In a file that a person writes, ``model``, ``data``, ``eval``, ``device`` and ``space`` may be paths
relative to that file. The copy in a run folder holds file names and digests only.

The keys below are the one source of the command line's options, of the file that ``init`` writes, of
the table in ``docs/cli.md`` and of what errors say of a key.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, ByteSize, Field, TypeAdapter, ValidationError

from mpsearch.artifacts import Content
from mpsearch.errors import SchemeError
from mpsearch.notations import parse_estimator
from mpsearch.problem.tables import FULL
from mpsearch.runs.job_tables import Limits, OwnSettings, PhaseMix, PhaseTokens
from mpsearch.runs.knob import CHOICE, DEVICE, FILES, MACHINE, SEARCH, TABLE, Knob

Names = tuple[str, ...]
_BYTES = TypeAdapter(ByteSize)


def _size(text: str) -> str:
    if text and not re.fullmatch(r"\s*[\d.]+\s*[A-Za-z]*\s*", text):
        raise ValueError("must read like 2GB, 512MB or 1.5GiB")
    try:
        _BYTES.validate_python(text or "0")
    except ValidationError:
        raise ValueError("must read like 2GB, 512MB or 1.5GiB") from None
    return text


def _estimator(text: str) -> str:
    try:
        parse_estimator(text or "amax")
    except SchemeError as error:  # what came is said once, by the job
        raise ValueError(re.sub(r"[,;] got '.*'$", "", str(error))) from None
    return text


def _objectives(names: Names) -> Names:
    if "loss" not in names or len(set(names)) < max(2, len(names)):
        raise ValueError("must be loss and one cost or more, each once")
    return names


def _budget(value: int | str) -> int | str:
    if value != FULL and (isinstance(value, str) or value < 0):
        raise ValueError(f'must be a number of at least 0, or "{FULL}"')
    return value


class Job(Content):
    """One search; each key says what it is."""

    model: Annotated[str, Knob(FILES), Field(description="The ONNX file.")]
    data: Annotated[
        str,
        Knob(FILES, "only shapes, cost and size are said", example="calib.npz"),
        Field(
            description="Calibration data: .npz with an array for each input, samples first, and labels where there "
            "are any, or a folder of them."
        ),
    ] = ""
    eval: Annotated[
        str,
        Knob(FILES, "none", example="held_out.npz"),
        Field(description="Held-out data to score plans on: .npz, or a folder of them."),
    ] = ""
    device: Annotated[
        str,
        Knob(DEVICE),
        Field(
            description="Device that latencies are modelled for: name or .toml; see `mpsearch list devices`."
        ),
    ]
    space: Annotated[
        str,
        Knob(DEVICE, "the device's own"),
        Field(description="Search space: name or .toml; see `mpsearch list spaces`."),
    ] = ""
    schemes: Annotated[
        Names,
        Knob(DEVICE, "all of the space", example=("fp8", "nvfp4"), metavar="A,B,…", joined=True),
        Field(description="Schemes to search, no others."),
    ] = ()
    keep: Annotated[
        Names,
        Knob(DEVICE, "none", example=("*head*",), metavar="PATTERN"),
        Field(description="Patterns of names of layers that stay in the base format."),
    ] = ()
    base: Annotated[
        str,
        Knob(DEVICE, "the space's own", example="fp16"),
        Field(description="Format of what is not lowered: fp16, bf16 or fp32."),
    ] = ""
    recovery: Annotated[
        str,
        Knob(DEVICE, "the space's own", example="auto", metavar="none|auto|A,B,…"),
        Field(
            description="What wins back loss: auto recovers the finalists of the search by what helps on data that did not take "
            "part, or the methods named (see `mpsearch list recoveries`); obs recovers pruned weights of sparse schemes alone, "
            "in all that is measured; none."
        ),
    ] = ""
    finalists: Annotated[
        int,
        Knob(SEARCH),
        Field(
            ge=1,
            description="Plans that are recovered at the end of the search, where that is asked for.",
        ),
    ] = 8
    ranges: Annotated[
        str,
        AfterValidator(_estimator),
        Knob(DEVICE, "amax, or the space's own", example="percentile:99.99"),
        Field(
            description="How calibration data set the ranges of activations: amax, mse, entropy, percentile:99.99, "
            "moving:0.9 (minima and maxima averaged over batches) or history:16 (amax of the last batches)."
        ),
    ] = ""
    target: Annotated[
        str,
        Knob(DEVICE, "none", example="onnxruntime"),
        Field(
            description="Runtime that is to take the plan: what it cannot run is forbidden; see `mpsearch list targets`."
        ),
    ] = ""
    shapes: Annotated[
        dict[str, tuple[int, ...]],
        Knob(
            FILES,
            "from the data",
            example={"x": [0, 3, 48, 192]},
            option="--shape",
            metavar="x=1,3,48,192",
        ),
        Field(description="Sizes of inputs with dynamic axes; 0 leaves an axis to the model."),
    ] = Field(default_factory=dict)
    batch_axes: Annotated[
        dict[str, Annotated[int, Field(ge=0)]],
        Knob(
            FILES,
            "found by running samples",
            example={"x": 1},
            option="--batch-axis",
            metavar="x=1",
        ),
        Field(
            description="Axis of an input that samples run over in the model; data have it first."
        ),
    ] = Field(default_factory=dict)
    loss: Annotated[
        str,
        Knob(TABLE, "from graph and data", example="kl"),
        Field(
            description="What the loss is: kl, nll, mse, ctc, ctc_last; kl:OUTPUT chooses outputs, kl:worst_slice the slice that fares worst."
        ),
    ] = ""
    metric: Annotated[
        str, Knob(TABLE), Field(description="Sensitivity metric; see `mpsearch list metrics`.")
    ] = "calibrated"
    method: Annotated[
        str,
        Knob(SEARCH),
        Field(
            description="Search method: exact predicts, then measures points; any other measures whole plans; see `mpsearch list searchers`."
        ),
    ] = "exact"
    batch: Annotated[
        int, Knob(DEVICE), Field(ge=1, description="Samples that one latency is for.")
    ] = 1
    tokens: PhaseTokens = Field(default_factory=dict)
    mix: PhaseMix = Field(default_factory=dict)
    batch_size: Annotated[
        int,
        Knob(MACHINE),
        Field(
            ge=1,
            description="Rows that are simulated together; part of what makes results repeatable.",
        ),
    ] = 32
    samples: Annotated[
        int,
        Knob(FILES),
        Field(ge=0, description="Calibration samples at most; 0 takes all."),
    ] = 128
    budget: Annotated[
        int | str,
        AfterValidator(_budget),
        Knob(TABLE, "as the metric and the method choose", example=FULL, metavar="N|full"),
        Field(
            description="Whole-plan measurements that the metric and the search may spend; full: two for "
            "each entry of the table, for the metric."
        ),
    ] = 0
    objectives: Annotated[
        Names,
        AfterValidator(_objectives),
        Knob(SEARCH, example=("energy_uj", "loss"), metavar="A,B,…", joined=True),
        Field(
            description="What the front trades: loss, and one or more of latency_us, weight_bytes, energy_uj, memory_bytes "
            "and the latency of a phase, such as latency_us:decode."
        ),
    ] = ("latency_us", "loss")
    measure: Annotated[
        int,
        Knob(SEARCH),
        Field(ge=0, description="Points of a predicted front that are measured."),
    ] = 12
    refine: Annotated[
        int,
        Knob(SEARCH),
        Field(
            ge=0,
            description="Measurements that are spent on better points near the uniform plan to beat.",
        ),
    ] = 60
    rules: Annotated[
        Names,
        Knob(SEARCH, example=("first_last",), metavar="A,B,…", joined=True),
        Field(
            description="Rules of thumb whose plans are measured beside the uniform ones, or none; see `mpsearch list rules`."
        ),
    ] = ("first_last", "embeddings_heads", "snr_15db")
    self_test: Annotated[
        int,
        Knob(TABLE, "none", example=64),
        Field(
            ge=0,
            description="Random plans that are measured to say how far the table can be trusted.",
        ),
    ] = 0
    tolerance: Annotated[
        float,
        Knob(TABLE, "all samples are taken", example=0.1),
        Field(
            ge=0,
            lt=0.5,
            description="Expected share of pairs of entries in the wrong order at which the metric has seen enough samples.",
        ),
    ] = 0.0
    time_budget_s: Annotated[
        float,
        Knob(SEARCH, "no end", example=600.0, option="--time-budget"),
        Field(
            ge=0, description="Seconds after which the search of the front stops with what it has."
        ),
    ] = 0.0
    confidence: Annotated[
        float,
        Knob(CHOICE, "means are judged", example=0.95),
        Field(
            ge=0,
            lt=1,
            description="Limits and choices are judged by one-sided upper bounds at this level, such as 0.95.",
        ),
    ] = 0.0
    quality: Annotated[
        str,
        Knob(CHOICE, "none", example="accuracy"),
        Field(
            description="Score of which a plan may lose max_drop on held-out data: accuracy, nll, loss or MODULE:FUNCTION."
        ),
    ] = ""
    max_drop: Annotated[
        float | None,
        Knob(CHOICE, "none", example=0.01),
        Field(
            ge=0,
            description="Greatest mean drop of quality against the fp32 model, in its own unit.",
        ),
    ] = None
    faster: Annotated[
        float,
        Knob(CHOICE),
        Field(
            ge=0,
            lt=1,
            description="Share of latency that the plan `fast` must save against the least lossy uniform plan.",
        ),
    ] = 0.16
    smaller: Annotated[
        float,
        Knob(CHOICE),
        Field(ge=0, lt=1, description="Share of size that the plan `small` must save against it."),
    ] = 0.38
    seed: Annotated[
        int,
        Knob(MACHINE),
        Field(ge=0, description="Seed of everything that draws: same seed, same result."),
    ] = 0
    threads: Annotated[
        int,
        Knob(MACHINE, "the machine's", example=2),
        Field(ge=0, description="Threads of the simulator."),
    ] = 0
    max_memory: Annotated[
        str,
        AfterValidator(_size),
        Knob(MACHINE, "a third of what is free", example="2GB"),
        Field(description="Anonymous memory that the process may hold, such as 2GB or 512MB."),
    ] = ""
    limits: Annotated[Limits, Field(description="What the chosen plan must keep to.")] = Limits()
    search: Annotated[OwnSettings, Field(description="Settings of the search method's own.")] = (
        OwnSettings()
    )
    sensitivity: Annotated[OwnSettings, Field(description="Settings of the metric's own.")] = (
        OwnSettings()
    )
    digests: Annotated[
        dict[str, str],
        Field(
            description="What the files held: model, weights, data, eval, device, space; checked where given."
        ),
    ] = Field(default_factory=dict)

    @property
    def rule_names(self) -> Names:
        """Rules of thumb to measure; () for ``none``."""
        return () if self.rules == ("none",) else self.rules

    @property
    def recovers(self) -> bool:
        """Whether finalists are recovered: not in all that is measured, as ``obs`` does."""
        return self.recovery not in ("", "none", "obs")

    @property
    def measurements(self) -> int | None:
        """Whole-plan measurements that a search may spend; None leaves it to the method."""
        return self.budget if isinstance(self.budget, int) and self.budget else None

    @property
    def metric_settings(self) -> dict[str, bool | int | float | str]:
        """Settings of the metric's own, ``tolerance`` among them where it is given."""
        told = {"tolerance": self.tolerance} if self.tolerance else {}
        return {**told, **self.sensitivity.settings}

    @property
    def memory_bytes(self) -> int | None:
        """Memory that the process may hold; None where nothing limits it."""
        return int(_BYTES.validate_python(self.max_memory)) if self.max_memory else None
