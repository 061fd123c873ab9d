"""The one error that people see without a traceback; those of others, in one line."""


class UserError(Exception):
    """A message for the person at the keyboard: what is wrong, why, what to type instead."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
