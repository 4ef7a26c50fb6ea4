"""Compiled inner loops of the exact search: merging, thinning and filtering sorted fronts."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mpsearch.stats.estimates import Floats, Ints


@njit(cache=True)
def merge_fronts(
    x: Floats,
    y: Floats,
    start: Ints,
    arc_start: Ints,
    arc_state: Ints,
    arc_dx: Floats,
    arc_dy: Floats,
    limit_x: float,
    limit_y: float,
    tolerance_x: float,
    tolerance_y: float,
) -> tuple[Floats, Floats, NDArray[np.int32], Ints, Ints]:
    """Return, for each new state, the front of the union of shifted old fronts.

    A front is ``x`` ascending, ``y`` descending; old state k holds entries start[k]:start[k + 1]. New
    state n is reached by arcs arc_start[n]:arc_start[n + 1], each of which shifts the front of
    arc_state by (arc_dx, arc_dy). A k-way merge through a heap of arcs, dominated entries skipped.

    Points beyond a limit are dropped. A point within ``tolerance_x`` of the first of its run replaces
    the run's last one if its y is lower; one whose y is not lower by more than ``tolerance_y`` falls.

    Returns:
        x, y, parent (index of the old entry), arc, and start [new states + 1].
    """
    n_states = arc_start.size - 1
    total = 0
    for a in range(arc_state.size):
        total += start[arc_state[a] + 1] - start[arc_state[a]]
    out_x = np.empty(total, np.float64)
    out_y = np.empty(total, np.float64)
    parent = np.empty(total, np.int32)
    arc = np.empty(total, np.int64)
    out_start = np.zeros(n_states + 1, np.int64)
    most = 0
    for n in range(n_states):
        most = max(most, arc_start[n + 1] - arc_start[n])
    heap = np.empty(most, np.int64)
    key_x = np.empty(most, np.float64)
    key_y = np.empty(most, np.float64)
    position = np.empty(most, np.int64)
    size = 0
    for n in range(n_states):
        first_arc = arc_start[n]
        low_y = np.inf
        run_x = -np.inf
        begin = size
        count = 0
        for k in range(arc_start[n + 1] - first_arc):
            a = first_arc + k
            p = start[arc_state[a]]
            end = start[arc_state[a] + 1]
            while p < end and y[p] + arc_dy[a] > limit_y:
                p += 1
            if p == end or x[p] + arc_dx[a] > limit_x:
                continue
            position[k] = p
            key_x[k] = x[p] + arc_dx[a]
            key_y[k] = y[p] + arc_dy[a]
            i = count
            count += 1
            while i > 0:
                j = (i - 1) >> 1
                other = heap[j]
                if key_x[other] < key_x[k] or (
                    key_x[other] == key_x[k] and key_y[other] <= key_y[k]
                ):
                    break
                heap[i] = other
                i = j
            heap[i] = k
        while count > 0:
            k = heap[0]
            a = first_arc + k
            p = position[k]
            if key_y[k] < low_y - tolerance_y:
                if key_x[k] - run_x <= tolerance_x and size > begin:
                    size -= 1
                else:
                    run_x = key_x[k]
                out_x[size] = key_x[k]
                out_y[size] = key_y[k]
                parent[size] = p
                arc[size] = a
                size += 1
                low_y = key_y[k]
            p += 1
            end = start[arc_state[a] + 1]
            bar = low_y - tolerance_y - arc_dy[a]
            while p < end and y[p] >= bar:
                p += 1
            if p < end and x[p] + arc_dx[a] <= limit_x:
                position[k] = p
                key_x[k] = x[p] + arc_dx[a]
                key_y[k] = y[p] + arc_dy[a]
            else:
                count -= 1
                if count == 0:
                    break
                k = heap[count]
            i = 0
            while True:
                j = 2 * i + 1
                if j >= count:
                    break
                if j + 1 < count:
                    left, right = heap[j], heap[j + 1]
                    if key_x[right] < key_x[left] or (
                        key_x[right] == key_x[left] and key_y[right] < key_y[left]
                    ):
                        j += 1
                other = heap[j]
                if key_x[k] < key_x[other] or (
                    key_x[k] == key_x[other] and key_y[k] <= key_y[other]
                ):
                    break
                heap[i] = other
                i = j
            heap[i] = k
        out_start[n + 1] = size
    return (
        out_x[:size].copy(),
        out_y[:size].copy(),
        parent[:size].copy(),
        arc[:size].copy(),
        out_start,
    )


@njit(cache=True)
def thin_fronts(x: Floats, start: Ints, width: float) -> Ints:
    """Return the entries that stay when, of each run of x within ``width``, the last stays."""
    kept = np.empty(x.size, np.int64)
    size = 0
    for n in range(start.size - 1):
        run_x = -np.inf
        begin = size
        for p in range(start[n], start[n + 1]):
            if x[p] - run_x <= width and size > begin:
                size -= 1
            else:
                run_x = x[p]
            kept[size] = p
            size += 1
    return kept[:size].copy()


@njit(cache=True)
def filter_sorted(values: Floats, tolerance: Floats) -> Ints:
    """Return the rows of lexicographically sorted ``values`` [n, D >= 3] that no earlier row dominates.

    A row falls if an earlier one is at most ``tolerance`` [D] above it everywhere.
    """
    n, dimensions = values.shape
    kept = np.empty(n, np.int64)
    size = 0
    recent = 0  # the kept row that felled the last one often fells the next
    for row in range(n):
        fallen = False
        for probe in range(-1, size):
            other = kept[recent] if probe < 0 else kept[size - 1 - probe]
            if size == 0:
                break
            below = True
            for d in range(dimensions):
                if values[other, d] > values[row, d] + tolerance[d]:
                    below = False
                    break
            if below:
                fallen = True
                if probe >= 0:
                    recent = size - 1 - probe
                break
        if not fallen:
            kept[size] = row
            size += 1
    return kept[:size].copy()


@njit(cache=True)
def filter_three(values: Floats, tolerance: Floats) -> Ints:
    """:func:`filter_sorted` for D = 3: a staircase of the last two columns, searched by bisection."""
    n = values.shape[0]
    kept = np.empty(n, np.int64)
    size = 0
    stair_y = np.empty(n, np.float64)  # ascending
    stair_z = np.empty(n, np.float64)  # descending
    length = 0
    for row in range(n):
        y, z = values[row, 1], values[row, 2]
        low, high = 0, length  # first step with stair_y > y + tolerance
        while low < high:
            middle = (low + high) >> 1
            if stair_y[middle] <= y + tolerance[1]:
                low = middle + 1
            else:
                high = middle
        if low > 0 and stair_z[low - 1] <= z + tolerance[2]:
            continue
        kept[size] = row
        size += 1
        first = low
        while first > 0 and stair_y[first - 1] >= y:
            first -= 1
        if first > 0 and stair_z[first - 1] <= z:
            continue  # a step within the tolerance covers it already
        last = first
        while last < length and stair_z[last] >= z:
            last += 1
        if last == first:
            for k in range(length, first, -1):
                stair_y[k] = stair_y[k - 1]
                stair_z[k] = stair_z[k - 1]
            length += 1
        elif last > first + 1:
            gone = last - first - 1
            for k in range(last, length):
                stair_y[k - gone] = stair_y[k]
                stair_z[k - gone] = stair_z[k]
            length -= gone
        stair_y[first] = y
        stair_z[first] = z
    return kept[:size].copy()
