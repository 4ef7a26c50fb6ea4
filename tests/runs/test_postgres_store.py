"""The shared store on a PostgreSQL server keeps what the one in a file does."""

from collections.abc import Iterator

import numpy as np
import pytest

from experiments.postgres import can_serve, server
from mpsearch.errors import JobError
from mpsearch.runs.store.shared import SharedStore

pytest.importorskip("psycopg")
pytestmark = pytest.mark.skipif(not can_serve(), reason="PostgreSQL is not installed")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with server() as found:
        yield found


def test_losses_schemes_and_artifacts_are_kept(url: str) -> None:
    losses = np.array([0.1, -2.0])
    with SharedStore(url) as store, SharedStore(url, durable=True) as other:
        store.describe("c", {"model": "m"})
        store.put("c", (1, 2), losses)
        other.put("c", (1, 2), losses + 1)  # the first stays
        other.put_many("c", [((i, 300), losses * i) for i in range(50)])
        np.testing.assert_array_equal(other.get("c", (1, 2)), losses.astype(np.float32))
        assert store.get("c", (9, 9)) is None
        assert store.counts() == {"c": 51}
        assert len(dict(store.items("c"))) == 51
        assert store.contexts() == {"c": {"model": "m"}}
        assert store.number_schemes(["a", "b"]) == other.number_schemes(["a", "b"])
        store.keep("digest", "ranges", b"\x00\x01")
        assert (other.take("digest"), other.take("none")) == (b"\x00\x01", None)
        assert store.size_bytes() > 0


def test_a_store_of_another_version_is_refused(url: str) -> None:
    with SharedStore(url) as store:
        store._db.rows("UPDATE mpsearch_store SET version = 9")
    with pytest.raises(JobError, match=r"store 127\.0\.0\.1/mpsearch: is of version 9"):
        SharedStore(url)
