"""The face: draws of a Joint with random weights mean nothing, but their invariances and refusals must hold."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file
from tiny import SCHEMA, joint, seeded

import fsimformer as fsf
from fsimformer.convert import ObservationWarning
from fsimformer.folder import CARD, WEIGHTS
from fsimformer.joint import Joint
from fsimformer.sample import SamplerConfig
from fsimformer.stages import Budget
from fsimformer.tokens import FEW, Dial

QUICK = SamplerConfig("ab2", 4)
DAYS = pd.date_range("2021-03-01", periods=6, freq="D")


def observed(n: int = 5, seed: int = 0, **scalars: float) -> xr.Dataset:
    """n readings of y at random times, one of them missing, and maybe scalars."""
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(size=n))
    values[1] = np.nan
    return xr.Dataset({"y": ("time", values), **scalars}, coords={"time": np.sort(rng.uniform(0, 20, n))})


def flat(tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Every drawn variable by its path, chains joined."""
    return {
        f"{group}/{name}": v.values.reshape(-1, *v.shape[2:])
        for group in ("prior", "posterior", "posterior_predictive", "predictions")
        if group in tree.children
        for name, v in tree[group].data_vars.items()
    }


def assert_close(a: dict[str, np.ndarray], b: dict[str, np.ndarray], exact: bool = False) -> None:
    assert a.keys() == b.keys() and a
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0 if exact else 2e-5, atol=0 if exact else 2e-5, err_msg=name)


def test_everything_unobserved_is_drawn_inside_its_support() -> None:
    tree = joint().condition(observed()).sample(10, quality=QUICK)
    draws = flat(tree)
    assert set(draws) == {"posterior/a", "posterior/w", "posterior/rate", "predictions/y", "predictions/x"}
    assert np.all(np.abs(draws["posterior/a"]) < 2) and np.all(draws["posterior/w"] > 0)
    assert draws["posterior/rate"].shape == (10, 5) and draws["predictions/y"].shape == (10, 1)
    assert tree["posterior/a"].dims == ("chain", "draw") and tree["posterior"].sizes["chain"] == 2
    assert dict(tree["sample_stats"].data_vars.items())["evaluations"].item() == 4
    assert all(v.std() > 0 for v in draws.values())


def test_equal_seeds_and_generators_give_equal_draws() -> None:
    c = joint().condition(observed())
    a, b, other = (flat(c.sample(6, seed=s, quality=QUICK)) for s in (3, 3, 4))
    assert_close(a, b, exact=True)
    assert not np.allclose(a["posterior/a"], other["posterior/a"])
    a, b = (c.sample(6, generator=seeded(5), quality=QUICK) for _ in range(2))
    assert_close(flat(a), flat(b), exact=True)
    assert_close(flat(a), flat(c.sample(6, seed=a["sample_stats/seed"].item(), quality=QUICK)), exact=True)


def test_loading_and_sampling_leave_the_global_generators_and_the_data_alone(tmp_path: Path) -> None:
    ds = observed()
    joint().save(tmp_path / "model")
    before, state, numpy_state = ds.copy(deep=True), torch.get_rng_state(), np.random.get_state()[1].copy()
    fsf.load(tmp_path / "model").condition(ds).sample(4, quality=SamplerConfig("sde_2m", 3))
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], numpy_state)
    xr.testing.assert_identical(ds, before)


@pytest.mark.parametrize("quality", [QUICK, SamplerConfig("sde_2m", 4)], ids=["ode", "sde"])
def test_more_draws_and_smaller_budgets_change_none(quality: SamplerConfig) -> None:
    """Draw i is draw i: chains are cut after the draws are made."""
    c, at = joint().condition(observed()), {"rate": np.linspace(0, 20, 15), "y": [1.0, 2.0]}
    few = flat(c.sample(4, at, quality=quality))
    many = flat(c.sample(10, at, quality=quality))
    assert_close({k: v[:4] for k, v in many.items()}, few)
    assert_close(flat(c.sample(4, at, quality=quality, budget=Budget(12, max_tokens=1))), few)


def batch_of(sets: list[xr.Dataset]) -> xr.Dataset:
    """Data sets of different lengths along `site`, padded with NaN, each on its own times."""
    length = max(ds.sizes["time"] for ds in sets)
    y, t = np.full((2, len(sets), length), np.nan)
    for i, ds in enumerate(sets):
        y[i, : ds.sizes["time"]], t[i, : ds.sizes["time"]] = ds.y, ds.time
    return xr.Dataset(
        {"y": (("site", "obs"), y)},
        coords={"time": (("site", "obs"), t), "site": [f"s{i}" for i in range(len(sets))]},
    )


@pytest.mark.parametrize("dial", [2, "few", None])
def test_a_batch_is_a_loop_and_mates_do_not_matter(dial: Dial) -> None:
    """The first of a batch equals the data set alone; the second does not depend on the first's content."""
    model, a, b, c = joint(n_active_observed=dial), observed(5, 1), observed(11, 2), observed(3, 3)
    readings = [int(ds["y"].notnull().sum()) for ds in (a, b, c)]
    assert min(readings) <= FEW < max(readings)  # with "few", all of one ride and none of another
    at = {"rate": [2.0, 5.0, 11.0]}

    def draws(sets: list[xr.Dataset]) -> dict[str, np.ndarray]:
        return flat(model.condition(batch_of(sets), batch_dim="site").sample(6, at, quality=QUICK))

    first = [draws([ds, a, b])["posterior/rate"][:, 0] for ds in (a, b, c)]
    for ds, batched in zip((a, b, c), first, strict=True):
        alone = flat(model.condition(ds).sample(6, at, quality=QUICK))
        np.testing.assert_allclose(batched, alone["posterior/rate"], rtol=0, atol=2e-5)
    assert not np.allclose(first[0], first[1], atol=1e-3)  # what is observed matters
    second = [draws(sets)["posterior/rate"][:, 1] for sets in ([a, b], [c, b], [c, b, a, a])]
    for other in second[1:]:
        np.testing.assert_allclose(other, second[0], rtol=0, atol=2e-5)


def test_the_dial_changes_the_cost_not_the_tokens() -> None:
    """Random weights: other numbers, same variables; the default is the model's own dial."""
    model, ds = joint(n_active_observed=2), observed()
    default, two, none, every = (
        flat(model.condition(ds, **k).sample(4, quality=QUICK))
        for k in ({}, {"n_active_observed": 2}, {"n_active_observed": 0}, {"n_active_observed": None})
    )
    assert_close(default, two, exact=True)
    few = flat(model.condition(ds, n_active_observed="few").sample(4, quality=QUICK))
    np.testing.assert_allclose(few["posterior/a"], every["posterior/a"], atol=2e-5)  # four readings: all ride
    assert none.keys() == every.keys() == two.keys() and not np.allclose(none["posterior/a"], every["posterior/a"])


def test_dates_in_are_dates_out() -> None:
    ds = observed(6).assign_coords(time=DAYS)
    tree = joint().condition(ds).sample(4, {"rate": DAYS[[4, 1]], "y": [DAYS[5] + pd.Timedelta("12h")]}, quality=QUICK)
    assert list(tree["posterior/rate"].time.values) == list(DAYS[[4, 1]].values)
    assert list(tree["predictions/y"].time.values) == [np.datetime64("2021-03-06T12")]
    numbers = ds.assign_coords(time=np.arange(6.0))  # days since the first
    same = joint().condition(numbers).sample(4, {"rate": [4.0, 1.0], "y": [5.5]}, quality=QUICK)
    assert_close(flat(tree), flat(same))


def test_the_prior_and_what_was_observed() -> None:
    model = joint()
    prior = flat(model.condition().sample(4, {"rate": [1.0]}, quality=QUICK))
    assert set(prior) == {"prior/a", "prior/w", "prior/rate"}
    tree = model.condition(observed(a=0.5)).sample(4, quality=QUICK)
    assert "a" not in tree["posterior"] and tree["observed_data/a"].item() == 0.5


def test_too_many_readings_warn_with_the_trained_range() -> None:
    model = joint()
    with pytest.warns(ObservationWarning, match="'y' has 11 readings; training had 0 to 10 a channel"):
        model.condition(observed(12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.condition(observed(11))  # one of them is missing


def y(*values: float) -> xr.DataArray:
    return xr.DataArray(list(values), {"time": np.arange(1.0, 1.0 + len(values))}, "time", name="y")


def test_readings_that_training_never_observed_warn_of_units() -> None:
    model = joint()
    with pytest.warns(ObservationWarning, match="2 of 3 readings of 'y' lie outside .*0.001 to 1e.03; the first is 4"):
        model.condition({"y": y(4000.0, 2.0, 5e-4)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.condition({"y": y(400.0, 2.0, np.nan)})
        model.condition({"y": y(4000.0, 2.0)})  # one in a thousand lies outside where all is well
    stated = Joint(replace(model.model, plausible=("y",)))
    with pytest.warns(ObservationWarning, match="1 of 2 readings of 'y'"):
        stated.condition({"y": y(4000.0, 2.0)})
    regions = xr.concat(
        [y(1.0, 2.0), y(4000.0, 3000.0)], xr.DataArray(["north", "south"], dims="region", name="region")
    )
    with pytest.warns(ObservationWarning, match="2 of 2 readings of 'y' of south lie outside") as caught:
        model.condition(regions, batch_dim="region")
    assert len(caught) == 1 and caught[0].filename == __file__  # the others are fine; the caller's line


def test_nothing_left_to_sample() -> None:
    ds = xr.Dataset({"a": 0.5, "w": ("part", [1.0, 2.0])})
    with pytest.raises(ValueError, match="nothing is left to sample"):
        joint().condition(ds).sample(4)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    joint().save(tmp_path / "model")
    return tmp_path / "model"


def test_save_and_load_give_the_same_draws(saved: Path) -> None:
    model, again = joint(), fsf.load(saved)
    assert again.schema == SCHEMA and again.provenance == {"seed": 0}
    assert again.model.whitening == model.model.whitening
    at = {"rate": [1.0, 5.0]}
    draws = [flat(m.condition(observed()).sample(6, at, quality=QUICK)) for m in (model, again)]
    assert_close(draws[0], draws[1], exact=True)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["model"]  # nothing half-written is left
    assert sorted(p.name for p in saved.iterdir()) == [CARD, WEIGHTS]


def test_a_model_is_replaced_but_nothing_else_is(saved: Path, tmp_path: Path) -> None:
    joint(seed=1).save(saved)
    assert fsf.load(saved).provenance == {"seed": 1}
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="is no model directory"):
        joint().save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def nodes(card: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all entries of nested JSON."""
    for key in card if isinstance(card, dict) else range(len(card)) if isinstance(card, list) else ():
        yield (*path, key)
        yield from nodes(card[key], (*path, key))


def damaged(card: Any, path: tuple[Any, ...], how: str) -> Any:
    card = json.loads(json.dumps(card))
    *way, last = path
    parent = card
    for key in way:
        parent = parent[key]
    if how == "delete":
        del parent[last]
    else:
        parent[last] = {"null": None, "text": "junk", "object": {"junk": 1}, "number": -3}[how]
    return card


@pytest.mark.parametrize("how", ["delete", "null", "text", "object", "number"])
def test_a_damaged_card_is_a_value_error_and_nothing_else(saved: Path, how: str) -> None:
    """Any entry of the JSON gone or wrong. What loads all the same has a default, or is one name for another."""
    card = json.loads((saved / CARD).read_text())
    loaded = []
    for path in nodes(card):
        if path[0] == "network" and len(path) > 3:
            continue  # single flags of uses_index: their row stands for them
        (saved / CARD).write_text(json.dumps(damaged(card, path, how)))
        try:
            fsf.load(saved)
            loaded.append(path)
        except ValueError:
            pass
    assert {p[0] for p in loaded if len(p) == 1} <= {"provenance", "n_active_observed", "max_readings"}
    assert not [p for p in loaded if p[-1] in ("name", "role", "kind", "size") and how != "text"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ((), r"unknown keys \['extra'\], missing keys \[\]"),
        (("network",), r"unknown network keys \['extra'\]"),
        (("schema",), "Schema: unknown keys"),
        (("schema", "variables", 0), "Variable: unknown keys"),
        (("schema", "variables", 3, "noise"), "Noise: unknown keys"),
        (("whitening",), "Whitening: expected entries for"),
        (("whitening", "y"), "unexpected keyword argument 'extra'"),
    ],
)
def test_an_unknown_key_raises(saved: Path, path: tuple[Any, ...], message: str) -> None:
    card = json.loads((saved / CARD).read_text())
    entry = card
    for key in path:
        entry = entry[key]
    entry["extra"] = 1
    (saved / CARD).write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        fsf.load(saved)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 1, "expected format 2 or 3, got 1"),
        ("schedule", "cosine", "Unknown schedule 'cosine'"),
        ("dependency", "directed", "Unknown dependency mask 'directed'"),
        ("max_latents", 0, "expected counts"),
        ("n_active_observed", "8", "expected an integer >= 0, .few. or None"),
        ("max_readings", {"y": -1}, "expected counts"),
    ],
)
def test_a_wrong_setting_is_named(saved: Path, key: str, value: Any, message: str) -> None:
    card = json.loads((saved / CARD).read_text())
    card[key] = value
    (saved / CARD).write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        fsf.load(saved)


def test_a_network_of_another_schema_is_refused(saved: Path) -> None:
    card = json.loads((saved / CARD).read_text())
    card["network"]["uses_index"][0] = [True]
    (saved / CARD).write_text(json.dumps(card))
    with pytest.raises(ValueError, match="uses_index is not that of the schema"):
        fsf.load(saved)


def test_damaged_weights_are_refused(saved: Path) -> None:
    whole = (saved / WEIGHTS).read_bytes()
    for wrong in (b"", whole[:7], whole[: len(whole) // 2], whole[:-1], whole + b"0", b"\x80\x04K\x01."):
        (saved / WEIGHTS).write_bytes(wrong)
        with pytest.raises(ValueError, match="does not hold the weights of this model"):
            fsf.load(saved)
    (saved / WEIGHTS).write_bytes(whole)
    tensors = load_file(saved / WEIGHTS)
    name = next(iter(tensors))
    for changed in (
        {k: v for k, v in tensors.items() if k != name},
        {**tensors, "more": torch.zeros(1)},
        {**tensors, name: tensors[name][..., :1].contiguous()},
    ):
        save_file(changed, saved / WEIGHTS)
        with pytest.raises(ValueError, match="does not hold the weights of this model"):
            fsf.load(saved)
    (saved / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="no weights.safetensors in it"):
        fsf.load(saved)


def test_a_card_that_is_no_json_is_refused(saved: Path) -> None:
    text = (saved / CARD).read_text()
    for wrong in ("", text[:-20], "[]", "1", "null", b"\xff\xfe"):
        (saved / CARD).write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
        with pytest.raises(ValueError, match="is not valid JSON|expected format 2"):
            fsf.load(saved)


def test_loading_unpickles_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert isinstance(fsf.load(saved), Joint)


def test_a_repr_says_what_is_given_on_one_line() -> None:
    j = joint()
    assert repr(j).startswith("Joint(a, w, rate, y, x; ") and "\n" not in repr(j)
    assert repr(j.condition(observed(5))) == "Conditional(a, w, rate, y, x given {'y': 4} readings)"


def test_a_warning_about_points_asked_for_points_at_the_callers_line() -> None:
    with pytest.warns(ObservationWarning) as caught:
        joint().condition(observed()).sample(2, at={"rate": [25.0]}, quality=QUICK)
    assert caught[0].filename == __file__
