"""Bilevel problems: factories that return (BilevelProblem, TaskSource).

A factory's keyword-only arguments are its configuration. Its positional arguments say what it
needs from the rest of the config: `data`, `model`, `roles` (see src/settings/build.py).
"""
