"""Templates: how examples are put into words, and what is wrong with templates."""

from metalm_cli.templates.render import (
    Prompt,
    PromptPart,
    PromptStyle,
    options_block,
    prompt_to_session,
    render,
    scorable,
    template_of_index,
)
from metalm_cli.templates.template import Collection, InputPart, Template, TemplateFile, collections, read_templates

__all__ = [
    "Collection",
    "InputPart",
    "Prompt",
    "PromptPart",
    "PromptStyle",
    "Template",
    "TemplateFile",
    "collections",
    "options_block",
    "prompt_to_session",
    "read_templates",
    "render",
    "scorable",
    "template_of_index",
]
