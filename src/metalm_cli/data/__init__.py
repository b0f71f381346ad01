"""Sources, the index plan, and reading documents by number."""

from metalm_cli.data.corpus import Corpus, Document, Reader, SourceInfo
from metalm_cli.data.opening import open_corpus
from metalm_cli.data.plan import Place

__all__ = ["Corpus", "Document", "Place", "Reader", "SourceInfo", "open_corpus"]
