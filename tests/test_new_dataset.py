"""`nisbench new-dataset`: what it guesses of a table, and that its overlay runs."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
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


def table_of(n=300):
    generator = np.random.default_rng(2)
    colors, sizes = (generator.choice(values, n) for values in (["red", "green", "blue"], ["S", "M", "L"]))
    return pd.DataFrame({"color": colors, "size": sizes, "click": generator.integers(0, 2, n)})


@pytest.mark.parametrize(
    "frame",
    [table_of(), table_of().sample(frac=1, random_state=0), table_of().set_index(pd.date_range("2024", periods=300))],
    ids=["running", "shuffled", "dates"],
)
def test_the_index_that_pandas_writes_is_left_out(guess, tmp_path, capsys, frame):
    frame.to_csv(tmp_path / "i.csv")
    dataset, _, text = guess(tmp_path / "i.csv")
    assert dataset.tokens == ["color", "size"]
    assert dataset.label.column == "click"
    assert '# not used: "": has no name in the header, like an index that pandas writes' in text
    assert "One column is not used: it has no name" in capsys.readouterr().out
    table.prepare(dataset, tmp_path / "i.csv", tmp_path / "i", tmp_path / "v")


def test_a_first_line_without_its_first_value_is_data(guess, tmp_path, capsys):
    (tmp_path / "d.csv").write_text(",red,S\n5,blue,M\n7,red,S\n")
    with pytest.raises(NisbenchError, match="--label: column1, column2, column3"):
        guess(tmp_path / "d.csv")
    assert "The first line is taken as data. If it names the columns, add --header." in capsys.readouterr().out


def test_whether_there_is_a_header_can_be_said(guess, tmp_path, capsys):
    file, rows = tmp_path / "y.csv", "ann,x,1\nbob,y,0\nann,x,0\nbob,x,1\n" * 5
    file.write_text(f"user,2024,click\n{rows}")
    with pytest.raises(NisbenchError, match="no column looks like what is to be predicted"):
        guess(file)
    assert "add --header" in capsys.readouterr().out
    dataset, _, _ = guess(file, header=True)
    assert (dataset.tokens, dataset.label.column) == (["user", "2024"], "click")
    file.write_text(f"eve,z,?\n{rows}")
    assert guess(file, names="user,kind,click")[0].read.header
    assert not guess(file, names="user,kind,click", header=False)[0].read.header
    assert "The first line" not in capsys.readouterr().out


def test_a_name_that_two_columns_have_is_named(guess, tmp_path):
    file = tmp_path / "d.csv"
    file.write_text("user,item,user,rating\n" + "".join(f"{i % 7},{i % 5},{i},{i % 4}\n" for i in range(50)))
    with pytest.raises(
        NisbenchError,
        match=r"d\.csv:1: two columns are called 'user'; name them in read\.names, here by --names; or, if",
    ):
        guess(file)
    dataset, _, _ = guess(file, names="user,item,again,rating")
    assert dataset.read.header
    table.prepare(dataset, file, tmp_path / "i", tmp_path / "v")
    twice = pa.Table.from_arrays([pa.array([1, 0]), pa.array([1, 2]), pa.array([3, 4])], ["click", "item", "item"])
    pq.write_table(twice, tmp_path / "d.parquet")
    with pytest.raises(
        NisbenchError, match=r"d\.parquet: two columns are called 'item'; write the file anew, with one"
    ):
        guess(tmp_path / "d.parquet")


def test_lines_of_old_macs_and_quotes_that_are_never_closed(guess, tmp_path):
    text = table_of().to_csv(index=False)
    whole, other = tmp_path / "m.csv", write(table_of(), tmp_path / "o.csv", "csv")
    whole.write_bytes(text.replace("\n", "\r").encode())
    for files in ([whole], [other, whole]):
        with pytest.raises(NisbenchError, match=r"m\.csv:1: .*carriage return .* tr '\\r' '\\n' < OLD"):
            guess(*files)
    rows = "".join(f"{i % 9},{'=' * 400},{i % 2}\n" for i in range(600))
    other.write_text(f'color,text,click\n1,"{"=" * 400},1\n{rows}')
    dataset, _, _ = guess(other)
    assert (dataset.read.quote, dataset.label.column) == (None, "click")


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_to_be_converted(guess, tmp_path, monkeypatch, indent):
    file = tmp_path / "a.json"
    table_of().assign(zip="01").to_json(file, orient="records", indent=indent)
    with pytest.raises(NisbenchError, match=r"a\.json: is one JSON array; it must be JSON lines") as raised:
        guess(file)
    monkeypatch.chdir(tmp_path)
    exec(str(raised.value).split("\n")[1], {"pd": pd})  # noqa: S102
    assert json.loads((tmp_path / "a.jsonl").read_text().split("\n")[0])["zip"] == "01"
    assert guess(tmp_path / "a.jsonl")[0].tokens == ["color", "size"]


def test_objects_among_json_lines_are_not_used(guess, tmp_path):
    file = tmp_path / "o.jsonl"
    rows = [
        row | {"meta": {"ip": i}, "seen": [{"at": i}], "tags": [i % 3, None, 7]}
        for i, row in enumerate(table_of().to_dict("records"))
    ]
    rows[0]["meta"] = None
    file.write_text("\n".join(map(json.dumps, rows)))
    dataset, _, text = guess(file)
    assert (dataset.tokens, list(dataset.multi)) == (["color", "size"], ["tags"])
    assert "# not used: meta: holds objects\n" in text
    assert "# not used: seen: holds lists of other things than texts and numbers\n" in text
    table.prepare(dataset, file, tmp_path / "i", tmp_path / "v")
    with pytest.raises(NisbenchError, match="--label: 'meta' holds objects; there is: color, size, click, tags"):
        guess(file, label="meta")
    file.write_text('{"data": {"click": 1}}\n')
    with pytest.raises(NisbenchError, match=r"o\.jsonl: no column can be used: data holds objects"):
        guess(file)


def test_what_parquet_holds_beside_tokens_is_not_used(guess, tmp_path):
    n, record = 300, pa.struct([("a", pa.int64())])
    odd = {
        "bytes": (pa.array([b"\xff%d" % (i % 9) for i in range(n)]), "bytes"),
        "struct": (pa.array([{"a": i % 4} for i in range(n)], record), "objects"),
        "map": (pa.array([[("k", i % 3)] for i in range(n)], pa.map_(pa.string(), pa.int64())), "objects"),
        "lists": (pa.array([[[i % 3, 1]] for i in range(n)]), "lists of lists"),
        "structs": (pa.array([[{"a": i % 3}] for i in range(n)], pa.list_(record)), "lists of objects"),
        "fixed": (
            pa.array([[{"a": 1}, {"a": i % 2}] for i in range(n)], pa.list_(record, 2)),
            "lists of a fixed length",
        ),
        "encoded": (pa.array([b"\xff", b"\xfe"] * (n // 2)).dictionary_encode(), "bytes"),
    }
    plain = {
        "tags": pa.array([[i % 3, 7] for i in range(n)]),
        "kind": pa.array(["a", "b"] * (n // 2)).dictionary_encode(),
    }
    good = pa.Table.from_pandas(table_of(n)).to_pydict() | plain
    pq.write_table(pa.table(good | {name: values for name, (values, _) in odd.items()}), tmp_path / "o.parquet")
    dataset, _, text = guess(tmp_path / "o.parquet")
    assert (dataset.tokens, list(dataset.multi), dataset.scalars) == (["color", "size", "kind"], ["tags"], {})
    for name, (_, held) in odd.items():
        assert re.search(f"# not used: {name}: holds {held}\n", text)
    table.prepare(dataset, tmp_path / "o.parquet", tmp_path / "i", tmp_path / "v")


@pytest.mark.parametrize("columns", [["size", "click"], ["color", "size", "click"]])
def test_there_are_no_more_blocks_than_features(guess, tmp_path, columns):
    file = write(table_of(40)[columns], tmp_path / "f.csv", "csv")
    dataset, _, _ = guess(file)
    table.prepare(dataset, file, tmp_path / "i", tmp_path / "v")
    features = pq.read_table(tmp_path / "v").num_rows
    assert len(columns) - 1 <= dataset.blocks.count <= features < 10


def test_many_features_have_ten_blocks(guess, tmp_path):
    assert guess(write(ratings(), tmp_path / "r.csv", "csv"))[0].blocks.count == 10
    rare = pd.DataFrame({"word": [f"w{i // 2}" for i in range(60)], "click": [0, 1] * 30})
    assert guess(write(rare, tmp_path / "w.csv", "csv"))[0].blocks.count == 10


@pytest.mark.parametrize(
    ("values", "above"), [([1, 2], 1), ([-1, 1], -1), ([1, 2, 3], 2), ([1, 2, 3, 4], 3), ([1, 2, 3, 4, 5], 3)]
)
def test_the_threshold_of_a_label_leaves_positives(guess, tmp_path, values, above):
    frame = table_of().assign(click=np.resize(values, 300))
    dataset, _, text = guess(write(frame, tmp_path / "l.csv", "csv"))
    assert dataset.task == "rating"
    assert f"as clicks: task: ctr, and label: {{column: click, positive_above: {above}, drop_equal: false}}\n" in text


@pytest.mark.parametrize("layout", ["csv", "jsonl", "parquet"])
def test_true_and_false_are_clicks(guess, tmp_path, layout):
    frame = table_of().assign(click=lambda frame: frame["click"] == 1)
    file = write(frame, tmp_path / f"t.{layout}", layout)
    dataset, _, text = guess(file)
    assert (dataset.task, dataset.label.column, dataset.label.binary) == ("ctr", "click", True)
    assert f"# {frame['click'].mean():.1%} are 1" in text
    table.prepare(dataset, file, tmp_path / "i", tmp_path / "v")
    assert pq.read_table(tmp_path / "i")["label"].to_pylist() == frame["click"].astype(float).to_list()
