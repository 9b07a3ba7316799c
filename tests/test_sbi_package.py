"""sbi's own diagnostics and plots take the face's conditionals for sbi's own."""

from __future__ import annotations

import pytest
import torch
from gaussian import Joint

from fsimformer.sbi import Simformer

pytest.importorskip("sbi")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
pytestmark = pytest.mark.filterwarnings("ignore")  # sbi's own

from sbi.analysis import pairplot  # noqa: E402
from sbi.diagnostics import check_sbc, check_tarp, run_sbc, run_tarp  # noqa: E402
from sbi.utils import BoxUniform, MultipleIndependent  # noqa: E402
from torch.distributions import Uniform  # noqa: E402

JOINT = Joint(2, 3)
POSTERIOR = Simformer(posterior_latent_idx=[0], posterior_observed_idx=[1]).build_posterior(JOINT.estimator)
INPUTS = JOINT.simulate(200, seed=3).float()
THETAS, XS = INPUTS[:, 0], INPUTS[:, 1]


@pytest.fixture(autouse=True)
def seeded_as_sbi_is() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("together", [True, False])
def test_sbc_accepts_the_exact_posterior_and_rejects_a_shifted_one(together: bool) -> None:
    """Drawn in one batch, and data set by data set in a loop: calls in a loop do not share their noise."""
    ranks, dap = run_sbc(
        THETAS, XS, POSTERIOR, num_posterior_samples=100, show_progress_bar=False, use_batched_sampling=together
    )
    stats = check_sbc(ranks, THETAS, dap, num_posterior_samples=100)
    assert ranks.shape == (200, 3) and float(stats["ks_pvals"].min()) > 0.01
    assert float((stats["c2st_dap"] - 0.5).abs().max()) < 0.1
    wrong, dap = run_sbc(THETAS + THETAS.std(0), XS, POSTERIOR, num_posterior_samples=100, show_progress_bar=False)
    assert float(check_sbc(wrong, THETAS, dap, num_posterior_samples=100)["ks_pvals"].max()) < 0.01


def test_expected_coverage_ranks_by_log_prob() -> None:
    ranks, _ = run_sbc(
        THETAS[:40],
        XS[:40],
        POSTERIOR,
        num_posterior_samples=50,
        reduce_fns=POSTERIOR.log_prob,
        show_progress_bar=False,
    )
    assert 0.3 < float(ranks.float().mean()) / 50 < 0.7
    # a truth far off is among the least likely draws, and of a statistic that is no density it would not be
    wrong, _ = run_sbc(
        THETAS[:40] + 2 * THETAS.std(0), XS[:40], POSTERIOR, 50, reduce_fns=POSTERIOR.log_prob, show_progress_bar=False
    )
    assert float(wrong.float().mean()) / 50 < 0.1


def test_tarp_accepts_the_exact_posterior_and_rejects_a_shifted_one() -> None:
    references = THETAS[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    ecp, alpha = run_tarp(
        THETAS, XS, POSTERIOR, references, num_posterior_samples=100, num_bins=20, show_progress_bar=False
    )
    area, p_value = check_tarp(ecp, alpha)
    assert abs(area) < 0.1 and p_value > 0.05
    wrong, alpha = run_tarp(
        THETAS + 2 * THETAS.std(0), XS, POSTERIOR, references, num_posterior_samples=100, num_bins=20,
        show_progress_bar=False,
    )  # fmt: skip
    area, p_value = check_tarp(wrong, alpha)
    assert area < -0.2 and p_value < 1e-4


def test_draws_plot() -> None:
    limits = torch.stack([THETAS.amin(0), THETAS.amax(0)], 1).tolist()
    figure, axes = pairplot(POSTERIOR.sample((100,), x=XS[0], seed=0), limits=limits, points=THETAS[0], figsize=(3, 3))
    assert axes.shape == (3, 3)
    matplotlib.pyplot.close(figure)


def test_draws_stay_in_the_support_of_sbis_own_priors() -> None:
    middle, half = THETAS.mean(0), THETAS.std(0)
    inference = Simformer(posterior_latent_idx=[0], posterior_observed_idx=[1])
    for prior in (
        BoxUniform(middle - half, middle + half),
        MultipleIndependent([Uniform(m[None] - h, m[None] + h) for m, h in zip(middle, half, strict=True)]),
    ):
        p = inference.build_posterior(JOINT.estimator, prior=prior)
        draws = p.sample((200,), x=XS[0], seed=0)
        assert draws.shape == (200, 3) and bool(((draws - middle).abs() <= half).all())
        density = p.log_prob(torch.stack([draws[0], middle + 2 * half]), x=XS[0])
        assert bool(torch.isfinite(density[0])) and bool(torch.isneginf(density[1]))
    free = inference.build_posterior(JOINT.estimator).sample((200,), x=XS[0], seed=0)
    assert not bool(((free - middle).abs() <= half).all())
