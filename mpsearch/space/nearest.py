"""The scheme nearest to one that cannot be had."""

from collections.abc import Callable, Iterable

from mpsearch.formats import find_format
from mpsearch.schemes import SCHEMES, Scheme, Spec, parse_sparsity


def nearest_scheme(
    scheme: Scheme, takes: Callable[[Scheme], bool], among: Iterable[Scheme] = SCHEMES.values()
) -> Scheme | None:
    """Return the scheme most like ``scheme`` that ``takes`` accepts; None where it accepts none.

    Near are weights and activations of nearly as many bits an element, of the same kind of number, in scales over
    nearly as many elements; of two as near the wider one.

    Args:
        scheme: What cannot be had.
        takes: Whether a scheme can be had.
        among: Candidates.
    """
    others = [other for other in among if other.name != scheme.name]
    for other in sorted(others, key=lambda other: _distance(scheme, other)):
        if takes(other):
            return other
    return None


def _distance(wanted: Scheme, other: Scheme) -> tuple[float, float]:
    weights = abs(_bits(wanted.weight, wanted.sparsity) - _bits(other.weight, other.sparsity))
    activations = abs(_bits(wanted.activation) - _bits(other.activation))
    changes = (
        (wanted.sparsity != other.sparsity)
        + (wanted.weight.element.kind != other.weight.element.kind)
        + (wanted.is_weight_only != other.is_weight_only)
        + 0.5 * (wanted.weight.granularity != other.weight.granularity)
        + 0.5 * (wanted.activation.granularity != other.activation.granularity)
        + 0.5 * (wanted.activation.range != other.activation.range)
    )
    return weights + activations + changes, -_bits(other.weight, other.sparsity)


def _bits(spec: Spec, sparsity: str | None = None) -> float:
    """Bits an element, scales of blocks included."""
    bits = float(spec.element.bits)
    if sparsity is not None:
        pattern = parse_sparsity(sparsity)
        bits *= pattern.kept / pattern.group
    if spec.block_shape is not None and spec.scale_format is not None:
        bits += find_format(spec.scale_format).bits / (spec.block_shape[0] * spec.block_shape[1])
    return bits
