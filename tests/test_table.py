"""Tables of one's own: every layout and role against pandas, what is malformed named, and what a model of them is served with."""

import bz2
import gzip
import importlib.util
import json
import lzma
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter

import nisbench as nb
from nisbench import execution
from nisbench.conformance import (
    DATA_CLAIMS,
    Case,
    ends,
    files_hold_the_model,
    learns,
    one_forward,
    resumes,
    short_training,
)
from nisbench.data import instances, movielens, parquet, split, table, table_files
from nisbench.data.click_log import UNKNOWN
from nisbench.embedding.table import SelectedTable
from nisbench.errors import NisbenchError
from nisbench.models.recommender import Recommender, Shape
from nisbench.params.datasets import AnyDataset, RandomSplit
from nisbench.params.loading import load
from nisbench.serving import programs
from nisbench.steps import block_step
from nisbench.studies import plan_study
from nisbench.training import train_step
from tests.helpers.archives import tarred, zipped
from tests.helpers.paths import ROOT

CPU = torch.device("cpu")
RANDOM = {"proportions": [8, 1, 1], "seed": 1}
BASE = {
    "format": "table",
    "title": "Own",
    "task": "rating",
    "url": "own.csv",
    "md5": None,
    "read": {"layout": "csv"},
    "label": {"column": "y"},
    "tokens": ["a", "b"],
    "min_count": 1,
    "duplicates": "keep",
    "fit_on": "all",
    "split": RANDOM,
    "blocks": {"by": "count", "count": 2},
}


def settings(**changes):
    return TypeAdapter(AnyDataset).validate_python(BASE | changes)


class Prepared:
    """The two files that preparing leaves."""

    def __init__(self, folder):
        self.path = folder / "i.parquet"
        self.instances = instances.read(self.path, CPU)
        self.vocabulary = pq.read_table(folder / "v.parquet").to_pandas()
        self.fields = parquet.fields_of(pq.read_schema(self.path), self.path)
        self.frame = pq.read_table(self.path).to_pandas()

    @property
    def labels(self):
        return self.instances.labels.tolist()

    def tokens(self, name):
        """A field's token in each instance; lists of them where it has several."""
        of = self.vocabulary["token"].to_numpy()
        ids = self.frame[name]
        return [of[i].tolist() for i in ids] if ids.dtype == object else of[ids].tolist()

    def known(self, name):
        return self.vocabulary["token"][self.vocabulary["field"] == name].tolist()


@pytest.fixture
def prepare(tmp_path):
    """Prepare a table, given as text or as a file, under BASE with some changes."""

    def prepared(content, **changes):
        path = content
        if isinstance(content, str | bytes):
            path = tmp_path / "source" / "own.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        target = tmp_path / "prepared"
        before = list(target.iterdir()) if target.exists() else []
        try:
            table.prepare(settings(**changes), path, target / "i.parquet", target / "v.parquet")
        except NisbenchError:
            assert list(target.iterdir()) == before, "half-written output was left behind"
            raise
        assert sorted(file.name for file in target.iterdir()) == ["i.parquet", "v.parquet"]
        return Prepared(target)

    return prepared


FRAME = pd.DataFrame(
    {
        "y": [4.0, 3.5, 1.0, 5.0, 2.0, 3.0],
        "a": ["u1", "u2", "u1", None, "10", "u2"],
        "b": [7, 7, 2**40, 8, 7, 2**40],
        "x": [0.5, None, -3.0, 1000.0, 2.0, 0.0],
        "when": [30, 10, 20, 60, 40, 50],
        "genres": ["c|d", "c", "", "e|c|d", "d", None],
    }
)
"""Strings, whole numbers too large for 32 bits, missing values of each kind, and several tokens in one column."""


def as_csv(frame, **options):
    return frame.to_csv(index=False, **options)


# --- layouts --------------------------------------------------------------------------------------------------


def written(tmp_path, layout):
    """FRAME in a layout, and how to read it."""
    plain, tsv = as_csv(FRAME), as_csv(FRAME, sep="\t", header=False)
    names = list(FRAME.columns)
    rows = json.loads(FRAME.to_json(orient="records"))
    lines = "\n".join(json.dumps({key: value for key, value in row.items() if value is not None}) for row in rows)
    path = tmp_path / "own"
    two = {"d/one.csv": plain[: plain.index("\n", 30) + 1], "d/two.csv": f"{plain.splitlines()[0]}\n"}
    two["d/two.csv"] += plain[len(two["d/one.csv"]) :]
    if layout == "parquet":
        FRAME.to_parquet(path)
        return path, {"read": {"layout": "parquet"}}
    if layout == "parquet in zip":
        FRAME.to_parquet(path)
        return zipped(tmp_path / "own.zip", {"t.parquet": path.read_bytes()}), {
            "read": {"layout": "parquet"},
            "files": ["t.parquet"],
        }
    if layout == "two in zip":
        return zipped(tmp_path / "own.zip", two), {"files": ["d/one.csv", "d/two.csv"]}
    if layout == "tar.gz":
        return tarred(path, {"t.csv": plain.encode()}), {"files": ["t.csv"]}
    if layout == "gz in zip":
        return zipped(tmp_path / "own.zip", {"t.csv.gz": gzip.compress(plain.encode())}), {"files": ["t.csv.gz"]}
    text, changes = {
        "csv": (plain, {}),
        "csv with a byte order mark and Windows line ends": ("\ufeff" + plain.replace("\n", "\r\n"), {}),
        "tsv": (tsv, {"read": {"layout": "csv", "delimiter": "\t", "header": False, "names": names}}),
        "::": (
            tsv.replace("\t", "::"),
            {"read": {"layout": "csv", "delimiter": "::", "header": False, "names": names, "quote": None}},
        ),
        "jsonl": (lines, {"read": {"layout": "jsonl"}}),
        "other names and quotes": (
            as_csv(FRAME.rename(columns={"a": "?"}), quoting=1, quotechar="'"),
            {"read": {"layout": "csv", "names": names, "quote": "'"}},
        ),
        "gz": (gzip.compress(plain.encode()), {}),
    }[layout]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path, changes


LAYOUTS = [
    "csv", "csv with a byte order mark and Windows line ends", "tsv", "::", "jsonl", "parquet", "parquet in zip",
    "two in zip", "tar.gz", "gz in zip", "other names and quotes", "gz",
]  # fmt: skip


@pytest.mark.parametrize("small_batches", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(prepare, tmp_path, monkeypatch, layout, small_batches):
    if small_batches:
        monkeypatch.setattr(table_files, "BLOCK_BYTES", 64)
        monkeypatch.setattr(table_files, "ROWS_AT_ONCE", 2)
    path, changes = written(tmp_path, layout)
    found = prepare(
        path,
        scalars={"x": {"scale": "none", "missing": -1}},
        multi={"genres": {"separator": "|", "at_most": 2}},
        time="when",
        **changes,
    )
    assert found.labels == FRAME["y"].tolist()
    assert found.tokens("a") == ["u1", "u2", "u1", UNKNOWN, "10", "u2"]
    assert found.tokens("b") == [str(value) for value in FRAME["b"]]
    assert found.tokens("genres") == [["c", "d"], ["c"], [UNKNOWN], ["e", "c"], ["d"], [UNKNOWN]]
    assert found.frame["x"].tolist() == [0.5, -1, -3, 1000, 2, 0]
    assert found.frame["time"].tolist() == FRAME["when"].tolist()
    assert [field.name for field in found.fields] == ["a", "b", "genres", "x"]
    assert found.known("a") == [UNKNOWN, "10", "u1", "u2"]


def test_nan_means_that_there_is_none(prepare, tmp_path):
    """As Parquet files and Python's JSON lines have it."""
    frame = pd.DataFrame({"y": [1.0, 2, 3], "a": [1.5, np.nan, 1.5], "x": [np.nan, 4.0, 6.0]})
    frame.to_parquet(tmp_path / "own.parquet")  # pandas writes null
    as_nan = pa.table({name: pa.array(frame[name].to_numpy(), from_pandas=False) for name in frame})
    pq.write_table(as_nan, tmp_path / "nan.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in frame.to_dict("records")).replace("1.5", '["p", null]')
    assert "NaN" in lines
    (tmp_path / "own.jsonl").write_text(lines)
    terms = {"tokens": ["a"], "scalars": {"x": {"scale": "none"}}}
    for file in ("own.parquet", "nan.parquet", "own.jsonl"):
        listed = {"tokens": [], "multi": {"a": {"separator": None, "at_most": 2}}} if file.endswith("jsonl") else {}
        layout = {"read": {"layout": file.partition(".")[2]}}
        found = prepare((tmp_path / file).read_bytes(), **(terms | listed | layout))
        token = ["p"] if listed else "1.5"
        assert found.tokens("a") == [token, [UNKNOWN] if listed else UNKNOWN, token]
        assert found.frame["x"].tolist() == [5, 4, 6]


@pytest.mark.parametrize(
    "roles",
    [
        {"tokens": ["s"]},
        {"multi": {"s": {"separator": None, "at_most": 2}}, "tokens": ["a"]},
        {"scalars": {"s": {"scale": "none"}}},
    ],
)
@pytest.mark.parametrize("values", [[{"x": 1}, {"x": 2}], [b"\xff", b"\xfe"], [[{"x": 1}], [{"x": 2}]]])
def test_columns_that_hold_no_text_are_named(prepare, tmp_path, values, roles):
    pq.write_table(pa.table({"y": [1.0, 2.0], "a": ["p", "q"], "s": values}), tmp_path / "t.parquet")
    with pytest.raises(NisbenchError, match=r"own\.csv: row 1: s: "):
        prepare((tmp_path / "t.parquet").read_bytes(), read={"layout": "parquet"}, **({"tokens": ["a"]} | roles))


def test_lists_need_no_separator(prepare, tmp_path):
    rows = [{"y": 1, "a": "q", "g": ["c", "d"]}, {"y": 2, "a": "q", "g": []}, {"y": 3, "a": "r"}]
    changes = {"tokens": ["a"], "multi": {"g": {"separator": None, "at_most": 3}}}
    expected = [["c", "d"], [UNKNOWN], [UNKNOWN]]
    lines = "\n".join(map(json.dumps, rows))
    assert prepare(lines, read={"layout": "jsonl"}, **changes).tokens("g") == expected
    pd.DataFrame(rows).to_parquet(tmp_path / "t")
    assert prepare(tmp_path / "t", read={"layout": "parquet"}, **changes).tokens("g") == expected


def test_what_is_missing_can_be_said(prepare):
    text = "y,a,b,x\n1,NA,p,NA\n2,,p,2\n"
    changes = {"scalars": {"x": {"scale": "none", "missing": 9}}}
    found = prepare(text, read={"layout": "csv", "missing": ["NA"]}, **changes)
    assert found.tokens("a") == [UNKNOWN, ""]
    assert found.frame["x"].tolist() == [9, 2]


def test_another_encoding(prepare):
    text = "y,a,b\n1,caf\xe9,p\n".encode("latin-1")
    assert prepare(text, read={"layout": "csv", "encoding": "latin-1"}).tokens("a") == ["caf\xe9"]
    with pytest.raises(NisbenchError, match=r"own\.csv:2: is not text in utf-8: .* set read\.encoding"):
        prepare(text)


# --- vocabulary and scales ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["train", "all"])
def test_rare_tokens_are_counted_where_it_is_said(prepare, where):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "y": generator.random(200),
            "a": (generator.random(200) ** 3 * 60).astype(int).astype(str),
            "x": generator.normal(3, 2, 200),
        }
    )
    found = prepare(
        as_csv(frame), tokens=["a"], min_count=3, fit_on=where, scalars={"x": {"scale": "standard", "missing": "mean"}}
    )
    train = split.at_random(200, RandomSplit(**RANDOM)) == split.TRAIN
    seen = frame[train] if where == "train" else frame
    counts = seen["a"].value_counts()
    kept = sorted(counts[counts >= 3].index)
    assert found.known("a") == [UNKNOWN, *kept]
    assert found.tokens("a") == frame["a"].where(frame["a"].isin(kept), UNKNOWN).tolist()
    expected = (frame["x"] - seen["x"].mean()) / seen["x"].std(ddof=0)
    np.testing.assert_allclose(found.frame["x"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("split_settings", "changes"),
    [
        (RANDOM, {}),
        ({"by": "time", "proportions": [3, 1, 1]}, {"time": "t"}),
        ("leave_one_out", {"time": "t", "user": "u", "task": "topk"}),
        ("published", {"part": {"column": "p", "train": ["tr"], "validation": ["va"], "test": ["te"]}}),
    ],
)
def test_train_is_what_the_step_that_splits_calls_train(prepare, tmp_path, split_settings, changes):
    """The vocabulary, with `fit_on: train`, is that of the file of training instances."""
    generator = np.random.default_rng(1)
    n = 120
    frame = pd.DataFrame(
        {
            "y": generator.integers(0, 6, n),
            "u": generator.integers(0, 12, n),
            "a": generator.integers(0, 60, n),
            "t": generator.permutation(n),
            "p": generator.choice(["tr", "va", "te"], n, p=[0.6, 0.2, 0.2]),
        }
    )
    chosen = settings(tokens=["a"], fit_on="train", split=split_settings, **changes)
    found = prepare(
        as_csv(frame),
        tokens=["a"],
        fit_on="train",
        split=split_settings,
        label={"column": "y", "positive_above": 2, "drop_equal": True},
        **changes,
    )
    targets = {name: tmp_path / name for name in split.SPLITS}
    split.run(chosen.split, found.path, targets)
    train = pq.read_table(targets["train"])["a"].to_numpy()
    first = next(field.first for field in found.fields if field.name == "a")
    assert set(train) == set(range(first + 1, first + len(found.known("a"))))
    others = np.concatenate([pq.read_table(targets[name])["a"].to_numpy() for name in ("validation", "test")])
    assert (others == first).any(), "the case is too easy: every token is in train"


SCALES = {
    "none": lambda x: x,
    "minmax": lambda x: (x - x.min()) / (x.max() - x.min()),
    "standard": lambda x: (x - x.mean()) / x.std(ddof=0),
}


@pytest.mark.parametrize("scale", SCALES)
def test_scales(prepare, monkeypatch, scale):
    monkeypatch.setattr(table_files, "BLOCK_BYTES", 256)  # figures of many batches are joined
    frame = pd.DataFrame({"y": 1.0, "a": "q", "x": np.random.default_rng(0).normal(5e3, 3, 100)})
    frame.loc[7, "x"] = None
    found = prepare(as_csv(frame), tokens=["a"], scalars={"x": {"scale": scale, "missing": "mean"}})
    x = frame["x"]
    expected = SCALES[scale](x).fillna((SCALES[scale](x)).mean())
    np.testing.assert_allclose(found.frame["x"], expected, rtol=1e-5, atol=1e-5)


def test_a_number_that_never_changes_is_0(prepare):
    found = prepare("y,a,b,x\n1,p,q,5\n2,p,q,5\n", scalars={"x": {"scale": "standard", "missing": "mean"}})
    assert found.frame["x"].tolist() == [0, 0]


def test_buckets(prepare):
    values = ["0", "1", "2", "3", "6.9", "7", "-1", "-7", "", "1e12"]
    text = "y,a,b,x\n" + "".join(f"1,p,q,{value}\n" for value in values)
    found = prepare(text, scalars={"x": {"scale": "log2_buckets"}})
    assert found.tokens("x") == ["0", "1", "1", "2", "2", "3", "-1", "-3", UNKNOWN, "39"]
    assert found.fields[-1].kind == "categorical"


def test_labels(prepare):
    text = "y,a,b\n1,p,q\n3,r,q\n4,p,s\n3.5,t,s\n"
    assert prepare(text).labels == [1, 3, 4, 3.5]
    assert prepare(text, label={"column": "y", "positive_above": 3}).labels == [0, 0, 1, 1]
    found = prepare(text, label={"column": "y", "positive_above": 3, "drop_equal": True})
    assert found.labels == [0, 1, 1]
    assert found.known("a") == [UNKNOWN, "p", "t"], "a token of rows that are left out is a feature"
    found = prepare(text, label={"column": "y", "positive_above": 3, "positives_only": True})
    assert found.labels == [1, 1]
    assert prepare("y,a,b\ntrue,p,q\nFalse,p,q\n", label={"column": "y", "binary": True}).labels == [1, 0]
    assert prepare(text, label=None).labels == [1, 1, 1, 1]


DOUBLED = "y,a,b,t\n1,u,p,9\n2,u,q,1\n4,u,p,3\n5,v,p,1\n3,u,p,5\n"


@pytest.mark.parametrize(
    ("duplicates", "time", "expected"),
    [
        ("keep", "t", [1, 2, 4, 5, 3]),
        ("last", "t", [1, 2, 5]),
        ("last", None, [2, 5, 3]),
        ("mean", None, [2, 5, 8 / 3]),
    ],
)
@pytest.mark.parametrize("roles", [{"user": "a", "item": "b", "tokens": []}, {}])
def test_duplicates(prepare, duplicates, time, expected, roles):
    found = prepare(DOUBLED, duplicates=duplicates, time=time, **roles)
    assert found.labels == pytest.approx(expected)


def test_duplicates_of_several_tokens_are_those_of_all_of_them(prepare):
    text = "y,a,b,g\n1,p,q,c|d\n2,p,q,c\n3,p,q,c|d\n"
    changes = {"multi": {"g": {"separator": "|", "at_most": 2}}}
    assert prepare(text, duplicates="last", **changes).labels == [2, 3]


def test_duplicates_are_refused_by_their_lines(prepare):
    with pytest.raises(NisbenchError) as raised:
        prepare(DOUBLED, duplicates="refuse", user="a", item="b", tokens=[])
    text = "own.csv:4: the same a, b as in {}own.csv:2; 2 rows repeat others. Set `duplicates` to keep, last or mean."
    head = str(raised.value).split("own.csv:4")[0]
    assert str(raised.value) == head + text.format(head)


def test_users_and_items_have_no_unknown_feature(prepare):
    found = prepare("y,a,b\n1,u,p\n2,v,p\n", user="a", item="b", tokens=[], min_count=5)
    assert found.vocabulary["token"].tolist() == ["u", "v", "p"]


# --- joins and derived columns --------------------------------------------------------------------------------


def test_side_files_and_derived_columns(prepare, tmp_path):
    archive = zipped(
        tmp_path / "own.zip",
        {
            "m/r.dat": "1::m1::4\n2::m2::2\n2::m1::5\n3::m3::1\n",
            "m/u.csv": "who,age\n2,35\n1,18\n",
            "m/m.tsv": "m1\tToy (1995)\tc|d\nm2\tNo year\tc\nm3\tX (2001)\t\n",
        },
    )
    found = prepare(
        archive,
        files=["m/r.dat"],
        read={"layout": "csv", "delimiter": "::", "header": False, "names": ["u", "m", "y"], "quote": None},
        join=[
            {"file": "m/u.csv", "read": {"layout": "csv"}, "key": "u", "key_there": "who"},
            {
                "file": "m/m.tsv",
                "read": {"layout": "csv", "delimiter": "\t", "header": False, "names": ["m", "title", "g"]},
                "key": "m",
            },
        ],
        derive={"year": {"column": "title", "pattern": r"\((\d{4})\)"}},
        tokens=["u", "m", "age"],
        multi={"g": {"separator": "|", "at_most": 2}},
        scalars={"year": {"scale": "none", "missing": 0}},
    )
    assert found.tokens("age") == ["18", "35", "35", UNKNOWN]
    assert found.tokens("g") == [["c", "d"], ["c"], ["c", "d"], [UNKNOWN]]
    assert found.frame["year"].tolist() == [1995, 0, 1995, 2001]


def test_a_key_that_is_there_twice_is_named(prepare, tmp_path):
    archive = zipped(tmp_path / "o.zip", {"r.csv": "y,a,b\n1,p,q\n", "s.csv": "a,c\np,1\nr,1\np,2\n"})
    with pytest.raises(NisbenchError, match=r"o\.zip: s\.csv:4: a: 'p' has a row already"):
        prepare(archive, files=["r.csv"], join=[{"file": "s.csv", "read": {"layout": "csv"}, "key": "a"}], tokens=["c"])


def test_a_join_or_a_pattern_that_gives_no_row_anything_is_an_error(prepare, tmp_path):
    archive = zipped(tmp_path / "o.zip", {"r.csv": "y,a,b\n1,10,q\n2,11,q\n", "s.csv": "a,c\n0.0,x\n10.0,z\n"})
    join = [{"file": "s.csv", "read": {"layout": "csv"}, "key": "a"}]
    with pytest.raises(NisbenchError, match=r"s\.csv: a: no row of .*r\.csv has a key in it: '10' there, '0\.0' here"):
        prepare(archive, files=["r.csv"], join=join, tokens=["c"])
    derived = {"c": {"column": "b", "pattern": r"\d+"}}
    with pytest.raises(NisbenchError, match=r"derive\.c\.pattern matches nothing in any row of b"):
        prepare("y,a,b\n1,p,q\n2,p,r\n", derive=derived, tokens=["c"])


def test_rows_without_a_row_in_a_joined_file_are_counted(prepare, tmp_path, caplog):
    caplog.set_level("INFO", logger="nisbench")
    archive = zipped(tmp_path / "o.zip", {"r.csv": "y,a,b\n1,p,q\n2,z,q\n3,p,q\n", "s.csv": "a,c\np,1\n"})
    found = prepare(
        archive, files=["r.csv"], join=[{"file": "s.csv", "read": {"layout": "csv"}, "key": "a"}], tokens=["c"]
    )
    assert found.tokens("c") == ["1", UNKNOWN, "1"]
    assert "1 of 3 rows have no row here: c missing" in caplog.text


def test_a_column_of_two_files_is_refused(prepare, tmp_path):
    archive = zipped(tmp_path / "o.zip", {"r.csv": "y,a,b\n1,p,q\n", "s.csv": "a,b\np,1\n"})
    with pytest.raises(NisbenchError, match=r"'b' is a column of several files \(.*r\.csv, .*s\.csv\)"):
        prepare(archive, files=["r.csv"], join=[{"file": "s.csv", "read": {"layout": "csv"}, "key": "a"}], tokens=["b"])


# --- splits ---------------------------------------------------------------------------------------------------


def test_by_time_the_latest_are_for_test():
    times = np.array([5, 1, 4, 4, 2, 3, 9, 8, 7, 6])
    found = split.by_time(times, [6, 2, 2])
    assert [sorted(times[found == part]) for part in range(3)] == [[1, 2, 3, 4, 4, 5], [6, 7], [8, 9]]
    assert split.by_time(np.zeros(5), [3, 1, 1]).tolist() == [0, 0, 0, 1, 2]
    with pytest.raises(NisbenchError, match="too few"):
        split.by_time(np.zeros(3), [8, 1, 1])


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["3", "1", "2"], [3, 1, 2]),
        (["0.5", "-1", "2e3"], [500_000, -1_000_000, 2_000_000_000]),
        (["2026-01-02", "2026-01-01 12:00:00", "2025-12-31T23:59:59"], None),
        (["2026-01-02T00:00:00Z", "2026-01-01T12:00:00.5+02:00", "2025-12-31 23:59:59-0530"], None),
        (["2026-01-02T00:00:00.123456789", "2026-01-01T12:00:00", "2026-01-01"], None),
    ],
)
def test_times(prepare, times, expected):
    found = prepare("y,a,b,t\n" + "".join(f"1,p,q,{time}\n" for time in times), time="t").frame["time"].tolist()
    if expected is None:
        read = pd.to_datetime(times, format="ISO8601", utc=True).tz_localize(None)
        assert found == read.astype("datetime64[us]").astype(int).tolist()
    else:
        assert found == expected


def test_published_splits(prepare, tmp_path):
    head = "y,a,b\n"
    archive = zipped(tmp_path / "o.zip", {f"{p}.csv": f"{head}1,{p},q\n2,p,q\n" for p in ("tr", "va", "te")})
    files = {"train": ["tr.csv"], "validation": ["va.csv"], "test": ["te.csv"]}
    found = prepare(archive, files=files, split="published", fit_on="train")
    assert found.frame["split"].tolist() == [0, 0, 1, 1, 2, 2]
    assert found.tokens("a") == ["tr", "p", UNKNOWN, "p", UNKNOWN, "p"]
    part = {"column": "w", "train": ["0", "1"], "validation": ["2"], "test": ["3"]}
    found = prepare("y,a,b,w\n1,p,q,1\n1,p,q,3\n1,p,q,2\n1,p,q,0\n", part=part, split="published")
    assert found.frame["split"].tolist() == [0, 2, 1, 0]
    with pytest.raises(NisbenchError, match=r"own\.csv:3: w: '4' is neither of part\.train"):
        prepare("y,a,b,w\n1,p,q,1\n1,p,q,4\n", part=part, split="published")


def test_the_split_is_part_of_preparing_only_where_it_matters(config):
    def prepared(seed, **changes):
        dataset = settings(split={"proportions": [8, 1, 1], "seed": seed}, **changes)
        return block_step(dataset, config.params.tasks["rating"]).needs["prepare"].id

    assert prepared(1, fit_on="train") != prepared(2, fit_on="train")
    assert prepared(1, fit_on="all") == prepared(2, fit_on="all")
    pair = {"user": "a", "item": "b", "tokens": [], "fit_on": "train"}
    assert prepared(1, **pair) == prepared(2, **pair)


@pytest.mark.parametrize("fit_on", ["train", "all"])
def test_where_seeds_draw_splits_each_prepares_for_its_own(tmp_path, fit_on):
    grid = {"datasets": ["own"], "models": ["fm"], "methods": {"full_table": [1]}}
    study = {"title": "", "grids": {"g": grid}, "seeds": [1, 2], "split_per_seed": True, "tables": []}
    overlay = tmp_path / "over.yaml"
    overlay.write_text(json.dumps({"datasets": {"own": BASE | {"fit_on": fit_on}}, "studies": {"s": study}}))
    plan = plan_study("s", load(ROOT, [overlay]))
    prepared = {cell.search.needs["block"].needs["prepare"].id: cell for cell in plan.cells}
    assert len(prepared) == (2 if fit_on == "train" else 1)
    seeds = [plan.seeds_of(cell.search.needs["block"].needs["prepare"]) for cell in prepared.values()]
    assert seeds == ([[1], [2]] if fit_on == "train" else [[]])


# --- what is wrong --------------------------------------------------------------------------------------------

GOOD = "y,a,b,x,t\n" + "1,p,q,2,3\n" * 150
FULL = {"scalars": {"x": {"scale": "none", "missing": "refuse"}}, "time": "t"}


@pytest.mark.parametrize(
    ("bad", "changes", "says"),
    [
        ("1,p,q,2\n", {}, ":152: expected 5 values, found 4: '1,p,q,2'. See read.delimiter (','), read.names"),
        ("1,p,q,2,3,4\n", {}, ":152: expected 5 values, found 6"),
        ("good,p,q,2,3\n", {}, ":152: y: expected a number, found 'good'. If it means that there is none, add it to"),
        (",p,q,2,3\n", {}, ":152: y: every instance needs a label, but there is none"),
        ("nan,p,q,2,3\n", {}, ":152: y: expected a finite number, found 'nan'"),
        (
            "2,p,q,2,3\n",
            {"label": {"column": "y", "binary": True}},
            ":152: y: expected 0 or 1, found '2'. To make it so",
        ),
        ("1,p,q,?,3\n", {}, ":152: x: expected a number, found '?'"),
        ("1,p,q,1_0,3\n", {}, ":152: x: expected a number, found '1_0'"),
        ("1,p,q,1e39,3\n", {}, ":152: x: expected a finite number, found '1e39'"),
        ("1,p,q,,3\n", {}, ":152: x: there is no number; set scalars.*.missing"),
        ("1,p,q,2,\n", {}, ":152: t: every instance needs a time"),
        ("1,p,q,2,soon\n", {}, ":152: t: the others are {}, but there is 'soon'"),
        (
            "1,,q,2,3\n",
            {"user": "a", "tokens": ["b"]},
            ":152: a: every instance needs a user and an item, but there is",
        ),
        ("1,p,\xff,2,3\n", {}, ":152: is not text in utf-8: "),
        ('1,"p\n\nr",q,2,3\n1,p,q,oh,3\n', {}, ":155: x: expected a number, found 'oh'"),
    ],
    ids=range(15),
)
@pytest.mark.parametrize("block_bytes", [512, 1 << 23])
def test_a_malformed_row_is_named(prepare, monkeypatch, bad, changes, says, block_bytes):
    monkeypatch.setattr(table_files, "BLOCK_BYTES", block_bytes)
    with pytest.raises(NisbenchError) as raised:
        prepare((GOOD + bad + GOOD.split("\n", 1)[1]).encode("latin-1"), **FULL | changes)
    kind = "whole numbers" if block_bytes == 512 else "numbers"  # they were settled by an earlier batch
    assert f"own.csv{says.replace('{}', kind)}" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "changes", "says"),
    [
        ("", {}, "empty"),
        ("y,a,b\n", {}, "own.csv: holds no rows"),
        ("y,a,c\n1,p,q\n", {}, "own.csv: there is no column 'b'. It has: y, a, c"),
        ("y,a,B\n1,p,q\n", {"tokens": ["a", "Bb"]}, "there is no column 'Bb'; did you mean 'B'?"),
        ("y,a,a\n1,p,q\n", {}, "own.csv:1: two columns are called 'a'; name them in read.names"),
        ("y,a,b\n1,p,q\n", {"read": {"layout": "csv", "names": ["y", "a"]}}, "the header has 3 columns, but read.names has 2"),
        ('{"y": 1}\n{"y": 2\n', {"read": {"layout": "jsonl"}, "tokens": ["y"]}, "own.csv:2: not JSON"),
        ("[1]\n", {"read": {"layout": "jsonl"}, "tokens": ["y"]}, "own.csv:1: expected a JSON object, found '[1]'"),
        ('{"y": 1, "a": {}}\n', {"read": {"layout": "jsonl"}, "tokens": ["a"]}, "own.csv:1: a: expected a text, a number"),
        ('{"y": 1, "a": ["p"]}\n', {"read": {"layout": "jsonl"}, "tokens": ["a"]}, "own.csv:1: a: holds lists; name it under"),
        ('{"y": 1, "b": 2}\n', {"read": {"layout": "jsonl"}}, "own.csv: there is no column 'a'"),
        ("no parquet", {"read": {"layout": "parquet"}}, "own.csv: not a Parquet file"),
        ("y,a,b\n1,p,q\n", {"label": {"column": "y", "positive_above": 1, "drop_equal": True}}, "no row is left"),
        ("y,a,b,x\n1,p,q,\n", {"scalars": {"x": {"scale": "minmax"}}}, "own.csv: x: there is no number in any row"),
        ("y,a,b,x\n1,p,q,2\n1,p,q,1e9\n", {"scalars": {"x": {"scale": "none"}}}, "own.csv:3: x: is 1e+09 as it would be"),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_table_that_cannot_be_is_explained(prepare, text, changes, says):
    with pytest.raises(NisbenchError) as raised:
        prepare(text, **changes)
    assert says in str(raised.value)


PAIR = {"user": "a", "item": "b", "tokens": []}
PART_IN_TWO = {"part": {"column": "w", "train": ["0", "1"], "validation": ["2"], "test": ["1"]}, "split": "published"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "ctr"}, "label: ctr needs labels of 0 and 1; set label.binary: true, or label.positive_above"),
        ({"task": "topk", "time": "t", "split": "leave_one_out", "label": None}, "task: topk needs a user and an item and no other"),
        ({"task": "topk", "time": "t", "split": "leave_one_out", **PAIR}, "label: topk has positives only"),
        ({"task": "topk", "split": "leave_one_out", "label": None, **PAIR}, "split: needs the column that orders instances"),
        ({"split": {"by": "time", "proportions": [8, 1, 1]}}, "split: needs the column that orders instances; name it under"),
        ({"split": "published"}, "split: published needs `part`, or files for each split"),
        ({"files": {"train": ["a"], "validation": ["b"], "test": ["c"]}}, "split: must be published"),
        ({"tokens": ["a", "a"]}, "the column 'a' has two roles"),
        ({"tokens": ["a", "label"]}, "a field cannot be called 'label'"),
        ({"label": {"column": "b"}}, "label.column: 'b' is a field, too: a model would be told what it is to predict"),
        (PART_IN_TWO, "part.test: '1' is listed under train, too"),
        (PART_IN_TWO | {"tokens": ["a", "w"]}, "part.column: 'w' is a field, too: a model would be told the split"),
        ({"tokens": []}, "tokens: there are no fields"),
        ({"label": None}, "label: this key is missing"),
        ({"label": {"column": "y", "drop_equal": True}}, "label.positive_above: this key is missing"),
        ({"read": {"layout": "csv", "header": False}}, "read.names: without a header, the columns must be named here"),
        ({"read": {"layout": "csv", "encoding": "utf-9"}}, "read.encoding: must be an encoding"),
        ({"derive": {"c": {"column": "a", "pattern": "(a)(b)"}}}, "pattern: must have one group in parentheses, or none"),
        ({"join": [{"file": "u.csv", "read": {"layout": "csv"}, "key": "a"}]}, "join: needs an archive that holds all files"),
    ],
    ids=range(19),
)  # fmt: skip
def test_settings_that_do_not_fit_are_explained(tmp_path, changes, says):
    overlay = tmp_path / "over.yaml"
    overlay.write_text(json.dumps({"datasets": {"own": BASE | changes}}))
    with pytest.raises(NisbenchError) as raised:
        load(ROOT, [overlay])
    assert says in str(raised.value)
    assert "over.yaml:1: datasets.own" in str(raised.value)


@pytest.mark.parametrize("model", ["mf", "neumf"])
def test_models_of_a_user_and_an_item_say_so_before_any_job(tmp_path, model):
    overlay = tmp_path / "over.yaml"
    study = {"title": "", "grids": {"g": {"datasets": ["own"], "models": [model], "methods": {"dnis": [1]}}}}
    study |= {"seeds": [1], "tables": ["table2"]}
    overlay.write_text(json.dumps({"datasets": {"own": BASE}, "studies": {"s": study}}))
    with pytest.raises(NisbenchError, match=f"the model {model} needs a user and an item and no other field, .*: a, b"):
        load(ROOT, [overlay])
    overlay.write_text(json.dumps({"datasets": {"own": BASE | PAIR}, "studies": {"s": study}}))
    load(ROOT, [overlay])


# --- in the pipeline ------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A table with a field of each kind, whose labels depend on all of them, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NISBENCH_HOME", str(tmp_path / "home"))
    generator = np.random.default_rng(0)
    n, tags = 1500, np.array(["red", "green", "blue", "old", "new"])
    frame = pd.DataFrame(
        {
            "user": generator.integers(0, 40, n),
            "shop": generator.choice(["north", "south", "west"], n),
            "price": generator.lognormal(3, 1, n).round(2),
            "visits": generator.integers(0, 5000, n),
            "tags": ["|".join(generator.choice(tags, generator.integers(0, 4), replace=False)) for _ in range(n)],
        }
    )
    frame.loc[generator.random(n) < 0.05, "price"] = np.nan
    red = frame["tags"].str.contains("red").to_numpy()
    noise = generator.normal(0, 0.3, n)
    frame["stars"] = 2 + frame["user"] % 3 + 1.5 * red - 0.01 * frame["price"].fillna(20) + noise
    frame.to_csv(tmp_path / "shop.csv", index=False)
    return frame


SHOP = BASE | {
    "title": "Shop",
    "url": "shop.csv",
    "fit_on": "train",
    "min_count": 2,
    "label": {"column": "stars"},
    "tokens": ["user", "shop"],
    "multi": {"tags": {"separator": "|", "at_most": 3}},
    "scalars": {"price": {"scale": "standard"}, "visits": {"scale": "log2_buckets"}},
}


def shop_data(**changes):
    keys = {key: value for key, value in (SHOP | changes).items() if key != "format"}
    return nb.load_dataset(nb.DataTable(**keys))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("model", "layout"), [("DeepFM", "csr"), ("FM", "mask")])
def test_programs_take_several_tokens_per_field(shop, tmp_path, model, layout):
    data = shop_data(task="ctr", label={"column": "stars", "positive_above": 3})
    training = nb.Training(base_dimension=4, max_epochs=2, batch_size=128, learning_rate=0.01)
    found = nb.search(nb.DNIS(), getattr(nb, model)(), data, training).prune(3)
    onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
    served = nb.load_model(found.export(tmp_path / "small", layout=layout, onnx=onnx))
    program = programs.exported(served).module()
    for frame in (shop[:1], shop[:50], shop[:2].assign(tags=[None, "what"])):
        inputs = programs.inputs_of(served, frame)
        assert inputs["ids"].shape == inputs["values"].shape == (len(frame), 7)
        np.testing.assert_allclose(program(**inputs).detach().numpy(), served.predict(frame), atol=1e-6)
        if onnx:
            import onnxruntime  # noqa: PLC0415

            session = onnxruntime.InferenceSession(tmp_path / "small" / "model.onnx")
            (answer,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
            np.testing.assert_allclose(answer, served.predict(frame), atol=1e-5)


@pytest.mark.parametrize("task", ["rating", "ctr"])
def test_a_served_model_takes_raw_columns(shop, tmp_path, task):
    changes = {} if task == "rating" else {"task": "ctr", "label": {"column": "stars", "positive_above": 3}}
    data = shop_data(**changes)
    model = nb.DeepFM(hidden=[8])
    training = nb.Training(base_dimension=4, max_epochs=3, batch_size=128, learning_rate=0.01)
    found = nb.search(nb.DNIS(), model, data, training).prune(2)
    served = nb.load_model(found.export(tmp_path / "small"))
    test = shop[split.at_random(len(shop), RandomSplit(**RANDOM)) == split.TEST]
    predictions = served.predict(test)
    if task == "rating":
        assert ((predictions - test["stars"]) ** 2).mean() == pytest.approx(found.metrics["mse"], rel=1e-5)
        assert found.metrics["mse"] < test["stars"].var()
    else:
        clicks = test["stars"] > 3
        loss = -np.log(np.where(clicks, predictions, 1 - predictions)).mean()
        assert loss == pytest.approx(found.metrics["logloss"], rel=1e-5)
    lists = test.assign(tags=[text.split("|") for text in test["tags"]])
    with pytest.raises(NisbenchError, match="column 'tags': expected tokens separated by"):
        served.predict(lists)
    unseen = {"user": ["nobody"], "shop": [None], "price": [None], "visits": [None], "tags": ["what|red"]}
    assert np.isfinite(served.predict(unseen)).all()
    readme = (tmp_path / "small" / "README.md").read_text()
    assert "must be scaled already" not in readme
    assert "up to 3 of 6 tokens, separated by `|`" in readme


@pytest.mark.parametrize("claim", DATA_CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.usefixtures("shop")
def test_a_table_meets_the_claims_of_data(tmp_path, config, claim):
    claim(shop_case(tmp_path, config, "fm", "full_table"))


def shop_case(root, config, model, method):
    params = config.params
    training = short_training(params.training)
    return Case(
        root, shop_data().settings, params.tasks["rating"], params.models[model], params.methods[method], training
    )


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("claim", [ends, learns, resumes, files_hold_the_model, one_forward])
def test_a_search_on_several_tokens_meets_the_claims(tmp_path, config, claim):
    claim(shop_case(tmp_path, config, "fm", "dnis"))


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("method", ["mde_projected", "dnis_second_order"])
def test_several_tokens_go_with_every_kind_of_table(tmp_path, config, method):
    ends(shop_case(tmp_path, config, "fm", method))


@pytest.mark.usefixtures("shop")
def test_several_tokens_are_trained_by_rows_as_by_tables(tmp_path, config, monkeypatch):
    found = []
    for rows in (False, True):
        monkeypatch.setattr(train_step, "worth_reading_rows", lambda *_, rows=rows: rows)
        run = shop_case(tmp_path / str(rows), config, "fm", "dnis").run
        found.append([loss for trial in run.trials for loss in trial.losses])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("kind", ["FM", "DeepFM", "WideDeep"])
@pytest.mark.usefixtures("shop")
def test_models_of_clicks_start_from_the_mean_rating(kind, config):
    data = shop_data()
    model = getattr(nb, kind)()
    case = Case(
        data.root,
        data.settings,
        data.task_settings,
        model,
        config.params.methods["full_table"],
        short_training(config.params.training),
    )
    recommender = case.context.recommender(case.any_trial)
    before = recommender.predict(case.context.data.validation).mean().item()
    assert before == pytest.approx(case.context.data.training.labels.mean().item(), abs=0.5)


@pytest.mark.parametrize("scaled", [False, True])
def test_the_embedding_of_several_tokens_is_their_mean(config, scaled):
    """Every model predicts for [c, d] as if it had one feature with the mean embedding and first-order weight of c and d."""
    generator = torch.Generator().manual_seed(0)
    field_sizes = (5, 4)
    for name in ("fm", "wide_deep", "deepfm", "mlp"):
        settings_of = config.params.models[name]
        make = settings_of.module().build
        one = build(make, settings_of, field_sizes, generator)
        ids = torch.tensor([[0, 5, 7, 5], [1, 6, 5, 5], [2, 5, 6, 8]], dtype=torch.int32)
        weights = torch.tensor([[1, 0.5, 0.5, 0], [1, 1, 0, 0], [1, 1 / 3, 1 / 3, 1 / 3]])
        if scaled:
            weights[:, 0] = 0.5
        several = instances.Instances(ids, torch.zeros(3), weights, (1, 3))
        found = one.predict(several)
        for row in range(3):
            pooled = build(make, settings_of, field_sizes, generator, copy_of=one)
            of = weights[row, 1:, None] * one.embedding.weight[ids[row, 1:].long()]
            pooled.embedding.weight.data[5] = of.sum(0)
            if one.first_order is not None:
                pooled.first_order.data[5] = (weights[row, 1:] * one.first_order[ids[row, 1:].long()]).sum()
            plain = torch.tensor([[ids[row, 0], 5]], dtype=torch.int32)
            values = torch.tensor([[weights[row, 0].item(), 1.0]])
            expected = pooled.predict(instances.Instances(plain, torch.zeros(1), values))
            assert found[row].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


def build(make, settings_of, field_sizes, generator, copy_of=None):
    torch.manual_seed(0)
    features = sum(field_sizes)
    table_of = SelectedTable(torch.zeros(features), torch.ones(1, 3), torch.randn(features, 3, generator=generator))
    found = Recommender(table_of, make(settings_of, Shape(field_sizes, (3,), 0.0)), (3,))
    if found.first_order is not None:
        found.first_order.data = torch.randn(features, generator=generator)
    if copy_of is not None:
        found.load_state_dict(copy_of.state_dict())
    return found


# --- real data ------------------------------------------------------------------------------------------------


def test_movielens_as_clicks_has_the_known_counts(real_data, tmp_path):
    chosen = load(ROOT, [real_data / "sources.yaml"]).params.datasets["movielens_1m_ctr"]
    table.prepare(chosen, real_data / "ml-1m.zip", tmp_path / "i.parquet", tmp_path / "v.parquet")
    labels = pq.read_table(tmp_path / "i.parquet", columns=["label"])["label"].to_numpy()
    tokens = pq.read_table(tmp_path / "v.parquet")["token"].to_pylist()
    assert len(labels) == 739_012
    assert labels.mean() == pytest.approx(0.778, abs=5e-4)
    assert len(tokens) - tokens.count(UNKNOWN) == 13_559


def test_a_table_is_what_the_format_movielens_makes_of_it(real_data, tmp_path):
    params = load(ROOT, [real_data / "sources.yaml"]).params
    archive = real_data / "ml-latest-small.zip"
    known = params.datasets["movielens_latest_small"].model_copy(update={"movies": None})
    movielens.prepare(known, archive, tmp_path / "k.parquet", tmp_path / "kv.parquet")
    own = settings(
        url=str(archive), files=["ml-latest-small/ratings.csv"], label={"column": "rating"}, user="userId",
        item="movieId", tokens=[], time="timestamp", duplicates="refuse",
    )  # fmt: skip
    table.prepare(own, archive, tmp_path / "i.parquet", tmp_path / "v.parquet")
    expected, found = (pq.read_table(tmp_path / f"{name}.parquet") for name in "ki")
    assert found["label"].equals(expected["label"])
    assert found["time"].equals(expected["time"])
    of = [pq.read_table(tmp_path / f"{name}.parquet")["token"].to_numpy() for name in ("kv", "v")]
    assert (of[0][expected["movie"].to_numpy()] == of[1][found["movieId"].to_numpy()]).all()
    assert (of[0][expected["user"].to_numpy()] == of[1][found["userId"].to_numpy()]).all()


@pytest.mark.usefixtures("shop")
def test_whole_numbers_that_are_written_as_floats_are_known_to_a_served_model(tmp_path, shop):
    """As pandas writes them where others are missing: "7.0". It reads them as floats again."""
    shop.assign(user=shop["user"].astype(float).where(shop.index % 9 > 0)).to_csv(tmp_path / "shop.csv", index=False)
    training = nb.Training(base_dimension=4, max_epochs=1, batch_size=128, learning_rate=0.01)
    served = nb.load_model(
        nb.search(nb.FullTable(), nb.FM(), shop_data(), training).prune(1).export(tmp_path / "small")
    )
    texts, floats = (pd.read_csv(tmp_path / "shop.csv", dtype=kind) for kind in ({"user": str}, None))
    assert texts["user"][1].endswith(".0")
    np.testing.assert_array_equal(served.predict(floats), served.predict(texts))
    np.testing.assert_array_equal(
        served.lookup("user", [int(float(texts["user"][1]))]), served.lookup("user", texts["user"][1:2])
    )


def test_numbers_that_a_parquet_file_holds_as_bytes_are_read_and_a_wrong_one_is_named(prepare, tmp_path):
    """As writers do that do not say which bytes are text."""
    columns = {"y": [b"1", b" 2.5 "], "a": [b"p", b"q"], "x": [b"true", b"4"]}
    terms = {"read": {"layout": "parquet"}, "tokens": ["a"], "scalars": {"x": {"scale": "none"}}}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = prepare((tmp_path / "t.parquet").read_bytes(), **terms)
    assert (found.frame["label"].tolist(), found.frame["x"].tolist(), found.tokens("a")) == (
        [1, 2.5],
        [1, 4],
        ["p", "q"],
    )
    for wrong in (b"four", "٤".encode(), b"\xff"):  # Python takes the second for a number
        pq.write_table(pa.table(columns | {"x": [b"1", wrong]}), tmp_path / "t.parquet")
        with pytest.raises(NisbenchError, match=r"own\.csv: row 2: x: expected a number"):
            prepare((tmp_path / "t.parquet").read_bytes(), **terms)


@pytest.fixture
def ads(tmp_path, monkeypatch):
    """A model of columns that files spell in their own ways, and those columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NISBENCH_HOME", str(tmp_path / "home"))
    generator, n = np.random.default_rng(1), 900
    frame = pd.DataFrame({"member": generator.random(n) < 0.5, "price": generator.normal(0, 1, n).round(3)})
    frame["day"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(generator.integers(0, 5, n), unit="D")
    frame.loc[::7, "price"] = np.nan
    frame["click"] = (generator.random(n) < np.where(frame["member"], 0.9, 0.1)).astype(int)
    frame.to_csv("ads.csv", index=False)
    roles = {"tokens": ["member", "day"], "scalars": {"price": {"scale": "standard"}}}
    data = shop_data(url="ads.csv", task="ctr", label={"column": "click", "binary": True}, multi={}, **roles)
    training = nb.Training(base_dimension=4, max_epochs=2, batch_size=128, learning_rate=0.05)
    found = nb.search(nb.FullTable(), nb.FM(), data, training).prune(1)
    return nb.load_model(found.export(tmp_path / "small")), frame


def test_a_served_model_knows_values_in_each_way_that_a_file_may_have_them(ads, caplog):
    served, frame = ads
    texts = pd.read_csv("ads.csv", dtype=str, keep_default_na=False)
    expected = served.predict(texts)
    assert len(np.unique(served.predict(texts.assign(price="", day=texts["day"][0])).round(5))) == 2
    dates = frame["day"].dt.to_pydatetime() if hasattr(frame["day"].dt, "to_pydatetime") else frame["day"]
    rows = {"member": frame["member"].tolist(), "day": list(dates), "price": frame["price"].tolist()}
    for same in (frame, pa.Table.from_pandas(frame), frame.astype({"day": "datetime64[s]"}), rows):
        np.testing.assert_array_equal(served.predict(same), expected)
    assert "none of" not in caplog.text
    served.predict(frame.assign(member="perhaps"))
    assert "column 'member': none of 900 values is in the vocabulary, such as 'perhaps'" in caplog.text


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("price", ["1", "x3"], "column 'price', row 1: expected a number, found 'x3'"),
        ("price", [1.0, 1e30], "column 'price', row 1: 1e\\+30 is .* as scaled, more than 10000 either way"),
        ("price", [[1.0], [2.0]], "column 'price', row 0: expected a number"),
        ("member", [["a"], ["b"]], "column 'member': expected tokens, not a column of list"),
        ("member", [{"a": 1}, {"a": 1}], "column 'member': expected tokens, not a column of struct"),
        ("member", [2**70, 1], "column 'member': not a column of one type"),
        ("member", ["\ud800", "b"], "column 'member': not a column of one type"),
    ],
    ids=range(7),
)
def test_what_a_served_model_cannot_take_is_one_clear_error(ads, column, values, says):
    served, _ = ads
    with pytest.raises(NisbenchError, match=says):
        served.predict({"member": [True, False], "day": ["x", "y"], "price": [0.0, 1.0]} | {column: values})


def test_a_column_that_is_there_twice_is_refused(ads):
    served, frame = ads
    with pytest.raises(NisbenchError, match="there are several columns 'day'"):
        served.predict(pd.concat([frame, frame[["day"]]], axis=1))


def test_a_label_that_is_always_the_same_is_refused(made):
    with pytest.raises(
        NisbenchError, match=r"Own: the label is 3 in every training instance: there is nothing to learn"
    ):
        made({"own.csv": "y,a,b\n" + "".join(f"3,{i},{i % 7}\n" for i in range(50))})


# --- several files outside an archive -------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    """Fetch, prepare and split a table whose files are given by name and content; returns the step that splits."""

    def make(contents, /, **changes):
        folder = tmp_path / "publisher"
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        dataset = settings(url=[str(folder / name) for name in contents], **changes)
        task = load(ROOT, []).params.tasks["rating"]
        assert not list(dataset.problems(task))
        step = block_step(dataset, task, tmp_path / "root").needs["split"]
        execution.run_with_inputs(step)
        return step

    return make


def thirds():
    frame = pd.DataFrame({"y": np.arange(90.0) % 7, "a": np.arange(90) % 10, "b": np.arange(90) % 9})
    return [as_csv(frame[start : start + 30]) for start in (0, 30, 60)]


COMPRESSIONS = {
    "a.csv": str.encode,
    "b.csv.gz": lambda text: gzip.compress(text.encode()),
    "c.csv.xz": lambda text: lzma.compress(text.encode()),
    "d.csv.bz2": lambda text: bz2.compress(text.encode()),
}


def test_several_plain_files_are_one_table(made):
    names = list(COMPRESSIONS)
    files = {name: COMPRESSIONS[name](text) for name, text in zip(names[:3], thirds(), strict=True)}
    prepare = made(files).needs["prepare"]
    frame = pq.read_table(prepare.path("instances")).to_pandas()
    assert frame["label"].tolist() == (np.arange(90.0) % 7).tolist()
    archive = prepare.needs["download"].path("archive")
    assert zipfile.ZipFile(archive).namelist() == names[:3]
    assert sorted(path.name for path in archive.parent.iterdir()) == ["archive", "step.json"], "nothing else is left"


def test_three_plain_files_are_the_published_splits(made):
    first, second, third = thirds()
    files = {"tr.csv": first, "va.csv.gz": gzip.compress(second.encode()), "te.csv.bz2": bz2.compress(third.encode())}
    parts = {"train": ["tr.csv"], "validation": ["va.csv.gz"], "test": ["te.csv.bz2"]}
    step = made(files, files=parts, split="published")
    found = [pq.read_table(step.path(name))["label"].to_pylist() for name in parts]
    assert found == [(np.arange(30 * i, 30 * (i + 1)) % 7).astype(float).tolist() for i in range(3)]


def test_a_listed_file_can_be_joined_and_is_no_part_of_the_table(made):
    items = as_csv(pd.DataFrame({"b": range(9), "kind": list("xyzxyzxyz")}))
    files = {"ratings.csv": thirds()[0], "items.csv": items}
    join = [{"file": "items.csv", "read": {"layout": "csv"}, "key": "b"}]
    step = made(files, join=join, tokens=["a", "b", "kind"])
    vocabulary = pq.read_table(step.needs["prepare"].path("vocabulary")).to_pandas()
    assert vocabulary.query("field == 'kind'")["token"].tolist() == [UNKNOWN, "x", "y", "z"]


def test_what_is_wrong_in_one_of_several_files_is_named_by_its_own_path(made, tmp_path):
    first, second, _ = thirds()
    with pytest.raises(NisbenchError, match=rf"^{tmp_path}/publisher/two\.csv:32: expected 3 values, found 2"):
        made({"one.csv": first, "two.csv": f"{second}1,2\n"})
    with pytest.raises(NisbenchError, match=r"two\.csv: is a zip archive, and `url` lists several files"):
        made({"one.csv": first, "two.csv": zipped(tmp_path / "z", {"two.csv": second}).read_bytes()})


def test_ids_follow_what_listed_files_hold_and_not_where_they_lie(tmp_path):
    task = load(ROOT, []).params.tasks["rating"]

    def ident(folder, content="y,a,b\n1,2,3\n"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("one.csv", "two.csv"):
            (tmp_path / folder / name).write_text(content)
        return block_step(settings(url=[str(tmp_path / folder / name) for name in ("one.csv", "two.csv")]), task).id

    here = ident("here")
    assert ident("there") == here
    assert ident("there", "y,a,b\n1,2,4\n") != here


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"url": ["a/x.csv", "b/x.csv"]}, "two files are called 'x.csv'"),
        ({"url": ["x.csv", "y.csv"], "files": ["z.csv"]}, "'z.csv' is none of the files that url lists: x.csv, y.csv"),
        ({"url": ["x.csv", "y.csv"], "md5": "0" * 32}, "must be null where url lists files"),
    ],
)
def test_what_does_not_fit_a_list_of_files(changes, text):
    found = [said for _, said in settings(**changes).problems(load(ROOT, []).params.tasks["rating"])]
    assert any(text in said for said in found), found
