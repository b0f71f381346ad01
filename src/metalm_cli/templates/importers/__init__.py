"""Importers of templates from FLAN, promptsource and Natural Instructions, which run in a sandboxed process."""

from metalm_cli.templates.importers.importer import FORMATS, ImportedFile, ImportReport, import_templates

__all__ = ["FORMATS", "ImportReport", "ImportedFile", "import_templates"]
