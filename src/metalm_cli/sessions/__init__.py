"""Sessions: spans, tokenising, packing and batching, from content to tensors."""

from metalm_cli.sessions.batch import DECODER, Batch, DockTable, PackedTokens, TeacherTokens, collate
from metalm_cli.sessions.decoder_tokenizer import DecoderTokenizer, TokenisedDocument, TokenRules
from metalm_cli.sessions.images import ImageSource, UnreadableImageError, check_image
from metalm_cli.sessions.packing import ROOT, Row, build_row, can_attend, pack
from metalm_cli.sessions.pairs import DECODER_ROWS, ENCODER, PairFormat, PairTokenizer, RowFormat, row_format_of
from metalm_cli.sessions.processors import (
    DockInput,
    FusedProcessor,
    ImageProcessor,
    Processor,
    TextProcessor,
    UnreadableContentError,
)
from metalm_cli.sessions.session_tokenizer import DOCKED_ID, SessionTokeniser, TokenisedSession
from metalm_cli.sessions.spans import Causal, Docked, Session, Span
from metalm_cli.sessions.teacher import TaughtRows

__all__ = [
    "DECODER",
    "DECODER_ROWS",
    "DOCKED_ID",
    "ENCODER",
    "ROOT",
    "Batch",
    "Causal",
    "DecoderTokenizer",
    "DockInput",
    "DockTable",
    "Docked",
    "FusedProcessor",
    "ImageProcessor",
    "ImageSource",
    "PackedTokens",
    "PairFormat",
    "PairTokenizer",
    "Processor",
    "Row",
    "RowFormat",
    "Session",
    "SessionTokeniser",
    "Span",
    "TaughtRows",
    "TeacherTokens",
    "TextProcessor",
    "TokenRules",
    "TokenisedDocument",
    "TokenisedSession",
    "UnreadableContentError",
    "UnreadableImageError",
    "build_row",
    "can_attend",
    "check_image",
    "collate",
    "pack",
    "row_format_of",
]
