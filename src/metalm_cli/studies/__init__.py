"""Studies: experiments of several stages, arms and seeds, as data, and their claims with a verdict for each.

``schema.py`` and ``load.py`` define and read the YAML file of a study, ``stages.py`` makes its stages, ``runner.py``
runs them, ``display.py`` shows the progress, ``state.py`` stores the state, ``budget.py`` plans hours, ``claims.py``
tests the claims, ``score_tables.py`` and ``page.py`` present the results.
"""
