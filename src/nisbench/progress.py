"""How far a long piece of work has come, told at intervals."""

import logging
import time

from nisbench.logs import duration, log

SILENCE = 10
"""Seconds after which a long piece of work reports its progress."""


class Ticker:
    """Reports progress: each line goes to the log file, and one to the terminal after every `SILENCE` seconds."""

    def __init__(self) -> None:
        self.started = self.last = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.perf_counter() - self.started

    def is_due(self) -> bool:
        """Whether a line would go to the terminal. To be asked often, where a line is not to be made for nothing."""
        return time.perf_counter() - self.last > SILENCE

    def log(self, message: str, *values: object) -> None:
        level, now = logging.DEBUG, time.perf_counter()
        if now - self.last > SILENCE:
            level, self.last = logging.INFO, now
        log.log(level, message, *values)


def share(done: float, of: float, seconds: float, already: float = 0) -> str:
    """How much is done of how much, in words, and how long the rest will take. `already` was done before these `seconds`."""
    rate = (done - already) / seconds if seconds > 0 else 0
    left = f", {duration((of - done) / rate)} left" if rate > 0 else ""
    return f"{done:,.0f} of {of:,.0f} ({done / of if of else 1:.0%}){left}"
