"""``mpsearch store``: what runs share, looked into, taken over and handed on."""

from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.console import Json, command, print_json
from mpsearch.cli.means import Durable, Store
from mpsearch.cli.printing.tables import print_table

app = typer.Typer(
    help="Losses that runs share: look, import, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _place(store: str | None) -> str:
    from mpsearch.errors import JobError

    if not store:
        raise JobError("a store must be given with --store PATH|URL or MPSEARCH_STORE")
    return store


@app.command("info")
@command
def info(
    store: Store = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read all of it and say whether it is whole.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what a store holds: models, data, how many losses, its size."""
    from mpsearch.errors import JobError
    from mpsearch.runs.store.shared import SharedStore

    with SharedStore(_place(store)) as opened:
        counts, contexts = opened.counts(), opened.contexts()
        kinds: dict[str, int] = {}
        for kind in opened.artifacts().values():
            kinds[kind] = kinds.get(kind, 0) + 1
        size = opened.size_bytes()
        damage = opened.check() if check else ""
        name = opened.name
    models: dict[tuple[str, str], int] = {}
    for digest, count in counts.items():
        about = contexts.get(digest, {})
        key = str(about.get("file", "other")), str(about.get("data", ""))[:12]
        models[key] = models.get(key, 0) + count
    if damage:
        raise JobError(
            f"store {name}: is damaged: {damage}; get what can be read with `sqlite3 STORE .recover`"
        )
    if as_json:
        rows = [{"model": m, "data": d, "losses": n} for (m, d), n in models.items()]
        print_json({"store": name, "bytes": size, "models": rows, "artifacts": kinds})
        return
    rows_said = [[model, data, str(count)] for (model, data), count in models.items()]
    print_table(f"{name}, {size / 1e6:.1f} MB", ["model", "data", "losses"], rows_said)
    for kind, count in kinds.items():
        print(f"{count} of {kind}")
    if check:
        print("whole: every page was read")


@app.command("import")
@command
def import_(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|STORE|FILE.parquet…", help="What is taken over."),
    ],
    store: Store = None,
    durable: Durable = False,
    as_json: Json = False,
) -> None:
    """Take over what runs, other stores or Parquet files hold; what is there already stays."""
    from mpsearch.runs.store.exchange import import_into
    from mpsearch.runs.store.shared import SharedStore

    with SharedStore(_place(store), durable=durable) as opened:
        found = {source.name: import_into(opened, source) for source in sources}
    if as_json:
        print_json({"new": found})
        return
    for name, count in found.items():
        print(f"{name}: {count} losses were new")


@app.command("export")
@command
def export(
    out: Annotated[Path, typer.Argument(metavar="FILE.parquet", help="The file to write.")],
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Write all losses of a store as a Parquet file, a row an assignment and batch."""
    from mpsearch.runs.store.exchange import export_parquet
    from mpsearch.runs.store.shared import SharedStore

    with SharedStore(_place(store)) as opened:
        count = export_parquet(opened, out)
    if as_json:
        print_json({"file": out.name, "rows": count})
    else:
        print(f"{out.name}: {count} losses")
