"""The formats that tables of results can be printed in."""

from enum import StrEnum


class Format(StrEnum):
    table = "table"
    md = "md"
    csv = "csv"
    json = "json"
