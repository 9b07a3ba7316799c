"""The command `fsimformer check`: every diagnostic of a model over fresh simulations, on a page of HTML.

As in cli.py heavy imports wait until a command needs them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsimformer.beside import replaced
from fsimformer.cli_train import SIMULATORS, add_command, check_folder, find_simulator, progress_bar
from fsimformer.files import require_netcdf

if TYPE_CHECKING:
    from fsimformer.schema import Schema
    from fsimformer.simulators import Simulator


def add_check(commands: Any) -> None:
    """Its parser."""
    check = add_command(commands, "check", _check, "test whether a model's draws are calibrated, on new simulations")
    check.add_argument("model", help="name of a model that ships, or a model's directory")
    check.add_argument(
        "--simulator",
        help=f"{', '.join(SIMULATORS)}, or your own: MODULE:NAME or FILE.py:NAME (default: the one that the card "
        "names, if it ships)",
    )
    check.add_argument(
        "--out", type=Path, required=True, metavar="FILE.html", help="the report, one self-contained page"
    )
    check.add_argument("--netcdf", type=Path, metavar="FILE.nc", help="also write all results as netCDF groups")
    check.add_argument("--n", type=int, default=200, help="data sets (default: %(default)s)")
    check.add_argument("--draws", type=int, default=100, help="draws for each (default: %(default)s)")
    check.add_argument("--quality", choices=("sde", "fast", "exact", "few"), default="sde", help="default: %(default)s")
    check.add_argument("--seed", type=int, default=0)


def _check(args: argparse.Namespace) -> None:
    from fsimformer.report import report  # before the work: without matplotlib there is no report

    for path in (args.out, args.netcdf):
        check_folder(path)
    if args.netcdf is not None:
        require_netcdf(args.netcdf)
    from fsimformer.joint import load
    from fsimformer.model_file import find_model, read_card

    schema, card = read_card(find_model(args.model))
    if arrays := list(schema.arrays):
        raise ValueError(f"{args.model} has array variables {arrays}: check it in Python, joint.check(simulator).")
    if args.simulator is None:
        simulator = simulator_of(schema, card["provenance"], args.model)
    else:
        simulator = find_simulator(args.simulator)
    joint = load(args.model)
    with progress_bar(args.n, "data set") as show:
        tree = joint.check(
            simulator,
            args.n,
            args.draws,
            quality=args.quality,
            seed=args.seed,
            callback=lambda done, n: show(done, None),
        )
    with replaced(args.out) as part:
        part.write_text(report(tree, str(args.model), joint.provenance), encoding="utf-8")
    if args.netcdf is not None:
        with replaced(args.netcdf) as part:
            tree.to_netcdf(part, engine="h5netcdf")
    tests = tree["tests"].to_dataset()
    for name in tests["test"].to_numpy()[tests["rejected"].to_numpy()]:
        one = tests.sel(test=name)
        print(f"rejected  {name}: effect {one['effect'].item():.3g}, p {one['p_adjusted'].item():.2g}")
    print(f"{args.out}: {tree.attrs['verdict']}")


def simulator_of(schema: Schema, provenance: Mapping[str, Any], model: str) -> Simulator:
    """The simulator that a model's card names, with the settings that the card holds as plain values.

    Raises:
        ValueError: it does not ship, or its variables are not the model's: nested settings, such as priors of one's
            own, are not read back from a card.
    """
    from fsimformer import simulators

    name = provenance.get("simulator")
    kind: Any = getattr(simulators, str(name), None) if name in SIMULATORS.values() else None
    if kind is None or not is_dataclass(kind):
        raise ValueError(f"{model}: its card names the simulator {name!r}, which does not ship; pass --simulator.")
    build: Any = kind
    config = provenance.get("simulator_config", {})
    settings: dict[str, Any] = {}
    for field in fields(kind):
        held = config.get(field.name)
        if field.name not in config and field.name == "reference":
            settings["reference"] = ()  # a card from before there were reference sets
        elif isinstance(held, bool | int | float | str):
            settings[field.name] = held
        elif isinstance(held, list) and all(isinstance(x, int | float) for x in held):
            settings[field.name] = tuple(held)
    simulator: Simulator = build(**settings)
    if simulator.schema != schema:
        raise ValueError(f"{model}: {name} with the settings of its card has other variables; pass --simulator.")
    return simulator
