"""nisbench: a benchmark suite for neural input search."""

import os

# GNU OpenMP's threads spin while they wait for each other. If anything else wants a core, the spinning thread keeps it from the
# thread it waits for, and training slows down a hundredfold. A short spin costs little on free cores. This is read when torch is
# imported, so it is set here. Your own setting of OpenMP's waiting is kept.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "5000"

__version__ = "0.2.0"
