"""Importers: templates of FLAN, promptsource and Natural Instructions, read in a limited process of their own."""

from metalm_cli.templates.importers.importer import FORMATS, ImportedFile, Report, import_templates

__all__ = ["FORMATS", "ImportedFile", "Report", "import_templates"]
