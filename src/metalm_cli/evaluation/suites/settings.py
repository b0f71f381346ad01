"""Settings of a suite, under the names of the options of ``metalm evaluate``."""

from __future__ import annotations

from typing import Any

from metalm_cli.evaluation.suites.load import Suite

SETTINGS = (
    "shots",
    "protocol",
    "templates",
    "template",
    "split",
    "limit",
    "demonstrations",
    "demonstration_layout",
    "input_route",
    "show_options",
    "rationales",
    "normalise",
)
"""Keys of a suite that are settings of the evaluation."""


def suite_settings(suite: Suite) -> dict[str, Any]:
    """Return the settings that a suite sets."""
    values = {key: getattr(suite.file, key) for key in SETTINGS}
    return {key: value for key, value in values.items() if value is not None}


STYLE_FIELDS = {
    "input_route": "route",
    "show_options": "options",
    "demonstration_layout": "layout",
    "rationales": "rationale",
}
"""Fields of the prompt style by the keys of a suite."""


def request_settings(suite: Suite) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a suite as fields of a request, and as fields of the prompt style.

    The protocol ``auto`` leaves the protocol open. A folder of templates is looked for beside the suite's file first.
    """
    values = suite_settings(suite)
    style = {field: values.pop(key) for key, field in STYLE_FIELDS.items() if key in values}
    values["shots"] = tuple(dict.fromkeys(values["shots"]))
    if values["protocol"] == "auto":
        del values["protocol"]
    if "demonstrations" in values:
        values["draw_per_example"] = values.pop("demonstrations") == "drawn"
    if "templates" in values and (folder := suite.path.parent / values["templates"]).is_dir():
        values["templates"] = str(folder)
    return values, style
