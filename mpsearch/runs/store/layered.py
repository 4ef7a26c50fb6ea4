"""A run's own losses, in front of a store that others share."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mpsearch.runs.evaluations import EvaluationStore
from mpsearch.runs.store.database import StoreTrouble
from mpsearch.runs.store.shared import SharedStore, rounded
from mpsearch.stats.estimates import Floats


class LayeredStore:
    """What a run measures goes into its own file and the shared store; what either knows is not measured.

    A shared store holds float32. So that a run does not depend on who measured first, its own losses are
    rounded to that where there is one. Where it fails midway the run goes on alone, and says so.
    """

    __slots__ = ("_names", "_numbers", "_rounds", "_shared", "_whole", "run")

    def __init__(
        self, run: EvaluationStore, shared: SharedStore | None = None, whole: str = ""
    ) -> None:
        """Begin; without ``shared`` it is the run's own store and nothing else.

        Args:
            run: The run's own.
            shared: What is shared.
            whole: Context of losses on all data, which are not shared: their batches are.
        """
        self.run, self._shared, self._rounds = run, shared, shared is not None
        self._whole = whole
        self._names: Mapping[str, str] = {}
        self._numbers: tuple[int, ...] = ()

    def share(
        self, contexts: Mapping[str, str], schemes: Sequence[str], about: Mapping[str, Any]
    ) -> None:
        """Share losses of ``contexts`` with runs in other search spaces.

        Args:
            contexts: Context of the run to what it is called in the shared store: the same without the space's schemes.
            schemes: [S] definitions of the run's schemes.
            about: What these contexts stand for.
        """
        said = {"contexts": dict(contexts), "schemes": list(schemes), "about": dict(about)}
        self.run.note("shared", json.dumps(said))  # for whoever takes them over later
        with self._sharing() as shared:
            if shared is not None:
                self._names, self._numbers = contexts, shared.number_schemes(schemes)
                for name in contexts.values():
                    shared.describe(name, about)

    def _told(self, context: str, assignment: Sequence[int]) -> tuple[str, Sequence[int]]:
        """Context and assignment as the shared store has them."""
        if context not in self._names:
            return context, assignment
        return self._names[context], [self._numbers[s] for s in assignment]

    def put(self, context: str, assignment: Sequence[int], losses: Floats) -> Floats:
        """Keep the [n] ``losses`` of ``assignment`` [G], and return what :meth:`get` will.

        Raises:
            JobError: The disk of the run folder is full, or its file was damaged.
        """
        kept = self.run.put(context, assignment, rounded(losses) if self._rounds else losses)
        with self._sharing(context) as shared:
            if shared is not None:
                shared.put(*self._told(context, assignment), kept)
        return kept

    def get(self, context: str, assignment: Sequence[int]) -> Floats | None:
        """Return the [n] losses of ``assignment`` [G], or None."""
        known = self.run.get(context, assignment)
        if known is None:
            with self._sharing(context) as shared:
                known = None if shared is None else shared.get(*self._told(context, assignment))
            if known is not None:
                self.run.put(context, assignment, known)
        return known

    def items(self, context: str) -> Iterator[tuple[tuple[int, ...], Floats]]:
        """Yield every assignment of ``context`` in the run with its [n] losses."""
        return self.run.items(context)

    def count(self, context: str) -> int:
        """Return how many assignments of ``context`` are in the run."""
        return self.run.count(context)

    def keep(self, digest: str, kind: str, content: bytes) -> None:
        """Keep an artifact, such as recovered weights, in the shared store, where there is one."""
        with self._sharing() as shared:
            if shared is not None:
                shared.keep(digest, kind, content)

    def take(self, digest: str) -> bytes | None:
        """Return an artifact of the shared store, None where there is none."""
        found: bytes | None = None
        with self._sharing() as shared:
            if shared is not None:
                found = shared.take(digest)
        return found

    @contextmanager
    def _sharing(self, context: str = "") -> Iterator[SharedStore | None]:
        if self._whole and context.partition(" ")[0] == self._whole:
            yield None
            return
        try:
            yield self._shared
        except StoreTrouble as trouble:
            name = "" if self._shared is None else self._shared.name
            self._shared = None
            warnings.warn(
                f"store {name}: {trouble}; the run goes on with its own file alone, which `mpsearch store import` "
                "takes over later",
                stacklevel=2,
            )
