"""nisbench: a benchmark suite for neural input search."""
