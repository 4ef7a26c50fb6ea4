"""Sequences of tensors whose elements are known one by one, as exporters write ``chunk`` and ``stack``."""

import numpy as np

from mpsearch.graph.folding.decompose.builder import Writer
from mpsearch.graph.folding.types_of_outputs import sizes


def split_to_sequence(write: Writer) -> bool:
    """Spell out SplitToSequence as one Split; the sequence is then known by its elements."""
    axis, keep = int(write.attribute("axis", 0)), bool(write.attribute("keepdims", 1))
    x, parts = write.input(0), write.input(1)
    shape = write.shape(x)
    if shape is None or not -len(shape) <= axis < len(shape) or shape[axis] is None:
        return False
    length = shape[axis] or 0
    types = write.draft.types[x]
    if any(kind is not types[0] for kind in types) and _varies(write, x, axis):
        return False
    cut = [1] * length
    if parts:
        known = write.draft.known_values.get(parts)
        value = None if known is None or known.varies is not None else known.at(0)
        if value is None:
            return False
        if value.ndim:
            cut = [int(size) for size in value]
        else:
            step = int(value)
            if step < 1:
                return False
            cut = [min(step, length - start) for start in range(0, length, step)]
    if not cut or sum(cut) != length or len(cut) > 4096:
        return False
    names = [write.draft.fresh_value(f"{write.output(0)}.{i}") for i in range(len(cut))]
    if len(cut) == 1:
        write.call("Identity", x, into=names)
    elif write.draft.version("") >= 13:
        write.call("Split", x, write.constant(cut), into=names, axis=axis)
    else:
        write.call("Split", x, into=names, axis=axis, split=cut)
    if not parts and not keep:
        names = [_squeezed(write, name, axis) for name in names]
    write.draft.sequences[write.output(0)] = tuple(names)
    return True


def _varies(write: Writer, x: str, axis: int) -> bool:
    shapes = [sizes(kind) for kind in write.draft.types[x]]
    return len({None if shape is None else shape[axis] for shape in shapes}) > 1


def _squeezed(write: Writer, name: str, axis: int) -> str:
    if write.draft.version("") >= 13:
        return write.call("Squeeze", name, write.constant([axis]))
    return write.call("Squeeze", name, axes=[axis])


def sequence_construct(write: Writer) -> bool:
    """Remember the elements."""
    write.draft.sequences[write.output(0)] = tuple(write.proto.input)
    return True


def sequence_empty(write: Writer) -> bool:
    """Remember that there is no element."""
    write.draft.sequences[write.output(0)] = ()
    return True


def sequence_insert(write: Writer) -> bool:
    """Remember the elements with one more."""
    found = write.draft.sequences.get(write.input(0))
    place = _index(write, write.input(2), None if found is None else len(found))
    if found is None or place is None:
        return False
    write.draft.sequences[write.output(0)] = (*found[:place], write.input(1), *found[place:])
    return True


def sequence_at(write: Writer) -> bool:
    """Spell out SequenceAt as the element that it takes."""
    found = write.draft.sequences.get(write.input(0))
    place = None if found is None else _index(write, write.input(1), 0)
    if found is None or place is None or place >= len(found):
        return False
    write.call("Identity", found[place], into=write.output(0))
    return True


def sequence_length(write: Writer) -> bool:
    """Spell out SequenceLength as a constant."""
    found = write.draft.sequences.get(write.input(0))
    if found is None:
        return False
    write.call("Identity", write.constant(np.int64(len(found))), into=write.output(0))
    return True


def concat_from_sequence(write: Writer) -> bool:
    """Spell out ConcatFromSequence as Concat, of elements with a new axis where it stacks them."""
    found = write.draft.sequences.get(write.input(0))
    if not found:
        return False
    axis = int(write.attribute("axis", 0))
    names = list(found)
    if write.attribute("new_axis", 0):
        if write.draft.version("") >= 13:
            at = write.constant([axis])
            names = [write.call("Unsqueeze", name, at) for name in names]
        else:
            names = [write.call("Unsqueeze", name, axes=[axis]) for name in names]
    write.call("Concat", *names, into=write.output(0), axis=axis)
    return True


def _index(write: Writer, name: str, absent: int | None) -> int | None:
    """Return a known position in the first input's sequence; ``absent`` where none is given."""
    if not name:
        return absent
    known = write.draft.known_values.get(name)
    value = None if known is None or known.varies is not None else known.at(0)
    found = write.draft.sequences.get(write.input(0), ())
    if value is None or value.size != 1:
        return None
    place = int(value.reshape(()))
    place = place + len(found) if place < 0 else place
    return place if 0 <= place <= len(found) else None
