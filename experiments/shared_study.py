"""Several Optuna searchers on one study: ``python -m experiments.shared_study --out RESULT.json``.

Processes share a study in PostgreSQL (Debian's package, started by this script) and measure a synthetic loss whose groups
interact. Each writes down every plan that it measured; afterwards each must stand in the study, once for each time it was
measured, and nothing else.
"""

import argparse
import json
import multiprocessing
import time
from collections import Counter
from pathlib import Path
from typing import Any

from experiments.postgres import server
from mpsearch.artifacts import write_text
from mpsearch.stats.estimates import Estimate, Floats, Ints

_EVALUATION_S = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searchers", type=int, default=4)
    parser.add_argument(
        "--budget", type=int, default=60, help="Of the study, all searchers together."
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with server() as url:
        results: Any = context.Queue()
        started = time.perf_counter()
        processes = [
            context.Process(target=search, args=(number, url, args.budget, results))
            for number in range(args.searchers)
        ]
        for process in processes:
            process.start()
        measured = [results.get(timeout=600) for _ in processes]
        for process in processes:
            process.join()
        seconds = time.perf_counter() - started
        kept = read(url)
    plans = Counter(part(plan, kept) for one in measured for plan in one)
    found = {
        "searchers": args.searchers,
        "budget": args.budget,
        "measured_by_each": [len(one) for one in measured],
        "trials_in_the_study": sum(kept.values()),
        "lost_trials": sum((plans - kept).values()),
        "trials_that_nobody_measured": sum((kept - plans).values()),
        "different_plans": len(plans),
        "measured_by_two_at_once": sum(plans.values()) - len(plans),
        "seconds": round(seconds, 1),
    }
    if args.out:
        write_text(args.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


class Slow:
    """Measures an interacting loss, slowly, and remembers what."""

    def __init__(self, values: Floats) -> None:
        from mpsearch.testing.searchers import Interacting

        self.inner, self.measured = Interacting(values), list[tuple[int, ...]]()

    def evaluate(self, assignments: Ints, *, fraction: float = 1.0) -> list[Estimate]:
        """Return the loss of each of ``assignments`` [P, G]."""
        time.sleep(_EVALUATION_S * len(assignments))
        self.measured += [tuple(row) for row in assignments.tolist()]
        return self.inner.evaluate(assignments, fraction=fraction)

    def loss_and_gradient(self, probabilities: Floats) -> tuple[Estimate, Floats]:
        """Return what the loss it stands for gives."""
        return self.inner.loss_and_gradient(probabilities)


def search(number: int, url: str, budget: int, results: Any) -> None:
    """One searcher; what it measured goes into ``results``."""
    from mpsearch.search.find_front import find_front
    from mpsearch.testing.searchers import example_problem

    problem = example_problem()
    evaluator = Slow(problem.objectives["loss"])
    find_front(
        problem,
        method="optuna",
        evaluator=evaluator,
        budget=budget,
        settings={"storage": url, "searcher": number},
    )
    results.put(evaluator.measured)


def read(url: str) -> Counter[tuple[int, ...]]:
    """Plans of the complete trials of the study."""
    import optuna

    from mpsearch.testing.searchers import example_problem

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = example_problem()
    place = url.replace("postgresql://", "postgresql+psycopg://")
    study = optuna.load_study(study_name="mpsearch", storage=place)
    return Counter(
        tuple(
            problem.schemes.index(str(trial.params[name])) if name in trial.params else -1
            for name in problem.groups
        )
        for trial in study.get_trials(deepcopy=False)
    )


def part(plan: tuple[int, ...], kept: Counter[tuple[int, ...]]) -> tuple[int, ...]:
    """``plan`` as trials say it: of groups that are tied to others nothing is said."""
    said = next(iter(kept))
    return tuple(s if known >= 0 else -1 for s, known in zip(plan, said, strict=True))


if __name__ == "__main__":
    main()
