"""Standard errors of few samples are Student's."""

import numpy as np
import pytest

from mpsearch.stats.estimates import estimate_mean

PUBLISHED = {2: 12.7062, 3: 4.30265, 10: 2.26216, 31: 2.04227, 121: 1.97993}  # t(n - 1) at 97.5 %


@pytest.mark.parametrize("n", PUBLISHED)
def test_the_error_of_a_symmetric_sample_is_that_of_students_t(n: int) -> None:
    samples = np.linspace(-1.0, 1.0, n)
    usual = samples.std(ddof=1) / n**0.5
    assert estimate_mean(samples).stderr / usual == pytest.approx(PUBLISHED[n] / 1.959964, rel=1e-5)
