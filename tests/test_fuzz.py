"""Files from elsewhere: whatever is in them, a parser returns or says what is wrong, soon and in little memory.

In `make test` each parser is given a few hundred inputs, the same every time. More, and new ones each time:
``pytest tests/test_fuzz.py --hypothesis-profile=thorough``.
"""

import bz2
import copy
import functools
import gzip
import io
import json
import lzma
import random
import resource
import shutil
import tarfile
import time
import traceback
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from nisbench import records, steps
from nisbench.data import click_log, criteo, criteo_x1, instances, movielens
from nisbench.data.archives import open_member
from nisbench.data.click_log import COLUMNS
from nisbench.errors import NisbenchError
from nisbench.execution import run_step, run_with_inputs
from nisbench.models.pruned import PrunedModel
from nisbench.params import loading
from nisbench.params.datasets import Member
from nisbench.params.studies import task_tables
from nisbench.report import claims, dnis_figures, leaderboard, page, recovery, runs, tables
from nisbench.report.comparisons import Results
from nisbench.report.results import complete, provenance, summary
from nisbench.report.results import metrics as metrics_of
from nisbench.run_files import read_pruning, read_search
from nisbench.studies import plan, plan_study
from nisbench.tensor_files import load_tensors, save_tensors
from tests.helpers.archives import zipped
from tests.helpers.hypothesis import THOROUGH
from tests.helpers.mutations import mutate
from tests.helpers.paths import SMALL

SLOWEST = 20_000  # milliseconds for one input, on a busy machine
MOST_MEMORY = 1 << 20  # KiB, that all tests here together may add
LONGEST_MESSAGE = 4000

_common = {"deadline": SLOWEST, "database": None, "suppress_health_check": list(HealthCheck)}


def inputs(few):
    """So many inputs for a parser; in the thorough profile, as many as that says."""
    if settings.get_current_profile_name() == THOROUGH:
        return settings(**_common)
    return settings(max_examples=few, derandomize=True, **_common)


def returns_or_says_why(parser, *arguments):
    """What `parser` returns, or None if it raises the one error that users are shown, and that in a fit form."""
    try:
        returned, said = parser(*arguments), None
    except NisbenchError as error:
        returned, said = None, str(error)
    event("refused" if said else "returned")
    if said is not None:
        assert 0 < len(said.encode()) < LONGEST_MESSAGE
        assert said.replace("\n", "").isprintable()
    return returned


@pytest.fixture(scope="module", autouse=True)
def _little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# --- what files may hold --------------------------------------------------------------------------------------

ODD_VALUES = [
    b"", b" ", b"-0", b"-1", b"+5", b"0", b"00", b"2", b"1e999", b"-1e999", b"1e-400", b"1e38", b"4e38", b"nan", b"NaN", b"inf",
    b"-Infinity", b"0x10", b"1_0", b"1.", b".5", b"1,5", b"2147483647", b"2147483648", b"4294967297", b"9223372036854775808",
    b"9" * 30, b"9" * 5000, b"1" + b"0" * 400, b"x" * 70_000, b"null", b"NULL", b"N/A", b"true", b"\0", b"\0" * 9, b'"', b'"a', b'""', b"'",
    b"\r", b"\n", b"\r\n", b"\\", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", "\u0663".encode(), "\u00bd".encode(),
    "\u2028".encode(), "\u202e".encode(), b"::", b":", b",", b"\t", b"<unknown>", b"../../x", b"#", b"=1+1",
]  # fmt: skip
odd_values = st.sampled_from(ODD_VALUES) | st.binary(max_size=12)


rarely = st.integers(0, 11).map(lambda drawn: drawn == 11)


@st.composite
def mutated(draw, data, most=3):
    """These bytes with a few of them cut out, overwritten, put in, doubled or moved."""
    data = bytearray(draw(data) if isinstance(data, st.SearchStrategy) else data)
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 2, 4, 8, 100, 1 << 30])))
        kind = draw(st.sampled_from(["cut", "write", "odd", "double", "flip"]))
        if kind == "cut":
            del data[start:end]
        elif kind == "write":
            new = draw(st.binary(max_size=8))
            data[start : start + len(new)] = new
        elif kind == "odd":
            data[start:end] = draw(odd_values)
        elif kind == "double":
            data[start:start] = data[start:end] * draw(st.integers(1, 3))
        elif data[start : start + 1]:
            data[start] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@st.composite
def lines_of(draw, rows, separator, header=None):
    """Lines of which most are well-formed, and in a few of which a value is odd, missing or one too many."""
    lines = [
        list(row) for row in draw(st.lists(st.sampled_from(rows), min_size=1, max_size=6, unique=not draw(rarely)))
    ]
    if header and not draw(rarely):
        lines.insert(0, list(header))
    for _ in range(draw(st.integers(0, 2))):
        line = draw(st.sampled_from(lines))
        column = draw(st.integers(0, len(line)))
        kind = draw(st.sampled_from(["odd", "odd", "odd", "odd", "cut", "more"]))
        line[column : column + (kind != "more")] = [] if kind == "cut" else [draw(odd_values)]
    between = draw(st.sampled_from([b",", b"\t", b":", b"::", b";", b""])) if draw(rarely) else separator
    end = draw(
        st.sampled_from([b"\n", b"\r\n"]) if not draw(rarely) else st.sampled_from([b"\r", b"\n\n", b"\0\n", b"\n\r"])
    )
    start = draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\0"])) if draw(rarely) else b""
    data = start + end.join(between.join(line) for line in lines) + draw(st.sampled_from([end, b"", b"\x1a"]))
    return draw(mutated(data, most=2)) if draw(rarely) else data


def sound(outputs):
    """Assert that files made of instances and vocabulary are what all later steps take them to be."""
    loaded, tokens = instances.read(outputs[0], torch.device("cpu")), pq.read_metadata(outputs[1]).num_rows
    assert len(loaded) > 0
    assert 0 <= loaded.ids.min() <= loaded.ids.max() < tokens
    assert torch.isfinite(loaded.labels).all()
    assert loaded.values is None or loaded.values.abs().max() <= click_log.WILDEST


def prepared(module, settings, folder, files):
    """Have a format's module prepare an archive of these files; what it writes must be sound, and what it refuses not be there."""
    outputs = [folder / "instances.parquet", folder / "vocabulary.parquet"]
    for path in outputs:
        path.unlink(missing_ok=True)

    def prepare():
        module.prepare(settings, zipped(folder / "data.zip", files), *outputs)
        sound(outputs)

    returns_or_says_why(prepare)
    assert {path.name for path in folder.iterdir()} <= {"data.zip", *(path.name for path in outputs)}


# --- MovieLens ------------------------------------------------------------------------------------------------

_draw = random.Random(0)  # noqa: S311
RATINGS = [
    (b"%d" % user, b"%d" % movie, b"%g" % _draw.choice([0.5, 1, 3.5, 5]), b"%d" % _draw.randrange(-100, 1 << 31))
    for user, movie in [(1, 1), (1, 2), (2, 1), (3, 7), (6040, 3952), (2**31 - 1, 2**31 - 1), (5, 2), (6, 7), (7, 1)]
]
MOVIES = [(b"%d" % movie, b'"Toy, Story (1995)"', b"A|B") for movie in (1, 2, 7, 3952, 2**31 - 1)]


@pytest.fixture(scope="module")
def ml_1m(small):
    return small.params.datasets["movielens_1m"]


@inputs(400)
@given(data=lines_of(RATINGS, b"::") | st.binary(max_size=300))
def test_any_ratings_dat(folder, ml_1m, data):
    prepared(movielens, ml_1m, folder, {ml_1m.ratings: data})


@inputs(400)
@given(
    ratings=lines_of(RATINGS, b",", header=[name.encode() for name in movielens.HEADER]) | st.binary(max_size=300),
    movies=st.none() | st.just(b"\n".join(map(b",".join, MOVIES))) | lines_of(MOVIES, b",", (b"movieId", b"t", b"g")) | st.binary(max_size=300),
)  # fmt: skip
def test_any_ratings_csv_and_movies_csv(folder, ml_1m, ratings, movies):
    names = {"ratings": "r.csv", "movies": None if movies is None else "m.csv"}
    prepared(movielens, ml_1m.model_copy(update=names), folder, {"r.csv": ratings, "m.csv": movies or b""})


# --- Criteo ---------------------------------------------------------------------------------------------------


def clicks(numbers, tokens):
    """Rows like a click log's, of which some lack some values."""
    return [
        (_draw.choice([b"0", b"1"]), *_draw.choices(numbers, k=13), *_draw.choices(tokens, k=26)) for _ in range(20)
    ]


CLICKS = clicks([b"0", b"-3", b"7", b"1382", b""], [b"68fd1e64", b"80e26c9b", b"fb936136", b""])
CLICKS_X1 = clicks([b"0.05", b"0.004983", b"-0.001", b"1"], [b"1", b"2", b"2039572"])


@inputs(150)
@given(data=lines_of(CLICKS, b"\t") | st.binary(max_size=300), min_count=st.integers(1, 3))
def test_any_criteo_train_txt(folder, small, data, min_count):
    settings = small.params.datasets["criteo"].model_copy(update={"min_count": min_count})
    prepared(criteo, settings, folder, {settings.member: data})


@inputs(80)
@given(
    damaged=st.integers(0, 2),
    data=lines_of(CLICKS_X1, b",", [c.encode() for c in COLUMNS]) | st.binary(max_size=300),
)
def test_any_csv_of_criteo_x1(folder, small, damaged, data):
    good = b"".join(b",".join(row) + b"\n" for row in [[c.encode() for c in COLUMNS], *CLICKS_X1[:2]])
    files = {name: data if i == damaged else good for i, name in enumerate(("train", "validation", "test"))}
    members = {name: Member(path=name, md5=None) for name in files}
    prepared(criteo_x1, small.params.datasets["criteo_x1"].model_copy(update=members), folder, files)


# --- archives -------------------------------------------------------------------------------------------------

RATINGS_DAT = b"\n".join(map(b"::".join, RATINGS)) * 20


def zip_bytes(method):
    with zipfile.ZipFile(file := io.BytesIO(), "w", method) as archive:
        archive.writestr("a/", b"")
        archive.writestr("ratings.dat", RATINGS_DAT)
        archive.writestr("b/\u00e4.txt", b"b" * 100)
    return file.getvalue()


def tar_bytes(kind):
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w", format=kind) as archive:
        for name, size in [
            ("./" + "a" * 80 + "/" + "b" * 90, 10),
            ("b/\u00e4", 600),
            ("ratings.dat", len(RATINGS_DAT)),
        ]:
            entry = tarfile.TarInfo(name)
            entry.size = size
            archive.addfile(entry, io.BytesIO(RATINGS_DAT[:size]))
    return file.getvalue()


def zstd(data):
    with pa.CompressedOutputStream(file := pa.BufferOutputStream(), "zstd") as stream:
        stream.write(data)
    return file.getvalue().to_pybytes()


ZIPS = [zip_bytes(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)]
TARS = [tar_bytes(kind) for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)]
zips = st.sampled_from(ZIPS).flatmap(mutated)
archives = {
    "zip": zips,
    "tar.gz": st.sampled_from([gzip.compress(data) for data in TARS]).flatmap(mutated),
    "tar.bz2": st.sampled_from([bz2.compress(data) for data in TARS]).flatmap(mutated),
    "xz alone": st.just(lzma.compress(RATINGS_DAT)).flatmap(mutated),
    "tar.zst": st.sampled_from([zstd(data) for data in TARS]).flatmap(mutated),
    "tar in a sound gz": st.sampled_from(TARS).flatmap(mutated).map(lambda data: gzip.compress(data, 1)),
    "noise": st.sampled_from(
        [b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b""]
    ).flatmap(lambda start: st.binary(max_size=300).map(lambda rest: start + rest)),
}


@pytest.mark.parametrize("kind", archives)
@inputs(200)
@given(data=st.data())
def test_any_archive(folder, kind, data):
    path = folder / "archive"
    path.write_bytes(data.draw(archives[kind]))

    def read():
        with open_member(path, "ratings.dat") as stream:
            return stream.read()

    returns_or_says_why(read)
    path.unlink()


# --- bombs within the limits of archives ----------------------------------------------------------------------

CLICK = b"0" + b"\t1" * 13 + b"\ta" * 26 + b"\n"


@pytest.mark.parametrize(
    ("kind", "files", "says"),
    [
        ("ml", {"r.csv": (b"userId,movieId,rating,timestamp\n", b"1,1,1,1\n" * (160 << 17), b"")}, "user 1 rates movie 1 more than once"),
        ("ml", {"r.csv": (b"userId,movieId,rating,timestamp\n", b"1,1,9,1\n" * (160 << 17), b"")}, "r.csv:2: rating must be"),
        ("ml", {"r.csv": (b"", b"\n" * (63 << 20), b"x")}, "r.csv:66060289: expected the header"),
        ("ml", {"r.csv": (b"userId,movieId,rating,timestamp\n1,1,1,1", b"\n" * (63 << 20), b"x")}, "r.csv:66060290: expected 4 columns"),
        ("ml", {"r.dat": (b"1::1::1::1", b"", b""), "m.csv": (b"", b"\n" * (63 << 20), b"x")}, "m.csv:66060289: expected a movie's number"),
        ("ml", {"r.dat": (b"1::1::1::1", b"", b""), "m.csv": (b"", b"1\n" * (63 << 19), b"x")}, "m.csv:33030145: expected a movie's number"),
        ("criteo", {"train.txt": (b"", b"\n" * (63 << 20), b"")}, "is empty"),
        ("criteo", {"train.txt": (CLICK, b"\n" * (63 << 20), b"x")}, "train.txt:66060290: expected 40 columns"),
        ("criteo", {"train.txt": (b"", CLICK * 600_000, b"x")}, "train.txt:600001: expected 40 columns"),
    ],
    ids=range(9),
)  # fmt: skip
def test_a_bomb_within_the_limits_takes_little_time_and_memory(folder, ml_1m, small, kind, files, says):
    """Beside noise, which lets an archive unpack to more."""
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, parts in files.items():
            with archive.open(name, "w") as file:
                for part in parts:
                    file.write(part)
        archive.writestr("noise", random.Random(0).randbytes(2 << 20))  # noqa: S311
    names = [*files, None]
    settings = (
        ml_1m.model_copy(update={"ratings": names[0], "movies": names[1]})
        if kind == "ml"
        else small.params.datasets[kind]
    )
    started = time.process_time()
    with pytest.raises(NisbenchError, match=says):
        settings.module().prepare(settings, folder / "bomb.zip", folder / "i", folder / "v")
    assert time.process_time() - started < SLOWEST / 1000
    (folder / "bomb.zip").unlink()


# --- parameters -----------------------------------------------------------------------------------------------

PARAMETER_FILES = [path.relative_to(SMALL) for path in sorted((SMALL / "params").glob("*.yaml"))] + [
    Path("params", "studies", "criteo.yaml")
]
ODD_YAML = [
    "", "null", "~", "true", "-0", "0", "-1", "1e999", ".nan", ".inf", "-.inf", "0x" + "f" * 5000, "9" * 5000, "1:30:00.5", "1:1" + ":1" * 300 + ".5",
    "2026-02-30", "2026-01-01 25:00:00", "[]", "{}", "[[]]", "{a: 1}", "[1, 1]", "'1'", '"\\ud800"', '"\\0"', "../x", "/etc/passwd", "a/b", "~root",
    "~nobody-at-all/x", "ftp://x", "https://", "file:///x", "x" * 300, "x/" * 3000, "!!binary aGk=", "!!binary x", "!!set {a}", "!!omap [a: 1]", "!!int", "!!float x",
    "!!timestamp x", "!!python/object/apply:os.system [ls]", "!x y", "&a 1", "*a", "&a [*a]", "<<: 1", "? [a]", "|", ">", "%", "@", "`", "- 1", "\t", ": :", "---",
    "...", "{", "[" * 400, "datasets", "movielens_1m", "training.base_dimension", "\u0663", "\u202e", "\ufeff", "\x85", "extends", "dnis", "{extends: dnis}", "1" + "0" * 400 + ".0",
    "1_000", "0o17", "0b1", "{1: 1, 1.0: 2, true: 3}", "{.nan: 1, null: 2}", "[a, b", "cuda:99999999999999999999", "published", "leave_one_out",
]  # fmt: skip
odd_yaml = st.sampled_from(ODD_YAML) | st.text(max_size=10) | st.integers().map(str) | st.floats().map(str)


@st.composite
def mutated_lines(draw, text):
    """A parameter file in which lines are gone, doubled or moved, and keys and values are others."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        key, colon, value = lines[at].partition(":")
        kind = draw(st.sampled_from(["value", "value", "value", "key", "cut", "copy", "inner", "indent"]))
        if kind == "cut" and len(lines) > 1:
            del lines[at]
        elif kind == "copy":
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif kind == "key":
            indent = key[: len(key) - len(key.lstrip())]
            lines[at] = indent + draw(odd_yaml) + colon + value
        elif kind == "inner":  # of a list or mapping in one line
            parts = lines[at].replace("{", "{ ").replace("[", "[ ").split(" ")
            parts[draw(st.integers(0, len(parts) - 1))] = draw(odd_yaml)
            lines[at] = " ".join(parts)
        elif kind == "indent":
            lines[at] = lines[at][draw(st.integers(0, 4)) :]
        else:
            lines[at] = f"{key}: {draw(odd_yaml)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    """The parameters with one study only, the smallest: quickly read."""
    root = tmp_path_factory.mktemp("params")
    (root / "params" / "studies").mkdir(parents=True)
    for path in PARAMETER_FILES:
        shutil.copy(SMALL / path, root / path)
    return root


@pytest.fixture(scope="module", autouse=True)
def _own_files_are_read_once(params):
    """What an input leaves as it was is not parsed anew for each."""
    read = functools.cache(loading.read_yaml)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "read_yaml", lambda path: (read if is_own(params, path) else read.__wrapped__)(path))
        yield


@functools.cache
def _text(path):
    return path.read_bytes()


def is_own(root, path):
    return root in path.parents and path.read_bytes() == _text(SMALL / path.relative_to(root))


def planned(root, overlays):
    """Load the parameters and, where they load, plan their studies."""
    return plan(root, loading.load(root, overlays))


overlays = st.one_of(
    st.binary(max_size=100),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(odd_yaml, max_size=8).map(lambda parts: " ".join(parts).encode("utf-8", "surrogatepass")),
    st.recursive(
        odd_yaml, lambda inner: st.lists(inner).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(odd_yaml | st.sampled_from(["datasets", "training", "methods", "studies", "criteo"]), inner).map(
            lambda items: f"{{{', '.join(f'{key}: {value}' for key, value in items.items())}}}"),
    ).map(lambda text: text.encode("utf-8", "surrogatepass")),
)  # fmt: skip


@inputs(250)
@given(data=overlays)
def test_any_overlay(folder, params, data):
    path = folder / "over.yaml"
    path.write_bytes(data)
    returns_or_says_why(planned, params, [path])
    path.unlink()


@inputs(400)
@given(data=st.data(), file=st.sampled_from(PARAMETER_FILES))
def test_any_change_to_our_own_parameters(params, data, file):
    """As the file itself, so that what it no longer says is missing."""
    text = (SMALL / file).read_text()
    try:
        (params / file).write_bytes(data.draw(mutated_lines(text)))
        returns_or_says_why(planned, params, [])
    finally:
        (params / file).write_text(text)


# --- weights --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    tensors = {"a": torch.ones(3, 2), "b": torch.arange(4), "c": torch.tensor(True), "d": torch.ones(0, 3)}
    save_tensors(path, tensors, {"trial": 1, "selection": [1.0, None]})
    return path.read_bytes()


DTYPES = [
    "F32",
    "F64",
    "F16",
    "BF16",
    "I64",
    "U64",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "C64",
    "X",
    1,
    None,
]
ODD_JSON = [
    None,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    1e999,
    0.5,
    "",
    "x",
    [],
    {},
    [0],
    [0, 0],
    [2**62, 2**62],
    [0, 2**62, 2**62],
    [1] * 100,
    *DTYPES,
]
odd_json = st.sampled_from(ODD_JSON) | st.lists(st.integers(0, 30), max_size=3)
odd_about = st.sampled_from(["", "{}", "[]", "1", "null", "NaN", "{", "[" * 5000, '"' + "x" * 5000, "9" * 5000, "\ud800", 1, None]) | st.text(max_size=20)  # fmt: skip


@st.composite
def weight_files(draw, whole):
    """A file of weights with bytes changed anywhere, or with a sound frame around a header that says odd things."""
    if draw(rarely):
        return draw(mutated(whole))
    size = int.from_bytes(whole[:8], "little")
    header, body = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.just("__metadata__") | st.sampled_from([*header, "e"]))
        if name == "__metadata__" and not draw(rarely):
            header[name] = {"nisbench": draw(odd_about)}
        elif isinstance(header.get(name), dict) and draw(st.integers(0, 4)):
            header[name] = header[name] | {
                draw(st.sampled_from(["dtype", "shape", "data_offsets", "x"])): draw(odd_json)
            }
        else:
            header[name] = draw(odd_json)
    text = json.dumps(header).encode()
    text = draw(mutated(text)) if draw(rarely) else text
    return len(text).to_bytes(8, "little") + text + body


@inputs(400)
@given(data=st.data())
def test_any_file_of_weights(folder, weights, data):
    path = folder / "weights.safetensors"
    path.write_bytes(data.draw(weight_files(weights) | st.binary(max_size=100)))
    loaded = returns_or_says_why(load_tensors, path)
    assert loaded is None or isinstance(loaded[1], dict)
    path.unlink()


# --- what steps leave -----------------------------------------------------------------------------------------

_machine = {
    "device": "CPU: some", "threads": 1, "python": "3.12.1", "system": "Linux x86_64",
    "packages": {"nisbench": "0", "torch": "2.11", "numpy": "2"}, "time": "2026-01-02T03:04:05Z",
}  # fmt: skip
_trial = {
    "name": "dimension 4", "validation_loss": 0.5, "best_epoch": 2, "epochs": 2, "warm_start_epochs": 0,
    "stopped": "patience", "learning_rate": 0.001, "other_load": 0.1, "weights": 400, "seconds": 1.5, "peak_memory_mib": 300.0,
    "losses": [0.6, 0.5], "fused": 1, "failed": None,
}  # fmt: skip
_sum = {"sha256": "0" * 64, "bytes": 10}
LEFT = {
    read_search: {
        "best_trial": 1, "weights": 400, "seconds": 3.0, "peak_memory_mib": 300.0, "machine": _machine,
        "trials": [_trial | {"validation_loss": None, "failed": "nan"}, _trial], "failed": None,
    },
    read_pruning: {
        "metrics": {"mse": 0.7}, "weights": 400, "nonzeros": 200, "projection_weights": 0, "threshold": 0.1,
        "bytes": {"dense": {"float32": 9}}, "rounded_metrics": {"int8": {"mse": 0.8}}, "offset": 0.0, "mean_prediction": 0.4,
        "mean_label": 0.5, "size_mib": 0.1, "features": {"count": 100, "without_dimensions": 7}, "test_instances": 50, "seconds": 0.1,
        "rounds": [{"compression_rate": 2.0, "threshold": 0.1, "validation_loss": 0.5, "best_epoch": 1, "epochs": 3,
                    "stopped": "patience", "seconds": 0.1, "other_load": None}],
        "machine": _machine, "failed": None,
    },
    records.read: {
        "id": "0123456789ab", "step": "search", "dataset": "planted_ratings", "label": "mf-dnis-seed1",
        "settings": {"seed": 1}, "needs": {"split": "0123456789ab"}, "code": {"kinds": ["0" * 64], "core": {"version": 1}}, "commit": None,
        "time": "2026-01-02T03:04:05Z", "files": {"run.json": _sum, "weights.safetensors": _sum},
    },
}  # fmt: skip
odd_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=9) | st.just("../../x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def changed_json(draw, whole):
    """A file of this content in which one value, however deep, is another, or is gone; or in which bytes were changed."""
    value = copy.deepcopy(whole)
    place, key = value, draw(st.sampled_from(sorted(value)))
    while isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
        place = place[key]
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    if draw(st.booleans()):
        place[key] = draw(odd_json)
    else:
        del place[key]
    text = json.dumps(value).encode()
    return draw(mutated(text)) if draw(rarely) else text


@pytest.mark.parametrize("read", LEFT, ids=lambda read: read.__name__)
@inputs(300)
@given(data=st.data())
def test_any_run_file_and_record(folder, read, data):
    path = folder / "left.json"
    path.write_text(json.dumps(LEFT[read]))
    assert returns_or_says_why(read, path) is not None
    path.write_bytes(data.draw(changed_json(LEFT[read]) | st.binary(max_size=50)))
    found = returns_or_says_why(read, path)
    if found is not None and read is read_search:  # what the report then does with it
        page.trials_of(found)
        page.machine_of(found)


# --- readable, with the right checksum, and wrong -------------------------------------------------------------

ATTACKED = """
datasets:
  planted_ratings: {users: 12, items: 8, instances: 200, rank: 2, levels: 2, blocks: {count: 3}}
  planted_ctr: {instances: 200, scalar_fields: 1, categorical_fields: [6, 4], rank: 2, levels: 2, blocks: {count: 3}}
  planted_topk: {users: 12, items: 16, instances: 60, rank: 2, levels: 2, blocks: {count: 3}}
tasks:
  topk: {candidates: 3, negatives: 1}
studies:
  attacked:
    title: Attacked
    grids:
      rating: {datasets: [planted_ratings], models: [mf], methods: {dnis: [1, 2], mde_projected: [1], oracle: [1]}}
      ctr: {datasets: [planted_ctr], models: [deepfm], methods: {dnis: [2]}}
      topk: {datasets: [planted_topk], models: [neumf_topk], methods: {dnis: [1]}}
    seeds: [1]
    tables: [table1, table2, table3, table4, recovery]
    overrides:
      training: {base_dimension: 4, batch_size: 64, max_epochs: 1, device: cpu}
      methods: {mde_projected: {settings: [{base_dimension: 4, temperature: 0.3, budget: null}]}}
"""

FEW, MANY = 60, 1000


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A project of a tiny study, all of whose steps are done; its plan."""
    root = tmp_path_factory.mktemp("attacked")
    shutil.copytree(SMALL / "params", root / "params", ignore=lambda *_: ["studies"])
    (root / "params" / "studies").mkdir()
    (root / "over.yaml").write_text(ATTACKED)
    config = loading.load(root, [root / "over.yaml"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        found = plan_study("attacked", config)
        for step in found.steps.values():
            run_with_inputs(step)
        yield found


READERS = {
    "prepare": ("split", "block"),
    "split": ("block", "search", "prune"),
    "block": ("search",),
    "search": ("prune",),
}
"""The steps that read each step's files."""


def readers_of(found, step):
    return [
        user for user in found.steps.values() if user.name in READERS.get(step.name, ()) and step in user.needs.values()
    ]


def read_by_reports(found):
    """All that tables, figures and the page read, without drawing."""
    results = summary(found)
    compared = complete(found, results)
    sheets = {"table1": tables.table1(found, results)}
    for name, task in task_tables().items():
        if name in found.study.tables:
            sheets[name] = tables.comparison(found, results, task)
    for cell in found.cells:
        recovery.measured(cell, recovery.dimensions(cell))
        dnis_figures.frequency_and_size(cell)
        dnis_figures.selection_of(cell)
        PrunedModel.load(cell.prune.path("scheme"), cell.prune.path("model"), cell.settings.model)
    page.text(found, results, claims.findings(*compared), sheets, {}, Results(*compared), found)
    leaderboard.leaderboard(*compared)
    runs.write(found)
    metrics_of(results)
    provenance(found)


KINDS = {
    "instances": ("prepare", "instances"), "vocabulary": ("prepare", "vocabulary"), "train": ("split", "train"),
    "validation": ("split", "validation"), "test": ("split", "test"), "features": ("block", "features"),
    "search": ("search", "run"), "weights": ("search", "weights"), "pruning": ("prune", "run"), "scheme": ("prune", "scheme"),
    "model": ("prune", "model"), "record of a search": ("search", "record"), "record of a pruning": ("prune", "record"),
}  # fmt: skip


def suffix_of(kind):
    name, file = KINDS[kind]
    return Path(steps.FILES[name].get(file, "step.json")).suffix


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_readable_and_wrong_is_refused_or_harmless(attacked, kind, tmp_path):
    """With the right checksum: what is read next ends, or raises the one error that users are shown.

    The files of each sort (JSON, tensors, Parquet) are attacked 60 times together; in the thorough profile 1000 times.
    """
    name, file = KINDS[kind]
    attackable = [step for step in attacked.steps.values() if step.name == name]
    count = MANY if settings.get_current_profile_name() == THOROUGH else FEW
    attacks = count // sum(suffix_of(each) == suffix_of(kind) for each in KINDS) + 1
    refused, foreign = 0, []
    for number in range(attacks):
        rng = random.Random(f"{kind} {number}")  # noqa: S311
        step = rng.choice(attackable)
        path = step.record if file == "record" else step.path(file)
        readers = readers_of(attacked, step)
        folders = [step.folder, *(reader.folder for reader in readers)]
        for at, folder in enumerate(folders):
            shutil.copytree(folder, tmp_path / str(at))
        done, said = mutate(path, rng), ""
        try:
            if file != "record" and path.is_file():
                records.write(step)
            for reader in readers:
                run_step(reader)
            if name in {"block", "search", "prune"}:
                read_by_reports(attacked)
        except NisbenchError as error:
            said = str(error)
        except Exception:  # noqa: BLE001
            foreign.append(f"{kind} {number}: {step.title()}: {done}:\n{traceback.format_exc(limit=-4)}")
        finally:
            for at, folder in enumerate(folders):
                shutil.rmtree(folder)
                shutil.move(tmp_path / str(at), folder)
        refused += bool(said)
        assert len(said.encode()) < LONGEST_MESSAGE
    print(f"{kind}: {refused} of {attacks} refused, {len(foreign)} foreign errors")
    assert not foreign, "\n".join(foreign)
    assert refused > attacks / 4
