"""Templates: how examples are put into words, and what is wrong with templates."""

from metalm_cli.templates.render import Piece, Prompt, Style, options_block, render, scorable, session_of, template_at
from metalm_cli.templates.template import Collection, Part, Template, TemplateFile, collections, read_templates

__all__ = [
    "Collection",
    "Part",
    "Piece",
    "Prompt",
    "Style",
    "Template",
    "TemplateFile",
    "collections",
    "options_block",
    "read_templates",
    "render",
    "scorable",
    "session_of",
    "template_at",
]
