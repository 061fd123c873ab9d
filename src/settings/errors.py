"""The one error that people see without a traceback."""


class UserError(Exception):
    """A message for the person at the keyboard: what is wrong, why, what to type instead."""
