"""Hypergradient estimators, one file each.

A file holds a factory of its own name, factory(problem, dynamics, num_lower_steps, *, options), and
declares beside it

    DIFFERENTIATES   what it gives a gradient of, any of
                         context           x through the context, direct and through the lower level
                         direct            x through the context where F reads it, y_K held fixed
                         aggregation       learned alpha, s, t
                         lower_optimizer   learned step sizes
                         start             x through the start y0
    TARGET           target(problem, dynamics, K, **options)(context, task, params, y0, key) is the
                     function (context, params, y0) -> F whose derivative at that point it claims
                     to be; None for a rule that is no derivative
    dropped_steps    (optional) dropped_steps(K, **options): how many first steps it does not reach

Refusals, the table of combinations and the tests follow from these.
"""
