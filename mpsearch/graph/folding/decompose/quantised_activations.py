"""QuantizeLinear and DequantizeLinear around activations: taken out, what they cut off kept."""

import numpy as np

from mpsearch.graph.folding.decompose.builder import Writer


def dequantize(write: Writer) -> bool:
    """Spell out a pair that stores no negative numbers (or no positive ones) as the Clip that it also is.

    Quantisers take ReLU and ReLU6 out of a graph where the stored type cuts the same values off.
    """
    original = write.draft.quantized.get(write.input(0))
    scale = write.draft.known_values.get(write.input(1))
    step = None if scale is None or scale.varies is not None else scale.at(0)
    if original is None or step is None or step.size != 1:
        return False
    stored = write.dtype(write.input(0))
    if stored.kind not in "iu":
        return False
    zero = 0
    if write.input(2):
        known = write.draft.known_values.get(write.input(2))
        value = None if known is None or known.varies is not None else known.at(0)
        if value is None or value.size != 1:
            return False
        zero = int(value.reshape(()))
    lowest, highest = (int(end) for end in (np.iinfo(stored.name).min, np.iinfo(stored.name).max))
    if zero not in (lowest, highest):
        return False
    size = abs(float(step.reshape(())))
    low, high = (lowest - zero) * size, (highest - zero) * size
    dtype = write.dtype(original)
    if write.draft.version("") >= 11:
        ends = write.constant(low, dtype), write.constant(high, dtype)
        write.call("Clip", original, *ends, into=write.output(0))
    else:
        write.call("Clip", original, into=write.output(0), min=low, max=high)
    write.draft.removed_quantizers += 1
    return True
