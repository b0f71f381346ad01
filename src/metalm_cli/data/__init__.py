"""Sources, the index plan, and reading documents by number."""

from metalm_cli.data.documents.corpus import Corpus, Document, Reader, SourceInfo
from metalm_cli.data.documents.open_corpus import open_corpus
from metalm_cli.data.sampling.index_plan import Place

__all__ = ["Corpus", "Document", "Place", "Reader", "SourceInfo", "open_corpus"]
