"""How answers are obtained: their lengths, ranked options, generated texts, answers after a rationale; their cache."""
