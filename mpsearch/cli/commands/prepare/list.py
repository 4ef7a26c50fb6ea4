"""``mpsearch list``: names that commands and job files take."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.printing.tables import print_table


class What(StrEnum):
    """What can be listed."""

    schemes = "schemes"
    spaces = "spaces"
    devices = "devices"
    targets = "targets"
    metrics = "metrics"
    searchers = "searchers"
    rules = "rules"
    recoveries = "recoveries"
    exporters = "exporters"
    runtimes = "runtimes"


@command
def list_names(
    what: Annotated[What, typer.Argument(help="What to list.")], as_json: Json = False
) -> None:
    """List the names that commands and job files take, with a word on each."""
    found = _described(what)
    if as_json:
        more = _npus() if what is What.devices else _targets() if what is What.targets else {}
        print_json([{"name": name, "about": about, **more.get(name, {})} for name, about in found])
    elif what is What.targets:
        facts = _targets()
        rows = [
            [name, facts[name]["exporter"], facts[name]["proof"], ", ".join(facts[name]["schemes"])]
            for name, _ in found
        ]
        print_table(what, ["name", "exporter", "proof", "schemes"], rows, text_columns=4)
        for name, about in found:
            print(f"{name}: {about}; {facts[name]['version']}")
            for source in facts[name]["sources"]:
                print(f"    {source}")
    elif any(about for _, about in found):
        print_table(
            what, ["name", "about"], [[name, about] for name, about in found], text_columns=2
        )
    else:
        print("\n".join(name for name, _ in found))


def _described(what: What) -> list[tuple[str, str]]:
    from mpsearch import registry

    if what is What.schemes:
        from mpsearch.schemes import SCHEMES

        return [
            (
                name,
                f"weights {scheme.weight.format} per {scheme.weight.granularity}, activations "
                f"{scheme.activation.format} per {scheme.activation.granularity}"
                + (f", {scheme.sparsity} sparse" if scheme.sparsity else ""),
            )
            for name, scheme in SCHEMES.items()
        ]
    if what in (What.spaces, What.devices, What.targets):
        folder: registry.DataFolder = {
            What.spaces: "search_spaces",
            What.devices: "cost_models",
            What.targets: "search_spaces/targets",
        }[what]  # type: ignore[assignment]  # the three folders
        return [
            (path.stem, _about(path.read_text(encoding="utf-8")))
            for path in sorted(registry.data_folder(folder).glob("*.toml"))
        ]
    kind: registry.Kind = what.value  # type: ignore[assignment]  # the others are kinds
    if what is What.recoveries:
        kind = "recovery_methods"
    return [(name, registry.describe(kind, name)) for name in registry.list_names(kind)]


def _npus() -> dict[str, dict[str, Any]]:
    """Area, operating points and what the model leaves out, of each device that has arrays of its own."""
    from mpsearch.cost.device import read_device
    from mpsearch.cost.npu_device import area, left_out
    from mpsearch.registry import data_folder

    devices = [read_device(path) for path in sorted(data_folder("cost_models").glob("*.toml"))]
    return {
        device.name: {
            "area": area(device.npu),
            "points": {
                k: v.model_dump(exclude={"extensions"}) for k, v in device.npu.points.items()
            },
            "left_out": list(left_out(device.npu)),
        }
        for device in devices
        if device.npu is not None
    }


def _targets() -> dict[str, dict[str, Any]]:
    """Exporter, proof, schemes, limits and sources of each target."""
    from mpsearch.registry import list_names
    from mpsearch.space.targets import list_targets, read_target

    known = list_names("exporters")
    return {
        target.name: {
            "version": target.version,
            "exporter": target.exporter,
            "exports": target.exporter in known,
            "proof": target.proof,
            "opset": target.opset,
            "schemes": list(target.schemes),
            "bases": list(target.bases),
            "rules": [
                {
                    "id": rule.id,
                    "severity": rule.severity,
                    "reason": rule.reason,
                    "source": rule.source,
                }
                for rule in target.rules
            ],
            "groups": [fused.model_dump(exclude={"extensions"}) for fused in target.groups],
            "sources": list(target.sources),
        }
        for target in map(read_target, list_targets())
    }


def _about(text: str) -> str:
    import tomllib

    data = tomllib.loads(text)
    return str(data.get("title") or data.get("description") or "")
