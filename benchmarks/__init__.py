"""How fast nisbench trains: beside a textbook loop, and beside what the machine allows. `nisbench bench` runs it."""
