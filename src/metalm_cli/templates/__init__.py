"""Templates that render examples as prompts, with their linter and importers."""

from metalm_cli.templates.render import (
    Prompt,
    PromptPart,
    PromptStyle,
    options_block,
    prompt_to_session,
    render,
    scored_templates,
    template_for_index,
)
from metalm_cli.templates.template import (
    InputPart,
    Template,
    TemplateCollection,
    TemplateFile,
    collection_names,
    is_template_file,
    read_templates,
)

__all__ = [
    "InputPart",
    "Prompt",
    "PromptPart",
    "PromptStyle",
    "Template",
    "TemplateCollection",
    "TemplateFile",
    "collection_names",
    "is_template_file",
    "options_block",
    "prompt_to_session",
    "read_templates",
    "render",
    "scored_templates",
    "template_for_index",
]
