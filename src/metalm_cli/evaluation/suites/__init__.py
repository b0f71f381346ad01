"""Suites: named selections of tasks with the settings and the aggregate of a benchmark."""

from metalm_cli.evaluation.suites.load import Suite, list_suites, load_suite
from metalm_cli.evaluation.suites.selection import SelectedTask, SuiteSelection, select_suite_tasks

__all__ = ["SelectedTask", "Suite", "SuiteSelection", "list_suites", "load_suite", "select_suite_tasks"]
