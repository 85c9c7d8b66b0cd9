"""nisbench: a benchmark suite for neural input search."""

import os

# GNU OpenMP's threads spin while they wait for each other. Where anything else wants a core, the spinning thread keeps it
# from the one it waits for, and training slows down a hundredfold; a short spin costs little on free cores. Read when torch
# is imported, so it is set here. Whoever has set OpenMP's waiting otherwise keeps it.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "5000"
