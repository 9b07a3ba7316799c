"""The commands `fsimformer train` and `fsimformer simulate`: parsers, work, and the simulators that a user names.

As in cli.py heavy imports wait until a command needs them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsimformer.beside import replaced
from fsimformer.cli_command import add_command, add_config, check_folder, progress_bar, settings
from fsimformer.files import ZARR, require_netcdf

if TYPE_CHECKING:
    from fsimformer.arriving import Arriving
    from fsimformer.recorded import Recorded
    from fsimformer.simulators import Simulator

SIMULATORS = {
    "epidemic": "Epidemic",
    "hare_lynx": "HareLynx",
    "hodgkin_huxley": "HodgkinHuxley",
    "influenza": "Influenza",
    "lotka_volterra": "LotkaVolterra",
    "sird": "SIRD",
}
_CHUNK = 100  # simulations; None stands for it, so that a --chunk nobody heeds can be told
_SIMULATOR_HELP = f"{', '.join(SIMULATORS)}, or your own: MODULE:NAME or FILE.py:NAME"
_TABLES = ("train", "network", "design", "masks")
_OWN_HELP = "; for an archive also a function of a seed that returns a Dataset or a mapping"


def add_train(commands: Any) -> None:
    """Its parser."""
    train = add_command(
        commands,
        "train",
        _train,
        "train a model on a simulator",
        [
            "fsimformer train sird --simulations 50000 --steps 20000 --checkpoint run.safetensors --out my_model",
            "fsimformer train my_simulator.py:decay --out decay_model",
            "fsimformer train my_simulator.py:decay --archive runs.zarr --out decay_model",
            "fsimformer train --config run.toml",
            "torchrun --nproc-per-node=4 -m fsimformer train sird --out my_model",
            "",
            'run.toml:  simulator = "my_simulator.py:decay"',
            "           simulations = 20_000",
            '           out = "decay_model"',
            "           [train]                      # fields of fsimformer.TrainConfig",
            "           steps = 20_000",
            "           batch_size = 64",
            "           [network]                    # of NetworkConfig; [design]: Design; [masks]: MaskConfig",
            "           width = 64",
        ],
        required=("simulator", "out"),
    )
    train.add_argument("simulator", nargs="?", help=f"{_SIMULATOR_HELP}; with --archive also a Schema of its variables")
    source = train.add_mutually_exclusive_group()
    source.add_argument("--simulations", type=int, default=100_000, help="fixed budget (default: %(default)s)")
    source.add_argument("--fresh", action="store_true", help="new simulations at every step, no fixed budget")
    source.add_argument("--archive", type=Path, metavar="FILE", help="these simulations: an archive, .nc or .zarr")
    train.add_argument(
        "--online", type=int, metavar="N", help="the archive is still being written: train as its N simulations arrive"
    )
    train.add_argument("--steps", type=int, help="optimiser steps (default: the library's)")
    train.add_argument("--checkpoint", type=Path, metavar="FILE", help="written as it runs; resumed from if it exists")
    train.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    train.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of products (default: %(default)s)"
    )
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--out", type=Path, metavar="DIR", help="the model's directory")
    train.add_argument("--replace", action="store_true", help="a model that is there already gives way")
    train.add_argument("--json", action="store_true", help="print what was trained for machines")
    add_config(train, _TABLES)


def add_simulate(commands: Any) -> None:
    """Its parser."""
    simulate = add_command(
        commands,
        "simulate",
        _simulate,
        "write draws of a simulator: clean paths, or with --noise readings",
        [
            "fsimformer simulate sird --n 100 --out simulations.nc",
            "fsimformer simulate sird --n 20 --noise --out surveys.nc    # as an observer has them",
            "fsimformer simulate my_simulator.py:tank --n 10000 --limit 60 --out runs.zarr    # again: resumes",
            "fsimformer simulate --config run.toml --n 20000",
        ],
        required=("simulator", "out"),
    )
    simulate.add_argument("simulator", nargs="?", help=_SIMULATOR_HELP + _OWN_HELP)
    simulate.add_argument("--n", type=int, default=100, help="how many (default: %(default)s)")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--noise", action="store_true", help="readings: noise on every point of every series")
    simulate.add_argument("--out", type=Path, metavar="FILE", help="a .nc file, or an archive: .zarr")
    simulate.add_argument("--json", action="store_true", help="print what was written for machines")
    add_config(simulate)
    archive = simulate.add_argument_group("archive", "run in parallel, failures kept apart; resumed or extended")
    archive.add_argument("--workers", type=int, help="how many simulations at a time (default: one a CPU)")
    archive.add_argument("--limit", type=float, metavar="SECONDS", help="kill a simulation that takes longer")
    archive.add_argument("--chunk", type=int, help=f"simulations a chunk (default: {_CHUNK})")


def _train(args: argparse.Namespace) -> None:
    check_folder(args.out)
    import fsimformer
    from fsimformer.devices import joined
    from fsimformer.folder import require_free
    from fsimformer.masks import MaskConfig
    from fsimformer.network_config import NetworkConfig
    from fsimformer.readings import Design
    from fsimformer.recorded import Recorded
    from fsimformer.train_config import TrainConfig

    require_free(args.out)  # not after hours of training
    if args.checkpoint is not None and args.out.resolve() in args.checkpoint.resolve().parents:
        raise ValueError(
            f"--checkpoint {args.checkpoint}: lies in the model's directory {args.out}; choose a path beside."
        )
    if args.out.exists() and any(args.out.iterdir()) and not args.replace:
        raise FileExistsError(f"{args.out} holds a model; choose another path, or --replace it.")
    if args.online is not None and args.archive is None:
        raise ValueError("--online: expected --archive FILE, an archive that is being written.")
    recorded = None if args.archive is None else _recorded(args)
    simulator = find_simulator(args.simulator) if recorded is None else recorded
    if arrays := list(simulator.schema.arrays):
        raise ValueError(f"{args.simulator} has array variables {arrays}; train it in Python: train(embeddings=...).")
    line = {"seed": args.seed} | ({} if args.steps is None else {"steps": args.steps})
    if "seed" in (table := args.tables.get("train", {})):
        raise ValueError(f"{args.config}, [train]: the seed is no part of a table; write seed = {table['seed']} above.")
    config = settings(TrainConfig, f"{args.config}, [train]", table, **line)
    kinds: dict[str, Any] = {"network": NetworkConfig, "design": Design, "masks": MaskConfig}
    others = {k: settings(kinds[k], f"{args.config}, [{k}]", v) for k, v in args.tables.items() if k in kinds}
    simulations: Any = None if args.fresh else args.simulations
    recorded = simulator if isinstance(simulator, Recorded) else recorded  # of `fsf.recorded`, named in a file
    if recorded is not None:
        simulations = recorded.simulations if isinstance(recorded, Recorded) else recorded
    with joined(args.device) as group, progress_bar(config.steps, "step", shown=group.first) as show:
        joint = fsimformer.train(
            simulator,
            simulations=simulations,
            config=config,
            checkpoint=args.checkpoint,
            callback=lambda at: show(at.step, None if at.validation is None else f"validation={at.validation:.4f}"),
            device=group.device,
            precision=args.precision,
            group=group,
            **others,
        )
    if not group.first:
        return
    joint.save(args.out)
    loss, best = joint.provenance["best_validation_loss"], joint.provenance["best_step"]
    if args.json:
        about = {"out": str(args.out), "n_parameters": joint.n_parameters, "seed": config.seed, "steps": config.steps}
        print(json.dumps({**about, "best_validation_loss": loss, "best_step": best}))
        return
    print(f"{args.out}: {joint.n_parameters:,} parameters, validation loss {loss:.4f} (step {best})")


def _recorded(args: argparse.Namespace) -> Recorded | Arriving:
    """The archive's simulations, or those that it will have. Who has a black box has no Simulator: a Schema will do."""
    from fsimformer.recorded import Recorded
    from fsimformer.schema import Schema
    from fsimformer.simulators import Simulator

    own = _find(args.simulator)
    if not isinstance(own, Schema | Simulator):
        raise ValueError(f"{args.simulator} is a {type(own).__name__}; --archive needs a Schema or a Simulator.")
    if args.online is None:
        return Recorded.read(args.archive, own)
    from fsimformer.arriving import Arriving

    return Arriving.open(args.archive, own, args.online)


def _simulate(args: argparse.Namespace) -> None:
    if args.n < 1:
        raise ValueError(f"--n: expected at least 1, got {args.n}.")
    check_folder(args.out)
    if args.out.suffix in ZARR:
        if args.noise:
            raise ValueError(f"--noise: archives are to be trained on and hold clean paths; got --out {args.out}.")
        from fsimformer.campaign import simulate_to

        with progress_bar(args.n, "simulation") as show:
            archive = simulate_to(
                args.out,
                _find(args.simulator),
                args.n,
                seed=args.seed,
                chunk=_CHUNK if args.chunk is None else args.chunk,
                limit=args.limit,
                workers=args.workers,
                callback=lambda at: show(at.n_done, f"failed={at.n_failed}" if at.n_failed else None),
            )
        n_failed = len(archive.failures)
        _say(args, len(archive), n_failed, f"{args.out}: {len(archive)} simulations, {n_failed} of them failed")
        return
    require_netcdf(args.out)
    of_archives = {"--workers": args.workers, "--limit": args.limit, "--chunk": args.chunk}
    if given := [option for option, value in of_archives.items() if value is not None]:
        raise ValueError(
            f"{', '.join(given)}: for archives only, got --out {args.out}; choose a .zarr, or leave it out."
        )
    from fsimformer.recorded import draw

    simulator = find_simulator(args.simulator)
    if args.noise and not any(simulator.schema[k].noise for k in simulator.schema.data):
        raise ValueError(f"--noise: the schema of {args.simulator} states no noise; leave the option out.")
    drawn = draw(simulator, args.n, args.seed, args.noise)
    with replaced(args.out) as part:
        drawn.to_netcdf(part, engine="h5netcdf")
    dropped = int(drawn.attrs["n_dropped"])
    more = f"; {dropped} more were not finite and dropped" if dropped else ""
    _say(args, args.n, dropped, f"{args.out}: {args.n} simulations{more}")


def _say(args: argparse.Namespace, n: int, n_failed: int, text: str) -> None:
    print(json.dumps({"out": str(args.out), "n": n, "n_failed": n_failed, "seed": args.seed}) if args.json else text)


def find_simulator(name: str) -> Simulator:
    """A simulator that ships, by name, or the user's own from MODULE:NAME or FILE.py:NAME.

    Raises:
        KeyError: no such name.
        ValueError: the named object is no simulator.
        FileNotFoundError, ImportError: no such file or module.
    """
    from fsimformer import simulators

    own = _find(name)
    if not isinstance(own, simulators.Simulator):
        hint = ". A function of a seed fills an archive: simulate --out FILE.zarr" if callable(own) else ""
        raise ValueError(f"{name} is a {type(own).__name__}; a Simulator has `schema`, `grid` and `simulate`{hint}.")
    return own


def _find(name: str) -> Any:
    from fsimformer import simulators

    if name in SIMULATORS:
        return getattr(simulators, SIMULATORS[name])()
    place, colon, attribute = name.rpartition(":")
    if not colon:
        raise KeyError(f"No simulator named {name!r}. Choices: {', '.join(SIMULATORS)}, MODULE:NAME, FILE.py:NAME.")
    module = _import(place)
    if not hasattr(module, attribute):
        raise KeyError(f"{place} has no {attribute!r}.")
    own = getattr(module, attribute)
    return own() if isinstance(own, type) else own


def _import(place: str) -> Any:
    import importlib
    import importlib.util

    if not place.endswith(".py"):
        return importlib.import_module(place)
    if not Path(place).exists():
        raise FileNotFoundError(f"No such file: {place}")
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
