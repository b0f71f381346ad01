"""The validator of a run."""

from __future__ import annotations

from collections.abc import Sequence

from metalm_cli.sessions import Row
from metalm_cli.training.trainer import Trainer
from metalm_cli.training.validation.dock_exchange import DockExchange, PassCost, choose_exchange
from metalm_cli.training.validation.dock_worth import DockComparison
from metalm_cli.training.validation.validator import Validator


def make_validator(trainer: Trainer, rows: Sequence[Row]) -> Validator:
    """Make the validator of a run, which measures what docks are worth if the model has encoders.

    Encoders that train alone and encoder–decoders dock nothing, and ``train.dock_worth_sessions: 0`` disables it.

    Args:
        trainer: The trainer.
        rows: Validation rows of all processes.
    """
    options, objective, collectives = trainer.options, trainer.objective, trainer.collectives
    rows_per_pass = options.micro_batch_size or max(1, options.batch_size // collectives.num_processes)
    exchange = DockExchange()
    if trainer.encoders and trainer.root.gives_target_losses and options.dock_worth_sessions and rows:
        exchange = choose_exchange(rows, PassCost.of(trainer.root.model), options.dock_worth_sessions)
    if not exchange.rows:
        return Validator(objective, rows, rows_per_pass, collectives, unmeasured=exchange.reason)
    docked_rows = [rows[index] for index in exchange.rows]
    connectors = dict(trainer.root.model.connectors.items())
    docks = DockComparison(exchange, docked_rows, rows_per_pass, connectors, objective, collectives)
    return Validator(objective, rows, rows_per_pass, collectives, docks)
