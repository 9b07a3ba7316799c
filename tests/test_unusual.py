"""What `condition` says of observations unlike simulated ones: level, power, the table's file, and who is compared."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import linear
import numpy as np
import pytest
import tiny
import torch
import xarray as xr

import fsimformer as fsf
from fsimformer import unusual
from fsimformer.convert import ObservationWarning, is_residual, observed_tokens, read
from fsimformer.doubts import chance_of, warn_of
from fsimformer.evidence import fold_of
from fsimformer.joint import Joint
from fsimformer.kernels import Kernel
from fsimformer.seeds import generator_at
from fsimformer.simulators import FunctionSimulator
from fsimformer.tokens import TokenBatch, take
from fsimformer.trials import Fresh, design_of, fresh
from fsimformer.typical import NEAREST, Typical, n_implied, n_layout
from fsimformer.unusual import _folds, layout_of, numbers, p_value, typical_of


def told(joint: Joint, n: int = 512) -> Joint:
    """The Joint with a table of its own."""
    data = collection(joint, n, 3)
    table = typical_of(joint.model, data.store, torch.arange(n), design_of(joint.model), generator_at(0, 14))
    return Joint(dataclasses.replace(joint.model, typical=table))


def collection(joint: Joint, n: int, purpose: int) -> Fresh:
    return fresh(joint.model, linear.SIMULATOR, n, 0, purpose=purpose)


@pytest.fixture(scope="module")
def exact() -> Joint:
    return told(linear.joint(n_max=(4, 20)))


def observed(seed: int, noise: float = linear.NOISE, n: int = 15) -> xr.Dataset:
    generator, times = torch.Generator().manual_seed(seed), np.linspace(0.4, 9.6, n)
    drawn = linear.simulate(1, generator)
    x = np.interp(times, linear.GRID.numpy(), drawn["x"][0].numpy())
    x = x + noise * torch.randn(n, generator=generator, dtype=torch.float64).numpy()
    return xr.Dataset({"x": ("time", x), "y": float(drawn["y"][0])}, {"time": times})


def p_of(joint: Joint, data: xr.Dataset) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ObservationWarning)
        p = joint.condition(data).p_surprise
    assert p is not None
    return p[0]


@pytest.mark.parametrize("noise", [1.0, 2.0], ids=["exact network", "wrong network"])
def test_false_alarms_of_data_read_as_training_reads(noise: float) -> None:
    """Of numbers of readings from none to all, at places of their own; whatever the network."""
    joint = told(linear.joint(noise, n_max=(4, 20)))
    assert joint.model.typical is not None
    rows = collection(joint, 300, 5).data
    p = np.array([p_value(joint.model, joint.model.typical, row) for row in rows])
    for level in (0.1, 0.3, 0.5):
        assert abs((p <= level + 1e-9).mean() - level) < 3.3 * np.sqrt(level * (1 - level) / 300)


def test_alarms_at_noise_units_and_smoothness(exact: Joint) -> None:
    for seed in range(4):
        data = observed(seed)
        assert p_of(exact, observed(seed, 4 * linear.NOISE)) <= 0.02
        assert p_of(exact, 100 * data) <= 0.01
        assert p_of(exact, data.assign(y=data["y"] + 20)) <= 0.02


def test_the_alarm_is_a_warning_and_stands_in_the_result(exact: Joint) -> None:
    with pytest.warns(ObservationWarning, match="unlike what the model was trained on: of 199 simulations"):
        odd = exact.condition(observed(0, 8 * linear.NOISE))
    tree = odd.sample(4, at={"x": [5.0]}, quality="fast")
    assert tree["sample_stats"]["p_surprise"].item() == odd.p_surprise[0] <= 0.01
    assert exact.condition(observed(0), judge=False).p_surprise is None
    assert "p_surprise" not in exact.condition(observed(0), judge=False).sample(4, quality="fast")["sample_stats"]
    assert np.isnan(exact.condition({"a": 0.3}).p_surprise).all()  # nothing of data
    assert "p_surprise" not in exact.condition().sample(4, at={"x": [5.0]}, quality="fast")["sample_stats"]


def test_what_the_network_has_no_answer_to_has_the_smallest_p(exact: Joint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not 0, which no rank among 200 is, and which comparisons with NaN would give."""
    nothing = np.full(1, np.nan), np.ones(1), np.zeros((1, 1))
    monkeypatch.setattr(unusual, "numbers", lambda *_: nothing)
    assert p_of(exact, observed(0)) == 1 / (NEAREST + 1)


def test_many_data_sets_have_a_number_each_and_chance_does_not_warn(exact: Joint, tmp_path: Path) -> None:
    many = xr.concat([observed(s) for s in range(3)], xr.DataArray(list("abc"), dims="place"))
    tree = exact.condition(many, batch_dim="place").sample(4, at={"x": [5.0]}, quality="fast")
    alone = [p_of(exact, observed(s)) for s in range(3)]
    np.testing.assert_array_equal(tree["sample_stats"]["p_surprise"].sel(place=list("abc")), alone)
    asked = exact.condition(many, batch_dim="place")
    stored = asked.sample_to(tmp_path / "draws.zarr", 4, at={"x": [5.0]}, quality="fast")
    np.testing.assert_array_equal(stored["sample_stats"]["p_surprise"].sel(place=list("abc")), alone)
    labels = np.arange(100)
    p = np.full(100, 0.5)
    for n_odd, warned in ((1, False), (5, False), (6, True)):  # chance has 5 or more with .017, 6 or more with .006
        p[:n_odd] = 0.005
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            warn_of(exact.model, [], labels, p, stacklevel=2)
        assert bool(said) == warned
        assert not warned or "6 of 100 data sets: 0, 1, 2, 3, 4, …" in str(said[0].message)


def test_chance_makes_many_data_sets_odd_together() -> None:
    """They are ranked among the same simulations: what is odd to one of 200 that are alike is so to a random share."""
    rng, n, repeats = np.random.default_rng(0), 3_000, 2_000
    second = np.partition(rng.uniform(size=(repeats, NEAREST)), -2, axis=1)[:, -2]
    n_odd = rng.binomial(n, 1 - second)  # p <= 2/200: at most one simulation is as odd
    for k in (1, 15, 30, 60, 90):
        p = chance_of(k, n)
        assert abs((n_odd >= k).mean() - p) < 3.3 * np.sqrt(p * (1 - p) / repeats) + 1e-9
    assert chance_of(1, 1) == pytest.approx(0.01)


def test_numbers_of_an_exact_network_are_those_of_the_normal_law() -> None:
    """With four tokens each is held out by itself: closed form."""
    joint = linear.joint(n_max=(4, 20))
    t, sd = torch.tensor([1.0, 4.0, 8.5], dtype=torch.float64), joint.model.whitening
    phi = linear.loading(t)
    covariance = torch.zeros(4, 4, dtype=torch.float64)
    covariance[:3, :3] = phi @ phi.T + linear.NOISE**2 * torch.eye(3)
    covariance[:3, 3] = covariance[3, :3] = phi[:, 0]
    covariance[3, 3] = 1 + linear.Y_NOISE**2
    precision = torch.linalg.inv(covariance)
    value = torch.tensor([0.7, -1.1, 0.4, 1.9], dtype=torch.float64)
    gap = (precision @ value) / precision.diagonal()  # x_i − E[x_i | all others]
    expected = (-0.5 * gap**2 * precision.diagonal() + 0.5 * precision.diagonal().log()).mean()
    data = xr.Dataset({"x": ("time", value[:3].numpy()), "y": value[3].item()}, {"time": t.numpy()})
    assert sd.part("x", 0).forward(value).equal(value)  # whitened = original here
    found = numbers(joint.model, batch_of(joint, data))
    assert abs(found[0][0] - expected) < 0.02
    to_a = torch.cat([phi[:, 0], torch.ones(1, dtype=torch.float64)])  # Cov(a, (x, y)) = (φ_0, 1), a = g_0
    assert abs(found[2][0, 0] - float(to_a @ precision @ value)) < 0.02


HOLES = [list(range(30)), [0, 3, 4, 9, 17, 20, 29], list(range(5, 30))]


@pytest.mark.parametrize(
    ("times", "together"),
    [
        *(([list(range(n))] * 3, 0) for n in (2, 5, 6, 12, 13, 23, 24, 40, 60)),
        ([list(range(21)), list(range(1, 21))], 0),
        ([[0]] * 4, 0),
        (HOLES, 2),  # no turn of the second series misses both others everywhere; 32 pairs, of which chance has 8
    ],
)
def test_readings_held_out_together_are_neither_neighbours_nor_of_one_place(
    times: list[list[int]], together: int
) -> None:
    """Of series of any lengths, with any gaps; and every fold of the table's numbers has some."""
    ids = torch.tensor([c for c, own in enumerate(times) for _ in own])
    t = torch.tensor([x for own in times for x in own])
    seen = torch.ones(1, len(t), dtype=torch.bool)
    batch = TokenBatch(ids[None], (t / 60.0)[None, :, None], torch.zeros(1, len(t)), seen, seen)
    order = torch.arange(len(t))
    for n_folds in (4, 16):
        folds = fold_of(batch, order, n_folds)
        assert len(folds) == len(t) and 0 <= int(folds.min()) <= int(folds.max()) < n_folds
        pairs = 0
        for k in folds.unique().tolist():
            mine = order[folds == k]
            pairs += len(mine) - len(t[mine].unique())
            for c in ids[mine].unique().tolist():
                assert bool((mine[ids[mine] == c].diff() > 1).all())
        assert pairs <= together
    asked = _folds(batch, order)
    assert len(asked) == min(4, len(t)) and asked.numel() == len(asked.unique()) and asked.shape[1] >= 1


def test_the_layout_tells_numbers_and_places() -> None:
    joint = linear.joint(n_max=(4, 20))
    data = xr.Dataset({"x": ("time", [1.0, 2.0]), "y": 0.5}, {"time": [0.0, 10.0]})  # the ends of the range
    tokens = observed_tokens(joint.schema, joint.model.whitening, read(joint.schema, data))
    expected = {"x": [np.log(3), 0, 1.5 * 3**0.5], "y": [np.log(2)]}
    found = layout_of(joint.schema, tokens)
    np.testing.assert_allclose(found, np.concatenate([expected[k] for k in joint.schema.data]), atol=1e-12)
    nothing = layout_of(joint.schema, take(tokens, torch.zeros(0, dtype=torch.long)))
    assert len(nothing) == n_layout(joint.schema) and not nothing.any()


def batch_of(joint: Joint, data: xr.Dataset) -> TokenBatch:
    tokens = observed_tokens(joint.schema, joint.model.whitening, read(joint.schema, data))
    seen = torch.ones(1, len(tokens), dtype=torch.bool)
    return TokenBatch(tokens.variable[None], tokens.index[None], tokens.value[None].float(), seen, seen)


def test_the_table_is_kept_with_the_model_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    joint, rng, m = tiny.joint(), np.random.default_rng(0), NEAREST + 1
    layout = rng.normal(size=(m, n_layout(joint.schema)))
    implied = rng.normal(size=(m, n_implied(joint.schema)))
    table = Typical(layout, rng.normal(size=m), rng.exponential(size=m), implied)
    Joint(dataclasses.replace(joint.model, typical=table)).save(tmp_path / "model")
    again = fsf.load(tmp_path / "model").model.typical
    assert isinstance(again, Typical)
    np.testing.assert_allclose(again.layout, layout, atol=5.1e-4)
    for name in ("log_density", "apart"):
        np.testing.assert_allclose(getattr(again, name), getattr(table, name), rtol=6e-5)
    np.testing.assert_allclose(again.implied, table.implied, atol=5.1e-4)
    path = tmp_path / "model" / "model.json"
    card = json.loads(path.read_text())
    for wrong in ({"layout": []}, [], card["typical"] | {"apart": card["typical"]["apart"][:-1]},
                  card["typical"] | {"apart": [None, *card["typical"]["apart"][1:]]},
                  card["typical"] | {"implied": [row[1:] for row in card["typical"]["implied"]]},
                  card["typical"] | {"layout": [[1] * 9] * m}, card["typical"] | {"more": 1}):  # fmt: skip
        path.write_text(json.dumps(card | {"typical": wrong}))
        with pytest.raises(ValueError, match="typical"):
            fsf.load(tmp_path / "model")
    path.write_text(json.dumps(card | {"typical": {"counts": [[1]], "log_density": [0.1]}}))
    with pytest.warns(
        UserWarning, match="its table of typical data is an older version's; observations are not judged"
    ):
        assert fsf.load(tmp_path / "model").model.typical is None


def test_training_makes_the_table_of_simulations_it_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as it held out, of data alone, not of what lies between knots; too few for a rank: none, nothing said."""
    simulator = FunctionSimulator(linear.SCHEMA, linear.simulate, {"time": linear.GRID})
    config = fsf.TrainConfig(steps=2, batch_size=8, n_validation=8, validate_every=2)
    small = fsf.NetworkConfig(width=16, depth=1, n_heads=2)
    design = fsf.Design((4, 8))
    trained = fsf.train(simulator, simulations=2_400, config=config, network=small, design=design)
    assert trained.model.typical is not None and NEAREST < len(trained.model.typical) <= 240
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(unusual, "numbers", lambda model, batch: asked.append(batch.variable) or numbers(model, batch))
    process = fsf.simulators.GaussianProcess(Kernel(lengthscale=0.4), reference=(5,))
    fsf.train(process, simulations=2_400, config=config, network=small)
    assert asked and not bool(is_residual(process.schema)[torch.cat([x.unique() for x in asked])].any())
    few = fsf.train(simulator, simulations=1_000, config=config, network=small, design=design)
    assert few.model.typical is None and few.condition(observed(0, n=6)).p_surprise is None
