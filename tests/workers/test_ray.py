"""A cluster of Ray gives the front that one process gives, whatever becomes of a node."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mpsearch.errors import JobError
from mpsearch.jobs.means import Means
from mpsearch.jobs.run import run_job
from mpsearch.problem.tables import Progress
from mpsearch.runs.sources import Sources
from mpsearch.simulate.loss_store import Ahead
from mpsearch.simulate.simulator import Simulator
from mpsearch.workers.local import local_crew
from mpsearch.workers.ray_cluster import join, ray_crew
from tests.jobs.test_interrupted import prepared
from tests.support.tiny_job import write_job

pytest.importorskip("ray")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_does_not_answer_is_named_within_ten_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(JobError, match=r"the cluster at '127\.0\.0\.1:1' does not answer"):
        join("127.0.0.1:1")
    assert time.monotonic() - started < 10


@pytest.fixture
def cluster() -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_three_nodes_of_which_one_is_lost_give_the_front_of_one_process(
    cluster: Any, tmp_path: Path
) -> None:
    folder = write_job(tmp_path)
    job = prepared(folder, refine=8, metric="perturbation")
    sources = Sources(folder / "tiny.onnx", folder / "calib.npz", None, "h100_sxm5_80gb", "")
    alone = local_crew(job.job, sources, 1, print)
    run_job(job, tmp_path / "alone", means=Means(crew=alone))

    said: list[str] = []
    lost = threading.Event()

    def watch(stage: str) -> Any:
        def told(done: int, total: int, text: str) -> None:
            if stage == "workers" and done == 10 and not lost.is_set():
                lost.set()
                nodes = [node for node in cluster.list_all_nodes() if not node.head]
                cluster.remove_node(nodes[0], allow_graceful=False)

        return told

    plain = ray_crew(job.job, sources, cluster.address, 3, said.append)

    @contextmanager
    def crew(simulator: Simulator, told: Progress) -> Iterator[Ahead]:
        import ray

        with plain(simulator, told) as workers:
            base = (0,) * len(simulator.groups)
            ray.get([actor.measure.remote(base, 0) for actor in workers._actors])  # one a node
            yield workers

    run_job(job, tmp_path / "cluster", means=Means(crew=crew), watch=watch)
    assert lost.is_set()
    assert any("was lost" in text for text in said)
    fronts = [(tmp_path / name / "front.json").read_bytes() for name in ("alone", "cluster")]
    assert fronts[0] == fronts[1]
