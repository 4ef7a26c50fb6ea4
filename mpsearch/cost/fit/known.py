"""Devices that ship: found by what measurements call them, and those whose kernels are fitted."""

from mpsearch.cost.device import Device, read_device
from mpsearch.errors import DeviceError
from mpsearch.registry import data_file, data_folder


def find_device(name: str) -> tuple[Device, str]:
    """Return the device called ``name`` (or by one of its aliases, or in that file), and its file's text.

    Raises:
        DeviceError: No device is called so; the message says how to give one.
    """
    names = _names()
    if name.lower() not in names and not name.endswith(".toml"):
        aliases = ", ".join(sorted(said for said, stem in names.items() if said != stem))
        raise DeviceError(
            f"no device is known as {name!r} (there are {aliases}, and those of `mpsearch list devices`); "
            "give its datasheet with --device FILE.toml: name, title, bandwidth_gb_s, formats, [peak_tflops], "
            "multiprocessors"
        )
    stem = names.get(name.lower(), name)
    path = data_file("cost_models", stem, "device")
    return read_device(stem), path.read_text(encoding="utf-8")


def fitted_devices() -> list[Device]:
    """Return the devices that ship with fitted kernels."""
    devices = [read_device(path.stem) for path in sorted(data_folder("cost_models").glob("*.toml"))]
    return [device for device in devices if device.kernels]


def _names() -> dict[str, str]:
    """Name or alias, lower case, to the stem of the device's file."""
    names: dict[str, str] = {}
    for path in sorted(data_folder("cost_models").glob("*.toml")):
        device = read_device(path.stem)
        names |= {alias.lower(): path.stem for alias in (device.name, *device.aliases)}
    return names
