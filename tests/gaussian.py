"""A network that knows the joint: the exact denoiser of a Gaussian, in the place of trained weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from fsimformer.denoise import Denoiser
from fsimformer.nn import Context, NetworkConfig
from fsimformer.sbi.estimator import Columns, Estimator
from fsimformer.whiten import Standardise


class GaussianNetwork(nn.Module):
    """F of `denoise.py` for z ~ N(mean, covariance) over the token ids; all tokens of a row must be active."""

    n_outputs, config, precision = 1, NetworkConfig(), torch.float32

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.mean, self.covariance = mean, covariance
        self.out = nn.Linear(1, 1)  # says which device the network is on

    def encode(
        self, variable: Tensor, index: Tensor, value: Tensor, attend: Tensor, content: Tensor | None = None
    ) -> Context:
        assert variable.shape[1] == 0, "a frozen token: the exact denoiser would not see it"
        return Context((), ())

    def decode(
        self,
        variable: Tensor,
        index: Tensor,
        observed: Tensor,
        value: Tensor,
        c_noise: Tensor,
        context: Context,
        attend: Tensor,
        attend_context: Tensor,
        content: Tensor | None = None,
        estimate: Tensor | None = None,
    ) -> Tensor:
        out = torch.zeros_like(value)
        for row in range(len(variable)):
            given, latent = attend[row] & observed[row], attend[row] & ~observed[row]
            i, j = variable[row, latent], variable[row, given]
            mean, covariance = condition(self.mean, self.covariance, i, j, value[row, 0, given].double())
            f = output_of_normal(mean, covariance, value[row][:, latent], c_noise[row])
            out[row][:, latent] = f.to(out.dtype)
        return out


def output_of_normal(mean: Tensor, covariance: Tensor, value: Tensor, c_noise: Tensor) -> Tensor:
    """F of `denoise.py` where x ~ N(mean, covariance): scaled values (…, n) at noise levels ¼ log λ (…), float64."""
    ratio = (4 * c_noise).exp().double()[..., None]
    norm = (1 + ratio**2).rsqrt()
    y = value.double() / norm
    variances, axes = torch.linalg.eigh(covariance)
    x_hat = mean + ((y - mean) @ axes * (variances / (variances + ratio**2))) @ axes.T
    return (x_hat - y * norm**2) / (ratio * norm)


def condition(mean: Tensor, covariance: Tensor, i: Tensor, j: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the entries i given the entries j."""
    gain = covariance[i][:, j] @ torch.linalg.inv(covariance[j][:, j])
    return mean[i] + gain @ (given - mean[j]), covariance[i][:, i] - gain @ covariance[j][:, i]


class Joint:
    """y = loc + scale·z, z ~ N(0, R R'), of `n_variables` variables with `n_features` features."""

    def __init__(self, n_variables: int, n_features: int, seed: int = 0) -> None:
        d, g = n_variables * n_features, torch.Generator().manual_seed(seed)
        root = 0.5 * torch.randn(d, d, generator=g, dtype=torch.float64) + torch.eye(d, dtype=torch.float64)
        root = root / root.norm(dim=1, keepdim=True)
        self.n_variables, self.n_features, self.root = n_variables, n_features, root
        self.loc = torch.linspace(-3, 5, d, dtype=torch.float64)
        self.scale = torch.logspace(-1, 2, d, dtype=torch.float64)
        standardise = tuple(Standardise(m, s) for m, s in zip(self.loc.tolist(), self.scale.tolist(), strict=True))
        network = GaussianNetwork(torch.zeros(d, dtype=torch.float64), root @ root.T)
        denoiser = Denoiser(network, "trig")  # type: ignore[arg-type]
        self.estimator = Estimator(denoiser, "trig", Columns(n_variables, n_features, standardise))

    def simulate(self, n: int, seed: int = 1) -> Tensor:
        """(n, variables, features)."""
        z = torch.randn(n, len(self.root), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        y = self.loc + self.scale * (z @ self.root.T)
        return y.view(n, self.n_variables, self.n_features)

    def exact(self, mask: list[bool], x: Tensor) -> MultivariateNormal:
        """p(latent | x), x (observed features,), NaN integrated out."""
        ids = torch.arange(len(self.root)).view(self.n_variables, self.n_features)
        observed = torch.tensor(mask)
        i, j = ids[~observed].flatten(), ids[observed].flatten()
        there = torch.isfinite(x)
        covariance = (self.scale[:, None] * self.root) @ (self.scale[:, None] * self.root).T
        return MultivariateNormal(*condition(self.loc, covariance, i, j[there], x.double()[there]))
