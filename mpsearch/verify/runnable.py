"""An export as one ONNX file that runtimes open, whatever the target stores."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx

from mpsearch.export.npu.layout import LAYOUT
from mpsearch.export.npu.unpack import assemble
from mpsearch.runtimes.session import find_model

NPU_NOTE = (
    "weights were unpacked from the NPU's blobs into its graph: files and roundings are proven, not the NPU's "
    "own arithmetic"
)


@contextmanager
def runnable(exported: str | Path | Sequence[str | Path]) -> Iterator[tuple[Path, str]]:
    """Yield the path of an export's ONNX model, and what a reader of results must know of it; "" if nothing.

    The weights of an NPU export are unpacked into a model that lasts as long as the context.

    Args:
        exported: Its folder, its file, or the paths that the export returned.

    Raises:
        PlanError: There is no model, or the files of an NPU export do not belong together.
    """
    folder = _packed_folder(exported)
    if folder is None:
        yield find_model(exported), ""
        return
    model = assemble(folder)
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "unpacked.onnx"
        is_large = model.ByteSize() > 2**31 - 2**24
        onnx.save_model(model, path, save_as_external_data=is_large)
        del model
        yield path, NPU_NOTE


def _packed_folder(exported: str | Path | Sequence[str | Path]) -> Path | None:
    """The folder of an NPU export, None where it is another one."""
    given = [exported] if isinstance(exported, str | Path) else list(exported)
    for path in map(Path, given):
        folder = path if path.is_dir() else path.parent
        if (folder / LAYOUT).is_file():
            return folder
    return None
