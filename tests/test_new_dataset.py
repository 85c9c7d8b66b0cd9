"""`nisbench new-dataset`: what it guesses of a table, and that its overlay runs."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nisbench.commands import new_dataset
from nisbench.data import table
from nisbench.errors import NisbenchError
from nisbench.params.loading import load
from tests.helpers.archives import zipped
from tests.helpers.paths import ROOT


@pytest.fixture
def guess(tmp_path, monkeypatch):
    """Write an overlay for a file; returns the data set and the study of it, and the overlay's text."""
    monkeypatch.chdir(ROOT)

    def run(*files, name="own", **options):
        output = tmp_path / "over.yaml"
        output.unlink(missing_ok=True)
        new_dataset.run(files, name=name, output=output, **options)
        config = load(ROOT, [output])
        return config.params.datasets[name], config.params.studies[name], output.read_text()

    return run


def ratings(n=400):
    generator = np.random.default_rng(0)
    pairs = generator.permutation(60 * 50)[:n]
    return pd.DataFrame(
        {
            "userId": pairs // 50,
            "movieId": pairs % 50,
            "rating": generator.integers(1, 11, n) / 2,
            "timestamp": generator.integers(10**9, 2 * 10**9, n),
        }
    )


def clicks(n=600):
    generator = np.random.default_rng(1)
    tags = np.array(["red", "green", "blue", "old"])
    frame = pd.DataFrame(
        {
            "session": generator.permutation(10**6)[:n],
            "clicked": generator.integers(0, 2, n),
            "site_id": generator.integers(0, 200, n),
            "price": generator.lognormal(2, 1, n).round(2),
            "visits": generator.integers(0, 50_000, n),
            "tags": ["|".join(generator.choice(tags, generator.integers(1, 4), replace=False)) for _ in range(n)],
            "headline": [f"{'very ' * (i % 7)}interesting, reader {i}" for i in range(n)],
            "constant": "x",
            "split": generator.choice(["train", "valid", "test"], n, p=[0.6, 0.2, 0.2]),
        }
    )
    frame.loc[3:9, "price"] = None
    return frame


def write(frame, path, layout):
    if layout == "parquet":
        frame.to_parquet(path)
    elif layout == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif layout == "tsv.gz":
        path.write_bytes(gzip.compress(frame.to_csv(sep="\t", index=False, na_rep="NA").encode()))
    else:
        frame.to_csv(path, index=False, sep={"csv": ",", "ssv": ";"}[layout])
    return path


@pytest.mark.parametrize("layout", ["csv", "tsv.gz", "parquet"])
def test_ratings(guess, tmp_path, layout):
    file = write(ratings(), tmp_path / f"r.{layout}", layout)
    dataset, study, text = guess(file)
    assert (dataset.task, dataset.user, dataset.item, dataset.time) == ("rating", "userId", "movieId", "timestamp")
    assert dataset.label.column == "rating"
    assert dataset.is_user_and_item()
    assert study.grids["main"].models == ["mf"]
    assert dataset.duplicates == "refuse"
    assert f"url: r.{layout} # relative to this file" in text
    table.prepare(dataset, file, tmp_path / "i", tmp_path / "v")


@pytest.mark.parametrize("layout", ["ssv", "tsv.gz", "jsonl"])
def test_clicks(guess, tmp_path, layout):
    file = write(clicks(), tmp_path / f"c.{layout}", layout)
    dataset, study, text = guess(file)
    assert dataset.task == "ctr"
    assert dataset.label.column == "clicked"
    assert dataset.label.binary
    assert dataset.tokens == ["site_id"]
    assert dict(dataset.multi["tags"]) == {"separator": "|", "at_most": 3}
    assert {name: scalar.scale for name, scalar in dataset.scalars.items()} == {
        "price": "standard",
        "visits": "log2_buckets",
    }
    assert dataset.split == "published"
    assert dict(dataset.part) == {"column": "split", "train": ["train"], "validation": ["valid"], "test": ["test"]}
    assert study.grids["main"].models == ["fm"]
    for unused in ("session", "headline", "constant"):
        assert f"# not used: {unused}: " in text
    table.prepare(dataset, file, tmp_path / "i", tmp_path / "v")


def test_top_k_where_there_is_no_label(guess, tmp_path):
    file = write(ratings().drop(columns="rating"), tmp_path / "t.csv", "csv")
    dataset, study, _ = guess(file)
    assert (dataset.task, dataset.label, dataset.split) == ("topk", None, "leave_one_out")
    assert study.tables == ["table1", "table4"]


def test_a_file_without_a_header_takes_names(guess, tmp_path):
    text = ratings().to_csv(sep="\t", index=False, header=False).replace("\t", "::")
    archive = zipped(tmp_path / "o.zip", {"m/r.dat": text})
    with pytest.raises(
        NisbenchError, match=r"is an archive\. Name the file wanted of those in it: 'm/r\.dat' by --member"
    ):
        guess(archive)
    with pytest.raises(NisbenchError, match=r"no column looks like .* --label: column1, column2, column3, column4"):
        guess(archive, member="m/r.dat")
    with pytest.raises(NisbenchError, match="--names: the file has 4 columns"):
        guess(archive, member="m/r.dat", names="user,item")
    dataset, _, _ = guess(archive, member="m/r.dat", names="user,item,rating,time")
    assert (dataset.read.delimiter, dataset.read.header) == ("::", False)
    assert (dataset.user, dataset.item, dataset.label.column, dataset.time) == ("user", "item", "rating", "time")
    table.prepare(dataset, archive, tmp_path / "i", tmp_path / "v")


def test_names_that_yaml_would_take_for_something_else(guess, tmp_path):
    frame = ratings().rename(columns={"userId": "on", "movieId": "a: b # c", "rating": "y"})
    dataset, _, _ = guess(write(frame, tmp_path / "n.csv", "csv"))
    assert dataset.label.column == "y"
    assert {"on", "a: b # c"} <= {*dataset.tokens, *dataset.scalars}


def test_a_label_that_is_not_there(guess, tmp_path):
    with pytest.raises(
        NisbenchError, match="--label: there is no column 'stars'; there is: userId, movieId, rating, timestamp"
    ):
        guess(write(ratings(), tmp_path / "r.csv", "csv"), label="stars")


def test_what_is_there_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = write(ratings(), tmp_path / "demo.csv", "csv")
    (tmp_path / "there.yaml").write_text("mine")
    with pytest.raises(NisbenchError, match=r"there\.yaml: there is such a file\. Name another with --output"):
        new_dataset.run([file], output=tmp_path / "there.yaml")
    with pytest.raises(NisbenchError, match="there is no such file"):
        new_dataset.run([tmp_path / "no.csv"])
    new_dataset.run([file], output=tmp_path / "over.yaml")
    assert "my_demo" in load(ROOT, [tmp_path / "over.yaml"]).params.datasets, "a study is called demo already"


def test_several_files_are_one_table(guess, tmp_path):
    frame = ratings()
    one, two = frame[:200], frame[200:]
    files = [write(one, tmp_path / "one.csv", "csv"), write(two, tmp_path / "two.csv", "csv")]
    dataset, _, text = guess(*files)
    assert "url: [one.csv, two.csv] # relative to this file" in text
    assert dataset.url == [str(file) for file in files]
    assert dataset.files == ["one.csv", "two.csv"]
    write(two.drop(columns="rating"), files[1], "csv")
    with pytest.raises(NisbenchError, match=r"two\.csv: has no column 'rating', which .*one\.csv has"):
        guess(*files)


def test_files_for_test_and_validation_are_published_splits(guess, tmp_path):
    parts = [clicks()[start::3] for start in range(3)]
    train, valid, test = (write(part, tmp_path / f"{i}.csv", "csv") for i, part in enumerate(parts))
    dataset, _, text = guess(train, validation=[valid], test=[test])
    assert dict(dataset.files) == {"train": ["0.csv"], "validation": ["1.csv"], "test": ["2.csv"]}
    assert (dataset.split, dataset.part) == ("published", None)
    assert "split: published # as the files say" in text
    with pytest.raises(NisbenchError, match="--validation and --test go together"):
        guess(train, test=[test])
    with pytest.raises(NisbenchError, match="is a folder; name the files in it"):
        guess(tmp_path)


def test_outside_a_checkout_the_package_s_parameters_serve(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(ratings(), tmp_path / "r.csv", "csv")
    new_dataset.run([Path("r.csv")])
    said = capsys.readouterr().out
    assert f"NISBENCH_PARAMS={tmp_path / 'r.yaml'} snakemake" in said
    assert "(there is none here)" in said
    assert 'nisbench.load_dataset("r")' in said


def test_keys_that_the_first_object_lacks_are_seen(guess, tmp_path):
    rows = json.loads(clicks().to_json(orient="records"))
    del rows[0]["tags"]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset, _, _ = guess(tmp_path / "c.jsonl")
    assert list(dataset.multi) == ["tags"]


def test_times_by_type_decimal_commas_and_a_label_that_is_always_the_same(guess, tmp_path, capsys):
    frame = clicks().assign(when=pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(600), unit="min"), clicked=1)
    dataset, _, text = guess(write(frame, tmp_path / "c.parquet", "parquet"))
    assert dataset.time == "when"
    assert "# Beware: the label clicked is 1 in all rows that were looked at" in text
    assert "Beware: the label clicked is 1" in capsys.readouterr().out
    file = tmp_path / "c.csv"
    clicks().to_csv(file, index=False, sep=";", decimal=",")
    dataset, _, text = guess(file)
    assert "price" not in {*dataset.scalars, *dataset.multi, *dataset.tokens}
    assert "# not used: price: numbers must have a decimal point, not a comma" in text
