"""What a searcher is given, and how it is declared."""

from collections.abc import Callable
from dataclasses import dataclass

from mpsearch.deadline import Deadline
from mpsearch.problem.front import Front
from mpsearch.problem.problem import Evaluator, Problem
from mpsearch.problem.tables import Progress
from mpsearch.settings import Setting, own_settings


@dataclass(frozen=True, slots=True)
class Task:
    """One search.

    Attributes:
        problem: Tables, edges and constraints.
        objectives: What to minimise; names of the problem's objectives.
        evaluator: Measures losses; with it the front holds measured points only.
        budget: Whole-plan measurements, or without evaluator evaluations of the tables; None leaves it
            to the method.
        seed: Same seed, same front.
        progress: Called with (done, total, best so far).
        deadline: Stop then, with what was found.
    """

    problem: Problem
    objectives: tuple[str, ...] = ("latency_us", "loss")
    evaluator: Evaluator | None = None
    budget: int | None = None
    seed: int = 0
    progress: Progress | None = None
    deadline: Deadline | None = None


@dataclass(frozen=True, slots=True)
class Searcher:
    """A search method: what is registered under ``mpsearch.searchers``.

    Attributes:
        search: ``search(task, *, own settings) -> Front``. Its keyword-only parameters, each with a
            default, are the settings that users reach by name.
        predicts: The whole front comes from the tables: a job measures points of it afterwards, instead
            of handing the search its evaluator.
        needs_evaluator: There is no front without measuring.
        needs_gradients: It calls the evaluator's ``loss_and_gradient``.
    """

    search: Callable[..., Front]
    predicts: bool = False
    needs_evaluator: bool = False
    needs_gradients: bool = False

    @property
    def settings(self) -> dict[str, Setting]:
        """Its own settings by name."""
        return own_settings(self.search)
