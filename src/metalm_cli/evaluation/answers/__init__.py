"""How answers are obtained: ranked options, generated texts, answers after a rationale; their cache."""
