"""Data: what goes in comes out in the one schema, what is malformed is named, and test never leaks."""

import gzip
import hashlib
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from nisbench.data import blocks, download, instances, movielens, parquet, planted_ratings, split
from nisbench.data.archives import open_member
from nisbench.errors import NisbenchError
from nisbench.params.datasets import BlockSettings, RandomSplit
from tests.helpers.archives import zipped
from tests.helpers.paths import ROOT

DAT = "7::10::5::978300760\n3::20::3::978302109\n7::20::1::978301968\n"
CSV = "userId,movieId,rating,timestamp\n7,10,5.0,978300760\n3,20,3.5,978302109\n7,20,0.5,978301968\n"
MOVIES = 'movieId,title,genres\n10,"Toy, Story (1995)",A\n15,Unrated (1996),B\n20,"Say ""hi""",C\n'


@pytest.fixture
def prepared(tmp_path, small):
    """Prepare a MovieLens archive holding these files; returns (labels, ids, vocabulary)."""

    def prepare(files, **update):
        settings = small.params.datasets["movielens_1m"].model_copy(update=update)
        paths = [tmp_path / "i.parquet", tmp_path / "v.parquet"]
        try:
            movielens.prepare(settings, zipped(tmp_path / "archive.zip", files), *paths)
        except NisbenchError:
            assert not [path for path in paths if path.exists()], "half-written output was left behind"
            raise
        loaded = instances.read(paths[0], torch.device("cpu"))
        return loaded.labels.tolist(), loaded.ids.tolist(), pq.read_table(paths[1]).to_pylist()

    return prepare


def test_a_movie_rated_twice_by_a_user_is_named(prepared):
    with pytest.raises(NisbenchError, match="user 7 rates movie 10 more than once, last in rating number 4"):
        prepared({"ml-1m/ratings.dat": DAT + "7::10::1::978300761\n"})


@pytest.mark.parametrize(("line", "said"), [("7::30::5::x\n", "timestamp"), ("7::30::5\n", "4 columns, found 3")])
def test_a_malformed_time_is_named(prepared, line, said):
    with pytest.raises(NisbenchError, match=rf"ratings\.dat:4: .*{said}"):
        prepared({"ml-1m/ratings.dat": DAT + line})


def test_dat_ratings_become_instances(prepared):
    labels, ids, vocabulary = prepared({"ml-1m/ratings.dat": DAT})
    assert labels == [5, 3, 1]
    assert ids == [[1, 2], [0, 3], [1, 3]]  # users 3, 7 then movies 10, 20
    assert [(row["field"], row["token"]) for row in vocabulary] == [
        ("user", "3"), ("user", "7"), ("movie", "10"), ("movie", "20"),
    ]  # fmt: skip


def test_csv_ratings_with_a_catalogue_make_unrated_movies_features(prepared):
    labels, ids, vocabulary = prepared({"r.csv": CSV, "m.csv": MOVIES}, ratings="r.csv", movies="m.csv")
    assert labels == [5, 3.5, 0.5]
    assert ids == [[1, 2], [0, 4], [1, 4]]
    assert [row["token"] for row in vocabulary] == ["3", "7", "10", "15", "20"]


def test_line_ends_do_not_matter(prepared):
    plain = prepared({"ml-1m/ratings.dat": DAT})
    assert prepared({"ml-1m/ratings.dat": DAT.replace("\n", "\r\n") + "\n"}) == plain


def test_a_byte_order_mark_and_blank_lines_at_the_end_do_not_matter(prepared):
    names = {"ratings": "r.csv", "movies": "m.csv"}
    plain = prepared({"r.csv": CSV, "m.csv": MOVIES}, **names)
    assert prepared({"r.csv": "\ufeff" + CSV + "\n", "m.csv": "\ufeff" + MOVIES + "\n"}, **names) == plain


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (DAT + "7::10::5\n", 4, "expected 4 columns, found 3"),
        (DAT + "7::10::5::1::2\n", 4, "expected 4 columns, found 5"),
        (DAT + "7:10:5:1\n", 4, "expected 4 columns, found 1"),
        (DAT.replace("3::20", "x::20"), 2, "userId must be a positive whole number, not 'x'"),
        (DAT.replace("3::20", "3::-20"), 2, "movieId must be a positive whole number, not '-20'"),
        (DAT.replace("3::20", "3::99999999999"), 2, "movieId"),
        (DAT.replace("3::20::3", "3::20::"), 2, "rating must be a number from 0.5 to 5.0, not ''"),
        (DAT.replace("3::20::3", "3::20::6"), 2, "rating"),
        (DAT.replace("3::20::3", "3::20::nan"), 2, "rating"),
        (DAT.replace("3::20::3", "3::20::good"), 2, "rating"),
        (DAT.replace("3::20::3", "3::20::3::978302109\n"), 3, "expected 4 columns"),
    ],
)
def test_a_malformed_line_is_named(prepared, text, line, says):
    with pytest.raises(NisbenchError) as raised:
        prepared({"ml-1m/ratings.dat": text})
    assert f"ml-1m/ratings.dat:{line}: " in str(raised.value)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("files", "update", "says"),
    [
        ({"ml-1m/ratings.dat": ""}, {}, "ml-1m/ratings.dat: holds no ratings"),
        ({"other.dat": DAT}, {}, "holds no 'ml-1m/ratings.dat'; it holds 'other.dat'"),
        ({"r.csv": CSV.replace("rating", "stars")}, {"ratings": "r.csv"}, "r.csv:1: expected the header"),
        ({"r.csv": CSV.split("\n", 1)[0] + "\n"}, {"ratings": "r.csv"}, "holds no ratings"),
        ({"r.csv": CSV, "m.csv": "movieId,title\n10,A\n"}, {"ratings": "r.csv", "movies": "m.csv"}, "such as 20"),
        (
            {"r.csv": CSV, "m.csv": MOVIES + "x,y\n"},
            {"ratings": "r.csv", "movies": "m.csv"},
            "m.csv:5: expected a movie",
        ),
        (
            {"r.csv": CSV, "m.csv": MOVIES + "3000000000,y\n"},
            {"ratings": "r.csv", "movies": "m.csv"},
            "m.csv:5: expected",
        ),
        ({"r.csv": "\ufeff" + CSV + "1,2,9,4\n"}, {"ratings": "r.csv"}, "r.csv:5: rating must be"),
        ({"ml-1m/ratings.dat": DAT, "../evil": "x"}, {}, "outside its folder: '../evil'"),
        ({"ml-1m/ratings.dat": DAT, "/etc/evil": "x"}, {}, "outside its folder"),
    ],
)
def test_a_wrong_archive_is_refused(prepared, files, update, says):
    with pytest.raises(NisbenchError) as raised:
        prepared(files, **update)
    assert says in str(raised.value)


def test_a_damaged_archive_is_refused(tmp_path):
    path = zipped(tmp_path / "archive.zip", {"a": DAT * 100})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(NisbenchError, match="not a readable archive"), open_member(path, "a"):
        pass


def test_the_real_movielens_1m_has_the_paper_s_statistics(real_data, config, tmp_path):
    paper = config.params.reference.datasets["movielens_1m"]
    settings = config.params.datasets["movielens_1m"]
    movielens.prepare(settings, real_data / "ml-1m.zip", tmp_path / "i", tmp_path / "v")
    labels = pq.read_table(tmp_path / "i", columns=["label"])["label"].to_numpy()
    assert len(labels) == paper.instances
    assert pq.read_metadata(tmp_path / "v").num_rows == paper.features
    assert labels.mean() == pytest.approx(3.5816, abs=1e-4)


def test_the_real_csv_layout_is_read(real_data, config, tmp_path):
    settings = config.params.datasets["movielens_latest_small"]
    movielens.prepare(settings, real_data / "ml-latest-small.zip", tmp_path / "i", tmp_path / "v")
    assert pq.read_metadata(tmp_path / "i").num_rows == 100_836
    assert pq.read_metadata(tmp_path / "v").num_rows == 610 + 9742


# --- download -------------------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A web server whose every answer is taken from a list: a status, bytes, in full or cut off, and further headers."""
    answers: list[tuple] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body, length, *headers = answers.pop(0)
            self.send_response(*status if isinstance(status, tuple) else (status,))
            if length is not None:
                self.send_header("Content-Length", str(length))
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/data.zip", answers
    httpd.shutdown()
    httpd.server_close()


BODY = b"some bytes" * 1000
MD5 = hashlib.md5(BODY).hexdigest()  # noqa: S324


def test_a_transfer_that_breaks_off_is_begun_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)
    url, answers = server
    answers += [(200, BODY[:500], len(BODY)), (503, b"", 0), (200, BODY, len(BODY))]
    download.fetch(url, MD5, tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == BODY
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.zip"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [((404, b"", 0), "404"), ((200, BODY[:-1], len(BODY) - 1), "MD5 sum"), ((200, b"<html>", 6), "MD5.*it is an HTML page")],
)  # fmt: skip
def test_what_cannot_be_had_leaves_nothing(server, tmp_path, answer, says):
    url, answers = server
    answers.append(answer)
    with pytest.raises(NisbenchError, match=says):
        download.fetch(url, MD5, tmp_path / "data.zip")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((204, b"", None), "the server answers 204"),
        ((206, BODY, len(BODY)), "the server answers 206"),
        ((304, b"", None), "the server answers 304"),
        ((200, b"", 0), "is an empty file, not data"),
        ((200, b"", None), "is an empty file, not data"),
        ((200, b"\n<!DOCTYPE HTML><title>Log in", 29), "is an HTML page, not data"),
        ((200, BODY[:500], len(BODY)), "could not be downloaded: .*IncompleteRead"),
        ((200, BODY[:500], 1 << 50), "refused: more than 64 GiB"),
        (((404, "\x1b]0;gone\x07"), b"", 0), r"404 .*: \\x1b\]0;gone\\x07"),
    ],
    ids=range(9),
)
def test_without_an_md5_what_is_no_whole_file_is_refused(server, tmp_path, monkeypatch, answer, says):
    monkeypatch.setattr(download, "PAUSE", 0)
    url, answers = server
    answers += [answer] * download.ATTEMPTS
    with pytest.raises(NisbenchError, match=says) as raised:
        download.fetch(url.replace("://", "://me:secret@"), None, tmp_path / "data.zip")
    assert "secret" not in str(raised.value)
    assert str(raised.value).replace("\n", "").isprintable()
    assert list(tmp_path.iterdir()) == []


def test_an_endless_answer_is_cut_off(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_BYTES", 5000)
    url, answers = server
    answers.append((200, BODY, None))
    with pytest.raises(NisbenchError, match="refused: more than"):
        download.fetch(url, None, tmp_path / "data.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_stored_as_it_lies_on_the_server(server, tmp_path):
    """As curl and wget save it, and as its MD5 sum is: a Content-Encoding is part of the file."""
    url, answers = server
    packed = gzip.compress(BODY, mtime=0)
    answers.append((200, packed, len(packed), ("Content-Encoding", "gzip")))
    download.fetch(url, hashlib.md5(packed).hexdigest(), tmp_path / "data.zip")  # noqa: S324
    assert (tmp_path / "data.zip").read_bytes() == packed


def test_the_password_in_an_address_is_sent_and_shown_nowhere(tmp_path, caplog):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd, caplog.at_level("DEBUG", "nisbench"):
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        download.fetch(f"http://me:s%40crt@127.0.0.1:{httpd.server_port}/a.zip?b=c", None, tmp_path / "data.zip")
        httpd.shutdown()
    assert asked == [("/a.zip?b=c", "Basic " + b64encode(b"me:s@crt").decode())]
    assert "crt" not in caplog.text


def test_a_local_file_is_checked_and_copied(tmp_path):
    (tmp_path / "here.zip").write_bytes(BODY)
    download.fetch(str(tmp_path / "here.zip"), MD5, tmp_path / "to" / "data.zip")
    assert (tmp_path / "to" / "data.zip").read_bytes() == BODY
    with pytest.raises(NisbenchError, match="MD5 sum"):
        download.fetch(str(tmp_path / "here.zip"), "0" * 32, tmp_path / "other.zip")
    with pytest.raises(NisbenchError, match="no such file"):
        download.fetch(str(tmp_path / "nowhere.zip"), None, tmp_path / "other.zip")
    with pytest.raises(NisbenchError, match="is a folder"):
        download.fetch(str(tmp_path), None, tmp_path / "other.zip")
    assert not (tmp_path / "other.zip").exists()


# --- planted ratings ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted_files(small, tmp_path_factory):
    sizes = {"users": 1500, "items": 750, "instances": 60_000, "rank": 8, "levels": 5}
    settings = small.params.datasets["planted_ratings"].model_copy(update=sizes)
    folder = tmp_path_factory.mktemp("planted")
    planted_ratings.prepare(settings, None, folder / "i", folder / "v")
    return settings, folder


def test_planted_ratings_have_the_asked_size_and_are_reproducible(planted_files, tmp_path):
    settings, folder = planted_files
    planted_ratings.prepare(settings, None, tmp_path / "i", tmp_path / "v")
    assert (tmp_path / "i").read_bytes() == (folder / "i").read_bytes()
    assert pq.read_metadata(folder / "i").num_rows == settings.instances
    assert pq.read_metadata(folder / "v").num_rows == settings.users + settings.items


def test_planted_dimensions_grow_with_frequency_and_scatter(planted_files):
    settings, folder = planted_files
    vocabulary = pq.read_table(folder / "v").to_pandas()
    frequency = parquet.feature_counts(folder / "i", len(vocabulary))
    for field in ("user", "item"):
        mask = (vocabulary["field"] == field).to_numpy()
        dimension, level = vocabulary["planted_dimension"][mask], blocks.equal_count(frequency[mask], settings.levels)
        means = dimension.groupby(level).mean()
        assert (np.diff(means) < 0).all()
        assert (dimension.groupby(level).nunique() > 1).all()
        assert dimension.between(1, settings.rank).all()


def test_planted_ratings_have_the_asked_variance(planted_files):
    settings, folder = planted_files
    labels = pq.read_table(folder / "i", columns=["label"])["label"].to_numpy()
    biases = 2 * planted_ratings.BIAS_STD**2
    assert labels.var() == pytest.approx(settings.signal**2 + settings.noise**2 + biases, rel=0.1)


# --- split and blocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [10, 11, 99, 1000, 1_000_209])
def test_the_split_is_8_1_1_to_within_one_instance(n):
    sizes = np.bincount(split.at_random(n, RandomSplit(proportions=[8, 1, 1], seed=1)), minlength=3)
    assert sizes.sum() == n
    assert (np.abs(sizes - n * np.array([0.8, 0.1, 0.1])) <= 1).all()


def test_the_split_depends_on_its_seed_alone():
    settings = [RandomSplit(proportions=[8, 1, 1], seed=seed) for seed in (1, 1, 2)]
    one, again, other = (split.at_random(1000, s) for s in settings)
    assert (one == again).all()
    assert (one != other).any()


def test_leave_one_out_by_hand():
    users = np.array([0, 1, 0, 0, 1, 2, 2, 0, 2])
    times = np.array([5, 1, 9, 7, 2, 4, 4, 9, 3])  # of the same time, the later in the file is the later
    assert split.leave_one_out(users, times).tolist() == [0, 0, 1, 0, 0, 1, 2, 2, 0]
    with pytest.raises(NisbenchError, match="no user has the three"):
        split.leave_one_out(np.array([0, 0, 1]), np.array([1, 2, 3]))


def test_each_user_s_last_movie_is_for_test(tmp_path, small):
    rows = [(7, 10, 30), (3, 20, 5), (7, 20, 10), (3, 10, 4), (7, 30, 20), (3, 30, 6)]
    text = "".join(f"{user}::{movie}::5::{time}\n" for user, movie, time in rows)
    settings = small.params.datasets["movielens_1m_topk"]
    movielens.prepare(
        settings, zipped(tmp_path / "archive.zip", {"ml-1m/ratings.dat": text}), tmp_path / "i", tmp_path / "v"
    )
    targets = {name: tmp_path / name for name in split.SPLITS}
    split.run(settings.split, tmp_path / "i", targets)
    found = {name: instances.read(path, torch.device("cpu")).ids.tolist() for name, path in targets.items()}
    assert found == {"train": [[1, 3], [0, 2]], "validation": [[0, 3], [1, 4]], "test": [[1, 2], [0, 4]]}


def test_too_few_instances_to_split_is_an_error():
    with pytest.raises(NisbenchError, match="too few"):
        split.at_random(5, RandomSplit(proportions=[8, 1, 1], seed=1))


def test_split_files_partition_the_instances(planted_files, tmp_path):
    _, folder = planted_files
    targets = {name: tmp_path / name for name in split.SPLITS}
    split.run(RandomSplit(proportions=[8, 1, 1], seed=1), folder / "i", targets)
    whole = pq.read_table(folder / "i").to_pandas()
    splits = [pq.read_table(path).to_pandas() for path in targets.values()]
    columns = list(whole)
    once = whole[~whole.duplicated(columns, keep=False)]
    joined = sorted(tuple(row) for one in splits for row in one.itertuples(index=False))
    assert joined == sorted(tuple(row) for row in whole[columns].itertuples(index=False))
    for one in splits:  # the original order is kept
        positions = once.merge(one.assign(at=range(len(one))), on=columns)["at"]
        assert positions.is_monotonic_increasing


def test_blocks_count_train_only_and_break_ties_by_id(planted_files, tmp_path):
    _, folder = planted_files
    targets = {name: tmp_path / name for name in split.SPLITS}
    split.run(RandomSplit(proportions=[8, 1, 1], seed=1), folder / "i", targets)
    blocks.run(BlockSettings(by="count", count=7), folder / "v", targets["train"], tmp_path / "features")
    features = pq.read_table(tmp_path / "features").to_pandas()
    train = instances.read(targets["train"], torch.device("cpu"))
    assert (features["frequency"] == np.bincount(train.ids.flatten(), minlength=len(features))).all()
    order = sorted(range(len(features)), key=lambda i: (-features["frequency"][i], i))
    assert [features["block"][i] for i in order] == [rank * 7 // len(features) for rank in range(len(features))]


def test_equal_count_by_hand():
    assert blocks.equal_count(np.array([5, 9, 5, 0, 7]), 2).tolist() == [0, 0, 1, 1, 0]
    sizes = np.bincount(blocks.equal_count(np.arange(103), 10))
    assert set(sizes) == {10, 11}


def test_more_blocks_than_features_is_an_error(planted_files, tmp_path):
    _, folder = planted_files
    with pytest.raises(NisbenchError, match="only 2250 features"):
        blocks.run(BlockSettings(by="count", count=5000), folder / "v", folder / "i", tmp_path / "f")


def test_no_data_set_is_in_the_repository():
    tracked = [path for suffix in ("zip", "gz", "dat", "parquet") for path in ROOT.glob(f"[!.]*/**/*.{suffix}")]
    assert not [path for path in tracked if path.relative_to(ROOT).parts[0] in ("src", "params", "tests", "docs")]
