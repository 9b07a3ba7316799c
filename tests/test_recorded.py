"""Simulations from a file train as if they came from the simulator itself."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import fsimformer as fsf
from fsimformer.archive import Archive, Failure
from fsimformer.child import fields_of
from fsimformer.recorded import OneDraw, Recorded, draw
from fsimformer.seeds import seed_at
from fsimformer.simulations import require_same_grid
from fsimformer.simulators import FunctionSimulator, check

HOURS = torch.linspace(0, 10, 21, dtype=torch.float64)
SCHEMA = fsf.Schema(
    (
        fsf.Variable("rate", "parameter", prior=fsf.LogNormal(-1.0, 0.5)),
        fsf.Variable("level", "data", ("time",), support=fsf.POSITIVE, noise=fsf.Noise("lognormal", 0.1)),
    ),
    (fsf.Index("time", 0.0, 10.0, "hours"),),
)


def decay(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A tank that empties; every rate above 0.5 is too fast for it."""
    rate = torch.exp(-1.0 + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64))
    level = 100 * torch.exp(-rate[:, None] * HOURS)
    return {"rate": rate, "level": torch.where(rate[:, None] > 0.5, torch.nan, level)}


SIMULATOR = FunctionSimulator(SCHEMA, decay, {"time": HOURS})


def archived(path: Path, n: int) -> Archive:
    """Written here, without children: what matters is what is in it."""
    archive = Archive.create(path, 3, 50, "decay", SCHEMA)
    one, k = OneDraw(SIMULATOR), 0
    with archive.writing() as writer:
        while len(archive) < n:
            results = {}
            while len(results) < 50:
                with suppress(FloatingPointError):
                    results[len(archive) + len(results)] = fields_of(one(seed_at(3, 7, k)))
                k += 1
            writer.write(results)
    return archive


def rows(recorded: Recorded) -> np.ndarray:
    """Every simulation as one row, in an order that does not count."""
    values = recorded.simulations.values
    table = torch.cat([values["rate"][:, None], values["level"]], 1).numpy()
    return table[np.argsort(table[:, 0])]


def test_from_archive_to_a_short_training(tmp_path: Path) -> None:
    archive = archived(tmp_path / "a.zarr", 200)
    assert archive.schema is not None
    runs = Recorded.read(archive.path, archive.schema)
    check(runs)
    data = archive.read()
    expected = np.concatenate([data["rate"].to_numpy()[:, None], data["level"].to_numpy()], 1)
    np.testing.assert_array_equal(rows(runs), expected[np.argsort(expected[:, 0])])
    config = fsf.TrainConfig(steps=3, batch_size=16, n_validation=16)
    joint = fsf.train(runs, simulations=runs.simulations, config=config)
    assert (joint.provenance["simulations"], joint.provenance["simulations_held_out"]) == (200, 20)
    same = fsf.train(SIMULATOR, simulations=runs.simulations, config=config)
    for a, b in zip(joint.model.denoiser.parameters(), same.model.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    observed = xr.Dataset({"level": ("time", [60.0, 20.0])}, {"time": [1.25, 4.0]})
    assert float(joint.condition(observed).sample(2)["posterior"]["rate"].min()) > 0


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_file_made_elsewhere(tmp_path: Path, ending: str) -> None:
    """Transposed, in float32, with rows that failed, and with things that nobody asks for."""
    data = draw(SIMULATOR, 120, seed=5)
    clean = rows(Recorded.of(data, SCHEMA))
    data = data.transpose("time", "simulation").assign(other=("simulation", np.arange(120)))
    data["level"][3, 7], data["rate"][8] = np.nan, -1.0  # both are no draws
    path = tmp_path / f"runs{ending}"
    data.to_netcdf(path, engine="h5netcdf") if ending == ".nc" else data.to_zarr(path, consolidated=False)
    with (
        pytest.warns(UserWarning, match="1 of 120 simulations are left out: 'rate' leaves its support"),
        pytest.warns(UserWarning, match="1 of 120 simulations are left out, the first of them row 7"),
    ):
        runs = Recorded.read(path, SCHEMA)
    assert runs.simulations.n_dropped == 2 and len(runs.simulations) == 118
    lost = draw(SIMULATOR, 120, seed=5)["rate"].to_numpy()[[7, 8]]
    np.testing.assert_array_equal(rows(runs), clean[~np.isin(clean[:, 0], lost)])
    renamed = Recorded.of(draw(SIMULATOR, 120, 5).rename(simulation="run").astype(np.float32), SCHEMA, dim="run")
    assert renamed.simulations.values["level"].dtype == torch.float32
    np.testing.assert_allclose(rows(renamed), clean, rtol=1e-6)


def test_a_simulator_says_how_its_recorded_draws_are_read_and_the_file_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "runs.nc"
    draw(SIMULATOR, 20, seed=5).isel(time=slice(None, None, 2)).to_netcdf(path, engine="h5netcdf")
    known = replace(SIMULATOR, natural=("level",), plausible={"level": (0.1, 200.0)})
    runs = Recorded.read(path, known)
    assert (runs.natural, runs.plausible) == (known.natural, known.plausible)
    assert torch.equal(runs.grid["time"], HOURS[::2])
    assert (Recorded.read(path, SCHEMA).natural, Recorded.read(path, SCHEMA).plausible) == ((), {})


def test_a_grid_in_dates_or_other_units_is_that_of_the_index() -> None:
    data = draw(SIMULATOR, 5, seed=5)
    dates = np.datetime64("2020-03-01", "ns") + (HOURS.numpy() * 3.6e12).astype("timedelta64[ns]")
    durations = (HOURS.numpy() * 3.6e12).astype("timedelta64[ns]")
    for labels, attrs in ((dates, {}), (durations, {}), (HOURS.numpy() * 60, {"units": "minutes"})):
        runs = Recorded.of(data.assign_coords(time=("time", labels, attrs)), SCHEMA)
        torch.testing.assert_close(runs.grid["time"], HOURS, rtol=0, atol=1e-9)
        check(runs)


def test_a_sorted_file_is_not_held_out_by_its_end() -> None:
    data = draw(SIMULATOR, 1_000, seed=6).sortby("rate")
    rate = Recorded.of(data, SCHEMA).simulations.values["rate"]
    u = torch.argsort(torch.argsort(rate)).double()[-100:] / 1_000  # ranks of the last tenth: uniform
    assert abs(float(u.mean()) - 0.5) < 4 * (1 / 12 / 100) ** 0.5
    assert torch.equal(rate, Recorded.of(data, SCHEMA).simulations.values["rate"])
    assert not torch.equal(rate, Recorded.of(data, SCHEMA, seed=1).simulations.values["rate"])


def test_no_new_draws_from_what_is_recorded() -> None:
    runs = Recorded.of(draw(SIMULATOR, 200, seed=5), SCHEMA)
    for simulations in (1_000, None):
        with pytest.raises(ValueError, match="no new draws can be made, 200 are recorded; expected train"):
            fsf.train(runs, simulations=simulations)


def test_a_checkpoint_goes_on_with_the_simulations_it_began_with(tmp_path: Path) -> None:
    """As many others of the same simulator would hand it what it held out."""
    config, path = fsf.TrainConfig(steps=2, batch_size=16, n_validation=16), tmp_path / "run.safetensors"
    own, same, other = (Recorded.of(draw(SIMULATOR, 120, seed), SCHEMA).simulations for seed in (5, 5, 6))
    for runs in (own, same):
        fsf.train(SIMULATOR, simulations=runs, config=config, checkpoint=path)
    with pytest.raises(ValueError, match="other settings of .*simulations_digest"):
        fsf.train(SIMULATOR, simulations=other, config=config, checkpoint=path)


def test_simulations_on_another_grid_than_the_simulator_s_are_refused() -> None:
    """Values are read by their position: those of half the range would be taken for those of all of it."""
    half = torch.linspace(0, 5, 21, dtype=torch.float64)
    elsewhere = replace(SCHEMA, dims=(fsf.Index("time", 0.0, 5.0, "hours"),))
    data = draw(SIMULATOR, 120, seed=5)
    runs = Recorded.of(data.assign_coords(time=half.numpy()), elsewhere).simulations
    with pytest.raises(ValueError, match=r"grid of 'time' has 21 points over \[0, 5\], expected .* 21 over \[0, 10\]"):
        fsf.train(SIMULATOR, simulations=runs)
    coarse = Recorded.of(data.isel(time=slice(None, None, 2)), SCHEMA).simulations
    with pytest.raises(ValueError, match=r"'level' has \[11\] points along \['time'\], expected \[21\]"):
        fsf.train(SIMULATOR, simulations=replace(coarse, grid=None))
    with pytest.raises(ValueError, match=r"expected a grid of \['time'\], got one of \['day'\]"):
        require_same_grid(replace(runs, grid={"day": HOURS}), SIMULATOR)
    require_same_grid(replace(runs, grid={"time": HOURS.float()}), SIMULATOR)  # rounded, and the same


def test_what_does_not_fit_the_schema_is_named() -> None:
    data = draw(SIMULATOR, 5, seed=5)
    ragged = data.drop_vars("time").assign_coords(time=(("simulation", "time"), np.tile(HOURS.numpy(), (5, 1))))
    cases: list[tuple[xr.Dataset, type[Exception], str]] = [
        (data.rename(simulation="run"), ValueError, r"no dim 'simulation' of simulations; its dims: \['run', 'time'\]"),
        (data.drop_vars("rate"), KeyError, r"lacks the variables \['rate'\]; it has \['level'\]"),
        (data.drop_vars("time"), KeyError, r"no coordinate 'time', .* Return it too: \{'time': \('time', points\), "),
        (data.isel(time=0), ValueError, r"'time': expected one grid for all simulations, .* got the dims \(\)"),
        (ragged, ValueError, r"expected one grid for all simulations, .* got the dims \('simulation', 'time'\)"),
        (data.assign(rate=data["level"]), ValueError, r"'rate': expected the dims \('simulation',\), got"),
        (data * np.nan, ValueError, "None of the 5 simulations is finite"),
        (
            data.assign(rate=data["rate"].astype("timedelta64[s]")),
            ValueError,
            "'rate': expected real numbers, got dtype tim",
        ),
        (data.assign(rate=data["rate"].astype(str)), ValueError, "'rate': expected real numbers, got dtype <U"),
        (data.assign(rate=data["rate"] + 1j), ValueError, "'rate': expected real numbers, got dtype complex128"),
    ]
    for bad, error, message in cases:
        with pytest.raises(error, match=message):
            Recorded.of(bad, SCHEMA)
    with pytest.raises(ValueError, match=r"runs.csv: unknown ending '.csv'. Choices: .nc, .nc4, .h5, .zarr"):
        Recorded.read("runs.csv", SCHEMA)
    with pytest.raises(ValueError, match="expected the trained range"):
        check(Recorded.of(data.isel(time=slice(10)), SCHEMA))


def test_one_draw_is_a_row_or_an_error() -> None:
    one, outcomes = OneDraw(SIMULATOR), set[str]()
    for seed in range(30):
        drawn = SIMULATOR.simulate(1, torch.Generator().manual_seed(seed))
        if drawn["rate"] > 0.5:
            with pytest.raises(FloatingPointError, match="not finite"):
                one(seed)
            outcomes.add("failed")
        else:
            found = one(seed)
            np.testing.assert_array_equal(found["level"][1], drawn["level"][0])
            assert found["level"][0] == ("time",) and "lognormal noise of sd 0.1" in found["level"][2]["comment"]
            outcomes.add("drawn")
    assert outcomes == {"failed", "drawn"}


def test_simulations_off_their_support_are_left_out_aloud() -> None:
    """A level of 0 is none of a positive series; nor is a number that could not be computed."""
    drawn = SIMULATOR.simulate(40, torch.Generator().manual_seed(0))
    level, rate = drawn["level"].numpy().copy(), drawn["rate"].numpy()
    failed = np.isnan(level).any(1)
    whole = np.flatnonzero(~failed)
    level[whole[:3], -1] = 0.0
    data = xr.Dataset({"rate": ("simulation", rate), "level": (("simulation", "time"), level)}, {"time": HOURS.numpy()})
    n, first = int(failed.sum()), int(failed.argmax())
    assert n
    message = rf"{n} of 40 simulations are left out, the first of them row {first}: .* not finite, \{{'level': {n}\}}"
    with (
        pytest.warns(UserWarning, match=r"3 of 40 simulations are left out: 'level' leaves its support .* value 0\."),
        pytest.warns(UserWarning, match=message),
    ):
        recorded = Recorded.of(data, SCHEMA)
    assert len(recorded.simulations) == 40 - int(failed.sum()) - 3


def test_an_archive_in_which_all_failed_says_of_what(tmp_path: Path) -> None:
    archive = Archive.create(tmp_path / "a.zarr", 0, 2, "f", None)
    with archive.writing() as writer:
        writer.write({i: Failure(i, 7, "TypeError", "f() takes no arguments") for i in range(2)})
    with pytest.raises(ValueError, match=r"all 2 simulations failed, the first: TypeError: f\(\) takes no arguments"):
        Recorded.read(archive.path, SCHEMA)
