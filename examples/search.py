"""A search in ten lines: from a model and data to a plan.

Run: python -m examples.search
"""

import tempfile
from pathlib import Path

import mpsearch as mp
from examples.small_model import write_small_model


def main(folder: Path) -> None:
    """Write ``plan.json`` for the small model into ``folder``."""
    model, data = write_small_model(folder)

    graph, space = mp.import_onnx(model), mp.read_space("npu")
    simulator = mp.Simulator(graph, space, mp.read_batches(data))
    costs = mp.estimate_costs(graph, space, mp.read_device("npu_200tops"), batch=16)
    table = mp.score_sensitivity(simulator, costs=costs)
    front = mp.find_front(mp.build_problem(table, costs), evaluator=simulator, budget=40)
    point = mp.choose_point(front, knee=True)
    plan = mp.make_plan(point, simulator, costs=costs)
    files = mp.export_plan(plan, model, folder / "exported")

    print(f"{len(front.points)} points; the knee: {point.value('latency_us').mean:.4f} µs,")
    print(f"loss {point.value('loss').mean:.4f}, {plan.coverage.effective_bits:.2f} bits a weight")
    print("written:", ", ".join(path.name for path in files))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
