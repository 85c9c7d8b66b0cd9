import nisbench  # noqa: F401 - before torch: it sets how OpenMP waits
