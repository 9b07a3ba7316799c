"""One conditional p(latent variables | observed variables), with the methods of sbi's posteriors.

Draws come from the probability-flow ODE or the reverse SDE, densities from the ODE's divergence:

    log p(y | x) = log p(z | x) − Σ log |dy/dz|,   y the latent features on their own scale, z whitened.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from fsimformer.convert import ObservationWarning
from fsimformer.likelihood import query_log_prob
from fsimformer.sample import QUALITY, SamplerConfig
from fsimformer.sbi.arguments import OF_LOG_PROB, OF_POSTERIOR, OF_SAMPLE, refuse, require_shape, require_whole
from fsimformer.sbi.estimator import FARTHEST, Estimator, flat
from fsimformer.sbi.mask_laws import edges_of_ids, eliminate, read_mask, warn_of_untrained
from fsimformer.sbi.support import Support, draw_inside, share_of
from fsimformer.stages import Budget, draw
from fsimformer.tokens import Dial

SAMPLE_WITH = {"ode": QUALITY["fast"], "sde": QUALITY["sde"]}
_DIAL: Dial = "few"
_FOR_SHARE = 1_000
"""Draws that tell which share lies in a prior's support: where a tenth leaks, a density errs by .01, at the least share
that passes by .3."""


class FlatConditional:
    """p(latent | observed) for a fixed condition mask; called a posterior, whatever the mask says.

    A draw is a vector of d = (latent variables)·F numbers, an observation one of (observed variables)·F: the features
    of the first variable, then those of the next. Both may also come as (variables, F). A NaN in an observation is a
    value that nobody measured, and is integrated out. Where simulations lacked it, too, it is no token, and its
    neighbours in the edge mask are joined (`eliminate`), so that it parts nothing. Where none did, the network has not
    learned to do without the token: it is drawn along with the latent ones, and dropped.

    Warns:
        ObservationWarning: observations without a finite value; values outside the simulations' range (all but one in
            a thousand) by more than its width; a gap that no simulation had, of a density, or where no condition mask
            of training has such a value latent.
    """

    def __init__(
        self, estimator: Estimator, condition_mask: Any, edge_mask: Any, sample_with: str, prior: Any = None
    ) -> None:
        """Args: see `Simformer.build_conditional`, and of `prior` `Simformer.build_posterior`."""
        columns = estimator.columns
        t, f = columns.n_variables, columns.n_features
        self.condition_mask = read_mask("condition_mask", condition_mask, (t,))
        if self.condition_mask.all():
            raise ValueError(f"condition_mask: all {t} variables are observed, none is left to sample.")
        if sample_with not in SAMPLE_WITH:
            raise ValueError(f"sample_with: expected one of {sorted(SAMPLE_WITH)}, got {sample_with!r}.")
        edges = estimator.edge_mask if edge_mask is None else read_mask("edge_mask", edge_mask, (t, t))
        self.edge_mask = edges
        self._columns = columns
        self._config: SamplerConfig = SAMPLE_WITH[sample_with]
        self._edges = None if edges is None else edges_of_ids(edges, f)
        self._denoiser = estimator.denoiser.eval()
        self._latent, self._observed = columns.ids(~self.condition_mask), columns.ids(self.condition_mask)
        self._varies = ~columns.constant[self._latent]  # of the others there is nothing to draw
        if not self._varies.any():
            raise ValueError("condition_mask: every latent feature was constant in the simulations; nothing to sample.")
        self._listed = estimator.condition_masks
        self._support = None if prior is None else Support.read(prior, len(self._latent))
        self._default_x: Tensor | None = None

    def __repr__(self) -> str:
        """`FlatConditional(p(variables [0] | variables [1, 2]), features=1)`."""
        latent, observed = (mask.nonzero()[:, 0].tolist() for mask in (~self.condition_mask, self.condition_mask))
        return (
            f"{type(self).__name__}(p(variables {latent} | variables {observed}), features={self._columns.n_features})"
        )

    if not TYPE_CHECKING:  # or a checker would let every attribute pass

        def __getattr__(self, name: str) -> NoReturn:
            """Of what sbi's posteriors have besides: AttributeError, with what to do instead."""
            instead = f"; sbi's has no place here: {OF_POSTERIOR[name]}" if name in OF_POSTERIOR else ""
            message = f"{type(self).__name__!r} object has no attribute {name!r}{instead}."
            raise AttributeError(message, name=name, obj=self)

    @property
    def default_x(self) -> Tensor | None:
        """(1, observed features): what `sample` and `log_prob` condition on without `x`."""
        return self._default_x

    @default_x.setter
    def default_x(self, x: Any) -> None:
        self.set_default_x(x)

    def set_default_x(self, x: Any) -> FlatConditional:
        """Sets the observation to use where none is passed; returns itself."""
        self._default_x = self._read_x(x, batched=False)
        return self

    def sample(
        self,
        sample_shape: torch.Size | tuple[int, ...] = (),
        x: Any = None,
        *,
        seed: int | None = None,
        reject_outside_prior: bool | None = None,
        show_progress_bars: bool = False,
        max_sampling_batch_size: int | None = None,
        **of_sbi: Any,
    ) -> Tensor:
        """Draws from p(latent | x), (*sample_shape, d).

        Args:
            x: the observation, (d_x,), (1, d_x), or the same as (variables, F); by default `default_x`.
            seed: equal seeds give equal draws; more draws change none of the first. None: fresh noise at every call,
                seeded from torch's global generator as sbi's is: calls in a loop must not share theirs.
            reject_outside_prior: draws again what leaks out of the prior's support; by default where
                `build_posterior(prior=…)` was given one.
            show_progress_bars, max_sampling_batch_size: for sbi's callers; nothing is shown, and memory is bounded
                without it.
            of_sbi: refused, with what to do instead.

        Raises:
            ValueError: an observation of another shape, or none. TypeError: no tuple, no seed, no prior to reject by,
                what has no place. RuntimeError: less than a hundredth of the draws lie in the prior's support.
        """
        refuse("sample", self.sample, of_sbi, OF_SAMPLE)
        observation = self._x_or_default(x)
        self._look_at(observation)
        return self._sample("sample", sample_shape, observation, seed, reject_outside_prior)[..., 0, :]

    def sample_batched(
        self,
        sample_shape: torch.Size | tuple[int, ...],
        x: Any,
        *,
        seed: int | None = None,
        reject_outside_prior: bool | None = None,
        show_progress_bars: bool = False,
        max_sampling_batch_size: int | None = None,
        **of_sbi: Any,
    ) -> Tensor:
        """Draws for each of B observations, (*sample_shape, B, d); x is (B, d_x) or (B, variables, F).

        Observations are independent of each other: a row's draws depend on (seed, its number) alone. What else there
        is, is as for `sample`.
        """
        refuse("sample_batched", self.sample_batched, of_sbi, OF_SAMPLE)
        observations = self._read_x(x, batched=True)
        self._look_at(observations)
        return self._sample("sample_batched", sample_shape, observations, seed, reject_outside_prior)

    def log_prob(self, theta: Any, x: Any = None, *, n_steps: int = 24, **of_sbi: Any) -> Tensor:
        """log p(theta | x) on the original scale, (n,).

        With a prior it is −∞ outside its support, and normalised within by the share of a thousand draws, which costs
        them at every call.

        Args:
            theta: (n, d), (n, variables, F), or one (d,).
            x: as for `sample`.
            n_steps: midpoint steps of the ODE; the divergence is exact. What the solver adds to the network's error is
                about 0.04 in the densities of exact Gaussians (tests/test_sbi.py).
            of_sbi: refused, with what to do instead.

        Raises:
            ValueError: another shape, NaN in theta, no observation. TypeError: what has no place. RuntimeError: less
                than a hundredth of the draws lie in the prior's support.
        """
        refuse("log_prob", self.log_prob, of_sbi, OF_LOG_PROB)
        y, observation = self._read_theta(theta), self._x_or_default(x)
        self._look_at(observation, density=True)
        return self._log_prob(y, observation[0], n_steps)

    def log_prob_batched(self, theta: Any, x: Any, *, n_steps: int = 24, **of_sbi: Any) -> Tensor:
        """log p(theta[:, b] | x[b]), (n, B), of theta (n, B, d) and x (B, d_x) or (B, variables, F)."""
        refuse("log_prob_batched", self.log_prob_batched, of_sbi, OF_LOG_PROB)
        observations = self._read_x(x, batched=True)
        theta = torch.as_tensor(theta)
        d = len(self._latent)
        if theta.dim() != 3 or tuple(theta.shape[1:]) != (len(observations), d):
            raise ValueError(f"theta: expected (n, {len(observations)}, {d}), got shape {tuple(theta.shape)}.")
        self._look_at(observations, density=True)
        each = zip(theta.unbind(1), observations, strict=True)
        densities = [self._log_prob(self._read_theta(y), row, n_steps) for y, row in each]
        return torch.stack(densities, dim=1) if densities else torch.zeros(len(theta), 0)

    def map(self, x: Any = None, **of_sbi: Any) -> Tensor:
        """Not here: no density is climbed. The draw of highest density is near its mode where d is small.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "map: no gradient is followed here; take the draw of highest density: draws = p.sample((1000,), x=x), then "
            "draws[p.log_prob(draws, x=x).argmax()]."
        )

    def _sample(
        self,
        where: str,
        sample_shape: torch.Size | tuple[int, ...],
        x: Tensor,
        seed: int | None,
        reject: bool | None,
    ) -> Tensor:
        shape, support = require_shape(sample_shape), None if reject is False else self._support
        if reject and support is None:
            raise TypeError(f"{where}: reject_outside_prior=True asks for a prior; pass it: build_posterior(prior=…).")
        if seed is None:
            seed = int(torch.randint(2**31, (1,)))
        seed = require_whole(where, "seed", seed, 0)
        if not len(x):
            return torch.zeros(*shape, 0, len(self._latent))
        n = math.prod(shape)

        def of(row: int | None, m: int) -> Tensor:
            return self._draw(x, seed, m) if row is None else self._draw(x[row : row + 1], seed, m, row)

        y = of(None, n) if support is None or not n else draw_inside(of, support, n)
        return y.float().view(*shape, len(x), len(self._latent))

    def _draw(self, x: Tensor, seed: int, n: int, number: int = 0) -> Tensor:
        """(n, B, d) given each of observations (B, d_x), of which the first has this number, in double precision."""
        ids = self._latent[self._varies]
        along = [self._observed[new] for new in self._columns.new_gaps(self._observed, x)]
        draws = draw(
            self._denoiser,
            [self._columns.tokens(self._observed, row) for row in x],
            [self._columns.tokens(torch.cat([ids, more]), None) for more in along],
            torch.zeros(len(self._columns.standardise), dtype=torch.bool),
            n,
            self._config,
            seed,
            _DIAL,
            Budget(n_joint=len(ids) + max(map(len, along))),
            None if self._edges is None else [self._edges_given(self._edges, *each) for each in zip(x, along)],
            number=number,
        )
        draws = [z[:, : len(ids)] for z in draws]
        y = self._always.expand(n, len(x), -1).clone()
        y[..., self._varies] = self._columns.unwhiten(torch.stack(draws, dim=1).double(), ids)
        return y

    @property
    def _always(self) -> Tensor:
        """(d,) the values of latent features that are constant, and the centres of the others."""
        return torch.tensor([self._columns.standardise[i].loc for i in self._latent.tolist()], dtype=torch.float64)

    def _log_prob(self, theta: Tensor, x: Tensor, n_steps: int) -> Tensor:
        ids, n_steps = self._latent[self._varies], require_whole("log_prob", "n_steps", n_steps, 1)
        z = self._columns.whiten(theta[:, self._varies], ids)
        impossible = (theta.float() != self._always.float())[:, ~self._varies].any(1) | (z.abs() > FARTHEST).any(1)
        z = z.masked_fill(impossible[:, None], 0.0)
        observed, query = self._columns.tokens(self._observed, x), self._columns.tokens(ids, None)
        edges = None if self._edges is None else self._edges_given(self._edges, x)
        log_p = query_log_prob(self._denoiser, observed, query, z, _DIAL, n_steps=n_steps, edges=edges)
        log_p = log_p - self._columns.log_det(z, ids)
        if self._support is not None:
            log_p = log_p - math.log(share_of(self._support(self._draw(x[None], 0, _FOR_SHARE))[:, 0], 0))
            exact = torch.where(self._varies, theta, self._always)  # draws are rounded, maybe over an edge
            impossible = impossible | ~self._support(exact)
        return log_p.masked_fill(impossible, -math.inf).float()

    def _look_at(self, x: Tensor, density: bool = False) -> None:
        self._columns.require_near(self._observed, x)
        doubts = self._columns.doubts(self._observed, x, density)
        for doubt in doubts if density else [*doubts, *self._untrained_gaps(x)]:
            warnings.warn(doubt, ObservationWarning, stacklevel=3)

    def _untrained_gaps(self, x: Tensor) -> list[str]:
        """Of observations (B, d_x) whose gaps are drawn along: where no condition mask of training has them latent."""
        for row, new in zip(x, self._columns.new_gaps(self._observed, x)):
            variables = self._observed // self._columns.n_features
            gone = variables[new].unique()
            if not len(gone):
                continue
            mask = self.condition_mask.clone()
            mask[gone] = False
            listed = self._listed is None or not len(self._listed) or bool((self._listed == mask).all(1).any())
            half = torch.isin(variables, gone) & ~torch.isnan(row) & ~self._columns.constant[self._observed]
            if not listed or bool(half.any()):
                names = [self._columns.name(i) for i in self._observed[new].tolist()]
                return [
                    f"x: no simulation lacked (variable, feature) {names}, as an observation does, and no condition "
                    "mask of training has it latent beside what is observed. Let simulations have such gaps, NaN."
                ]
        return []

    def _edges_given(self, edges: Tensor, x: Tensor, along: Tensor | None = None) -> Tensor:
        """The ids' edge mask for an observation (d_x,): without what is NaN there, except what is drawn `along`."""
        missing = torch.zeros(len(edges), dtype=torch.bool)
        missing[self._observed] = torch.isnan(x)
        if along is not None:
            missing[along] = False
        return eliminate(edges, missing & ~self._columns.constant)

    def _read_theta(self, theta: Any) -> Tensor:
        n_latent = int((~self.condition_mask).sum())
        theta = torch.as_tensor(theta)
        theta = theta[None] if tuple(theta.shape) == (len(self._latent),) else theta
        out = flat("theta", theta, len(self._latent), n_latent, self._columns.n_features, batched=True)
        if torch.isnan(out).any():
            raise ValueError(
                "theta: a density needs a value of everything that is latent here; got NaN. What nobody measured is "
                "integrated out only where it is observed."
            )
        return out

    def _read_x(self, x: Any, batched: bool) -> Tensor:
        n_observed = int(self.condition_mask.sum())
        return flat("x", x, len(self._observed), n_observed, self._columns.n_features, batched)

    def _x_or_default(self, x: Any) -> Tensor:
        if x is not None:
            return self._read_x(x, batched=False)
        if self._default_x is not None:
            return self._default_x
        if not len(self._observed):
            return torch.zeros(1, 0, dtype=torch.float64)
        raise ValueError("x: no observation; pass x=, or set_default_x(x) first.")


def build(
    estimator: Estimator, condition_mask: Any, edge_mask: Any, sample_with: str, prior: Any = None
) -> FlatConditional:
    """What `Simformer.build_…` return; their caller is warned of masks that training had not, and of coarse draws."""
    out = FlatConditional(estimator, condition_mask, edge_mask, sample_with, prior)
    known = estimator.condition_masks, estimator.edge_masks
    warn_of_untrained(*known, out.condition_mask, out.edge_mask, stacklevel=4)
    for coarse in estimator.columns.coarse(out._latent):
        warnings.warn(coarse, UserWarning, stacklevel=3)
    return out
