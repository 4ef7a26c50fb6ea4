"""Recurrent layers: LSTM, GRU, RNN.

Each kernel takes a keyword ``hidden``: what happens to the hidden state before it meets the
recurrent weights (quantisation, in a simulation).
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, integer, refuse, text

_Activation = Callable[[Tensor], Tensor]
_State = tuple[Tensor, ...]
_Cell = Callable[[Tensor, _State], _State]


def _activation(node: Node, name: str, alpha: float | None, beta: float | None) -> _Activation:
    slope = 0.01 if alpha is None else alpha
    one = 1.0 if alpha is None else alpha
    table: dict[str, _Activation] = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softsign": F.softsign,
        "softplus": F.softplus,
        "affine": lambda x: one * x + (0.0 if beta is None else beta),
        "leakyrelu": lambda x: F.leaky_relu(x, slope),
        "thresholdedrelu": lambda x: torch.where(x > one, x, torch.zeros_like(x)),
        "scaledtanh": lambda x: one * torch.tanh((1.0 if beta is None else beta) * x),
        "hardsigmoid": lambda x: torch.clamp(
            (0.2 if alpha is None else alpha) * x + (0.5 if beta is None else beta), 0, 1
        ),
        "elu": lambda x: F.elu(x, one),
    }
    if name.lower() not in table:
        raise refuse(node, f"activation {name!r}")
    return table[name.lower()]


def _activations(node: Node, default: Sequence[str], directions: int) -> list[list[_Activation]]:
    names = [
        n.decode() if isinstance(n, bytes) else str(n)
        for n in cast(Sequence[str | bytes], node.attributes.get("activations") or ())
    ] or list(default) * directions
    alphas = list(cast(Sequence[float], node.attributes.get("activation_alpha") or ()))
    betas = list(cast(Sequence[float], node.attributes.get("activation_beta") or ()))
    takes_alpha = ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu")
    takes_beta = ("affine", "scaledtanh", "hardsigmoid")
    built = []
    for name in names:
        alpha = alphas.pop(0) if alphas and name.lower() in takes_alpha else None
        beta = betas.pop(0) if betas and name.lower() in takes_beta else None
        built.append(_activation(node, name, alpha, beta))
    each = len(built) // directions
    return [built[i * each : (i + 1) * each] for i in range(directions)]


def _limit(node: Node) -> _Activation:
    clip = node.attributes.get("clip")
    if clip is None:
        return lambda x: x
    edge = float(cast(float, clip))
    return lambda x: x.clamp(-edge, edge)


def _lstm_cell(
    node: Node, f: list[_Activation], limit: _Activation, peephole: Tensor | None
) -> Callable[[Callable[[Tensor], Tensor]], _Cell]:
    coupled = integer(node, "input_forget", 0)

    def with_recurrence(recur: Callable[[Tensor], Tensor]) -> _Cell:
        def cell(x: Tensor, state: _State) -> _State:
            h, c = state
            i, o, forget, g = (x + recur(h)).chunk(4, -1)
            if peephole is not None:
                pi, po, pf = peephole.chunk(3, -1)
                i, forget = i + pi * c, forget + pf * c
            i = f[0](limit(i))
            forget = 1 - i if coupled else f[0](limit(forget))
            c = forget * c + i * f[1](limit(g))
            if peephole is not None:
                o = o + po * c
            return f[0](limit(o)) * f[2](c), c

        return cell

    return with_recurrence


def _scan(
    cell: _Cell, x: Tensor, state: _State, lengths: Tensor | None, reverse: bool
) -> tuple[Tensor, _State]:
    """Run ``cell`` over the first axis of ``x``; samples stop at their length, then give zeros."""
    steps = range(x.shape[0])
    outputs: list[Tensor] = []
    for t in reversed(steps) if reverse else steps:
        new = cell(x[t], state)
        if lengths is not None:
            alive = (lengths > t).unsqueeze(-1)
            new = tuple(torch.where(alive, a, b) for a, b in zip(new, state, strict=True))
            outputs.append(torch.where(alive, new[0], torch.zeros_like(new[0])))
        else:
            outputs.append(new[0])
        state = new
    return torch.stack(outputs[::-1] if reverse else outputs), state


def _recurrent(node: Node, gates: int, default: Sequence[str], states: int) -> Kernel:
    direction = text(node, "direction", "forward")
    directions = 2 if direction == "bidirectional" else 1
    batch_first = bool(integer(node, "layout", 0))
    activations, limit = _activations(node, default, directions), _limit(node)

    def kernel(
        x: Tensor,
        weight: Tensor,
        recurrence: Tensor,
        bias: Tensor | None = None,
        lengths: Tensor | None = None,
        initial_h: Tensor | None = None,
        initial_c: Tensor | None = None,
        peephole: Tensor | None = None,
        *,
        hidden: Callable[[Tensor], Tensor] = lambda h: h,
    ) -> tuple[Tensor, ...]:
        if batch_first:
            x = x.transpose(0, 1)
        size = recurrence.shape[-1]
        if lengths is not None:
            lengths = lengths.to(x.device)
        ys, finals = [], []
        for d in range(directions):
            state = []
            for initial in (initial_h, initial_c)[:states]:
                if initial is None:
                    state.append(x.new_zeros(x.shape[1], size))
                else:
                    state.append(initial[:, d] if batch_first else initial[d])
            half = gates * size
            own = None if bias is None else bias[d][:half]
            recurrent_bias = x.new_zeros(half) if bias is None else bias[d][half:]
            cell = build_cell(
                activations[d],
                recurrence[d],
                recurrent_bias,
                hidden,
                None if peephole is None else peephole[d],
            )
            projected = F.linear(x, weight[d], own)
            backwards = direction == "reverse" or d == 1
            y, final = _scan(cell, projected, tuple(state), lengths, backwards)
            ys.append(y)
            finals.append(final)
        y = torch.stack(ys, 1)  # [T, D, B, H]
        ends = [torch.stack([final[s] for final in finals]) for s in range(states)]
        if batch_first:
            return y.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends)
        return y, *ends

    def build_cell(
        f: list[_Activation],
        matrix: Tensor,
        shift: Tensor,
        hidden: Callable[[Tensor], Tensor],
        peephole: Tensor | None,
    ) -> _Cell:
        def recur(h: Tensor) -> Tensor:
            return F.linear(hidden(h), matrix, shift)

        if node.op_type == "LSTM":
            return _lstm_cell(node, f, limit, peephole)(recur)
        if node.op_type == "GRU":
            return _gru_cell(node, f, limit, matrix, shift, hidden)
        return lambda x, state: (f[0](limit(x + recur(state[0]))),)

    return kernel


def _gru_cell(
    node: Node,
    f: list[_Activation],
    limit: _Activation,
    matrix: Tensor,
    shift: Tensor,
    hidden: Callable[[Tensor], Tensor],
) -> _Cell:
    linear_first = integer(node, "linear_before_reset", 0)
    size = matrix.shape[-1]

    def cell(x: Tensor, state: _State) -> _State:
        (h,) = state
        q = hidden(h)
        if linear_first:
            zr, own = F.linear(q, matrix, shift).split([2 * size, size], -1)
        else:
            zr, own = F.linear(q, matrix[: 2 * size], shift[: 2 * size]), None
        z, r = f[0](limit(x[..., : 2 * size] + zr)).chunk(2, -1)
        if own is None:
            own = F.linear(hidden(r * h), matrix[2 * size :], shift[2 * size :])
        else:
            own = r * own
        candidate = f[1](limit(x[..., 2 * size :] + own))
        return ((1 - z) * candidate + z * h,)

    return cell


BUILDERS: dict[str, Builder] = {
    "GRU": lambda node: _recurrent(node, 3, ("Sigmoid", "Tanh"), 1),
    "LSTM": lambda node: _recurrent(node, 4, ("Sigmoid", "Tanh", "Tanh"), 2),
    "RNN": lambda node: _recurrent(node, 1, ("Tanh",), 1),
}
