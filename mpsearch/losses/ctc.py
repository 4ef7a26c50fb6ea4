"""Label sequences without positions: connectionist temporal classification.

Source: Graves et al., ICML 2006. Labels are padded with negative numbers.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from mpsearch.errors import DataError


def ctc_losses(log_p: Tensor, labels: Tensor, blank: int, mask: Tensor | None) -> Tensor:
    """Return the [n] negative log-likelihoods of the label sequences, over all alignments, a label.

    Args:
        log_p: [n, positions, classes] log-probabilities.
        labels: [n, most labels] integers; negative ones are padding.
        blank: Class that stands between labels; negative counts from the last.
        mask: [n, positions] bool of the positions that count, the first ones of each sample; or None.

    Raises:
        DataError: The labels are no such sequences, hold the blank, or do not fit the positions.
    """
    blank = _check(log_p, labels, blank)
    lengths, sizes = _lengths(log_p, mask), (labels >= 0).sum(1)
    repeats = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0)).sum(1)
    if bool((sizes + repeats > lengths).any()):
        raise DataError(
            "label sequences, with a blank between equal neighbours, must be no longer than the "
            f"{log_p.shape[1]} positions of the output"
        )
    each = F.ctc_loss(
        log_p.transpose(0, 1),
        _packed(labels),
        lengths,
        sizes,
        blank=blank,
        reduction="none",
    )
    return each / sizes.clamp_min(1)


def ctc_hits(log_p: Tensor, labels: Tensor, blank: int, mask: Tensor | None) -> Tensor:
    """Return [n] 1 where the best path without repeats and blanks spells the labels, else 0."""
    blank = _check(log_p, labels, blank)
    lengths = _lengths(log_p, mask).tolist()
    hits = []
    for path, length, wanted in zip(log_p.argmax(-1), lengths, labels, strict=True):
        spelled = torch.unique_consecutive(path[:length])
        spelled = spelled[spelled != blank]
        hits.append(torch.equal(spelled, wanted[wanted >= 0].to(spelled.dtype)))
    return torch.tensor(hits, dtype=torch.float64, device=log_p.device)


def _check(log_p: Tensor, labels: Tensor, blank: int) -> int:
    if log_p.ndim != 3 or labels.ndim != 2 or labels.is_floating_point():
        raise DataError(
            "label sequences must be integers of shape [samples, most labels] for an output of shape "
            f"[samples, positions, classes]; got labels {list(labels.shape)}, output {list(log_p.shape)}"
        )
    classes = log_p.shape[-1]
    blank = blank % classes
    if bool((labels == blank).any()) or int(labels.max()) >= classes:
        raise DataError(
            f"labels must be classes below {classes} other than the blank {blank}, padded with -1; "
            "loss ctc has its blank first, ctc_last has it last"
        )
    return blank


def _lengths(log_p: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None and mask.shape == log_p.shape[:2]:
        return mask.sum(1)
    return torch.full((len(log_p),), log_p.shape[1], dtype=torch.int64, device=log_p.device)


def _packed(labels: Tensor) -> Tensor:
    """Labels one after another: padding may stand anywhere."""
    return labels[labels >= 0].to(torch.int64)
