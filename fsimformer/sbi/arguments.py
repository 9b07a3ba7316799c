"""Arguments at the door: numbers that must be whole, and keywords that sbi's callers bring along.

What of sbi's has no effect on results is accepted by name and ignored. What would have one, and has no place here, is
refused with what to do instead; None, False and sbi's own default ask for nothing and pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

_PRIOR = "simulations carry the prior; build_posterior(prior=…) keeps draws in its support"
_BUILT = "the sampler is chosen where the conditional is built: build_conditional(…, sample_with='ode' or 'sde')"
_ONE_TENSOR = (
    "inputs= is one tensor (N, variables, features); torch.cat([theta, x], dim=1) makes each column a variable"
)
_TIMED = "a draw takes a fixed number of network evaluations"

_DEFAULTS = {"mvf_estimator": "simformer"}
"""Keyword of sbi's -> its default there, where that is neither None nor False."""

OF_INIT = {
    "mvf_estimator": "network=NetworkConfig(width=…, depth=…, n_heads=…) sets the network; a trained estimator is for "
    "build_conditional(…, mvf_estimator=…)",
    "prior": _PRIOR,
    "sde_type": "flow matching has one path, the straight one",
    "summary_writer": "train(callback=…) gets the losses, `summary` keeps them",
}
OF_APPEND = {
    **dict.fromkeys(("theta", "x"), _ONE_TENSOR),
    "exclude_invalid_x": "no row is left out: a NaN is no token, the rest of its row is trained on",
    "data_device": "simulations stay on the CPU",
}
OF_TRAIN = {
    "calibration_kernel": "all simulations weigh alike",
    "ema_loss_decay": "the losses in `summary` are as they are, the weights are averaged",
    "validation_times": "Simformer(levels=NoiseLevels(…)) sets the noise levels, of validation too",
    "validation_times_nugget": "Simformer(levels=NoiseLevels(…)) sets the noise levels, of validation too",
    "resume_training": "every training starts afresh; take a larger max_num_epochs",
    "discard_prior_samples": "rounds are not implemented: all simulations come from the prior",
    "dataloader_kwargs": "rows are drawn from memory, training_batch_size of them a step",
}
OF_BUILD = {
    "prior": _PRIOR,
    "vectorfield_sampling_parameters": "sample_with='ode' or 'sde' chooses the sampler",
    "posterior_parameters": "sample_with='ode' or 'sde' chooses the sampler",
}
OF_SAMPLE = {
    **dict.fromkeys(
        ("predictor", "corrector", "predictor_params", "corrector_params", "steps", "ts", "sample_with"), _BUILT
    ),
    **dict.fromkeys(("iid_method", "iid_params"), "an observation is one row; sample_batched takes each on its own"),
    **dict.fromkeys(("guidance_method", "guidance_params"), "there is no guidance in this face"),
    **dict.fromkeys(("max_sampling_time", "return_partial_on_timeout"), _TIMED),
}
OF_LOG_PROB = {
    "track_gradients": "a density comes without gradients",
    "ode_kwargs": "n_steps=… sets the solver's steps",
}
OF_POSTERIOR = {
    **dict.fromkeys(("potential", "potential_fn"), "log_prob(theta, x=…) is the density, normalised"),
    "to": "Simformer(device=…) sets where the network trains and draws; draws come back on the CPU",
    "prior": _PRIOR,
    "leakage_correction": "log_prob is normalised in the support where build_posterior(prior=…) was given it",
    "posterior_estimator": "train() returned it; fsimformer.sbi.load reads one that was saved",
}
"""Attribute of sbi's posteriors -> what to do instead."""


def refuse(where: str, function: Callable[..., Any], given: Mapping[str, Any], instead: Mapping[str, str]) -> None:
    """Refuses keywords that `function` does not have.

    Args:
        given: keyword -> value. instead: keyword of sbi's -> what to do instead.

    Raises:
        TypeError: with what to do instead, or, for what sbi has not either, with the choices.
    """
    for name, value in given.items():
        if name not in instead:
            parameters = inspect.signature(function).parameters.values()
            own = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]
            raise TypeError(f"{where}: no argument {name!r}; expected some of {own}.")
        asks = not isinstance(value, str) or value != _DEFAULTS.get(name)
        if value is not None and value is not False and asks:
            raise TypeError(f"{where}: sbi's {name} has no place here; leave it out: {instead[name]}.")


def require_whole(where: str, name: str, number: object, least: int) -> int:
    """An integer, numpy's too, of at least this.

    Raises:
        TypeError, ValueError: another.
    """
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise TypeError(f"{where}: expected an integer {name} >= {least}, got {number!r}.")
    if number < least:
        raise ValueError(f"{where}: expected {name} >= {least}, got {number}.")
    return int(number)


def require_positive(where: str, name: str, number: object) -> float:
    """A number above 0.

    Raises:
        TypeError, ValueError: another, NaN too.
    """
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"{where}: expected a number {name} > 0, got {number!r}.")
    if not float(number) > 0:
        raise ValueError(f"{where}: expected {name} > 0, got {number}.")
    return float(number)


def require_shape(sample_shape: object) -> tuple[int, ...]:
    """A `sample_shape`.

    Raises:
        TypeError: no tuple; ValueError: negative entries.
    """
    if not isinstance(sample_shape, tuple | list):
        raise TypeError(f"sample_shape: expected a tuple such as (1000,), got {sample_shape!r}.")
    return tuple(require_whole("sample_shape", "entry", n, 0) for n in sample_shape)
