"""The one error type that users see: its text says what is wrong, where, and what to do."""


class NisbenchError(Exception):
    """Something the user can mend. The command line prints its text without a traceback."""
