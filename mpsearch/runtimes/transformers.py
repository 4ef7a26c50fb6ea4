"""Hugging Face transformers on the processor: checkpoints in compressed-tensors' format, in bf16.

transformers loads mixed checkpoints in bf16 alone, and compressed-tensors dequantises them before the first run: a weight is
its codes times scales in bf16, in bf16; activations are rounded in each run, their units and scales in bf16 too. All of it is
documented rounding (:mod:`mpsearch.runtimes.rounding`).
"""

import io
import json
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpsearch.errors import MissingExtraError, ModelError, PlanError
from mpsearch.program.tensors import to_tensor
from mpsearch.runtimes.checkpoint import CheckpointRuntime, CheckpointSession, Shown
from mpsearch.runtimes.rounding import Rounding
from mpsearch.runtimes.session import Array, run_error

_NEEDS = ("transformers", "compressed_tensors")


@dataclass(frozen=True, slots=True)
class TransformersSession:
    """A checkpoint in transformers.

    Attributes:
        model: The loaded ``PreTrainedModel``.
    """

    model: Any
    rounding: Rounding = Rounding(in_bf16=True)  # noqa: RUF009  # frozen
    note: str = "bf16 arithmetic; compressed-tensors dequantises weights before the first run"

    @property
    def modules(self) -> Collection[str]:
        """Names of all modules."""
        return dict(self.model.named_modules()).keys()

    def bias(self, module: str) -> Tensor | None:
        """Return what a module adds to its product."""
        bias = getattr(self._module(module), "bias", None)
        return bias.detach() if isinstance(bias, Tensor) else None

    def run(self, inputs: Mapping[str, Array], modules: Sequence[str]) -> Shown:
        """Run the model on named inputs.

        Raises:
            PlanError: The model has no such module or input, or fails while it runs.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def watch(name: str) -> Any:
            def hook(_: Any, given: tuple[Tensor, ...], result: Tensor) -> None:
                found[name] = given[0].detach(), result.detach()

            return hook

        hooks = [self._module(name).register_forward_hook(watch(name)) for name in modules]
        fed = {name: to_tensor(array) for name, array in inputs.items()}
        fed = {n: x.bfloat16() if x.is_floating_point() else x for n, x in fed.items()}
        try:
            # compressed-tensors compiles its rounding on a processor, which takes longer than all else here
            with _quietly(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
                result = self.model(**fed)
        except Exception as error:  # whatever a model's code raises
            raise run_error("transformers", error) from None
        finally:
            for hook in hooks:
                hook.remove()
        outputs = tuple(x for x in result.to_tuple() if isinstance(x, Tensor))
        return Shown(outputs, found)

    def _module(self, name: str) -> Any:
        try:
            return self.model.get_submodule(name)
        except AttributeError:
            raise PlanError(
                f"transformers: {type(self.model).__name__} must have the module {name!r} that the plan's layer is, "
                "but has none"
            ) from None


def open_session(folder: Path) -> CheckpointSession:
    """Open a compressed-tensors checkpoint in transformers, on the processor in bf16 (extra ``llm``).

    Raises:
        ModelError: It cannot be loaded, or is no checkpoint of a known class.
        MissingExtraError: transformers or compressed-tensors is not installed.
    """
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"runtime 'transformers' needs the package {missing[0]!r}; install it with: pip install 'mpsearch[llm]'"
        )
    if (folder / "hf_quant_config.json").exists():
        raise ModelError(
            f"{folder.name}: must be a compressed-tensors checkpoint, which transformers loads, but is one in ModelOpt's "
            "format, which runs on a GPU alone"
        )
    import transformers

    architecture = _architecture(folder)
    kind: Any = getattr(transformers, architecture, None)
    if not _is_model(kind, transformers.PreTrainedModel):
        raise ModelError(
            f"config.json must name a model class of transformers as its architecture, got {architecture!r}"
        )
    try:
        with _quietly():
            model: Any = kind.from_pretrained(
                folder,
                dtype=torch.bfloat16,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="eager",
            )
    except Exception as error:  # whatever the two packages raise
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise ModelError(f"{folder.name}: transformers cannot load it: {reason}") from error
    return TransformersSession(model.eval())


@contextmanager
def _quietly() -> Iterator[None]:
    """Hold back the progress bars and warnings of two packages; errors are raised all the same."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _is_model(kind: object, of: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, of)


def _architecture(folder: Path) -> str:
    try:
        named = json.loads((folder / "config.json").read_text())["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise ModelError(
            f"{folder.name}: must hold a config.json that names the model's architecture; export it with the folder of "
            "the Hugging Face model as config"
        ) from None
    return str(named)


RUNTIME = CheckpointRuntime(open_session)
