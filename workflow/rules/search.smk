"""Search, one job per data set, model, method and seed; and prune, one job per compression rate.

A job has one thread: two jobs side by side get up to 1.5 times as much done as one with two threads. Where there are more
cores than jobs, or too little memory for one per core: --set-threads search=4.
"""


wildcard_constraints:
    label="[a-z0-9_.-]+",


rule search:
    input:
        read_by("search", split=["train", "validation"], block=["features"]),
    output:
        "results/runs/{dataset}/search/{label}-{id}/run.json",
        "results/runs/{dataset}/search/{label}-{id}/weights.safetensors",
        "results/runs/{dataset}/search/{label}-{id}/step.json",
    log:
        "logs/search/{dataset}-{label}-{id}.log",
    benchmark:
        "logs/search/{dataset}-{label}-{id}.tsv"
    threads: 1
    resources:
        gpu=1,
    message:
        "search {wildcards.dataset} {wildcards.label}"
    shell:
        "nisbench search {wildcards.id} --threads {threads} --log {log}"


rule prune:
    input:
        read_by(
            "prune",
            search=["run", "weights"],
            split=["train", "validation", "test"],
        ),
    output:
        "results/runs/{dataset}/prune/{label}-{id}/run.json",
        "results/runs/{dataset}/prune/{label}-{id}/scheme.safetensors",
        "results/runs/{dataset}/prune/{label}-{id}/model.safetensors",
        "results/runs/{dataset}/prune/{label}-{id}/step.json",
    log:
        "logs/prune/{dataset}-{label}-{id}.log",
    threads: 1
    resources:
        gpu=1,
    message:
        "prune {wildcards.dataset} {wildcards.label}"
    shell:
        "nisbench prune {wildcards.id} --threads {threads} --log {log}"
