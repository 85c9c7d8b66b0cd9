"""`nisbench verify`: are the files of finished steps as they were written?"""

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from nisbench import records
from nisbench.errors import NisbenchError
from nisbench.steps import Step


def run(steps: list[Step], remove: bool) -> int:
    """Check the files of those steps that are done; 0 if they are as they were written, or were removed."""
    console = Console(highlight=False, soft_wrap=True)
    there = [step for step in steps if records.done(step)]
    wrong = []
    for step in track(there, "reading", transient=True, console=Console(stderr=True)):
        try:
            records.check(step)
        except NisbenchError as error:
            wrong.append(step)
            console.print(f"[red]wrong[/] {step.title()}: {escape(str(error).partition(' To have it')[0])}")
            if remove:
                records.remove(step)
    console.print(f"{len(there) - len(wrong)} of {len(there)} steps that are done are as they were written.")
    if wrong and remove:
        console.print("The others were removed. The command that made them makes them again.")
    elif wrong:
        console.print("To have the others made again: the same with --remove, and then the command that made them.")
    return 1 if wrong and not remove else 0
