"""Validation windows: the same positions for every model with a decoder's tokenizer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.data.lanes import generator
from metalm_cli.data.writer import VALIDATION, SessionWriter
from writertools import DOCUMENTS, decoder, make, writers

quick = settings(max_examples=40, deadline=None, derandomize=True)


def places(writer: SessionWriter, documents: tuple[str, ...]) -> list[list[tuple[int, int]]]:
    """Character ranges that each validation window trains, end tokens as (length, length)."""
    found = []
    windows = iter(writer.windows(documents))
    size = max(4, int(writer.length * 0.75) - 2)
    for index, text in enumerate(documents):
        document = writer.tokenizer.document(text)
        for begin in range(0, len(document), size):
            session, _ = next(windows)
            end = min(begin + size, len(document))
            spans = writer.units(document, begin, end, generator(0, VALIDATION, index, begin))
            trained, at, position = [], begin, 0
            docks = dict(session.docks)
            position += int(writer.tokenizer.start_id == session.ids[0] and not session.trained[0])
            while position < len(session):
                if position in docks:
                    unit = next(one for one in spans if one.first == at)
                    position, at = position + docks[position].positions, unit.last
                    continue
                if at == len(document):
                    assert session.ids[position] == writer.tokenizer.document_id
                    trained.append((len(text), len(text)))
                else:
                    assert session.ids[position] == document.ids[at]
                    if session.trained[position]:
                        trained.append(document.characters(at, at + 1))
                    at += 1
                position += 1
            assert at == end
            found.append(trained)
    assert next(windows, None) is None
    return found


FEW = (DOCUMENTS[0], *DOCUMENTS[13:])


@given(options=writers)
@quick
def test_validation_trains_the_same_positions_with_and_without_an_encoder(options):
    with_one = places(make(**options), FEW)
    assert with_one == places(make(encoder=False, **options), FEW)
    assert with_one == places(make(**{**options, "seed": 9, "isolate": not options["isolate"]}), FEW)
    if options["objective"] == "causal":
        ranges = [one for window in with_one for one in window]
        start = 0 if options["start"] == "never" else sum(map(len, FEW))
        assert start <= sum(end - begin for begin, end in ranges) <= sum(map(len, FEW))


@given(options=writers, encoder=st.booleans())
@settings(quick, max_examples=30)
def test_validation_windows_fit_and_end_every_document(options, encoder):
    windows = make(encoder=encoder, **options).windows(FEW)
    assert all(len(session) <= options["length"] for session, _ in windows)
    assert all(session.trained.any() for session, _ in windows) or options["length"] == 8
    assert sum(counts.get("documents", 0) for _, counts in windows) == len(FEW)
    assert sum(counts["source_tokens"] for _, counts in windows) == sum(
        len(decoder(options["kind"], options["start"]).document(text)) for text in FEW
    )
