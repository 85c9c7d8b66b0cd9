"""The coarse stages through real DVC: it reruns what changed, by file or by overlay, and shows what did."""

import json

from tests.pipeline.test_snakemake import change_dnis


def test_dvc_reruns_what_a_changed_parameter_asks_for_and_shows_it(versioned, tmp_path):
    stages = [
        "data@planted_ratings",
        "search@planted_ratings",
        "prune@planted_ratings",
        "prune@planted_ctr",
        "report@demo",
    ]
    assert "up to date" in versioned.succeeded("dvc", "status", *stages)
    assert versioned.dvc_repro() == {}

    versioned.edit("params/methods.yaml", change_dnis)
    assert "params/methods.yaml" in versioned.succeeded("dvc", "status", *stages)
    assert versioned.dvc_repro() == {"search": 1, "prune": 2, "tables_demo": 1}
    assert "up to date" in versioned.succeeded("dvc", "status", *stages)

    (changed,) = json.loads(versioned.run("dvc", "params", "diff", "--json").stdout)["params/methods.yaml"].items()
    assert changed == ("methods.dnis.learning_rate", {"old": 0.01, "new": 0.02, "diff": 0.01})
    difference = json.loads(versioned.run("dvc", "metrics", "diff", "--json").stdout)
    metrics = set(difference["results/demo/metrics.json"])
    assert metrics
    assert all(".dnis." in metric for metric in metrics)
    shown = json.loads(versioned.run("dvc", "metrics", "show", "--json").stdout)
    assert shown[""]["data"]["results/demo/metrics.json"]["data"]["planted_ratings"]["mf"].keys() == {
        "grid_search", "random_search", "mde", "dnis",
    }  # fmt: skip

    versioned.succeeded("git", "checkout", "-q", "params")
    assert versioned.dvc_repro() == {"tables_demo": 1}

    (tmp_path / "over.yaml").write_text("methods: {mde: {min_dimension: 2}}")
    counts = versioned.dvc_repro(overlays=str(tmp_path / "over.yaml"))
    assert counts == {"search": 1, "prune": 1, "tables_demo": 1}


def test_what_is_wrong_stops_dvc_before_any_job(versioned, tmp_path):
    (tmp_path / "over.yaml").write_text("training: {patiense: 1}")
    stopped = versioned.run("dvc", "repro", "report@demo", overlays=str(tmp_path / "over.yaml"))
    assert stopped.returncode != 0
    assert "over.yaml:1: training.patiense: unknown key; did you mean 'patience'?" in stopped.stderr
    assert "prune@planted_ratings" not in stopped.stdout
