"""The one error type that users see: its text says what is wrong, where, and what to do."""


class NisbenchError(Exception):
    """Something the user can mend. The command line prints its text without a traceback."""


def shortened(text: str, length: int = 60) -> str:
    """Text from a file as it may stand in a message, however long it is."""
    return text if len(text) <= length else text[:length] + "..."
