"""What an optimizer has made of the parameters of a module with a plan, as what the plan changes of its model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mpsearch.errors import PlanError
from mpsearch.plan.changes import hold_changes
from mpsearch.plan.torch_module.live import LiveWeights
from mpsearch.plan.weights import PlanWeights
from mpsearch.program.program import Program
from mpsearch.schemes import Scheme
from mpsearch.simulate.changes import Changes, output_channel_axis

_NOTHING = Changes()


def watch_parameters(
    module: nn.Module,
    live: LiveWeights,
    program: Program,
    schemes: Sequence[Scheme],
    run: Callable[[], None],
    start: Changes = _NOTHING,
) -> Callable[[], Changes]:
    """Return what returns how parameters and buffers of ``module`` differ by then from what they are now.

    Args:
        module: With a trainable plan; it has run once.
        live: Knows how the graph's weights follow from the parameters.
        program: The graph.
        schemes: [L] scheme of each layer.
        run: Runs the module, so that ``live`` is handed what the weights are by then.
        start: What the plan changes already.
    """
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(module).items()}
    followed = {_storage(leaf) for leaf in _leaves(live.handed())}
    read = _read_names(program) & before.keys()

    def trained() -> Changes:
        run()
        with torch.no_grad():
            weights = {**start.weights, **dict(live.stored(schemes))}
            moved = dict(live.moved_biases())
        tensors = named_tensors(module)
        changed = [name for name in tensors if not torch.equal(tensors[name], before[name])]
        known = followed | {_storage(tensors[name]) for name in read}
        for name in changed:
            if _storage(tensors[name]) not in known:
                raise PlanError(
                    f"{name!r} has been trained, but the plan's graph holds it in another form, which a plan cannot "
                    "change; freeze it with requires_grad_(False)"
                )
        constants: dict[str, NDArray[np.generic]] = dict(start.constants)
        constants |= {n: tensors[n].detach().cpu().numpy().copy() for n in changed if n in read}
        biases = dict(start.biases)
        for layer, by in moved.items():
            if output_channel_axis(live.graph.layers[layer]) is None:
                name, constant = live.bias_constant(program, layer)
                constants[name] = (constant + by.reshape(constant.shape)).cpu().numpy()
            else:
                known_bias = biases.get(layer)
                biases[layer] = by if known_bias is None else known_bias.to(by) + by
        return Changes(weights, biases, constants)

    return trained


def read_trained(module: Any) -> PlanWeights:
    """Return what an optimizer has made of a module's parameters, for the plan that it runs under.

    ``with_weights(plan, …)`` of :mod:`mpsearch.plan.changes` is then the trained plan of the model as it was exported.

    Args:
        module: As ``apply_plan(plan, module, trainable=True)`` returned it; it is run once.

    Raises:
        PlanError: It has no trainable plan, or a parameter was trained that a plan cannot change.
    """
    applied = module.__dict__.get("mpsearch_plan")
    trained = None if applied is None else applied.trained
    if trained is None:
        raise PlanError(
            f"{type(module).__name__} must have a trainable plan to read it back: "
            "apply_plan(plan, module, trainable=True)"
        )
    return hold_changes(trained(), applied.graph)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by qualified name, those with two names twice."""
    own: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    return own | dict(module.named_buffers(remove_duplicate=False))


def run_once(module: nn.Module, given: Any) -> None:
    """Run ``module`` in evaluation mode on inputs as ``import_torch`` takes them."""
    training = module.training
    module.eval()
    try:
        if isinstance(given, Mapping):
            module(**given)
        elif isinstance(given, Sequence):
            module(*given)
        else:
            module(given)
    finally:
        module.train(training)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _leaves(tensors: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield the tensors that ``tensors`` were computed from."""
    seen: set[object] = set()
    for tensor in tensors:
        if tensor.grad_fn is None:
            yield tensor
            continue
        waiting: list[Any] = [tensor.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                yield node.variable
            waiting += [parent for parent, _ in node.next_functions]


def _read_names(program: Program) -> set[str]:
    """Names of the constants that nodes read that are no layers."""
    names = {slot: name for name, slot in program.slots.items()}
    found: set[str] = set()
    for step in program.steps:
        for body in step.bodies:
            found |= _read_names(body)
        if step.layer < 0:
            found |= {names[slot] for slot in step.inputs if slot in program.constants}
    return found
