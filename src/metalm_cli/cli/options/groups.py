"""Groups of options: a command takes a dataclass of options as one parameter."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints


def expand_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command, so that each parameter that is a dataclass stands for one option for each of its fields.

    Args:
        command: Function of a command. Fields of its dataclasses are annotated as options, with a default value;
            the class attribute ``panel`` names the panel of the command's help that shows them.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Place:
        ...     path: str = "here"
        >>> @expand_groups
        ... def visit(name: str, place: Place) -> None:
        ...     print(name, place.path)
        >>> list(inspect.signature(visit).parameters)
        ['name', 'path']
        >>> visit(name="Ada", path="there")
        Ada there
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type[Any]] = {}
    for parameter in inspect.signature(command).parameters.values():
        annotation = hints[parameter.name]
        if not is_dataclass(annotation):
            parameters.append(parameter.replace(annotation=annotation))
            continue
        assert isinstance(annotation, type)
        groups[parameter.name] = annotation
        field_hints = get_type_hints(annotation, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                parameter.kind,
                default=_default(field),
                annotation=_in_panel(field_hints[field.name], getattr(annotation, "panel", None)),
            )
            for field in fields(annotation)
        ]

    @functools.wraps(command)
    def expanded(**values: Any) -> None:
        grouped = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **grouped)

    signature = inspect.Signature(parameters, return_annotation=hints.get("return"))
    expanded.__signature__ = signature  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def used_options(group: Any) -> list[str]:
    """Names of the options of a group that do not have their default values.

    Args:
        group: A dataclass of options, whose fields are annotated as options.
    """
    hints = get_type_hints(type(group), include_extras=True)
    return [
        _option_name(hints[field.name])
        for field in fields(group)
        if getattr(group, field.name) != field.default and getattr(group, field.name) not in ([], ())
    ]


def _option_name(annotation: Any) -> str:
    """The long name of an option, without that of its negation."""
    option = get_args(annotation)[1]
    names = (option.default, *option.param_decls)  # in an annotation, Typer takes the first name for the default
    return next(name for name in names if name.startswith("--")).partition("/")[0]


def _in_panel(annotation: Any, panel: str | None) -> Any:
    """The annotation of an option, with the panel of the command's help that shows it."""
    if panel is None or get_origin(annotation) is not Annotated:
        return annotation
    value_type, option = get_args(annotation)
    option = copy(option)
    option.rich_help_panel = panel
    return Annotated[value_type, option]


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default
