"""Losses that are part of a graph."""

import torch
from torch import Tensor

from mpsearch.graph.model import Node
from mpsearch.program.operators.attributes import Builder, Kernel, integer, text


def _reduced(node: Node, log_p: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    ignored = node.attributes.get("ignore_index")
    target = target.to(torch.int64)
    valid = torch.ones_like(target, dtype=torch.bool)
    if ignored is not None:
        valid = target != integer(node, "ignore_index", 0)
    index = torch.where(valid, target, 0)
    each = -log_p.gather(1, index.unsqueeze(1)).squeeze(1)
    factors = torch.ones_like(each) if weight is None else weight[index]
    factors = torch.where(valid, factors, torch.zeros_like(factors)).to(each.dtype)
    each = torch.where(valid, each, torch.zeros_like(each)) * factors
    reduction = text(node, "reduction", "mean")
    if reduction == "none":
        return each
    return each.sum() if reduction == "sum" else each.sum() / factors.sum()


def _nll(node: Node) -> Kernel:
    return lambda x, target, weight=None: _reduced(node, x, target, weight)


def _cross_entropy(node: Node) -> Kernel:
    def kernel(
        scores: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(scores, 1)
        return _reduced(node, log_p, target, weight), log_p

    return kernel


BUILDERS: dict[str, Builder] = {
    "NegativeLogLikelihoodLoss": _nll,
    "SoftmaxCrossEntropyLoss": _cross_entropy,
}
