"""``metalm demo``: the whole workflow in a few minutes, on generated data.

``stages.py`` defines the stages and their commands, ``runner.py`` runs them, ``display.py`` shows the progress,
``state.py`` stores the state, ``expectations.py`` lists the expected results, and ``score_summary.py`` summarises the
scores.
"""
