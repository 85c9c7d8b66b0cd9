"""What options may say: the formats of tables, and how an exported table is stored."""

from enum import StrEnum


class Format(StrEnum):
    table = "table"
    md = "md"
    csv = "csv"
    json = "json"


class Layout(StrEnum):
    """`nisbench.embedding.storage.Layout`, and the smallest of these."""

    auto = "auto"
    dense = "dense"
    prefix = "prefix"
    csr = "csr"
    mask = "mask"


class Precision(StrEnum):
    """`nisbench.embedding.storage.Precision`."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"
    int4 = "int4"
