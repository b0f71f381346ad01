"""Cutting the long field, and nothing else, so that every arm of a comparison reads the same characters."""

from __future__ import annotations

import pytest
from tinyparts import decoder_tokenizer, text_processor

from metalm_cli.data.fit import Limits, TextReader, cut, fit
from metalm_cli.sessions import DecoderTokenizer, Session, SessionTokeniser, TokenRules
from metalm_cli.tasks import Card, Example
from metalm_cli.templates import Style, Template, render, session_of
