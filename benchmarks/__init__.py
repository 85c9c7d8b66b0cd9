"""How fast nisbench trains: beside a textbook loop, other libraries, and what the machine allows. `nisbench bench` runs it."""
