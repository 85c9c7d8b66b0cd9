"""The one error type that users see: its text says what is wrong, where, and what to do."""

import re
import unicodedata


class NisbenchError(Exception):
    """Something the user can fix. The command line prints its text without a traceback."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def shortened(text: str, length: int = 60) -> str:
    """Text from a file as it may stand in a message, however long it is."""
    return text if len(text) <= length else text[:length] + "..."


def without_password(text: str) -> str:
    """Text in which addresses such as ``https://user:secret@host/file`` have lost what stands before the @."""
    return re.sub(r"(://)[^/?#\s]*@", r"\1", text)


def printable(text: str) -> str:
    """Text from elsewhere as a terminal may show it: without passwords, and control characters escaped but for line ends."""
    shown = without_password(text)
    return shown if shown.isprintable() else "".join(map(_visible, shown))


def _visible(character: str) -> str:
    shown = character.isprintable() or character == "\n" or unicodedata.category(character) == "Zs"
    return character if shown else ascii(character)[1:-1]
