"""`nisbench verify`: compare the files of finished steps with their checksums."""

from rich.console import Console
from rich.progress import track

from nisbench import records
from nisbench.commands.output import print_json
from nisbench.errors import NisbenchError
from nisbench.steps import Step


def run(steps: list[Step], remove: bool, json: bool) -> int:
    """Check the files of those steps that were done once; 0 if they are as they were written, or were removed."""
    there = [step for step in steps if step.record.exists()]  # even if a file was lost since
    wrong: list[tuple[Step, str]] = []
    console = Console(stderr=True)
    for step in track(there, "reading", transient=True, console=console, disable=not console.is_terminal):
        try:
            records.check(step)
        except NisbenchError as error:
            problem = str(error).partition(" To make it again")[0]
            wrong.append((step, problem))
            if not json:
                print(f"wrong  {step.title()} ({step.id}): {problem}", flush=True)
            if remove:
                records.remove(step)
    if json:
        rows = [{"id": step.id, "step": step.title(), "problem": problem, "removed": remove} for step, problem in wrong]
        print_json({"done": len(there), "of": len(steps), "wrong": rows})
        return 1 if wrong and not remove else 0
    print(f"{len(there) - len(wrong)} of {len(there)} finished steps are as they were written.")
    if len(there) < len(steps):
        print(f"{len(steps) - len(there)} more are not done.")
    if wrong and remove:
        print("The others were removed. The command that made them makes them again.")
    elif wrong:
        print("To have the others made again: the same command with --remove, and then the one that made them.")
    return 1 if wrong and not remove else 0
