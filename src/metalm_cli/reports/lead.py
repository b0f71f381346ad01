"""Beginning of a report page that answers questions: a headline, and claims with their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from metalm_cli.common.table import Table
from metalm_cli.reports.figures.training_figures import Figure


@dataclass(frozen=True)
class ClaimView:
    """A claim as the page shows it.

    Args:
        name: Name of the claim.
        statement: The claim in one sentence.
        verdict: ``agrees``, ``disagrees``, ``undecided``, or empty without a result.
        facts: Names and values: our result, the paper's, the expectation.
        differences: Differences with their intervals, each with a label: value, low end, high end, in points.
        limit: Difference that the interval must be clear of.
    """

    name: str
    statement: str
    verdict: str
    facts: Sequence[tuple[str, str]]
    differences: Sequence[tuple[str, float, float, float]] = ()
    limit: float = 0.0


@dataclass(frozen=True)
class Lead:
    """First view of a page.

    Args:
        title: Title of the page.
        subtitle: Line below the title.
        headline: One or two sentences with the result.
        claims: The claims.
        notes: Sentences on how claims are judged.
        tables: Tables below the claims.
        figures: Figures below the claims.
    """

    title: str
    subtitle: str
    headline: str
    claims: Sequence[ClaimView] = ()
    notes: Sequence[str] = ()
    tables: Sequence[Table] = field(default=())
    figures: Sequence[Figure] = field(default=())

    @property
    def bars(self) -> list[list[dict[str, Any]]]:
        """Positions of the intervals of each claim, in percent of the axis that all claims share."""
        ends = [end for claim in self.claims for _, *numbers in claim.differences for end in numbers]
        ends += [0.0, *(claim.limit for claim in self.claims)]
        low, high = min(ends), max(ends)
        pad = 0.04 * ((high - low) or 1.0)
        low, span = low - pad, (high - low) + 2 * pad

        def place(value: float) -> float:
            return round(100 * (value - low) / span, 2)

        return [
            [
                {
                    "label": label,
                    "text": f"{value:+.1f} ({start:+.1f} to {end:+.1f})",
                    "left": place(start),
                    "width": round(place(end) - place(start), 2),
                    "point": place(value),
                    "zero": place(claim.limit),
                }
                for label, value, start, end in claim.differences
            ]
            for claim in self.claims
        ]
