"""From the publisher's archive to blocked features."""


rule download:
    output:
        archive="data/{dataset}/download-{id}/archive",
        record="data/{dataset}/download-{id}/step.json",
    log:
        "logs/download/{dataset}-{id}.log",
    localrule: True  # the nodes of a cluster often see no network
    message:
        "download {wildcards.dataset}"
    shell:
        "nisbench download {wildcards.id} --log {log}"


rule prepare:
    input:
        unpack(read_by("prepare", download=["archive"])),
    output:
        instances="data/{dataset}/prepare-{id}/instances.parquet",
        vocabulary="data/{dataset}/prepare-{id}/vocabulary.parquet",
        record="data/{dataset}/prepare-{id}/step.json",
    log:
        "logs/prepare/{dataset}-{id}.log",
    benchmark:
        "logs/prepare/{dataset}-{id}.tsv"
    resources:
        mem_mb=needed("mem_mb"),
        runtime=needed("runtime"),
        in_turn=1,
    message:
        "prepare {wildcards.dataset}"
    shell:
        "nisbench prepare {wildcards.id} --log {log}"


rule split:
    input:
        unpack(read_by("split", prepare=["instances"])),
    output:
        train="data/{dataset}/split-{id}/train.parquet",
        validation="data/{dataset}/split-{id}/validation.parquet",
        test="data/{dataset}/split-{id}/test.parquet",
        record="data/{dataset}/split-{id}/step.json",
    log:
        "logs/split/{dataset}-{id}.log",
    resources:
        mem_mb=needed("mem_mb"),
        runtime=needed("runtime"),
        in_turn=1,
    message:
        "split {wildcards.dataset} into train, validation and test"
    shell:
        "nisbench split {wildcards.id} --log {log}"


rule block:
    input:
        unpack(read_by("block", prepare=["vocabulary"], split=["train"])),
    output:
        features="data/{dataset}/block-{id}/features.parquet",
        record="data/{dataset}/block-{id}/step.json",
    log:
        "logs/block/{dataset}-{id}.log",
    resources:
        mem_mb=needed("mem_mb"),
        runtime=needed("runtime"),
        in_turn=1,
    message:
        "put the features of {wildcards.dataset} into blocks"
    shell:
        "nisbench block {wildcards.id} --log {log}"
