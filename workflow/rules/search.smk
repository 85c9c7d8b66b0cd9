"""Search: one job per data set, model, method and seed.

A job has one thread: two jobs side by side get up to 1.5 times as much done as one with two threads. Where there are more
cores than jobs, or too little memory for one per core: --set-threads search=4.
"""


rule search:
    input:
        unpack(read_by("search", split=["train", "validation"], block=["features"])),
    output:
        run="results/runs/{dataset}/search/{label}-{id}/run.json",
        weights="results/runs/{dataset}/search/{label}-{id}/weights.safetensors",
        record="results/runs/{dataset}/search/{label}-{id}/step.json",
    log:
        "logs/search/{dataset}-{label}-{id}.log",
    benchmark:
        "logs/search/{dataset}-{label}-{id}.tsv"
    threads: 1
    resources:
        mem_mb=needed("mem_mb"),
        runtime=needed("runtime"),
        in_turn=1,
        gpu=needed("gpu"),
    params:
        study=lambda wildcards: STUDY_OF[wildcards.id],
    message:
        "search {wildcards.label} on {wildcards.dataset}"
    shell:
        "nisbench search {wildcards.id} --study {params.study} --threads {threads} --log {log}"
