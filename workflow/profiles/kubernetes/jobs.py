"""What Snakemake's executor `cluster-generic` calls: `jobs.py submit SCRIPT` prints a job's name, `jobs.py status NAME` its state."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

PROPERTIES = "# properties = "
"""Begins the line of a job's script in which Snakemake says what the job asks for."""


def submit(script: str) -> str:
    """Create a job in Kubernetes that runs a script; its name."""
    text = Path(script).read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(PROPERTIES)]
    properties = json.loads(line.removeprefix(PROPERTIES))
    job = yaml.safe_load(Path(__file__).with_name("job.yaml").read_text(encoding="utf-8"))
    fill(job, text, properties["threads"], properties["resources"])
    return kubectl("create", "-f", "-", "-o", "name", text=json.dumps(job)).stdout.strip()


def fill(job: dict, script: str, threads: int, resources: dict) -> None:
    """Put into a manifest what a script runs and asks for."""
    amounts = {"cpu": str(threads), "memory": f"{resources['mem_mb']}Mi"}
    if resources.get("gpu"):
        amounts["nvidia.com/gpu"] = str(resources["gpu"])
    job["spec"]["activeDeadlineSeconds"] = 60 * resources["runtime"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["command"] = ["/bin/sh", "-c", script]
    container["workingDir"] = str(Path.cwd())
    container["resources"] = {"requests": amounts, "limits": amounts}


def status(name: str) -> str:
    """What Snakemake takes for a job's state. A server that does not answer is asked again."""
    found = kubectl("get", name, "-o", "json", check=False)
    if found.returncode:
        return "failed" if "NotFound" in found.stderr else "running"
    state = json.loads(found.stdout).get("status", {})
    return "success" if state.get("succeeded") else "failed" if state.get("failed") else "running"


def kubectl(*arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["kubectl", *arguments], input=text, text=True, capture_output=True, check=False)  # noqa: S603, S607
    if check and done.returncode:
        sys.exit(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done


if __name__ == "__main__":
    print({"submit": submit, "status": status}[sys.argv[1]](sys.argv[2]))
