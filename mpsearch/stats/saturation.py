"""How sums of one-at-a-time losses become losses of whole plans."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from mpsearch.stats.estimates import Floats


@dataclass(frozen=True, slots=True)
class Link:
    """From a sum to a loss, as the link of a generalised linear model.

    L = ceiling (1 - exp(-alpha z ** beta / ceiling)); linear for z <= 0.

    Attributes:
        alpha: Slope where losses are small.
        beta: Power of the sum.
        ceiling: Loss at which plans are saturated.
    """

    alpha: float = 1.0
    beta: float = 1.0
    ceiling: float = np.inf

    @property
    def linear(self) -> bool:
        """Whether sums are losses: where losses may be negative, or too few are known."""
        return self.beta == 1.0 and np.isinf(self.ceiling)

    def losses(self, z: Floats) -> Floats:
        """Return the losses of sums [P]."""
        if self.linear:
            return self.alpha * z
        power = self.alpha * np.maximum(z, 0.0) ** self.beta
        value: Floats = -self.ceiling * np.expm1(-power / self.ceiling)
        return value

    def sums(self, losses: Floats) -> Floats:
        """Return the sums of losses [P]; near the ceiling they are cut."""
        if self.linear:
            return losses / self.alpha
        share = np.clip(losses / self.ceiling, 0.0, 0.97)
        value: Floats = (-self.ceiling * np.log1p(-share) / self.alpha) ** (1 / self.beta)
        return value

    def slopes(self, z: Floats) -> Floats:
        """Return dL/dz at sums [P]."""
        if self.linear:
            return np.full(len(z), self.alpha)
        safe = np.maximum(z, 1e-12 * float(np.abs(z).max()) + 1e-300)
        power = self.alpha * safe**self.beta
        value: Floats = np.exp(-power / self.ceiling) * power * self.beta / safe
        return value


def fit_link(predicted: Floats, losses: Floats) -> Link:
    """Fit the link by robust least squares of logarithms, drawn towards the identity.

    Pairs that are not both positive are left out; with too few left, sums are losses.
    """
    good = (predicted > 0) & (losses > 0)
    if good.sum() < 3 or good.mean() < 0.7:
        return Link()
    x, y = np.log(predicted[good]), np.log(losses[good])
    top = float(y.max())

    def misfit(parameters: Floats) -> Floats:
        log_alpha, log_beta, room = parameters
        ceiling = top + np.logaddexp(0.0, room)  # log of a ceiling above all losses
        power = log_alpha + np.exp(log_beta) * x
        fit = ceiling + np.log(-np.expm1(-np.exp(np.minimum(power - ceiling, 30.0))))
        prior = [0.7 * log_alpha, 4.0 * log_beta, 0.1 * (room - 3.0)]
        return np.concatenate([(fit - y) / 0.2, prior])

    solved = least_squares(misfit, np.array([0.0, 0.0, 3.0]), loss="soft_l1")
    log_alpha, log_beta, room = solved.x
    return Link(
        float(np.exp(log_alpha)),
        float(np.exp(log_beta)),
        float(np.exp(top + np.logaddexp(0.0, room))),
    )
