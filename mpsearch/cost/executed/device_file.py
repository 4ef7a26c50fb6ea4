"""A device as the TOML file that ``--device FILE.toml`` reads."""

from typing import Any

import tomli_w

from mpsearch.cost.device import Device


def device_text(device: Device) -> str:
    """Return ``device`` as TOML; keys that say nothing are left out."""
    said = device.model_dump(mode="json", exclude_defaults=True)
    return tomli_w.dumps(_said(said))


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _said(v) for k, v in value.items() if v not in (None, {}, [], "")}
    return [_said(v) for v in value] if isinstance(value, list) else value
