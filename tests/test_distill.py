"""Few evaluations: jumps along the flow of a Gaussian in closed form, a student that learns them, the Joint's face."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from test_long_observations import GRID, SETTINGS, level
from test_long_observations import LINE as LEVEL
from test_summary import compressing
from test_summary import rows as reading_rows
from tiny import SCHEMA, cast, seeded
from tiny import joint as tiny_joint
from torch import Tensor, nn

import fsimformer as fsf
from fsimformer.denoise import Denoiser, NoiseLevels
from fsimformer.distill import DISTILLING, TEACHER, Student, jumps, trajectory, with_jumps
from fsimformer.flow_map import jumped, log_ratios
from fsimformer.folder import CARD, WEIGHTS
from fsimformer.kernels import Kernel
from fsimformer.masks import MaskConfig
from fsimformer.nn import Context, Network, NetworkConfig
from fsimformer.sample import sample_active
from fsimformer.schema import Components, Schema, Variable
from fsimformer.simulators import FunctionSimulator
from fsimformer.tokens import Streams, TokenBatch, split
from fsimformer.train import TrainConfig, fit

SD = 0.4
MIX = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
COVARIANCE = torch.linalg.inv(torch.eye(2) + MIX.T @ MIX / SD**2)  # of θ given x; its mean is x MIX COVARIANCE/SD²
USES = ((),) * 4


def rows(n: int, generator: torch.Generator) -> TokenBatch:
    """θ ~ N(0, I₂), x = MIX θ + SD ε, x observed."""
    theta = torch.randn(n, 2, generator=generator)
    x = theta @ MIX.T + SD * torch.randn(n, 2, generator=generator)
    variable = torch.arange(4).expand(n, 4)
    value = torch.cat([theta, x], 1)
    return TokenBatch(variable, torch.zeros(n, 4, 0), value, variable > 1, torch.ones(n, 4, dtype=torch.bool))


class Exact(nn.Module):
    """Knows p(θ | x): F of its denoiser, and of its flow map where it is told the target."""

    n_outputs, config, precision = 1, NetworkConfig(((),) * 4), torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(1, 1)

    def encode(self, *given: Tensor | None) -> Context:
        return Context((), ())

    def decode(
        self, variable: Tensor, index: Tensor, observed: Tensor, value: Tensor, c_noise: Tensor, *rest: object
    ) -> Tensor:
        c_target = rest[-1] if len(rest) == 6 else None
        mean = value[..., 2:] @ MIX @ COVARIANCE / SD**2
        ratio = (4 * c_noise).exp()[..., None]
        norm = (1 + ratio**2).rsqrt()
        y = value[..., :2] / norm
        if isinstance(c_target, Tensor):
            target = (4 * c_target).exp()[..., None]
            g = (exact_jump(y, mean, ratio, target) - target / ratio * y) / (1 - target / ratio)
        else:
            variances, axes = torch.linalg.eigh(COVARIANCE)
            g = mean + ((y - mean) @ axes * (variances / (variances + ratio**2))) @ axes.T
        return torch.cat([(g - y * norm**2) / (ratio * norm), torch.zeros_like(y)], -1)


def exact_jump(y: Tensor, mean: Tensor, ratio: Tensor, target: Tensor) -> Tensor:
    """m + (y − m) √((s² + μ²)/(s² + λ²)) along each principal axis."""
    variances, axes = torch.linalg.eigh(COVARIANCE)
    return mean + ((y - mean) @ axes * ((variances + target**2) / (variances + ratio**2)).sqrt()) @ axes.T


def exact() -> Denoiser:
    return Denoiser(Exact())  # type: ignore[arg-type]


def problem(n: int = 3, draws: int = 5) -> tuple[Streams, Tensor, Tensor]:
    """Streams of n rows, noise, and the posterior means."""
    batch = rows(n, seeded(1))
    return (
        split(batch, None),
        torch.randn(n, draws, 4, generator=seeded(2)),
        batch.value[:, None, 2:] @ MIX @ COVARIANCE / SD**2,
    )


def test_a_draw_of_1_2_or_4_jumps_is_the_flow_of_a_gaussian() -> None:
    """An exact map gives the same draws whatever the number of jumps, with the posterior's mean and covariance."""
    streams, epsilon, mean = problem(2, 20_000)
    denoiser, levels = exact(), log_ratios().exp()
    encoded = denoiser.encode(streams)
    found = [jumped(denoiser, encoded, epsilon, n)[..., :2] for n in (1, 2, 4)]
    start = epsilon[..., :2] * float((1 + levels[0] ** 2).sqrt())
    expected = exact_jump(start, mean, levels[0].float()[None], levels[-1].float()[None])
    for draws in found:
        torch.testing.assert_close(draws, expected, rtol=0, atol=2e-4)
    for row, draws in enumerate(found[0]):
        torch.testing.assert_close(draws.mean(0), mean[row, 0], rtol=0, atol=0.02)  # e⁻⁴ · mean · sd of it by the start
        torch.testing.assert_close(torch.cov(draws.T), COVARIANCE, rtol=0, atol=0.004)


def test_a_trajectory_passes_through_the_levels_of_the_exact_flow() -> None:
    """Up to the solver's error, below .03 of the law's sd there, and below a twelfth of it with 4 times the steps."""
    streams, epsilon, mean = problem(20, 20)
    denoiser, levels = exact(), log_ratios().exp().float()
    start = epsilon[..., :2] * (1 + levels[0] ** 2).sqrt()
    variances, axes = torch.linalg.eigh(COVARIANCE)
    errors = []
    for n_steps in (20, 80):
        solver = replace(TEACHER, n_steps=n_steps)
        states = trajectory(denoiser, denoiser.encode(streams), epsilon, solver)[..., :2]
        off = [
            (y - exact_jump(start, mean, levels[:1], level[None])) @ axes / (variances + level**2).sqrt()
            for y, level in zip(states, levels, strict=True)
        ]
        errors.append(max(float(x.square().mean().sqrt()) for x in off))
    assert errors[0] < 0.03 and errors[1] < errors[0] / 12


def test_the_loss_is_0_for_the_exact_map_and_large_for_its_denoiser() -> None:
    """What is left is the solver's error; a map that ignores where it leads is told so."""
    streams, epsilon, _ = problem(16, 4)

    class Ignorant(Exact):
        def decode(self, *given: object) -> Tensor:
            return super().decode(*given[:10])  # type: ignore[arg-type]

    ignorant = Denoiser(Ignorant())  # type: ignore[arg-type]
    losses = [
        float(Student(d, exact()).loss(streams, torch.zeros(16, 4), epsilon).detach()) for d in (exact(), ignorant)
    ]
    assert losses[0] < 1e-3 and losses[1] > 0.05


def test_seven_jumps_are_learned() -> None:
    assert jumps() == [(0, 4), (0, 2), (2, 4), (0, 1), (1, 2), (2, 3), (3, 4)]
    assert [len(log_ratios(n)) for n in (1, 2, 4)] == [2, 3, 5]


@pytest.mark.slow
def test_a_student_learns_the_flow_of_its_teacher() -> None:
    """After 300 steps draws of 1, 2 and 4 jumps have the posterior's variance within 6 %, its mean within 0.05 sd."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = Student(Denoiser(Network(NetworkConfig(USES, width=32, depth=2, n_heads=2), jumps=True)), exact())
    config = TrainConfig(
        steps=300, batch_size=64, learning_rate=1e-2, matrix_rate=1e-2, warmup=20, ema=0.97, n_micro=1, pool=1,
        validate_every=300, n_validation=16, dial=((None, 1.0),), level_tokens=4,
    )  # fmt: skip
    masks = MaskConfig(1, 0, 0, 0, 0, 0, 0, 0)
    fit(student, rows, rows, torch.tensor([True, True, False, False]), masks, NoiseLevels(), config)
    streams, epsilon, mean = problem(8, 2_000)
    sd = COVARIANCE.diagonal().sqrt()
    for n in (1, 2, 4):
        flow_map = student.flow_map
        draws = sample_active(flow_map, flow_map.encode(streams), epsilon, fsf.SamplerConfig("flow_map", n))[..., :2]
        assert float(((draws.mean(1) - mean[:, 0]) / sd).abs().mean()) < 0.05
        assert float((draws.var(1) / sd**2).mean(0).sub(1).abs().max()) < 0.06


LINE = Schema(
    (Variable("a", "parameter", prior=fsf.Normal()), Variable("x", "data", ("part",), parents=("a",))),
    (Components("part", 2),),
)


def line() -> FunctionSimulator:
    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        a = torch.randn(n, generator=generator)
        return {"a": a, "x": a[:, None] + 0.3 * torch.randn(n, 2, generator=generator)}

    return FunctionSimulator(LINE, simulate)


FEW_STEPS = fsf.TrainConfig(steps=2, batch_size=8, n_micro=1, pool=1, n_validation=4, level_tokens=4)


def test_a_distilled_joint_draws_in_few_evaluations_and_as_before(tmp_path: Path) -> None:
    joint = fsf.train(
        line(), simulations=100, config=FEW_STEPS, network=fsf.NetworkConfig(width=16, depth=1, n_heads=2)
    )
    seen = {"x": xr.DataArray([0.1, 0.3], dims="part")}
    before = joint.condition(seen).sample(10, quality="fast")["posterior"]["a"]
    few = fsf.distill(joint, line(), simulations=100, config=FEW_STEPS)
    after = few.condition(seen).sample(10, quality="fast")["posterior"]["a"]
    xr.testing.assert_identical(before, after)
    few.save(tmp_path / "few")
    card = json.loads((tmp_path / "few" / CARD).read_text())
    assert card["flow_map"] == card["provenance"]["flow_map"]["log_ratios"] == log_ratios().tolist()
    for other in ([4.0, -6.2], [4.0, 2.0, 1.0, 0.0, -6.2]):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / CARD).write_text(json.dumps(card | {"flow_map": other}))
        shutil.copy(tmp_path / "few" / WEIGHTS, tmp_path / "other")
        with pytest.raises(ValueError, match=r"flow_map: expected jumps between the log noise levels \[.*, got"):
            fsf.load(tmp_path / "other")
    again, drawn = fsf.load(tmp_path / "few"), {}
    for n in (1, 2, 4):
        quality = fsf.SamplerConfig("flow_map", n)
        tree = few.condition(seen).sample(10, quality=quality)
        assert tree["sample_stats"].attrs.get("evaluations", tree["sample_stats"].to_dataset().get("evaluations")) == n
        drawn[n] = tree["posterior"]["a"]
        xr.testing.assert_identical(again.condition(seen).sample(10, quality=quality)["posterior"]["a"], drawn[n])
    xr.testing.assert_identical(few.condition(seen).sample(10, quality="few")["posterior"]["a"], drawn[4])
    assert not drawn[1].equals(drawn[2])
    assert again.provenance["flow_map"]["distilled"] == joint.model.fingerprint
    with pytest.raises(
        ValueError, match=r"quality 'few': this Joint was not distilled; choices: \['exact', 'fast', 'sde'\]"
    ):
        joint.condition(seen).sample(10, quality="few")
    more = fsf.train(line(), simulations=100, config=FEW_STEPS, initial=few)
    assert more.model.denoiser.flow_map is None


def test_a_flow_map_sets_out_from_its_teacher_whether_readings_are_compressed_or_not() -> None:
    """Whatever the target, bit for bit; the loss reaches summaries through tokens, and their Gaussian by likelihood."""
    teacher, target = compressing(dtype=torch.float32), torch.full((2, 3), 0.01)
    flow_map = with_jumps(teacher)
    streams = split(cast(reading_rows(300, 40), torch.float32), 0)
    y, ratio = torch.randn(2, 3, streams.active.shape[1], generator=seeded(2)), torch.full((2, 3), 0.4)
    expected = teacher.at_ratio(y, ratio, teacher.encode(streams))
    encoded = flow_map.encode(streams)
    assert encoded.summary is not None and encoded.summary.count.tolist()[1] == 0 < encoded.summary.count.tolist()[0]
    assert torch.equal(flow_map.at_ratio(y, ratio, encoded, target), expected)
    student = Student(flow_map.train(), teacher)
    assert student.summariser is flow_map.summariser is not None
    zero = torch.zeros(2, 3)
    student.loss(streams, zero, y).backward()
    for layer in (flow_map.summariser.head, flow_map.summariser.value, flow_map.network.out):
        assert layer.weight.grad is not None and bool(layer.weight.grad.any())
    assert all(p.grad is None for p in teacher.parameters())
    with torch.no_grad():
        losses = [float(student.loss(streams, zero, y, above=above)) for above in (None, 1_000)]
    assert losses[0] != losses[1]


def test_a_network_that_compresses_is_distilled_with_its_summaries(tmp_path: Path) -> None:
    simulator = FunctionSimulator(LEVEL, level, {"t": GRID})
    joint = fsf.train(simulator, config=FEW_STEPS, **SETTINGS)
    joint.save(tmp_path / "before")
    few = fsf.distill(fsf.load(tmp_path / "before"), simulator, simulations=100, config=FEW_STEPS)
    few.save(tmp_path / "few")
    rng = np.random.default_rng(0)
    seen = xr.Dataset({"y": ("t", rng.normal(size=150))}, {"t": rng.uniform(-1, 1, 150)})
    order, again = rng.permutation(150), fsf.load(tmp_path / "few")
    draws = [
        j.condition(seen.isel(t=o)).sample(6, {}, quality="few")["posterior"]["a"]
        for j, o in ((few, np.arange(150)), (few, order), (again, np.arange(150)))
    ]
    xr.testing.assert_allclose(draws[1], draws[0], rtol=0, atol=1e-4)
    xr.testing.assert_identical(draws[2], draws[0])
    assert few.provenance["flow_map"]["design"] == joint.provenance["design"]


def test_what_cannot_be_distilled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected n_steps of a flow map in \(1, 2, 4\), got 3"):
        fsf.SamplerConfig("flow_map", 3)
    with pytest.raises(ValueError, match=r"distill: the simulator's schema, .*'x'.*, is not the Joint's, .*'rate'"):
        fsf.distill(tiny_joint(), line())
    assert SCHEMA != LINE and DISTILLING.max_levels * 7 <= 32  # draws of a row that one backward pass holds


def test_functions_are_drawn_at_their_knots_and_continued_by_the_teacher(tmp_path: Path) -> None:
    """With a linear baseline, which both networks share. More points change none of the first."""
    process = fsf.simulators.GaussianProcess(Kernel(lengthscale=0.5), reference=(5,))
    network = fsf.NetworkConfig(width=16, depth=1, n_heads=2)
    design = fsf.Design((6, 6))
    joint = fsf.train(process, simulations=200, config=FEW_STEPS, network=network, design=design)
    few = fsf.distill(joint, process, simulations=200, config=FEW_STEPS)
    assert few.model.denoiser.baseline is not None
    assert few.n_parameters == joint.n_parameters
    few.save(tmp_path / "few")
    name = next(iter(joint.schema.references))
    dim = joint.schema[name].dims[0]
    posterior = fsf.load(tmp_path / "few").condition(None)
    lower, upper = joint.schema.indexes[0].lower, joint.schema.indexes[0].upper
    at = torch.linspace(lower, upper, 7).double().numpy()
    some = posterior.sample(4, at={name: at[:3]}, quality="few")
    more = few.condition(None).sample(4, at={name: at}, quality="few")
    first = more["prior"][name].isel({dim: slice(0, 3)})
    xr.testing.assert_allclose(some["prior"][name], first, rtol=1e-4, atol=1e-5)
    extended = posterior.extend(some, {name: at})
    xr.testing.assert_allclose(extended["prior"][name], more["prior"][name], rtol=1e-4, atol=1e-5)
