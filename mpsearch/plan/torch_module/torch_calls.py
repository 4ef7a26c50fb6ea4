"""Torch's own calls, as a module makes them, run as the layers that they were exported as."""

import types
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mpsearch.errors import PlanError
from mpsearch.graph.model import Layer, ModelGraph
from mpsearch.plan.torch_module.live import LiveWeights, Norm, stack_gates
from mpsearch.plan.torch_module.padding import has_pads, same_padding
from mpsearch.program.program import Program, Step
from mpsearch.simulate.scheme_run import SchemeRun

Key = tuple[str, object]
_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


class LayerCalls(TorchFunctionMode):
    """While active, products run as the graph's layers: quantised operands, rounded outputs.

    A call that multiplies by a parameter is the layer of that parameter; a product of two
    activations is the next one that the module around it owns. Parameters are never changed.

    Attributes:
        scopes: Qualified names of the modules that are running, innermost last.
        norms: Layer to the normalisation that followed it and that it includes.
    """

    def __init__(
        self,
        graph: ModelGraph,
        program: Program,
        run: SchemeRun,
        tensors: Mapping[str, Tensor],
        folded: Collection[str],
        scopes: Sequence[str],
        live: LiveWeights | None = None,
    ) -> None:
        """Prepare one forward.

        Args:
            graph: The exported module.
            program: Its steps.
            run: Runs steps in the schemes of a plan.
            tensors: The module's parameters and buffers by qualified name.
            folded: Names of running means whose normalisation a layer includes.
            scopes: Kept up to date by the caller.
            live: Is handed the weights and biases of calls; None: the graph's own are multiplied with.
        """
        super().__init__()
        self.scopes = scopes
        self.norms: dict[int, Norm] = {}
        self._live, self._last = live, (-1, torch.empty(0))
        self._program, self._run, self._layers = program, run, graph.layers
        self._folded = {_storage(tensors[name]) for name in folded}
        steps = program.find_layers()
        self._waiting: dict[Key, deque[tuple[Layer, Step]]] = defaultdict(deque)
        for index, layer in enumerate(graph.layers):
            self._waiting[_site_key(layer, tensors)].append((layer, steps[index][1]))
        self._ran: Counter[Key] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, as a layer where it is one."""
        given = dict(kwargs or {})
        handler = _HANDLERS.get(func)
        if handler is not None:
            result = handler(self, *args, **given)
            if result is not NotImplemented:
                return result
        if func in _PYTHON:
            with self:
                return _PYTHON[func](*args, **given)
        return func(*args, **given)

    def check_complete(self) -> None:
        """Check that every layer ran.

        Raises:
            PlanError: One did not; the message names it.
        """
        left = [layer for waiting in self._waiting.values() for layer, _ in waiting]
        if left:
            raise PlanError(
                f"the module must run every layer of the plan, but {_called(left[0])} was not run"
                + (f", nor {len(left) - 1} others" if len(left) > 1 else "")
            )

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        """One Gemm for x Wᵀ + b, or a MatMul with an addition behind it."""
        site = self._take(weight)
        if site is None:
            return NotImplemented
        if site[0].op_type == "Gemm":
            flat = x.reshape(-1, x.shape[-1])
            y = self._call(site, flat, weights=(weight,), bias=bias)
            return self._made(site, y.reshape(*x.shape[:-1], weight.shape[0]))
        y = self._call(site, x, weights=(weight,))
        return y if bias is None else y + bias

    def convolution(self, x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Convolutions of any rank, transposed ones too: strides and bias are the node's own."""
        site = self._take(weight)
        if site is None:
            return NotImplemented
        if "same" in (*args, *kwargs.values()) and not has_pads(site[1]):
            dilation = args[3] if len(args) > 3 else kwargs.get("dilation", 1)
            x = F.pad(x, same_padding(weight, dilation))
        bias = args[0] if args else kwargs.get("bias")
        if x.ndim == weight.ndim:
            return self._made(site, self._call(site, x, weights=(weight,), bias=bias))
        y = self._call(site, x.unsqueeze(0), weights=(weight,), bias=bias)
        return self._made(site, y.squeeze(0))

    def product(self, a: Tensor, b: Tensor, **_: Any) -> Any:
        """A matrix product of activations, or of one with a parameter."""
        site = self._take(b) or self._take(a) or self._take(None)
        return NotImplemented if site is None else self._call(site, a, b, weights=(b, a))

    def reversed_product(self, b: Tensor, a: Tensor) -> Any:
        """``a @ b`` as Python asks the right operand for it."""
        return self.product(a, b)

    def sum_of_product(
        self, c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1, **_: Any
    ) -> Any:
        """One Gemm for beta · c + alpha · a b, or a MatMul with arithmetic behind it."""
        site = self._take(b) or self._take(a) or self._take(None)
        if site is None:
            return NotImplemented
        if site[0].op_type == "Gemm":
            return self._call(site, a, b, c, weights=(b, a), bias=c)
        return self._call(site, a, b, weights=(b, a)) * alpha + c * beta

    def einsum(self, equation: Any, *operands: Any) -> Any:
        """A product of two operands in letters."""
        if len(operands) == 1 and not isinstance(operands[0], Tensor):
            operands = tuple(operands[0])
        if not isinstance(equation, str) or len(operands) != 2:
            return NotImplemented
        a, b = operands
        site = self._take(b) or self._take(a) or self._take(None)
        return NotImplemented if site is None else self._call(site, a, b, weights=(b, a))

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        """softmax(q kᵀ) v, as torch's exporter writes it out: two products."""
        scores = self._take(None)
        if scores is None:
            return NotImplemented
        root = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
        if enable_gqa:
            repeats = q.shape[-3] // k.shape[-3]
            k, v = k.repeat_interleave(repeats, -3), v.repeat_interleave(repeats, -3)
        biased = self._call(scores, q * root, k.transpose(-1, -2) * root)
        if is_causal:
            attn_mask = torch.ones(biased.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            none = biased.new_zeros(())
            biased = biased + torch.where(attn_mask, none, none - float("inf"))
        elif attn_mask is not None:
            biased = biased + attn_mask
        p = torch.softmax(biased, -1).nan_to_num(0.0)
        values = self._take(None)
        if values is None:
            raise PlanError(
                f"attention in {_shown(self._scope)} must be two products, but the plan's is one"
            )
        return self._call(values, F.dropout(p, dropout_p) if dropout_p else p, v)

    def recurrence(self, x: Tensor, state: Any, weights: Sequence[Tensor], *args: Any) -> Any:
        """LSTM, GRU and RNN: one layer for each of the stacked ones, both directions together."""
        if not isinstance(weights, list | tuple) or self._next(weights[0]) is None:
            return NotImplemented  # a packed sequence, or no layer
        has_bias, depth, dropout, training, both_ways, batch_first = args
        states = state if isinstance(state, tuple | list) else (state,)
        directions = 2 if both_ways else 1
        each = directions * (4 if has_bias else 2)
        y = x.transpose(0, 1) if batch_first else x
        ends: list[list[Tensor]] = [[] for _ in states]
        for level in range(depth):
            site = self._take(weights[level * each])
            if site is None:
                raise PlanError(f"{_shown(self._scope)}: layer {level} must be one of the plan's")
            if dropout and training and level:
                y = F.dropout(y, dropout)
            rows = slice(level * directions, (level + 1) * directions)
            initial = {5 + i: s[rows] for i, s in enumerate(states)}
            inputs = self._inputs(site[1], {0: y, **initial})
            if self._live is not None:
                part = weights[level * each : (level + 1) * each]
                w, r, b = stack_gates(site[0].op_type, part, directions, has_bias)
                self._hand_over(site[1], inputs, (w, r), b, at=3)
            out = self._run(site[1], inputs)
            assert isinstance(out, tuple)
            y = out[0].permute(0, 2, 1, 3).flatten(2)
            for kept, end in zip(ends, out[1:], strict=False):
                kept.append(end)
        final = (torch.cat(end) for end in ends)
        return (y.transpose(0, 1) if batch_first else y), *final

    def normalisation(
        self,
        x: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        """A batch normalisation: nothing is left to do where a layer includes it."""
        del training, momentum  # a layer includes the statistics that were exported
        if mean is None or variance is None or _storage(mean) not in self._folded:
            return NotImplemented
        layer, output = self._last
        if output is x:
            self.norms[layer] = Norm(mean, variance, weight, bias, eps)
        return x

    @property
    def _scope(self) -> str:
        return self.scopes[-1] if self.scopes else ""

    def _key(self, weight: Tensor | None) -> Key:
        return ("product", self._scope) if weight is None else ("weight", _storage(weight))

    def _next(self, weight: Tensor | None) -> tuple[Layer, Step] | None:
        waiting = self._waiting.get(self._key(weight))
        return waiting[0] if waiting else None

    def _take(self, weight: Tensor | None) -> tuple[Layer, Step] | None:
        """Return the layer that a call is, None where it is none.

        Raises:
            PlanError: The call is made more often than when the module was exported.
        """
        key = self._key(weight)
        waiting = self._waiting.get(key)
        if waiting:
            self._ran[key] += 1
            return waiting.popleft()
        if self._ran[key]:
            raise PlanError(
                f"the module must run as it was exported, but {_shown(self._scope)} multiplies more "
                f"than {self._ran[key]} times"
            )
        return None

    def _made(self, site: tuple[Layer, Step], output: Tensor) -> Tensor:
        """Remember the output of a layer, for the normalisation that may follow."""
        self._last = (site[1].layer, output)
        return output

    def _hand_over(
        self,
        step: Step,
        inputs: list[Tensor | None],
        weights: Sequence[Tensor],
        bias: Tensor | None,
        at: int = 2,
    ) -> None:
        """Give the weights of a call to the run; the first ones that are not ``inputs`` are the layer's."""
        assert self._live is not None
        gemms = [i for i, gemm in enumerate(self._layers[step.layer].gemms) if gemm.has_weight]
        for gemm, weight in zip(gemms, weights, strict=False):
            self._live.given[step.layer, gemm] = weight
        slot = step.inputs[at] if len(step.inputs) > at else -1
        if gemms and slot in self._program.constants:
            constant = inputs[at]
            assert constant is not None
            inputs[at] = self._live.bias(step.layer, bias, constant)

    def _call(
        self,
        site: tuple[Layer, Step],
        *operands: Tensor,
        weights: Sequence[Tensor] = (),
        bias: Tensor | None = None,
    ) -> Tensor:
        """Run a layer on the operands of a call that are not constants of the graph.

        Args:
            site: The layer.
            *operands: Of the call, in the graph's order.
            weights: The operands that may be its weight, the likeliest first.
            bias: Its bias.
        """
        layer, step = site
        free = [
            index
            for index, slot in enumerate(step.inputs)
            if slot >= 0 and slot not in self._program.constants
        ]
        if len(free) == len(operands):
            chosen = operands
        else:  # some operands of the call are constants of the graph
            own = [index for index in free if index < len(operands)]
            chosen = tuple(operands[index] for index in own)
        try:
            inputs = self._inputs(step, dict(zip(free, chosen, strict=False)))
            if self._live is not None and weights:
                fixed = [x for x in weights if not any(x is given for given in chosen)]
                self._hand_over(step, inputs, fixed or weights, bias)
            result = self._run(step, inputs)
        except (RuntimeError, IndexError) as error:
            raise PlanError(f"{_called(layer)} must run as it was exported: {error}") from error
        assert isinstance(result, Tensor)
        return result

    def _inputs(self, step: Step, given: Mapping[int, Tensor]) -> list[Tensor | None]:
        constants = self._program.constants
        return [
            given[i] if i in given else constants.get(slot) for i, slot in enumerate(step.inputs)
        ]


def _site_key(layer: Layer, tensors: Mapping[str, Tensor]) -> Key:
    weighted = [gemm.right.source for gemm in layer.gemms if gemm.has_weight]
    if not weighted:
        return "product", layer.fqn
    if weighted[0] not in tensors:
        raise PlanError(
            f"{_called(layer)} must multiply with {weighted[0]!r}, which the module lacks"
        )
    return "weight", _storage(tensors[weighted[0]])


def _storage(tensor: Tensor) -> int:
    """Parts of one tensor share it: a projection may be a slice of its parameter."""
    return tensor.untyped_storage().data_ptr()


def _called(layer: Layer) -> str:
    return f"{_shown(layer.fqn)} ({layer.name})"


def _shown(scope: str) -> str:
    return repr(scope) if scope else "the module itself"


def _transparent(function: Any) -> Callable[..., Any]:
    """Return ``function`` without its question for overrides, so that the calls inside are seen."""
    names = dict(function.__globals__) | dict.fromkeys(_CHECKS, lambda *_: False)
    copy = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_PYTHON = {F.multi_head_attention_forward: _transparent(F.multi_head_attention_forward)}
_CONVOLUTIONS = (
    torch.conv1d, torch.conv2d, torch.conv3d,
    torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d,
)  # fmt: skip
_PRODUCTS = (
    torch.matmul, Tensor.matmul, Tensor.__matmul__,
    torch.mm, Tensor.mm, torch.bmm, Tensor.bmm,
)  # fmt: skip
_SUMS = (torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm)
_RECURRENCES = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_HANDLERS: dict[Any, Callable[..., Any]] = {
    F.linear: LayerCalls.linear,
    torch.einsum: LayerCalls.einsum,
    F.scaled_dot_product_attention: LayerCalls.attention,
    F.batch_norm: LayerCalls.normalisation,
    Tensor.__rmatmul__: LayerCalls.reversed_product,
    **dict.fromkeys(_CONVOLUTIONS, LayerCalls.convolution),
    **dict.fromkeys(_PRODUCTS, LayerCalls.product),
    **dict.fromkeys(_SUMS, LayerCalls.sum_of_product),
    **dict.fromkeys(_RECURRENCES, LayerCalls.recurrence),
}
