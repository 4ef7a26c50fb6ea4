"""A torch module as a ModelGraph, through torch's own exporter."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpsearch.errors import MissingExtraError, ModelError
from mpsearch.graph.importer import import_model
from mpsearch.graph.model import ModelGraph


def import_torch(module: Any, example_inputs: Any) -> ModelGraph:
    """Return ``module`` as a graph; its layers keep the module's qualified names as ``fqn``.

    Weights are named by their qualified parameter names. If all example tensors agree in their
    first axis it is taken as the batch and stays dynamic; all other axes are as in the examples.

    Args:
        module: A ``torch.nn.Module``; exported in evaluation mode, and left as it was.
        example_inputs: A tensor, a sequence of positional inputs or a mapping of named ones.

    Raises:
        MissingExtraError: onnxscript, which torch's exporter needs, is not installed.
        ModelError: torch cannot export the module.
    """
    if find_spec("onnxscript") is None:
        raise MissingExtraError(
            "import_torch needs the package 'onnxscript'; "
            "install it with: pip install 'mpsearch[torch-export]'"
        )
    import torch

    positional, named = _arguments(example_inputs)
    tensors = [x for x in (*positional, *named.values()) if isinstance(x, torch.Tensor)]
    batches = {x.shape[0] if x.ndim else None for x in tensors}
    is_batched = len(batches) == 1 and None not in batches
    training = module.training
    module.eval()
    try:
        program = torch.onnx.export(
            module,
            tuple(_for_export(x, is_batched) for x in positional),
            kwargs={name: _for_export(x, is_batched) for name, x in named.items()} or None,
            dynamo=True,
            verbose=False,
            optimize=False,  # its constant folding renames the weights; ours keeps their names
            dynamic_shapes=_dynamic_shapes(positional, named) if is_batched else None,
        )
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__}: torch cannot export it: {_first_cause(error)}"
        ) from error
    finally:
        module.train(training)
    if program is None:
        raise ModelError(f"{type(module).__name__}: torch's exporter returned no model")
    return import_model(program.model_proto, f"{type(module).__name__}.onnx", Path.cwd())


def _first_cause(error: BaseException) -> str:
    """Return the first line of what went wrong first; the exporter wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)


def _arguments(examples: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(examples, Mapping):
        return (), dict(examples)
    if isinstance(examples, Sequence):
        return tuple(examples), {}
    return (examples,), {}


def _for_export(example: Any, is_batched: bool) -> Any:
    """Return ``example`` with two samples at least: the exporter takes a size of 1 as fixed."""
    import torch

    if is_batched and isinstance(example, torch.Tensor) and example.shape[0] == 1:
        return torch.cat([example, example])
    return example


def _dynamic_shapes(positional: Sequence[Any], named: Mapping[str, Any]) -> Any:
    import torch

    def of(x: Any) -> Any:
        return {0: torch.export.Dim.AUTO} if isinstance(x, torch.Tensor) else None

    if named:
        return {name: of(x) for name, x in named.items()}
    return tuple(of(x) for x in positional)
