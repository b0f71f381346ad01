"""Importers of templates from FLAN, promptsource and Natural Instructions, which run in a sandboxed process."""

from metalm_cli.templates.importers.importer import ImportedFile, ImportReport, import_templates

__all__ = ["ImportReport", "ImportedFile", "import_templates"]
