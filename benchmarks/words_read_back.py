"""Words of sentences that a model writes again from docks, against those of docks exchanged.

    python benchmarks/words_read_back.py RESULT.samples.jsonl …

Reads the answers that ``metalm evaluate --save-samples`` writes for the task ``premises`` of the study encode-once. The
score of a model is the mean F1 of the words of answer and sentence. With docks exchanged, an answer is compared with
the sentence of the example half a file away: what a likely sentence alone would have.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from metalm_cli.evaluation.metrics.text_metrics import token_f1

RESAMPLES = 10_000


def interval(values: np.ndarray) -> tuple[float, float]:
    """95% interval of a mean by bootstrap over examples."""
    drawn = np.random.default_rng(0).integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def scores(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Word F1 of each answer with its own sentence, and with that of another example, 0 to 100."""
    samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers, sentences = [sample["prediction"] for sample in samples], [sample["target"] for sample in samples]
    half = len(sentences) // 2  # neighbours may be the same sentence
    exchanged = [*sentences[half:], *sentences[:half]]
    own = [token_f1(answer, sentence) for answer, sentence in zip(answers, sentences, strict=True)]
    other = [token_f1(answer, sentence) for answer, sentence in zip(answers, exchanged, strict=True)]
    return 100 * np.array(own), 100 * np.array(other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    for path in parser.parse_args().files:
        own, other = scores(path)
        texts = [
            f"{values.mean():.1f} ({low:.1f} to {high:.1f})"
            for values in (own, other, own - other)
            for low, high in [interval(values)]
        ]
        print(f"{path.name}: own {texts[0]}, exchanged {texts[1]}, difference {texts[2]}, n {len(own)}")


if __name__ == "__main__":
    main()
