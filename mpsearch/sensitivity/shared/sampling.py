"""Sampling: entries measured batch by batch, until the data, the time or the need for more ends.

Two rules may stop it early. *Time*: what was measured when it is up is returned, with the number of
samples that each entry saw. *Ranking*: from the paired differences of any two entries and their
standard error, Student's t gives the probability that more data would turn their order round; when
the mean of it over all pairs, the expected share of discordant pairs, is at most a tolerance, more
samples would not change the ranking much (Kendall's τ with the full data's ranking is about
1 − 2 · share).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mpsearch.deadline import Deadline, has_passed
from mpsearch.errors import LostError, NumericsError
from mpsearch.problem.tables import Progress
from mpsearch.sensitivity.shared.entries import base_assignment, change_one
from mpsearch.simulate.simulator import Simulator
from mpsearch.stats.estimates import Floats

Entry = tuple[int, int]
_MOST_PAIRED = 1500  # entries: beyond, an even selection of them stands for all
_LEAST_SAMPLES = 16  # before a ranking is trusted


@dataclass(frozen=True, slots=True)
class Measured:
    """Losses of entries over the base's, as far as they were measured.

    Attributes:
        changes: (group, scheme) to [n] paired differences, of the first n samples.
        refused: (group, scheme) to why it has no loss: an output that is NaN or Inf.
        notes: Why it ended before the data did, for people.
    """

    changes: Mapping[Entry, Floats]
    refused: Mapping[Entry, str]
    notes: tuple[str, ...]


def late_notes(deadline: Deadline | None, seen: int, samples: int) -> tuple[str, ...]:
    """Return what to say of a table that saw only some of the samples; () if it saw all."""
    if deadline is None or seen == samples:
        return ()
    return (f"stopped by the time budget of {deadline.given_s:g} s at {seen} of {samples} samples",)


def measure_entries(
    simulator: Simulator,
    entries: Sequence[Entry],
    *,
    deadline: Deadline | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure what each entry adds to the base's loss on the same samples.

    Args:
        simulator: Measures; what it has measured before is not measured again.
        entries: (group, scheme) pairs; the first are measured first.
        deadline: From then on no further evaluation is begun; None takes all data.
        tolerance: Expected share of discordant pairs at which to stop; None takes all data.
        progress: Told the evaluations that are done, of how many at most.
    """
    n = simulator.n_batches
    base = base_assignment(simulator)
    in_rounds = deadline is not None or tolerance is not None
    rounds: list[list[int] | None] = [[b] for b in range(n)] if in_rounds else [None]
    parts: dict[Entry, list[Floats]] = {entry: [] for entry in entries}
    refused: dict[Entry, str] = {}
    notes: list[str] = []
    done, total = 0, len(rounds) * len(entries)
    for number, batches in enumerate(rounds):
        if has_passed(deadline):
            break
        if deadline is None:
            plans = [change_one(base, g, s) for g, s in entries if (g, s) not in refused]
            simulator.announce(np.array([base, *plans]), batches)
        reference = simulator.losses(base, batches)
        for g, s in entries:
            if (g, s) in refused or has_passed(deadline):
                continue
            if progress is not None:
                progress(done, total, f"{simulator.groups[g]} in {simulator.space.names[s]}")
            try:
                losses = simulator.losses(change_one(base, g, s), batches)
            except LostError as error:
                refused[g, s] = f"cannot be measured: {error}"
            except NumericsError as error:
                refused[g, s] = f"overflows on the data: {error}"
            else:
                parts[g, s].append(losses - reference)
            done += 1
        if tolerance is None or number + 1 == len(rounds):
            continue
        complete = [np.concatenate(p) for p in parts.values() if len(p) == number + 1]
        share = misordered_share(complete)
        if complete and len(complete[0]) >= _LEAST_SAMPLES and share <= tolerance:
            notes.append(
                f"stopped at {len(complete[0])} of {simulator.n_samples} samples: more would "
                f"reorder about {share:.1%} of the pairs of entries (tolerance {tolerance:.1%})"
            )
            break
    changes = {entry: np.concatenate(p) for entry, p in parts.items() if p}
    if deadline is not None and deadline.passed and done < total and not notes:
        seen = [len(x) for x in changes.values()]
        left = len(entries) - len(changes) - len(refused)
        notes.append(
            f"stopped by the time budget of {deadline.given_s:g} s: entries saw {min(seen, default=0)} to "
            f"{max(seen, default=0)} of {simulator.n_samples} samples, {left} of {len(entries)} none"
        )
    if progress is not None:
        progress(total, total, notes[0] if notes else "all entries measured")
    return Measured(changes, refused, tuple(notes))


def misordered_share(changes: Sequence[Floats]) -> float:
    """Return the expected share of pairs of entries that more samples would order the other way.

    Args:
        changes: [n] losses of each entry, on the same samples.

    Returns:
        Mean over pairs of P(t > |mean difference| / its standard error), n − 1 degrees of freedom; two
        entries that are equal on all samples are in no order that could be wrong. 0.5 for one sample.
    """
    if len(changes) < 2:
        return 0.0
    n = len(changes[0])
    if n < 2:
        return 0.5
    if len(changes) > _MOST_PAIRED:
        chosen = np.linspace(0, len(changes) - 1, _MOST_PAIRED).astype(int)
        changes = [changes[int(i)] for i in chosen]
    samples = np.stack(changes, axis=1)
    means = samples.mean(axis=0)
    centred = samples - means
    cross = centred.T @ centred
    power = np.diag(cross)
    variance = (power[:, None] + power - 2 * cross) / (n - 1) / n
    first, second = np.triu_indices(len(means), 1)
    distance = np.abs(means[first] - means[second])
    # the difference of equal columns is rounding, not variance
    noise = 1e-12 * np.maximum(power[first], power[second]) / n
    error = np.sqrt(np.where(variance[first, second] > noise, variance[first, second], 0.0))
    wrong = np.zeros(len(first))
    known = error > 0
    wrong[known] = stats.t.sf(distance[known] / error[known], n - 1)
    return float(wrong.mean())
