"""Benchmark tasks against their definitions: laws, moments and symmetries in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from fsimformer.graph import moral_graph
from fsimformer.priors import Normal, Uniform
from fsimformer.simulators import bernoulli_glm, gaussian_linear, hmm, slcp, tree, two_moons
from fsimformer.simulators.tasks import (
    draw_bernoulli_glm,
    draw_gaussian_mixture,
    draw_slcp,
    draw_two_moons,
    glm_design,
    glm_precision,
)

TASKS = {"two_moons": two_moons, "slcp": slcp, "gaussian_linear": gaussian_linear, "bernoulli_glm": bernoulli_glm}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("two_moons", (2, 2)), ("slcp", (5, 8)), ("gaussian_linear", (10, 10)), ("bernoulli_glm", (10, 10))],
)
def test_tasks_have_the_published_sizes(name: str, sizes: tuple[int, int]) -> None:
    schema = TASKS[name]().schema
    assert (schema.n_components("theta"), schema.n_components("x")) == sizes
    assert schema.names == ("theta", "x") and schema["x"].parents == ("theta",)


def test_two_moons_is_a_half_circle() -> None:
    """At fixed θ the distance to the centre is N(0.1, 0.01) and the angle is uniform on the right half."""
    theta = torch.tensor([[0.3, -0.7]], dtype=torch.float64).expand(20_000, 2)
    x = draw_two_moons(theta, generator()).numpy()
    centre = np.array([0.25 - abs(0.3 - 0.7) / math.sqrt(2), (-0.7 - 0.3) / math.sqrt(2)])
    radius, angle = np.hypot(*(x - centre).T), np.arctan2(*(x - centre).T[::-1])
    assert scipy.stats.kstest(radius, scipy.stats.norm(0.1, 0.01).cdf).pvalue > 1e-3
    assert scipy.stats.kstest(angle, scipy.stats.uniform(-math.pi / 2, math.pi).cdf).pvalue > 1e-3


def test_two_moons_has_two() -> None:
    """(θ₁, θ₂) and (−θ₂, −θ₁) cannot be told apart: |θ₁+θ₂| and θ₂−θ₁ are the same."""
    theta = torch.tensor([[0.3, 0.5]], dtype=torch.float64).expand(10, 2)
    torch.testing.assert_close(draw_two_moons(theta, generator()), draw_two_moons(-theta.flip(1), generator()))


def test_slcp_has_the_stated_mean_and_covariance() -> None:
    n = 50_000
    theta = torch.tensor([[1.0, -2.0, -1.2, 0.8, 0.6]], dtype=torch.float64).expand(n, 5)
    x = draw_slcp(theta, generator())
    s1, s2, rho = 1.44, 0.64, math.tanh(0.6)
    block = torch.tensor([[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]], dtype=torch.float64)
    truth = torch.block_diag(*[block] * 4)
    variance = truth.diagonal()
    mean = torch.tensor([1.0, -2.0] * 4, dtype=torch.float64)
    assert bool(((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all())
    error = 5 * ((truth**2 + torch.outer(variance, variance)) / n).sqrt()
    assert bool(((x.T.cov() - truth).abs() < error).all())


def test_gaussian_tasks_have_the_stated_laws() -> None:
    draws = gaussian_linear().simulate(20_000, generator())
    noise = (draws["x"] - draws["theta"]).numpy()
    assert scipy.stats.kstest(noise.ravel(), scipy.stats.norm(0, math.sqrt(0.1)).cdf).pvalue > 1e-3
    assert scipy.stats.kstest(draws["theta"].numpy().ravel(), scipy.stats.norm(0, math.sqrt(0.1)).cdf).pvalue > 1e-3
    noise = draw_gaussian_mixture(torch.zeros(20_000, 2, dtype=torch.float64), generator()).numpy()
    law = scipy.stats.norm
    assert scipy.stats.kstest(noise[:, 0], lambda x: (law.cdf(x) + law.cdf(x / 0.1)) / 2).pvalue > 1e-3
    # both coordinates share their component: E[x²y²] = (1 + 0.1⁴)/2, not ((1 + 0.1²)/2)²
    fourth = (noise**2).prod(1)
    assert fourth.mean() == pytest.approx((1 + 1e-4) / 2, abs=5 * fourth.std() / math.sqrt(len(fourth)))


def test_user_prior_of_a_task_is_whitened() -> None:
    assert two_moons().schema["theta"].prior == Uniform(-1.0, 1.0)
    assert gaussian_linear().schema["theta"].prior == Normal(0.0, math.sqrt(0.1))


def test_the_masks_know_what_is_independent() -> None:
    """gaussian_linear is ten pairs; slcp's four draws see θ and themselves, not each other; two_moons is whole."""
    eye = np.eye(10, dtype=bool)
    np.testing.assert_array_equal(moral_graph(gaussian_linear().schema), np.block([[eye, eye], [eye, eye]]))
    draws = np.kron(np.eye(4, dtype=bool), np.ones((2, 2), dtype=bool))
    theta, cross = np.ones((5, 5), dtype=bool), np.ones((5, 8), dtype=bool)
    np.testing.assert_array_equal(moral_graph(slcp().schema), np.block([[theta, cross], [cross.T, draws]]))
    assert moral_graph(two_moons().schema).all() and moral_graph(bernoulli_glm().schema).all()


def test_bernoulli_glm_has_its_prior_and_its_mean_given_theta() -> None:
    """θ ~ N(0, P⁻¹);  E[x | θ] = Vᵀp and Cov[x | θ] = Vᵀ diag(p (1 − p)) V with p = 1/(1 + exp(−Vθ))."""
    n = 40_000
    theta = bernoulli_glm().simulate(n, generator())["theta"]
    covariance = torch.linalg.inv(glm_precision())
    error = ((covariance**2 + torch.outer(covariance.diagonal(), covariance.diagonal())) / n).sqrt()
    assert bool(((theta.T.cov() - covariance).abs() < 5 * error).all())
    assert covariance[0, 0] == 2 and covariance[0, 1:].abs().max() == 0 and covariance[1, 2] > 1  # smooth
    fixed, design = theta[0], glm_design()
    x = draw_bernoulli_glm(fixed.expand(n, 10), generator(1))
    p = torch.sigmoid(design @ fixed)
    truth = design.T @ ((p * (1 - p))[:, None] * design)
    assert bool(((x.mean(0) - design.T @ p).abs() < 5 * (truth.diagonal() / n).sqrt()).all())
    error = ((truth**2 + torch.outer(truth.diagonal(), truth.diagonal())) / n).sqrt()
    assert bool(((x.T.cov() - truth).abs() < 5 * error).all())


def test_bernoulli_glm_has_the_posterior_that_sbibm_publishes() -> None:
    """Observation 1, and means and sds of its 10,000 reference draws (arXiv 2101.04653): x is sufficient, so we weigh
    draws of a Student-t around the mode by exp(θᵀx − Σ log(1 + e^Vθ) − ½ θᵀPθ)."""
    x = np.array(
        [56, 3.32306, 14.356438, 11.104893, -4.167525, -18.507809, -21.917496, -9.553517, -0.357257, -5.497825]
    )
    mean = np.array([0.8882, 1.9765, 3.2853, 2.5193, 0.3151, -1.6458, -2.4288, -1.5531, -0.2833, 0.3215])
    sd = np.array([0.4009, 0.4623, 0.6398, 0.52, 0.3118, 0.3979, 0.5037, 0.4181, 0.338, 0.3879])
    design, precision = glm_design().numpy(), glm_precision().numpy()
    mode = np.zeros(10)
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ mode))
        hessian = design.T @ ((p * (1 - p))[:, None] * design) + precision
        mode = mode + np.linalg.solve(hessian, x - design.T @ p - precision @ mode)
    t = scipy.stats.multivariate_t(mode, 1.2 * np.linalg.inv(hessian), df=10, seed=0)
    theta = t.rvs(20_000)
    log_joint = theta @ x - np.logaddexp(0, theta @ design.T).sum(1) - 0.5 * ((theta @ precision) * theta).sum(1)
    log_weight = log_joint - t.logpdf(theta)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    ours = weight @ theta
    assert 1 / (weight**2).sum() > 8_000
    np.testing.assert_allclose((ours - mean) / sd, 0, atol=0.06)
    np.testing.assert_allclose(np.sqrt(weight @ (theta - ours) ** 2) / sd, 1, atol=0.05)


@pytest.mark.parametrize(
    ("task", "noise"), [(tree, {"x1": 0.2, "x2": 0.2, "x3": 0.6, "x4": 0.1}), (hmm, {f"x{i}": 0.5 for i in range(10)})]
)
def test_structured_tasks_have_the_stated_laws(task: type, noise: dict[str, float]) -> None:
    """Steps and residuals are independent normals of the stated sd; the stated marginals whiten the t."""
    draws = {k: v.numpy() for k, v in task().simulate(20_000, generator()).items()}
    square = lambda t: t**2  # noqa: E731
    means = {
        "x1": lambda d: np.sin(d["t2"]) ** 2,
        "x2": lambda d: 0.1 * square(d["t2"]),
        "x3": lambda d: 0.1 * square(d["t3"]),
        "x4": lambda d: np.cos(d["t3"]) ** 2,
    }
    if task is hmm:
        means = {f"x{i}": (lambda d, i=i: square(d[f"t{i}"])) for i in range(10)}
    schema = task().schema
    residuals = [(draws[k] - means[k](draws)) / sd for k, sd in noise.items()]
    for v in schema.variables[: len(schema.names) - len(noise)]:
        step = draws[v.name] - (draws[v.parents[0]] if v.parents else 0)
        residuals.append(step / (1.0 if task is tree else 0.5))
        assert scipy.stats.kstest(draws[v.name], scipy.stats.norm(0, v.prior.scale).cdf).pvalue > 1e-3
    assert all(scipy.stats.kstest(r, scipy.stats.norm.cdf).pvalue > 1e-3 for r in residuals)
    off = np.corrcoef(residuals) - np.eye(len(residuals))
    assert np.abs(off).max() < 5 / math.sqrt(20_000)


def test_structured_tasks_have_the_stated_graphs() -> None:
    def edges(task: type) -> set[str]:
        schema = task().schema
        pairs = zip(*np.nonzero(np.triu(moral_graph(schema), 1)))
        return {f"{schema.names[i]} {schema.names[j]}" for i, j in pairs}

    assert edges(tree) == {"t1 t2", "t1 t3", "t2 x1", "t2 x2", "t3 x3", "t3 x4"}
    assert edges(hmm) == {f"t{i} t{i + 1}" for i in range(9)} | {f"t{i} x{i}" for i in range(10)}
