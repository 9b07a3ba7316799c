"""`Simformer` and `FlowMatchingSimformer`: append simulations, train once, build any conditional (arXiv 2404.09636).

The two differ in the weight of the training loss (see `denoise.py`); masks, network and samplers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from fsimformer.batches import Rows
from fsimformer.denoise import Denoiser, NoiseLevels
from fsimformer.devices import require_device
from fsimformer.nn import Network, NetworkConfig
from fsimformer.sbi.arguments import OF_APPEND, OF_BUILD, OF_INIT, OF_TRAIN, refuse, require_positive, require_whole
from fsimformer.sbi.conditional import FlatConditional, build
from fsimformer.sbi.estimator import Columns, Estimator
from fsimformer.sbi.indexes import Indexes
from fsimformer.sbi.mask_laws import (
    CONDITION,
    EDGE,
    MaskSource,
    condition_law,
    edge_law,
    edges_of_ids,
    listed,
    require_source,
    rows_with_latents,
)
from fsimformer.sbi.rows import read_rows
from fsimformer.sbi.training import config_for, loss_of_nothing, warn_of_nothing_learned
from fsimformer.seeds import generator_at
from fsimformer.tokens import TokenBatch
from fsimformer.train import Progress, fit

SMALL = NetworkConfig(width=48, depth=3, n_heads=4)
"""What inference trains by default: 0.08 M parameters, for some ten features; many variables deserve more."""

_SCHEDULES = {"trig": "trig", "vp": "vp", "ve": "trig", "subvp": "trig"}


class JointInference:
    """What both have: simulations, laws of masks, indexes of the posterior, and what training left."""

    def __init__(
        self,
        schedule: str,
        posterior_latent_idx: Sequence[int] | Tensor | None,
        posterior_observed_idx: Sequence[int] | Tensor | None,
        network: NetworkConfig | None,
        levels: NoiseLevels | None,
        device: str,
        seed: int,
        of_sbi: Mapping[str, Any],
    ) -> None:
        name = type(self).__name__
        refuse(name, type(self).__init__, of_sbi, OF_INIT)
        require_device(device)
        self._schedule, self._device, self._seed = schedule, device, require_whole(name, "seed", seed, 0)
        self._network, self._levels = network or SMALL, levels or NoiseLevels()
        self._indexes = Indexes.read(posterior_latent_idx, posterior_observed_idx)
        self._inputs: list[Tensor] = []
        self._condition_source: MaskSource | None = None
        self._edge_source: MaskSource | None = None
        self._estimator: Estimator | None = None
        self._summary: dict[str, list[float]] = {}

    @property
    def summary(self) -> dict[str, list[float]]:
        """Last training: `training_loss`, `validation_loss` an epoch, `epochs_trained`, `best_validation_loss`."""
        return {k: list(v) for k, v in self._summary.items()}

    @property
    def _n_variables(self) -> int | None:
        """Of the simulations, once there are any."""
        return self._inputs[0].shape[1] if self._inputs else None

    def _estimator_or_last(self, given: Estimator | None) -> Estimator:
        estimator = given if given is not None else self._estimator
        if estimator is None:
            raise ValueError("build: nothing is trained; call train() first, or pass mvf_estimator=.")
        if not isinstance(estimator, Estimator):
            raise TypeError(
                f"mvf_estimator: expected an Estimator, which train() returns, got {type(estimator).__name__}."
            )
        return estimator

    def append_simulations(self, inputs: Any = None, proposal: None = None, **of_sbi: Any) -> Self:
        """Adds simulations to those that the next training uses.

        Args:
            inputs: tensor or array (N, variables, features), or (N, variables) of one feature. NaN = missing: no token,
                in training as later in an observation; what is left of the row is trained on.
            proposal: for sbi's callers; simulations come from the prior.
            of_sbi: refused, with what to do instead.

        Raises:
            TypeError, ValueError: no real numbers, another shape than before, infinite values, rows in which everything
                is missing, other variables than those of posterior_latent_idx and posterior_observed_idx, a proposal.
        """
        refuse("append_simulations", self.append_simulations, of_sbi, OF_APPEND)
        x = read_rows(inputs, proposal, self._inputs[0] if self._inputs else None)
        self._indexes.require(x.shape[1])
        self._inputs.append(x)
        return self

    def set_condition_masks_generator(self, condition_mask_generator: MaskSource | None) -> Self:
        """Which conditionals the next training trains, a mask for each row (True = observed).

        Args:
            condition_mask_generator: a callable rows (n, variables, features) -> (n, variables); a collection of masks
                (variables,), drawn uniformly; one mask; None = Bernoulli(½), never all observed. Another row takes the
                place of one of which all that is there comes out observed. No iterator: wrap it in a callable.
                Conditionals that these masks never ask for are not learned.

        Raises:
            TypeError, ValueError: no source of masks; once there are simulations, masks that do not fit them.
        """
        require_source(CONDITION, condition_mask_generator)
        if (t := self._n_variables) is not None:
            condition_law(condition_mask_generator, t)
        self._condition_source = condition_mask_generator
        return self

    def set_edge_masks_generator(self, edge_mask_generator: MaskSource | None) -> Self:
        """Who may attend to whom in the next training, for each row ([query, key], True = may).

        Args:
            edge_mask_generator: a callable condition masks (n, variables) -> (n, variables, variables) or None; a
                collection of masks (variables, variables), drawn uniformly; one mask; None = full attention. What is
                missing in a row parts nothing there: its neighbours are joined. No iterator: wrap it in a callable.

        Raises:
            TypeError, ValueError: no source of masks; once there are simulations, masks that do not fit them.
        """
        require_source(EDGE, edge_mask_generator)
        if (t := self._n_variables) is not None:
            edge_law(edge_mask_generator, t)
        self._edge_source = edge_mask_generator
        return self

    def train(
        self,
        training_batch_size: int = 200,
        learning_rate: float = 2e-3,
        validation_fraction: float = 0.1,
        stop_after_epochs: int | None = None,
        max_num_epochs: int | None = None,
        clip_max_norm: float | None = 5.0,
        *,
        callback: Callable[[Progress], None] | None = None,
        show_train_summary: bool = False,
        retrain_from_scratch: bool = True,
        force_first_round_loss: bool = True,
        **of_sbi: Any,
    ) -> Estimator:
        """Trains a fresh network on all simulations.

        An epoch is as many steps as its simulations fill batches; rows are drawn with replacement. The learning rate is
        constant, and falls to 0 over the last three tenths of the training, however it comes to its end (training.py).

        Args:
            training_batch_size: rows a step.
            learning_rate: of AdamW; the layers' matrices are stepped by Muon at 2.5 times that.
            validation_fraction: share of the simulations that only validates.
            stop_after_epochs: epochs without a lower validation loss after which the rate begins to fall; training ends
                3/7 of its epochs later. None = 40, but 600 steps at least and some 3,000 at most.
            max_num_epochs: epochs at most. None = 200, but 5,000 steps at least and some 20,000 at most.
            clip_max_norm: largest norm of the gradient; None = any.
            callback: called after every step with a `Progress`.
            show_train_summary: for sbi's callers; nothing is shown, see `summary`.
            retrain_from_scratch, force_first_round_loss: for sbi's callers; every training does both.
            of_sbi: refused, with what to do instead.

        Returns:
            The averaged weights that `fit` keeps (train.py) with their whitening; `build_*` use them by default.

        Raises:
            ValueError: no simulations, or too few; masks of another size, or that leave nothing latent in more than 99
                rows of a hundred; settings out of range. TypeError: settings of another type, or that have no place.
            FloatingPointError: the loss is not finite.

        Warns:
            UserWarning: a training that learned no more than means and standard deviations, as short ones do.
        """
        refuse("train", self.train, of_sbi, OF_TRAIN)
        if not self._inputs:
            raise ValueError("train: no simulations; call append_simulations(inputs) first.")
        inputs = torch.cat(self._inputs)
        n, t, f = inputs.shape
        if not require_positive("train", "validation_fraction", validation_fraction) < 1:
            raise ValueError(f"train: expected 0 < validation_fraction < 1, got {validation_fraction}.")
        training_batch_size = require_whole("train", "training_batch_size", training_batch_size, 1)
        if stop_after_epochs is not None:
            stop_after_epochs = require_whole("train", "stop_after_epochs", stop_after_epochs, 1)
        if max_num_epochs is not None:
            max_num_epochs = require_whole("train", "max_num_epochs", max_num_epochs, 1)
        learning_rate = require_positive("train", "learning_rate", learning_rate)
        clip_max_norm = math.inf if clip_max_norm is None else require_positive("train", "clip_max_norm", clip_max_norm)
        n_held_out = max(2, round(n * validation_fraction))
        n_train = n - n_held_out
        if n_train < 10:
            raise ValueError(f"train: {n} simulations leave {n_train} to train on; expected at least 10.")
        condition, edges = condition_law(self._condition_source, t), edge_law(self._edge_source, t)
        inputs = inputs[torch.randperm(n, generator=generator_at(self._seed, 15))]
        columns = Columns.fit(inputs[:n_train], inputs[n_train:])
        if columns.constant.all():
            raise ValueError("train: every feature is the same in all simulations; nothing is there to learn.")
        denoiser = self._fresh(t * f)
        config = config_for(
            n_train,
            n_held_out,
            t * f,
            batch_size=training_batch_size,
            learning_rate=learning_rate,
            clip=clip_max_norm,
            patience=stop_after_epochs,
            epochs=max_num_epochs,
            seed=self._seed,
        )

        def rows_of(simulations: Tensor) -> Rows:
            def rows(k: int, generator: torch.Generator) -> TokenBatch:
                chosen, masks = rows_with_latents(simulations, condition, k, generator, columns.varies)
                graph = edges(masks, generator)
                return columns.batch(chosen, masks, None if graph is None else edges_of_ids(graph, f))

            return rows

        run = fit(
            denoiser,
            rows_of(inputs[:n_train]),
            rows_of(inputs[n_train:]),
            torch.zeros(t * f, dtype=torch.bool),
            None,
            self._levels,
            config,
            callback=callback,
        )
        self._summary = {
            "training_loss": [loss for _, loss, _ in run.history], "validation_loss": [v for _, _, v in run.history],
            "epochs_trained": [run.step / config.validate_every], "best_validation_loss": [run.best_loss],
        }  # fmt: skip
        nothing = loss_of_nothing(self._schedule, self._levels)
        warn_of_nothing_learned(run.best_loss, run.step, nothing, stacklevel=2)
        trained, graphs = listed(CONDITION, self._condition_source, (t,)), listed(EDGE, self._edge_source, (t, t))
        fixed = graphs[0] if graphs is not None and len(graphs) == 1 else None
        self._estimator = Estimator(denoiser.eval(), self._schedule, columns, fixed, trained, graphs)
        return self._estimator

    def build_conditional(
        self,
        condition_mask: Tensor | Sequence[bool],
        edge_mask: Tensor | None = None,
        mvf_estimator: Estimator | None = None,
        *,
        sample_with: str = "sde",
        **of_sbi: Any,
    ) -> FlatConditional:
        """p(latent variables | observed variables).

        Args:
            condition_mask: (variables,), True = observed; one that none of the masks listed for training is, warns.
            edge_mask: (variables, variables), [query, key], True = may attend; a variable always sees itself. None: the
                mask of training where that was one fixed mask, else full attention; warns where training had others.
            mvf_estimator: what `train` returned; by default what it returned last.
            sample_with: "sde", or "ode": a third fewer evaluations, keeps early errors of the network.
            of_sbi: refused, with what to do instead.

        Raises:
            ValueError: nothing trained; masks of another shape; nothing latent; unknown `sample_with`.
            TypeError: `mvf_estimator` is no Estimator.
        """
        refuse("build_conditional", self.build_conditional, of_sbi, OF_BUILD)
        return build(self._estimator_or_last(mvf_estimator), condition_mask, edge_mask, sample_with)

    def build_posterior(
        self,
        mvf_estimator: Estimator | None = None,
        edge_mask: Tensor | None = None,
        prior: Any = None,
        *,
        sample_with: str = "sde",
        **of_sbi: Any,
    ) -> FlatConditional:
        """p(posterior_latent_idx | posterior_observed_idx), kept in the support of `prior`; see `build_conditional`.

        Args:
            prior: over what is latent (sbi's BoxUniform, torch's). Simulations carry it, but draws may leak over its
                edge: those are drawn again, and densities are normalised within, see `support.py`.

        Raises: TypeError, ValueError: no prior, or one over another number of values.
        """
        refuse("build_posterior", self.build_posterior, of_sbi, OF_BUILD)
        estimator = self._estimator_or_last(mvf_estimator)
        return build(estimator, self._indexes.mask(estimator.columns.n_variables), edge_mask, sample_with, prior)

    def build_likelihood(
        self,
        mvf_estimator: Estimator | None = None,
        edge_mask: Tensor | None = None,
        *,
        sample_with: str = "sde",
        **of_sbi: Any,
    ) -> FlatConditional:
        """p(posterior_observed_idx | posterior_latent_idx), the posterior's mask reversed; see `build_conditional`."""
        refuse("build_likelihood", self.build_likelihood, of_sbi, OF_BUILD)
        estimator = self._estimator_or_last(mvf_estimator)
        return build(estimator, ~self._indexes.mask(estimator.columns.n_variables), edge_mask, sample_with)

    def set_condition_indexes(
        self, new_posterior_latent_idx: Sequence[int] | Tensor, new_posterior_observed_idx: Sequence[int] | Tensor
    ) -> None:
        """Which variables are latent in the posterior, and which observed; in the likelihood they change places.

        Raises:
            TypeError, ValueError: no integers, or, once there are simulations, not each of their variables in one of
                the two, once.
        """
        indexes = Indexes.read(new_posterior_latent_idx, new_posterior_observed_idx)
        indexes.require(self._n_variables)
        self._indexes = indexes

    def _fresh(self, n_ids: int) -> Denoiser:
        config = replace(self._network, uses_index=((),) * n_ids)
        with torch.random.fork_rng(devices=[]):  # torch's initialisers know only the global generator
            torch.default_generator.manual_seed(self._seed)
            return Denoiser(Network(config), self._schedule).to(self._device)


class Simformer(JointInference):
    """The Simformer trained by score matching (arXiv 2404.09636).

    Args:
        sde_type: "trig" or "vp"; see `noise.py`. Both preserve the variance, and the loss weighs them alike. A denoiser
            of unit-scaled values depends on the ratio of noise to signal alone: sbi's "ve" and "subvp" would train
            the network of "trig", and do.
        posterior_latent_idx, posterior_observed_idx: variables that are latent and observed in the posterior; or set
            them later with `set_condition_indexes`.
        network: sizes of the network.
        levels: noise levels of training.
        device: where the network trains and samples; simulations and draws stay on the CPU.
        seed: of the split, the weights, the batches and the noise of training.
        show_progress_bars, logging_level: for sbi's callers; nothing is shown or logged.
        of_sbi: refused, with what to do instead.

    Raises:
        TypeError, ValueError: another type of argument or another choice; no such device.
    """

    def __init__(
        self,
        sde_type: str = "trig",
        posterior_latent_idx: Sequence[int] | Tensor | None = None,
        posterior_observed_idx: Sequence[int] | Tensor | None = None,
        *,
        network: NetworkConfig | None = None,
        levels: NoiseLevels | None = None,
        device: str = "cpu",
        seed: int = 0,
        show_progress_bars: bool = False,
        logging_level: int | str = "WARNING",
        **of_sbi: Any,
    ) -> None:
        if not isinstance(sde_type, str):
            raise TypeError(
                f"sde_type: expected one of {sorted(_SCHEDULES)}, got {sde_type!r}; indexes are keyword arguments "
                "here, posterior_latent_idx=… and posterior_observed_idx=…, and simulations carry the prior."
            )
        if sde_type not in _SCHEDULES:
            raise ValueError(f"sde_type: expected one of {sorted(_SCHEDULES)}, got {sde_type!r}.")
        super().__init__(
            _SCHEDULES[sde_type], posterior_latent_idx, posterior_observed_idx, network, levels, device, seed, of_sbi
        )


class FlowMatchingSimformer(JointInference):
    """The Simformer trained by flow matching on the straight path; arguments as for `Simformer` (arXiv 2210.02747)."""

    def __init__(
        self,
        posterior_latent_idx: Sequence[int] | Tensor | None = None,
        posterior_observed_idx: Sequence[int] | Tensor | None = None,
        *,
        network: NetworkConfig | None = None,
        levels: NoiseLevels | None = None,
        device: str = "cpu",
        seed: int = 0,
        show_progress_bars: bool = False,
        logging_level: int | str = "WARNING",
        **of_sbi: Any,
    ) -> None:
        super().__init__(
            "rectified", posterior_latent_idx, posterior_observed_idx, network, levels, device, seed, of_sbi
        )
