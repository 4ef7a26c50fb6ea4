"""Devices that ship: found by what measurements call them, and those whose kernels are fitted."""

import re

from mpsearch.cost.device import Device, read_device
from mpsearch.errors import DeviceError
from mpsearch.registry import data_file, data_folder


def find_device(name: str) -> tuple[Device, str]:
    """Return the device called ``name``, and its file's text.

    A name may be a device's own, one of its aliases, how its own begins (``L40S``) or a file's path.

    Raises:
        DeviceError: No device is called so, or more than one; the message says how to give one.
    """
    stem = name
    if not name.endswith(".toml"):
        found = _called(name)
        if len(found) > 1:
            raise DeviceError(
                f"{name!r} may be {' or '.join(found)}: give one of them with --device"
            )
        if not found:
            raise DeviceError(
                f"no device is known as {name!r} (see `mpsearch list devices`); give its datasheet with --device "
                "FILE.toml: name, title, bandwidth_gb_s, formats, [peak_tflops], multiprocessors"
            )
        stem = found[0]
    path = data_file("cost_models", stem, "device")
    return read_device(stem), path.read_text(encoding="utf-8")


def fitted_devices() -> list[Device]:
    """Return the devices that ship with fitted kernels."""
    return [device for device in _shipped() if device.kernels]


def _called(name: str) -> list[str]:
    """Devices of this name or alias; else those whose name begins so."""
    wanted, devices = _plain(name), _shipped()
    exact = [d.name for d in devices if wanted in map(_plain, (d.name, *d.aliases))]
    return exact or [d.name for d in devices if _plain(d.name.partition("_")[0]) == wanted]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _shipped() -> list[Device]:
    return [read_device(path.stem) for path in sorted(data_folder("cost_models").glob("*.toml"))]
