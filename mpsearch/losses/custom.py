"""The user's own measure of quality: a function of a model's outputs, one number a sample.

Named as ``module:function``, it is imported and run: only ever from a name that the user gave for
that purpose.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.errors import DataError

Arrays = Mapping[str, NDArray[Any]]
ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class Quality:
    """A score of outputs.

    Attributes:
        name: ``module:function``.
        function: (output name to array, input name or ``labels`` to array) to [n] numbers, one a sample of the
            batch. Its attribute ``higher_is_better`` says what is good; True where it has none.
    """

    name: str
    function: Callable[[Arrays, Arrays], Any]

    @property
    def sign(self) -> int:
        """1 where lower is better, −1 where higher is: what turns the score into a loss."""
        return -1 if getattr(self.function, "higher_is_better", True) else 1

    def score(self, outputs: Arrays, batch: Arrays, n: int) -> NDArray[np.float64]:
        """Return the [n] scores of a batch.

        Raises:
            DataError: The function fails, or does not return one finite number a sample.
        """
        try:
            found = np.asarray(self.function(outputs, batch), np.float64)
        except Exception as error:
            raise DataError(
                f"quality {self.name} raised {type(error).__name__}: {error}"
            ) from error
        if found.shape != (n,):
            raise DataError(
                f"quality {self.name} must return one number for each of {n} samples, "
                f"got shape {list(found.shape)}"
            )
        if not np.isfinite(found).all():
            raise DataError(
                f"quality {self.name} must return finite numbers, it returned NaN or Inf"
            )
        return found


def find_quality(name: str) -> Quality:
    """Import ``module:function``.

    Raises:
        DataError: It cannot be imported, or is no function.
    """
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise ValueError("there is no ':'")
        function = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"quality must be {ACCURACY} or module:function that imports; {name!r}: {error}"
        ) from None
    if not callable(function):
        raise DataError(f"quality {name} must be a function, got {type(function).__name__}")
    return Quality(name, function)
