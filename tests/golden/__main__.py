"""`make golden`: compute the golden values again and, where they are the same, record today's core as theirs.

A refactoring leaves the values as they are: afterwards all run ids are again what they were. A change of arithmetic does not: the
command refuses until the version of that kind of step in src/nisbench/core.json is raised, and then records the new values.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from nisbench import checkout
from nisbench.identity import CORE, CORE_FILE, core_source
from tests.golden.cases import Values, compute, machine_kind
from tests.helpers.paths import ROOT

VALUES_FILE = Path(__file__).with_name("values.json")
TOLERANCE = 2e-5
"""Relative; on another kind of machine than the one that recorded the values, where sums are rounded differently."""

MOST_SHOWN = 10


def main() -> int:
    checkout.check(ROOT)
    started = time.perf_counter()
    recorded, core = read_values(), json.loads(CORE_FILE.read_text(encoding="utf-8"))
    values, refused = compute(), []
    same_machine = recorded.get("machine") == machine_kind()
    for step in CORE:
        source, version = core_source(step), core[step]["version"]
        different = differences(recorded["values"].get(step, {}), values[step], exact=same_machine)
        raised = version != recorded["versions"].get(step)
        if different and not raised:
            refused.append(step)
            print(f"{step}: {len(different)} golden values are not what they were:")
            print("\n".join(f"  {line}" for line in different[:MOST_SHOWN]))
            continue
        new = values[step].keys() != recorded["values"].get(step, {}).keys()
        state = "recorded as new" if raised else "the same, with new cases" if new else "the same"
        print(f"{step}: {len(values[step])} golden values: {state}")
        core[step]["source"] = source
        if raised or new or same_machine:
            recorded["values"][step], recorded["versions"][step] = values[step], version
            recorded["machine"] = machine_kind()
    CORE_FILE.write_text(json.dumps(core, indent=2) + "\n", encoding="utf-8")
    VALUES_FILE.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    print(f"{time.perf_counter() - started:.0f} s")
    if refused:
        print(
            f"Refused for: {', '.join(refused)}. If numbers were not meant to change, find out what changed them. If they were, raise "
            f"the version of these steps in {CORE_FILE.name} and run this again: their run ids will change."
        )
    return 1 if refused else 0


def read_values() -> dict[str, Any]:
    """The recorded values, with the versions and the machine that they are of."""
    if not VALUES_FILE.exists():
        return {"machine": None, "versions": {}, "values": {}}
    found: dict[str, Any] = json.loads(VALUES_FILE.read_text(encoding="utf-8"))
    return found


def differences(recorded: Values, now: Values, *, exact: bool) -> list[str]:
    """A line for each recorded value that is another now. Cases that were not recorded do not count."""
    lines = []
    for case in recorded.keys() & now.keys():
        lines += [f"{case}: {line}" for line in _differences(recorded[case], now[case], "", exact)]
    return sorted(lines)


def _differences(one: Any, other: Any, at: str, exact: bool) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in _differences(one[key], other[key], f"{at}.{key}", exact)]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            line
            for i, (a, b) in enumerate(zip(one, other, strict=True))
            for line in _differences(a, b, f"{at}[{i}]", exact)
        ]
    if isinstance(one, float) and isinstance(other, float) and not exact:
        alike = abs(one - other) <= TOLERANCE * max(abs(one), abs(other), 1e-3)
    else:
        alike = type(one) is type(other) and one == other
    return [] if alike else [f"{at.lstrip('.')}: {one} was recorded, {other} is computed"]


if __name__ == "__main__":
    sys.exit(main())
