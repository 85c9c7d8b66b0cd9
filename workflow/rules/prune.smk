"""Prune: one job per search and compression rate, which also measures what is left on test."""


rule prune:
    input:
        unpack(
            read_by(
                "prune",
                search=["run", "weights"],
                split=["train", "validation", "test"],
            )
        ),
    output:
        run="results/runs/{dataset}/prune/{label}-{id}/run.json",
        scheme="results/runs/{dataset}/prune/{label}-{id}/scheme.safetensors",
        model="results/runs/{dataset}/prune/{label}-{id}/model.safetensors",
        record="results/runs/{dataset}/prune/{label}-{id}/step.json",
    log:
        "logs/prune/{dataset}-{label}-{id}.log",
    threads: 1
    resources:
        mem_mb=needed("mem_mb"),
        runtime=needed("runtime"),
        in_turn=1,
        gpu=needed("gpu"),
    params:
        study=lambda wildcards: STUDY_OF[wildcards.id],
    message:
        "prune {wildcards.label} on {wildcards.dataset}"
    shell:
        "nisbench prune {wildcards.id} --study {params.study} --threads {threads} --log {log}"
