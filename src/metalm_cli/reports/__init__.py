"""Reports: a run folder as an HTML page, as tables in the terminal, and as a section of the model's card."""

from __future__ import annotations

from metalm_cli.reports.reading.run_summary import RunSummary, read_run, read_runs

__all__ = ["RunSummary", "read_run", "read_runs"]
