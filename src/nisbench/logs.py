"""What a running step tells its user: short lines on the terminal, with times in its log file."""

import logging
from pathlib import Path

from nisbench.errors import printable

log = logging.getLogger("nisbench")


class _Printable(logging.Formatter):
    """Messages may quote what servers and files say."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def set_up(log_file: Path | None = None, speaker: str = "") -> None:
    """Send progress to stderr and, with times and details, to `log_file`. `speaker` begins each line on stderr: jobs run side by side."""
    log.setLevel(logging.DEBUG)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.INFO)
    prefix = f"[{speaker}] ".replace("%", "%%") if speaker else ""
    terminal.setFormatter(_Printable(f"{prefix}%(message)s"))
    log.addHandler(terminal)
    if log_file:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log_file, encoding="utf-8")
        file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)


def duration(seconds: float) -> str:
    """Seconds as people say them: 8.0 s, 4 min 10 s, 2 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
