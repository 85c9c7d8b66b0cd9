"""From the publisher's archive to blocked features."""


rule download:
    output:
        "data/{dataset}/download-{id}/archive",
        "data/{dataset}/download-{id}/step.json",
    log:
        "logs/download/{dataset}-{id}.log",
    message:
        "download {wildcards.dataset}"
    shell:
        "nisbench download {wildcards.id} --log {log}"


rule prepare:
    input:
        read_by("prepare", download=["archive"]),
    output:
        "data/{dataset}/prepare-{id}/instances.parquet",
        "data/{dataset}/prepare-{id}/vocabulary.parquet",
        "data/{dataset}/prepare-{id}/step.json",
    log:
        "logs/prepare/{dataset}-{id}.log",
    benchmark:
        "logs/prepare/{dataset}-{id}.tsv"
    message:
        "prepare {wildcards.dataset}"
    shell:
        "nisbench prepare {wildcards.id} --log {log}"


rule split:
    input:
        read_by("split", prepare=["instances"]),
    output:
        "data/{dataset}/split-{id}/train.parquet",
        "data/{dataset}/split-{id}/validation.parquet",
        "data/{dataset}/split-{id}/test.parquet",
        "data/{dataset}/split-{id}/step.json",
    log:
        "logs/split/{dataset}-{id}.log",
    message:
        "split {wildcards.dataset}"
    shell:
        "nisbench split {wildcards.id} --log {log}"


rule block:
    input:
        read_by("block", prepare=["vocabulary"], split=["train"]),
    output:
        "data/{dataset}/block-{id}/features.parquet",
        "data/{dataset}/block-{id}/step.json",
    log:
        "logs/block/{dataset}-{id}.log",
    message:
        "block the features of {wildcards.dataset}"
    shell:
        "nisbench block {wildcards.id} --log {log}"
