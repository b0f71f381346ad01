"""Worked examples in the docstrings of the objectives."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import metalm_cli.objectives


@pytest.mark.parametrize("module", [info.name for info in pkgutil.iter_modules(metalm_cli.objectives.__path__)])
def test_examples_in_docstrings(module):
    failed, tried = doctest.testmod(importlib.import_module(f"metalm_cli.objectives.{module}"))
    assert not failed
    assert tried or module != "encoders"
