"""Equivalent transforms: what layers read is changed before them and changed back in their weights.

Factors a channel (SmoothQuant, arXiv 2211.10438; AWQ, arXiv 2306.00978) or a rotation of blocks of channels (QuaRot, arXiv
2404.00456) leave the model's function as it is and move what is hard to round from activations to weights or spread it.
Each is chosen by the squared error of the readers' outputs, quantised as the plan has them, on calibration data.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.graph.model import Gemm, ModelGraph
from mpsearch.numerics.ranges import RangeObserver
from mpsearch.program.tensors import to_tensor
from mpsearch.recovery.folds import Fold, find_folds
from mpsearch.schemes import Scheme
from mpsearch.simulate.calibrated import Calibrated
from mpsearch.simulate.layer_weight import simulate_layer_weight
from mpsearch.simulate.probe import Inputs, capture
from mpsearch.simulate.scheme_run import quantize_input, read_operands

Constants = dict[str, NDArray[np.generic]]
Basis = Tensor
"""[C] factors that channels are divided by, or [C, C] an orthogonal matrix that they are multiplied with."""
Propose = Callable[[Fold, Tensor, Tensor], Iterator[Basis]]
"""(fold, value [..., C], weights' largest magnitudes [C]) to the bases that are tried."""

_SMOOTH = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
_AWQ = tuple(i / 10 for i in range(1, 11))
_BOUND = 1e4
_ROWS = 4096
"""Rows of channels that a basis is judged on: more do not change the choice."""


def smooth(
    calibrated: Calibrated, schemes: Sequence[Scheme], batches: Iterable[Inputs]
) -> Constants:
    """Return changed constants by SmoothQuant: factors ``amax|x|^a / amax|w|^(1 - a)``, the best ``a`` for each value.

    Args:
        calibrated: The model.
        schemes: [L] what each layer runs in.
        batches: Calibration data.
    """

    def propose(fold: Fold, x: Tensor, w: Tensor) -> Iterator[Basis]:
        peak = x.abs().flatten(0, -2).amax(0)
        for share in _SMOOTH:
            yield _factors(peak**share / w ** (1 - share))

    return _transform(calibrated, schemes, batches, propose)


def awq(calibrated: Calibrated, schemes: Sequence[Scheme], batches: Iterable[Inputs]) -> Constants:
    """Return changed constants by AWQ: factors ``mean|x|^a``, which spare the weights of strong channels, the best ``a`` each.

    Arguments as of :func:`smooth`.
    """

    def propose(fold: Fold, x: Tensor, w: Tensor) -> Iterator[Basis]:
        mean = x.abs().flatten(0, -2).mean(0)
        for share in _AWQ:
            yield _factors(mean**share)

    return _transform(calibrated, schemes, batches, propose)


def rotate(
    calibrated: Calibrated, schemes: Sequence[Scheme], batches: Iterable[Inputs]
) -> Constants:
    """Return changed constants by Hadamard rotations of blocks of channels, where only linear operators stand before.

    Arguments as of :func:`smooth`.
    """
    layers = calibrated.graph.layers

    def propose(fold: Fold, x: Tensor, w: Tensor) -> Iterator[Basis]:
        size = fold.block & -fold.block  # the largest power of two that divides it
        is_dense = all(layers[layer].gemms[index].groups == 1 for layer, index in fold.readers)
        if fold.is_linear and is_dense and size > 1:
            yield torch.block_diag(*[hadamard(size)] * (fold.channels // size))

    return _transform(calibrated, schemes, batches, propose)


def hadamard(size: int) -> Tensor:
    """Return the orthogonal symmetric Hadamard matrix [size, size] of a power of two, fp32."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / size**0.5


def change_basis(graph: ModelGraph, fold: Fold, basis: Basis, changed: Constants) -> None:
    """Put ``basis`` into the constants around a fold: ``changed`` holds those that were changed before, and is added to."""
    for part in fold.parts:
        changed[part.constant] = _apply(
            _current(graph, part.constant, changed), part.axis, basis, -1
        )
    for layer, index in fold.readers:
        gemm = graph.layers[layer].gemms[index]
        weight = _current(graph, gemm.right.value, changed)
        changed[gemm.right.value] = _apply_to_reader(weight, gemm, basis)


def _transform(
    calibrated: Calibrated,
    schemes: Sequence[Scheme],
    batches: Iterable[Inputs],
    propose: Propose,
) -> Constants:
    graph = calibrated.graph
    folds = [fold for fold in find_folds(graph) if _matters(fold, schemes)]
    layers = sorted({layer for fold in folds for layer, _ in fold.readers})
    seen: dict[str, list[Tensor]] = {fold.value: [] for fold in folds}
    for batch in batches:
        if all(sum(map(len, parts)) >= _ROWS for parts in seen.values()):
            break
        values = capture(calibrated, layers, batch)
        for value, parts in seen.items():
            if sum(map(len, parts)) < _ROWS and value in values:
                parts.append(values[value])
    changed: Constants = {}
    for fold in folds:
        x = torch.cat(seen[fold.value]) if seen[fold.value] else torch.empty(0)
        if x.numel() and (basis := _choose(calibrated, fold, schemes, x, propose)) is not None:
            change_basis(graph, fold, basis, changed)
    return changed


def _matters(fold: Fold, schemes: Sequence[Scheme]) -> bool:
    """Whether any reader rounds more than its base would."""
    return any(not schemes[layer].weight.is_cast for layer, _ in fold.readers)


def _choose(
    calibrated: Calibrated, fold: Fold, schemes: Sequence[Scheme], x: Tensor, propose: Propose
) -> Basis | None:
    """The basis of least error; None where none beats leaving the value as it is."""
    turned = x.movedim(fold.axis, -1)
    peaks = torch.stack(
        [_peaks(calibrated, layer, index, fold.channels) for layer, index in fold.readers]
    ).amax(0)
    best, least = None, _error(calibrated, fold, schemes, x, None)
    for basis in propose(fold, turned, peaks):
        error = _error(calibrated, fold, schemes, x, basis)
        if error < least:
            best, least = basis, error
    return best


def _error(
    calibrated: Calibrated, fold: Fold, schemes: Sequence[Scheme], x: Tensor, basis: Basis | None
) -> float:
    """Squared error of the readers' outputs, each relative to its own power."""
    graph, total = calibrated.graph, 0.0
    moved = x if basis is None else _apply_tensor(x, fold.axis, basis, -1)
    for layer, index in fold.readers:
        owner, scheme = graph.layers[layer], schemes[layer]
        gemm = owner.gemms[index]
        program, step = calibrated.layer_steps[layer]
        weight = calibrated.weights.plain(layer, index)
        own = weight if basis is None else _reader_weight(weight, gemm, basis)
        read = next(r for r in read_operands(owner) if r.index == gemm.left.input_index)
        spec, ranges = scheme.activation, {}
        if not spec.is_cast and spec.range == "static":
            observer = RangeObserver(name=fold.value)
            observer.observe(moved)
            ranges[fold.value, spec] = observer.finish(spec)
        names = {slot: name for name, slot in program.slots.items()}
        inputs: list[Tensor | None] = [
            None if slot < 0 or names[slot] not in graph.constants else program.constants[slot]
            for slot in step.inputs
        ]
        outputs = []
        for left, right in (
            (x, weight),
            (
                quantize_input(moved, spec, read, ranges, owner.name),
                simulate_layer_weight(owner, index, scheme, own).to(weight.dtype),
            ),
        ):
            inputs[gemm.left.input_index], inputs[gemm.right.input_index] = left, right
            with torch.no_grad():
                found = step.kernel(*inputs)
            assert isinstance(found, Tensor)
            outputs.append(found.double())
        exact, rounded = outputs
        power = float(exact.square().sum())
        total += float((rounded - exact).square().sum()) / power if power else 0.0
    return total


def _peaks(calibrated: Calibrated, layer: int, index: int, channels: int) -> Tensor:
    """Largest magnitude [C] of a reader's weights on each input channel, none 0."""
    gemm = calibrated.graph.layers[layer].gemms[index]
    peaks = _by_channel(calibrated.weights.plain(layer, index), gemm).abs().amax(-1)
    return peaks.reshape(-1, channels).amax(0).clamp(min=1e-8)


def _factors(raw: Tensor) -> Tensor:
    """Factors with a geometric mean of their extremes at 1, bounded; 1 where nothing was seen."""
    known = raw[(raw > 0) & torch.isfinite(raw)]
    if not len(known):
        return torch.ones_like(raw)
    found = raw / (known.amax() * known.amin()).sqrt()
    found = torch.where((raw > 0) & torch.isfinite(raw), found, torch.ones_like(found))
    return found.clamp(1 / _BOUND, _BOUND)


def _current(
    graph: ModelGraph, name: str, changed: Mapping[str, NDArray[np.generic]]
) -> NDArray[np.generic]:
    return changed[name] if name in changed else graph.constants[name]


def _apply(array: NDArray[np.generic], axis: int, basis: Basis, power: int) -> NDArray[np.generic]:
    made = _apply_tensor(to_tensor(array).float(), axis, basis, power)
    return made.numpy().astype(array.dtype)


def _apply_tensor(x: Tensor, axis: int, basis: Basis, power: int) -> Tensor:
    """``x`` with its channels divided (power -1) or multiplied (1) by factors, or rotated (either)."""
    turned = x.movedim(axis, -1)
    if basis.ndim == 2:
        return (turned @ basis.to(x.dtype)).movedim(-1, axis).contiguous()
    return (turned * basis.to(x.dtype) ** power).movedim(-1, axis).contiguous()


def _by_channel(weight: Tensor, gemm: Gemm) -> Tensor:
    """The weight as [..., G, C / G, N / G]: groups of output channels over the input channels that they read."""
    across = gemm.right.reduction_axis % weight.ndim
    (rows,) = (axis % weight.ndim for axis in gemm.right.channel_axes)
    turned = weight.movedim((rows, across), (-1, -2))
    return turned.unflatten(-1, (gemm.groups, -1)).movedim(-2, -3)


def _reader_weight(weight: Tensor, gemm: Gemm, basis: Basis) -> Tensor:
    """The weight of a reader whose input has changed its basis: the inverse along its input channels."""
    across = gemm.right.reduction_axis % weight.ndim
    if basis.ndim == 2:  # of dense products only
        return _apply_tensor(weight, across, basis, 1)
    (rows,) = (axis % weight.ndim for axis in gemm.right.channel_axes)
    grouped = _by_channel(weight, gemm)
    scaled = grouped * basis.to(weight.dtype).reshape(gemm.groups, -1, 1)
    joined = scaled.movedim(-3, -2).flatten(-2)
    return joined.movedim((-1, -2), (rows, across)).contiguous()


def _apply_to_reader(weight: NDArray[np.generic], gemm: Gemm, basis: Basis) -> NDArray[np.generic]:
    made = _reader_weight(to_tensor(weight).float(), gemm, basis)
    return made.numpy().astype(weight.dtype)
