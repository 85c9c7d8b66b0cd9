"""From the publisher's archive to blocked features."""


rule download:
    output:
        "data/{dataset}/download-{id}/archive",
    log:
        "logs/download/{dataset}-{id}.log",
    message:
        "download {wildcards.dataset}"
    shell:
        "nisbench download {wildcards.id} --log {log}"


rule prepare:
    input:
        reads("prepare", download=["archive"]),
    output:
        "data/{dataset}/prepare-{id}/instances.parquet",
        "data/{dataset}/prepare-{id}/vocabulary.parquet",
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
        reads("split", prepare=["instances"]),
    output:
        "data/{dataset}/split-{id}/train.parquet",
        "data/{dataset}/split-{id}/validation.parquet",
        "data/{dataset}/split-{id}/test.parquet",
    log:
        "logs/split/{dataset}-{id}.log",
    message:
        "split {wildcards.dataset}"
    shell:
        "nisbench split {wildcards.id} --log {log}"


rule block:
    input:
        reads("block", prepare=["vocabulary"], split=["train"]),
    output:
        "data/{dataset}/block-{id}/features.parquet",
    log:
        "logs/block/{dataset}-{id}.log",
    message:
        "block the features of {wildcards.dataset}"
    shell:
        "nisbench block {wildcards.id} --log {log}"
