"""What a job's model costs on its device, and the limits that follow from the device."""

from mpsearch.cost.estimate_costs import estimate_costs
from mpsearch.errors import JobError
from mpsearch.jobs.prepare import Prepared
from mpsearch.problem.tables import Costs


def price(prepared: Prepared) -> Costs:
    """Return the costs of every group at every scheme, at the batch and the tokens of the job.

    Raises:
        DeviceError: The device cannot run the base format, or phases cannot be read.
        JobError: The front is to trade something that the device does not say.
    """
    job = prepared.job
    costs = estimate_costs(
        prepared.graph,
        prepared.space,
        prepared.device,
        batch=job.batch,
        tokens=job.tokens or None,
        mix=job.mix or None,
    )
    for name in job.objectives:
        if name != "loss" and name not in costs.objectives:
            raise JobError(
                f"objectives must be of loss, {', '.join(costs.objectives)} on {costs.device}; got {name!r}"
            )
    return costs


def cost_limits(prepared: Prepared, costs: Costs) -> dict[str, float]:
    """Return the job's limits, and the device's memory where a plan might not fit in it."""
    limits = prepared.job.limits.given()
    memory_gb, table = prepared.device.memory_gb, costs.objectives.get("memory_bytes")
    if memory_gb is None or table is None or "memory_bytes" in limits:
        return limits
    most = table.max(axis=1).sum() + costs.constants.get("memory_bytes", 0.0)
    return limits if most <= memory_gb * 1e9 else {**limits, "memory_bytes": memory_gb * 1e9}
