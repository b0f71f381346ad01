"""Training data: sources, the index plan, and documents read by number."""

from metalm_cli.data.documents.corpus import Corpus, Document, DocumentReader, SourceInfo
from metalm_cli.data.documents.open_corpus import open_corpus
from metalm_cli.data.sampling.index_plan import PlannedRow

__all__ = ["Corpus", "Document", "DocumentReader", "PlannedRow", "SourceInfo", "open_corpus"]
