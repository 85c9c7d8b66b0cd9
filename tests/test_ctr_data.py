"""Click logs: Criteo's file against an encoding written out in pandas, what is malformed named, and the planted truth."""

import hashlib
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import nisbench as nb
from nisbench.data import blocks, click_log, criteo, criteo_x1, instances, planted_ctr, split
from nisbench.data.archives import open_member
from nisbench.data.click_log import COLUMNS, SCALARS, TOKENS, UNKNOWN, TokenCounter
from nisbench.errors import NisbenchError
from nisbench.params.datasets import Member
from tests.helpers.archives import tarred, zipped

CPU = torch.device("cpu")


def line(label="0", numbers=("1",) * 13, tokens=("a",) * 26):
    return "\t".join([label, *numbers, *tokens]) + "\n"


def with_numbers(*first):
    """A line whose first numbers are these."""
    return line(numbers=(*map(str, first), *["1"] * (13 - len(first))))


@pytest.fixture
def settings(small):
    return small.params.datasets["criteo"]


@pytest.fixture
def prepared(tmp_path, settings):
    """Prepare an archive whose train.txt has this text; returns (instances, vocabulary)."""

    def prepare(text, **update):
        paths = [tmp_path / "i.parquet", tmp_path / "v.parquet"]
        archive = tarred(tmp_path / "dac.tar.gz", {"readme.txt": b"x", "train.txt": text.encode("latin-1")})
        before = set(tmp_path.iterdir())
        try:
            criteo.prepare(settings.model_copy(update=update), archive, *paths)
        except NisbenchError:
            assert set(tmp_path.iterdir()) == before, "half-written output was left behind"
            raise
        return instances.read(paths[0], CPU), pq.read_table(paths[1]).to_pandas()

    return prepare


def random_log(n):
    """A click log as text, with missing numbers and tokens, rare tokens and negative numbers."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(n):
        numbers = [str(generator.integers(-2, 100)) if generator.random() < 0.8 else "" for _ in SCALARS]
        tokens = [f"{int(30 * generator.random() ** 3):x}" if generator.random() < 0.9 else "" for _ in TOKENS]
        rows.append(line(str(generator.integers(0, 2)), numbers, tokens))
    return "".join(rows)


@pytest.mark.parametrize("block_bytes", [1 << 13, 1 << 23])  # in many batches, and in one
def test_the_encoding_is_pandas_s(prepared, settings, monkeypatch, block_bytes):
    monkeypatch.setattr(click_log, "BLOCK_BYTES", block_bytes)
    text = random_log(400)
    found, vocabulary = prepared(text, min_count=4)
    log = pd.read_csv(io.StringIO(text), sep="\t", header=None, names=COLUMNS, dtype=dict.fromkeys(TOKENS, str))
    assert found.labels.tolist() == log["label"].tolist()
    for i, name in enumerate(SCALARS):
        low, high = log[name].min(), min(log[name].max(), settings.scalar_maxima[i])
        expected = ((log[name] - low) / (high - low)).fillna(0).to_numpy()
        np.testing.assert_allclose(found.values[:, i], expected, rtol=1e-6)
        assert (found.ids[:, i] == i).all()
    tokens_of = vocabulary["token"].to_numpy()
    fields_of = vocabulary["field"].to_numpy()
    for i, name in enumerate(TOKENS, start=13):
        counts = log[name].value_counts()
        kept = counts[counts >= 4].index
        ids = found.ids[:, i].numpy()
        assert (fields_of[ids] == name).all()
        assert tokens_of[ids].tolist() == log[name].where(log[name].isin(kept), UNKNOWN).tolist()
        assert set(tokens_of[fields_of == name]) == {UNKNOWN, *kept}
        assert (found.values[:, i] == 1).all()
    assert vocabulary["field"][:13].tolist() == SCALARS


def test_a_column_that_is_always_missing_is_0_and_unknown(prepared):
    found, vocabulary = prepared(line("1", ("",) * 13, ("",) * 26) * 3)
    assert (found.values[:, :13] == 0).all()
    assert vocabulary["token"].tolist()[13:] == [UNKNOWN] * 26
    assert found.ids[0].tolist() == list(range(39))


def test_a_column_of_one_number_is_0(prepared, caplog):
    """Whether that is above its scalar maximum (I1's is 20) or not."""
    with caplog.at_level("WARNING", "nisbench"):
        found, _ = prepared("".join(with_numbers(1000, -3, "", i) for i in range(3)))
    assert (found.values[:, :3] == 0).all()
    assert found.values[:, 3].tolist() == [0.0, 0.5, 1.0]
    assert "I1, I2, I5" in caplog.text
    assert "I3" not in caplog.text
    assert "I4" not in caplog.text


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ([1000, 1500], "I1 runs from 1000 to 1500, but scalar_maxima[0] is 20, by which it cannot be scaled: raise scalar_maxima[0] above 1000"),
        ([20, 21], "raise scalar_maxima[0] above 20"),
        ([0, 1e30], "I1 runs from 0 to 1e+30, which is 0 to 5e+28 as it would be trained on: more than 10000. Raise scalar_maxima[0]"),
        ([19.9999, 20, 40], "more than 10000. Raise scalar_maxima[0]"),
    ],
    ids=range(4),
)  # fmt: skip
def test_a_number_that_scaling_would_leave_wild_is_refused_with_the_key_to_set(prepared, numbers, says):
    with pytest.raises(NisbenchError) as raised:
        prepared("".join(with_numbers(number) for number in numbers))
    assert says in str(raised.value)


@pytest.mark.parametrize("numbers", [[19, 21], [0, 20, 100_000], [-1e30, 0, 20]])
def test_a_number_that_is_scaled_to_something_moderate_is_taken(prepared, numbers):
    found, _ = prepared("".join(with_numbers(number) for number in numbers))
    assert found.values[:, 0].abs().max() <= 10_000


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            "\t".join(["0"] * 39) + "\n",
            "expected 40 columns (a label, 13 numbers, 26 tokens) separated by '\\t', found 39",
        ),
        (
            "\t".join(["0"] * 41) + "\n",
            "expected 40 columns (a label, 13 numbers, 26 tokens) separated by '\\t', found 41",
        ),
        (line("2"), "the label must be 0 or 1, not '2'"),
        (line(""), "the label must be 0 or 1, not ''"),
        (line("yes"), "the label must be 0 or 1, not 'yes'"),
        (line(numbers=("1",) * 12 + ("many",)), "I13 must be a number or empty, not 'many'"),
        (line(numbers=("inf",) + ("1",) * 12), "I1 must be a number or empty, not 'inf'"),
        (line(numbers=("1e39",) + ("1",) * 12), "I1 must be a number or empty, not '1e39'"),
        (line(tokens=("a",) * 25 + ("\xff",)), "C26 must be text in UTF-8 or empty"),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("block_bytes", [1 << 12, 1 << 23])
def test_a_malformed_line_is_named(prepared, monkeypatch, bad, says, block_bytes):
    monkeypatch.setattr(click_log, "BLOCK_BYTES", block_bytes)
    with pytest.raises(NisbenchError) as raised:
        prepared(line() * 150 + bad + line() * 150)
    assert f"train.txt:151: {says}" in str(raised.value)


def test_an_empty_file_is_an_error(prepared):
    with pytest.raises(NisbenchError, match=r"train\.txt: .*[Ee]mpty"):
        prepared("")


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_archive_is_refused_and_leaves_nothing(tmp_path, settings, keep):
    path = tarred(tmp_path / "dac.tar.gz", {"train.txt": random_log(3000).encode()})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(NisbenchError, match=r"dac\.tar\.gz: not a readable archive"):
        criteo.prepare(settings, path, tmp_path / "i", tmp_path / "v")
    assert list(tmp_path.iterdir()) == [path]


def test_an_archive_that_reaches_outside_is_refused(tmp_path):
    path = tarred(tmp_path / "dac.tar.gz", {"../evil": b"x", "train.txt": b"y"})
    with pytest.raises(NisbenchError, match=r"outside its folder: '\.\./evil'"), open_member(path, "train.txt"):
        pass
    path = tarred(tmp_path / "dac.tar.gz", {"other.txt": b"y"})
    with (
        pytest.raises(NisbenchError, match=r"holds no 'train\.txt'; it holds 'other\.txt'"),
        open_member(path, "train.txt"),
    ):
        pass


def test_counts_of_tokens_do_not_depend_on_when_they_are_summed():
    generator = np.random.default_rng(0)
    tokens = (generator.random(600_000) ** 4 * 400_000).astype(int).astype(str)
    counter = TokenCounter()
    for some in np.array_split(tokens, 7):
        counter.add(pa.chunked_array([pa.array(some).dictionary_encode()]))
    counts = pd.Series(tokens).value_counts()
    assert counter.kept(3).to_pylist() == sorted(counts[counts >= 3].index)


def test_the_real_rows_of_criteo(real_data, settings, tmp_path):
    criteo.prepare(settings, real_data / "dac-head10k.tar.gz", tmp_path / "i", tmp_path / "v")
    found = instances.read(tmp_path / "i", CPU)
    assert found.ids.shape == (10_000, 39)
    assert found.labels.mean().item() == pytest.approx(0.218, abs=0.001)
    assert found.ids.max().item() < pq.read_metadata(tmp_path / "v").num_rows


# --- Criteo_x1 ------------------------------------------------------------------------------------------------


@pytest.fixture
def prepared_x1(tmp_path, small):
    """Prepare an archive of the three published files; returns (instances by split, vocabulary)."""

    def prepare(texts, **update):
        files = dict(zip(("train", "valid", "test"), texts, strict=True))
        archive = zipped(tmp_path / "x1.zip", {f"{name}.csv": text for name, text in files.items()})
        members = {
            in_split: Member(path=f"{name}.csv", md5=hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())
            for (name, text), in_split in zip(files.items(), split.SPLITS, strict=True)
        }
        settings = small.params.datasets["criteo_x1"].model_copy(update=members | update)
        criteo_x1.prepare(settings, archive, tmp_path / "i", tmp_path / "v")
        split.run(settings.split, tmp_path / "i", {name: tmp_path / name for name in split.SPLITS})
        return {name: instances.read(tmp_path / name, CPU) for name in split.SPLITS}, pq.read_table(tmp_path / "v")

    return prepare


def csv(rows):
    return ",".join(COLUMNS) + "\n" + "".join(",".join(row) + "\n" for row in rows)


def row_x1(label, number, token):
    return [label, *[number] * 13, *[token] * 26]


def test_criteo_x1_keeps_numbers_tokens_and_splits_as_published(prepared_x1):
    rows = [[row_x1("1", "0.25", "7"), row_x1("0", "0.5", "9")], [row_x1("0", "0.75", "7")], [row_x1("1", "1.5", "8")]]
    found, vocabulary = prepared_x1([csv(each) for each in rows])
    assert {name: data.labels.tolist() for name, data in found.items()} == {
        "train": [1, 0],
        "validation": [0],
        "test": [1],
    }
    assert found["test"].values[0, :13].tolist() == [1.5] * 13
    tokens = vocabulary["token"].to_pylist()
    assert len(tokens) == 13 + 26 * 4  # of each field: unknown, 7, 8, 9
    assert [tokens[i] for i in found["train"].ids[:, 13].tolist()] == ["7", "9"]
    assert [tokens[i] for i in found["test"].ids[0, 13:].tolist()] == ["8"] * 26


def test_a_file_that_is_not_the_published_one_is_told(prepared_x1, tmp_path):
    texts = [csv([row_x1("1", "0.5", "7")])] * 3
    with pytest.raises(NisbenchError, match=r"x1\.zip: valid\.csv: is not the published file: its MD5 sum is"):
        prepared_x1(texts, validation=Member(path="valid.csv", md5="0" * 32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x1.zip"]


@pytest.mark.parametrize("header", ["", "label,C1\n", ",".join([*COLUMNS[:1], *reversed(COLUMNS[1:])]) + "\n"])
def test_columns_in_another_order_are_told(prepared_x1, header):
    rows = [csv([row_x1("1", "0.5", "7")])] * 2
    with pytest.raises(NisbenchError, match=r"test\.csv:1: expected the header label,I1,\.\.\.,C26"):
        prepared_x1([*rows, header + ",".join(row_x1("1", "0.5", "7")) + "\n"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (row_x1("2", "1", "7"), "label must be 0 or 1"),
        (row_x1("1", "x", "7"), "I1 must be a number"),
        (["1", "2"], r"40 columns .* separated by ',', found 2"),
    ],
    ids=range(3),
)
def test_a_malformed_row_of_criteo_x1_is_named(prepared_x1, row, said):
    good = row_x1("1", "0.5", "7")
    with pytest.raises(NisbenchError, match=rf"test\.csv:3: .*{said}"):
        prepared_x1([csv([good]), csv([good]), csv([good, row])])


# --- served ---------------------------------------------------------------------------------------------------


def test_a_served_model_takes_criteo_s_numbers_as_they_are(tmp_path, monkeypatch):
    """Missing and negative ones among them: predictions are those of the instances that were prepared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NISBENCH_HOME", str(tmp_path / "home"))
    text = random_log(600)
    archive = tarred(tmp_path / "dac.tar.gz", {"train.txt": text.encode()})
    data = nb.load_dataset("criteo", url=str(archive), md5=None, member="train.txt", min_count=3)
    training = nb.Training(base_dimension=4, max_epochs=1, batch_size=128)
    small = nb.search(nb.DNIS(), nb.DeepFM(hidden=[8]), data, training).prune(2)
    served = nb.load_model(small.export("small"))
    assert "must be scaled" not in (tmp_path / "small" / "README.md").read_text()
    log = pd.read_csv(io.StringIO(text), sep="\t", header=None, names=COLUMNS, dtype=dict.fromkeys(TOKENS, str))
    everything = instances.read(data.step.needs["prepare"].path("instances"), CPU)
    np.testing.assert_array_equal(served.instances(log).values.numpy(), everything.values.numpy())
    expected = small.recommender().predict(everything).sigmoid().numpy()
    np.testing.assert_allclose(served.predict(log), expected, rtol=0, atol=1e-6)


# --- blocks by magnitude --------------------------------------------------------------------------------------


def test_blocks_by_magnitude_by_hand():
    frequency = np.array([0, 99, 100, 999, 1000, 10**4, 10**5, 10**6, 10**8])
    assert blocks.magnitude(frequency, 6).tolist() == [5, 5, 4, 4, 3, 2, 1, 0, 0]
    assert blocks.magnitude(frequency, 3).tolist() == [2, 2, 1, 1, 0, 0, 0, 0, 0]
    assert blocks.magnitude(frequency, 40).tolist() == [6, 6, 5, 5, 4, 3, 2, 1, 0]
    assert blocks.magnitude(np.array([5, 5000, 7]), 6).tolist() == [1, 0, 1]  # empty blocks are left out


# --- planted clicks -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(small, tmp_path_factory):
    sizes = {
        "instances": 150_000,
        "scalar_fields": 5,
        "categorical_fields": [1000, 500, 100, 20, 3],
        "rank": 8,
        "levels": 5,
    }
    settings = small.params.datasets["planted_ctr"].model_copy(update=sizes)
    folder = tmp_path_factory.mktemp("planted")
    planted_ctr.prepare(settings, None, folder / "i", folder / "v")
    return settings, instances.read(folder / "i", CPU), pq.read_table(folder / "v").to_pandas()


def test_planted_clicks_have_the_asked_rate_and_shape(planted):
    settings, data, vocabulary = planted
    assert data.labels.mean().item() == pytest.approx(settings.click_rate, abs=0.01)
    assert set(data.labels.tolist()) == {0, 1}
    assert len(data) == settings.instances
    assert data.ids.shape[1] == settings.scalar_fields + len(settings.categorical_fields)
    assert len(vocabulary) == settings.scalar_fields + sum(settings.categorical_fields) + len(
        settings.categorical_fields
    )
    fields = vocabulary["field"].to_numpy()
    for i in range(data.ids.shape[1]):
        assert len(set(fields[data.ids[:, i].numpy()])) == 1


def test_missing_ones_are_0_and_unknown(planted):
    settings, data, vocabulary = planted
    unknown = (vocabulary["token"] == "<unknown>").to_numpy()[data.ids[:, settings.scalar_fields :].numpy()]
    assert unknown.mean() == pytest.approx(settings.missing, abs=0.003)
    zero = (data.values[:, : settings.scalar_fields] == 0).float().mean().item()
    assert zero == pytest.approx(settings.missing, abs=0.003)
    assert (vocabulary["planted_dimension"] == 0).sum() == len(settings.categorical_fields)


def test_the_frequent_have_more_planted_dimensions_but_not_all_of_them(planted):
    settings, data, vocabulary = planted
    frequency = np.bincount(data.ids.flatten().numpy(), minlength=len(vocabulary))
    largest = (vocabulary["field"] == "C1").to_numpy() & (vocabulary["token"] != "<unknown>").to_numpy()
    dimension = vocabulary["planted_dimension"][largest]
    quarters = dimension.groupby(blocks.equal_count(frequency[largest], 4))
    assert (np.diff(quarters.mean()) < 0).all()
    assert (quarters.std() > 0).all()
    assert dimension.between(1, settings.rank).all()


@pytest.mark.parametrize("update", [{"click_rate": 1e-9}, {"first_order": 300.0}, {"wave": 0.0, "second_order": 0.0}])
def test_extreme_plantings_are_generated(planted, tmp_path, update):
    settings = planted[0].model_copy(update={"instances": 1000, **update})
    planted_ctr.prepare(settings, None, tmp_path / "i", tmp_path / "v")
    assert pq.read_metadata(tmp_path / "i").num_rows == 1000


def test_more_planted_clicks_begin_like_fewer(planted, tmp_path):
    settings, data, _ = planted
    more = settings.model_copy(update={"instances": settings.instances + planted_ctr.CHUNK})
    planted_ctr.prepare(more, None, tmp_path / "i", tmp_path / "v")
    again = instances.read(tmp_path / "i", CPU)
    whole = settings.instances // planted_ctr.CHUNK * planted_ctr.CHUNK
    assert torch.equal(again.ids[:whole], data.ids[:whole])
    assert torch.equal(again.labels[:whole], data.labels[:whole])
