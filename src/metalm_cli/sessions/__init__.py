"""Spans, sessions, tokenising, packing and batches: the one road from content to tensors."""

from metalm_cli.sessions.batch import DECODER, Batch, DockTable, Stream, collate
from metalm_cli.sessions.decoder_tokenizer import DecoderTokenizer, TokenisedDocument, TokenRules
from metalm_cli.sessions.packing import ROOT, Row, build_row, pack, visible
from metalm_cli.sessions.processors import DockInput, ImageProcessor, Processor, TextProcessor, UndockableError
from metalm_cli.sessions.session_tokenizer import DOCKED, SessionTokeniser, TokenisedSession
from metalm_cli.sessions.spans import Causal, Docked, Session, Span

__all__ = [
    "DECODER",
    "DOCKED",
    "ROOT",
    "Batch",
    "Causal",
    "DecoderTokenizer",
    "DockInput",
    "DockTable",
    "Docked",
    "ImageProcessor",
    "Processor",
    "Row",
    "Session",
    "SessionTokeniser",
    "Span",
    "Stream",
    "TextProcessor",
    "TokenRules",
    "TokenisedDocument",
    "TokenisedSession",
    "UndockableError",
    "build_row",
    "collate",
    "pack",
    "visible",
]
