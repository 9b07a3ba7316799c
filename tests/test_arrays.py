"""Array variables at every door: schema, observations, training, files, command line; and each mistake's message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import randomise
from torch import Tensor, nn
from traces import IMAGE, SCHEMA, SIMULATOR, image, modules, simulate, trace
from traces import joint as random_joint

import fsimformer as fsf
from fsimformer.cli import main
from fsimformer.convert import observed_tokens, read, read_many
from fsimformer.embeddings import build_embeddings, fingerprints
from fsimformer.joint import Joint
from fsimformer.schema import Schema

FEW = fsf.TrainConfig(steps=3, batch_size=16, n_micro=2, n_validation=16, warmup=1)


@pytest.fixture(scope="module")
def joint() -> Joint:
    return random_joint()


def test_a_missing_array_is_an_absent_variable(joint: Joint) -> None:
    y = xr.DataArray([0.1, 0.4], {"time": [1.0, 2.0]}, "time")
    given = [{"y": y, "image": image()}, {"y": y, "image": image(), "trace": trace() * np.nan}]
    absent, missing = (joint.condition(g).sample(10)["posterior"].to_dataset() for g in given)
    xr.testing.assert_identical(absent, missing)
    there = joint.condition({**given[0], "trace": trace()}).sample(10)["posterior"].to_dataset()
    assert float(abs(there["a"] - absent["a"]).max()) > 1e-3


def test_arrays_come_by_their_dims_and_go_home_whole(joint: Joint) -> None:
    turned = xr.Dataset({"image": image().transpose("column", "row").assign_coords(row=["x", "y", "z"])})
    tokens = observed_tokens(SCHEMA, joint.model.whitening, read(SCHEMA, turned))
    expected = (np.log(image().to_numpy()) - 0.3) / 0.8
    np.testing.assert_allclose(tokens.arrays[IMAGE], expected.astype(np.float32), rtol=1e-6)
    assert tokens.variable.tolist() == list(IMAGE) and tokens.value.tolist() == [0.0]
    observed = joint.condition(turned).sample(4)["observed_data"]["image"]
    assert observed.dims == ("row", "column") and observed["row"].values.tolist() == ["x", "y", "z"]
    np.testing.assert_array_equal(observed, image())


def test_many_data_sets_each_with_its_own_array(joint: Joint) -> None:
    traces = xr.concat([trace(1), trace(2) * np.nan, trace(3)], "site").assign_coords(site=["p", "q", "r"])
    y = xr.DataArray([[0.1], [0.2], [0.3]], {"site": ["p", "q", "r"], "time": [1.0]}, ("site", "time"))
    draws = joint.condition({"trace": traces, "y": y}, batch_dim="site").sample(6)
    first = joint.condition({"trace": trace(1), "y": y[0]}).sample(6)
    np.testing.assert_allclose(draws["posterior"]["a"].sel(site="p"), first["posterior"]["a"], atol=1e-5)
    xr.testing.assert_identical(draws["observed_data"]["trace"].drop_vars("sample"), traces.transpose("site", "sample"))


def test_density_and_pictures_know_arrays(joint: Joint) -> None:
    from fsimformer import plots

    posterior = joint.condition({"trace": trace()})
    draws = posterior.sample(4, at={})
    near, far = posterior.log_prob(draws), joint.condition({"trace": trace() + 1}).log_prob(draws)
    assert bool(np.isfinite(near).all()) and float(abs(near - far).max()) > 1e-3
    with pytest.raises(ValueError, match="not conditioned on these readings of 'trace'"):
        joint.condition({"trace": trace(1)}).refine(draws, lambda group: group["a"] * 0)
    assert plots.figure(draws).axes


def test_values_that_training_never_saw_draw_a_warning(joint: Joint) -> None:
    with pytest.warns(fsf.ObservationWarning, match="20 of 20 readings of 'trace' lie outside"):
        joint.condition({"trace": trace() + 100})


def test_save_and_load(joint: Joint, tmp_path: Path) -> None:
    joint.save(tmp_path / "model")
    again = fsf.load(tmp_path / "model", embeddings=modules(seed=5))  # their weights are replaced
    draws = [j.condition({"trace": trace(), "image": image()}).sample(4) for j in (joint, again)]
    xr.testing.assert_identical(draws[0]["posterior"].to_dataset(), draws[1]["posterior"].to_dataset())
    with pytest.raises(
        ValueError, match=r"each array variable .*'trace': \(20,\), 'image': \(3, 4\).*got modules for \[\]"
    ):
        fsf.load(tmp_path / "model")
    other = {**modules(), "trace": nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 6))}
    with pytest.raises(
        ValueError, match="the module for 'trace' has weights of the right shapes but answers otherwise"
    ):
        fsf.load(tmp_path / "model", embeddings=other)
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    del card["embeddings"]
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="damaged: KeyError: 'embeddings'"):
        fsf.load(tmp_path / "model", embeddings=modules())


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nn.Sequential(nn.Linear(20, 9), nn.Tanh(), nn.Linear(9, 6)),
            r"0.weight \(9, 20\), the file's is \(8, 20\); 0.bias \(9,\), the file's is \(8,\); 2.weight \(6, 9\), "
            r"the file's is \(6, 8\). Pass",
        ),
        (
            nn.Linear(20, 6),
            r"weight \(6, 20\), the file's is absent; bias \(6,\), .*; 0.bias absent, the file's is \(8,\); and 3 more",
        ),
    ],
)
def test_a_module_of_other_shapes_is_named_with_them(joint: Joint, tmp_path: Path, net: Any, message: str) -> None:
    joint.save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"the module passed for 'trace' has other weights: {message}"):
        fsf.load(tmp_path / "model", embeddings={**modules(), "trace": net})


def test_shapes_that_differ_without_weights_and_weights_without_shape(tmp_path: Path) -> None:
    """A pooling layer decides how many features there are; a lazy layer takes whatever shape the file has."""
    nets = {**modules(), "trace": nn.AdaptiveAvgPool1d(6)}
    trained = brief(embeddings=nets)
    trained.save(tmp_path / "model")
    with pytest.raises(ValueError, match="'trace' gives 2 features a token, the trained one 3"):
        fsf.load(tmp_path / "model", embeddings={**nets, "trace": nn.AdaptiveAvgPool1d(4)})
    brief(embeddings={**nets, "trace": nn.Linear(20, 6)}).save(tmp_path / "linear")
    fsf.load(tmp_path / "linear", embeddings={**nets, "trace": nn.LazyLinear(6)})


def negated(module: nn.Module, sign: Tensor) -> nn.Module:
    class Negated(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * sign

    return Negated(*module.children())


def test_a_module_that_answers_otherwise_in_a_later_token_is_another(joint: Joint, tmp_path: Path) -> None:
    joint.save(tmp_path / "model")
    sign = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])  # two tokens of three features
    same, other = negated(modules()["trace"], sign.abs()), negated(modules()["trace"], sign)
    fsf.load(tmp_path / "model", embeddings={**modules(), "trace": same})
    with pytest.raises(ValueError, match="the module for 'trace' has weights .* but answers otherwise"):
        fsf.load(tmp_path / "model", embeddings={**modules(), "trace": other})
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    card["embeddings"]["trace"] = card["embeddings"]["trace"][:8]  # as files were before: token 0 alone
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    fsf.load(tmp_path / "model", embeddings=modules())


def test_fingerprints_are_those_of_a_float32_copy_on_the_cpu() -> None:
    embeddings = random_joint().model.denoiser.embeddings
    assert embeddings is not None
    expected = fingerprints(SCHEMA, embeddings)
    assert {k: len(v) for k, v in expected.items()} == {"trace": 16, "image": 8}
    assert fingerprints(SCHEMA, embeddings.double()) == expected
    assert {p.dtype for p in embeddings.parameters()} == {torch.float64}  # the nets themselves stay as they were


def test_tied_weights_are_saved_and_stay_tied(tmp_path: Path) -> None:
    def tied(seed: int) -> dict[str, nn.Module]:
        first, second = nn.Linear(20, 20), nn.Linear(20, 20)
        second.weight = first.weight
        out = {**modules(seed), "trace": nn.Sequential(first, nn.Tanh(), second, nn.Linear(20, 6))}
        randomise(out["trace"], seed)
        return out

    trained = brief(embeddings=tied(0))
    trained.save(tmp_path / "model")
    again = fsf.load(tmp_path / "model", embeddings=tied(5))
    draws = [j.condition({"trace": trace(), "image": image()}).sample(4) for j in (trained, again)]
    xr.testing.assert_identical(draws[0]["posterior"].to_dataset(), draws[1]["posterior"].to_dataset())
    assert again.model.denoiser.embeddings is not None
    part = again.model.denoiser.embeddings.parts[0].module
    assert part[0].weight is part[2].weight  # type: ignore[index]


def test_the_command_line_tells_of_arrays_and_refuses_to_embed_them(
    joint: Joint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "model")
    joint.save(path)
    assert main(["info", path]) == 0
    out, error = capsys.readouterr()
    assert error == "" and all(f"\n{name} " in out for name in SCHEMA.names)
    (tmp_path / "y.csv").write_text("time,y\n1,0.5\n")
    assert main(["infer", path, str(tmp_path / "y.csv")]) == 2
    error = capsys.readouterr().err
    assert "has array variables ['trace', 'image']: it needs Python, fsf.load(" in error and error.count("\n") == 1
    (tmp_path / "wave.py").write_text("from traces import SIMULATOR as wave\n")
    assert main(["train", f"{tmp_path}/wave.py:wave", "--out", str(tmp_path / "out")]) == 2
    assert "has array variables ['trace', 'image']; train it in Python" in capsys.readouterr().err


def brief(**changes: Any) -> Joint:
    options: dict[str, Any] = {"embeddings": modules(), "simulations": 200} | changes
    small = fsf.NetworkConfig(width=16, depth=1, n_heads=2)
    return fsf.train(SIMULATOR, config=FEW, network=small, **options)


def test_training_steps_a_copy_and_goes_on_from_a_joint(tmp_path: Path) -> None:
    nets = modules()
    first = brief(embeddings=nets, checkpoint=tmp_path / "run")
    assert all(torch.equal(p, q) for k, m in nets.items() for p, q in zip(m.parameters(), modules()[k].parameters()))
    assert first.model.denoiser.embeddings is not None
    part = first.model.denoiser.embeddings.parts[0]
    assert not torch.equal(next(part.module.parameters()), next(nets["trace"].parameters()))
    assert "Linear(in_features=20" in first.provenance["embeddings"]["trace"]
    resumed = brief(checkpoint=tmp_path / "run").model.denoiser.state_dict()
    assert all(torch.equal(p, resumed[k]) for k, p in first.model.denoiser.state_dict().items())
    again = brief(embeddings=None, initial=first)
    assert again.provenance["generation"] == 1
    with pytest.raises(ValueError, match="brings its embeddings with it"):
        brief(initial=first)


def build(net: Any) -> Callable[[], object]:
    return lambda: build_embeddings(SCHEMA, 16, {**modules(), "trace": net})


def other(**changes: Any) -> Callable[[], object]:
    wave = {"name": "x", "role": "data", "dims": ("k",)} | changes
    return lambda: fsf.Schema((fsf.Variable(**wave),), (fsf.Axis("k", 3), fsf.Index("time", 0, 1)))


def reading(observed: Any, batch_dim: str | None = None) -> Callable[[], object]:
    return lambda: read(SCHEMA, observed) if batch_dim is None else read_many(SCHEMA, observed, batch_dim)


GAPS = trace().copy(data=[np.nan] * 3 + [0.0] * 17)
FRAME = xr.Dataset({"value": ("i", [1.0]), "variable": ("i", ["trace"])}).to_dataframe().reset_index(drop=True)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: fsf.Axis("k", 0), "Axis 'k': expected size >= 1, got 0"),
        (other(role="parameter"), "'x': an array is observed or absent, never sampled: expected role 'data'"),
        (other(prior=fsf.Normal()), "'x': an array is observed or absent, never sampled.* prior Normal"),
        (other(dims=("k", "time")), r"'x': an array has Axis dims alone, got \('k', 'time'\), of which \['k'\] are"),
        (other(dims=("time",), n_tokens=2), "'x': n_tokens is for arrays; expected 1 without Axis, got 2"),
        (other(n_tokens=0), "'x': expected an integer n_tokens >= 1, got 0"),
        (other(noise=fsf.Noise("normal", 1.0)), "'x': noise is added where a series is read"),
        (lambda: build_embeddings(SCHEMA, 16, None), r"each array variable .*'trace': \(20,\).*got modules for \[\]"),
        (
            lambda: build_embeddings(fsf.Schema((fsf.Variable("m", "data"),)), 16, modules()),
            r"this model has no array variables; leave embeddings out, got modules for \['image', 'trace'\]",
        ),
        (lambda: build_embeddings(SCHEMA, 16, nn.Linear(20, 4)), "expected a mapping of variable -> torch module"),  # type: ignore[arg-type]
        (build(len), "expected a torch module for 'trace', got builtin_function_or_method"),
        (build(nn.Linear(9, 4)), r"'trace' fails on float32 of shape \(4, 20\): mat1 and mat2"),
        (build(nn.Linear(20, 5)), r"expected \(B, 2, k\) or \(B, 2·k\) features for 2 tokens, got \(4, 5\) for B = 4"),
        (build(nn.LSTM(20, 4)), "'trace': expected it to return a tensor, got tuple"),
        (build(nn.Sequential(nn.BatchNorm1d(20), nn.Linear(20, 4))), "depend on the other rows or on chance"),
        (build(nn.Sequential(nn.Dropout(), nn.Linear(20, 4))), "depend on the other rows or on chance"),
        (lambda: brief(embeddings=None), "embeddings: expected a torch module for each array variable"),
        (reading(GAPS), "'trace': 3 of 20 values are NaN, and an array is observed as a whole or absent"),
        (reading(trace()[:9]), r"'trace': expected a dim 'sample' of size 20, got \{'sample': 9\}"),
        (reading({"trace": np.zeros((2, 20))}), r"'trace': expected dims \('sample',\), got values of shape \(2, 20\)"),
        (reading(xr.concat([trace(), GAPS], "site"), "site"), "'trace': 3 of 20 values are NaN"),
        (reading(-image()), "'image': 12 of 12 values lie outside its support"),
        (reading(FRAME), r"'trace' is an array of dims \('sample',\); pass it as a DataArray"),
        (
            lambda: fsf.simulators.check(
                fsf.simulators.FunctionSimulator(SCHEMA, simulate, SIMULATOR.grid, plausible={"trace": (0, 1)})
            ),
            "plausible: expected a mapping from data variables, \\['y'\\]",
        ),
    ],
)
def test_mistakes(mistake: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mistake()


def test_a_model_without_arrays_takes_no_embeddings() -> None:
    with pytest.raises(ValueError, match="this model has no array variables; leave embeddings out"):
        fsf.load("sird", embeddings=modules())
    fsf.load("sird", embeddings={})


def test_arrays_cannot_be_asked_for(joint: Joint) -> None:
    with pytest.raises(ValueError, match="at: 'trace' is an array variable, observed as a whole or absent"):
        joint.condition({"image": image()}).sample(4, at={"trace": None})


def test_schema_round_trip_and_files_from_before() -> None:
    data = json.loads(json.dumps(SCHEMA.to_dict()))
    assert Schema.from_dict(data) == SCHEMA and SCHEMA.arrays == {"trace": (20,), "image": (3, 4)}
    assert SCHEMA.data == ("trace", "y", "image")
    assert [list(SCHEMA.ids(n)) for n in SCHEMA.names] == [[0], [1, 2], [3], [4], [5]] and SCHEMA.n_ids == 6
    for entry in data["variables"]:
        entry.pop("n_tokens")
    assert Schema.from_dict(data)["trace"].n_tokens == 1
