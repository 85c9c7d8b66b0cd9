"""Archives made to harm: refused in one clear sentence, before much is unpacked."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile

import pyarrow as pa
import pytest

from nisbench import progress
from nisbench.data import archives
from nisbench.data.archives import fetched_from, numbered_lines, open_member
from nisbench.errors import NisbenchError

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Limits that are quickly reached."""
    monkeypatch.setattr(archives, "MOST_BYTES", MIB)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 20)


@pytest.fixture
def read(tmp_path):
    """What `wanted`, or another file, holds in an archive of these bytes."""

    def read_wanted(data, member="wanted", url=None):
        path = tmp_path / "archive"
        path.write_bytes(data)
        with fetched_from([url] if url else [], path), open_member(path, member) as stream:
            return stream.read()

    return read_wanted


def zipped(*files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file := io.BytesIO(), "w", method) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return file.getvalue()


def tarred(*files, kind=tarfile.PAX_FORMAT):
    """A tar.gz of these files; instead of data an entry may have what its header says."""
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w", format=kind) as archive:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            if isinstance(data, dict):
                for key, value in data.items():
                    setattr(entry, key, value)
                file.write(entry.tobuf(kind))
                archive.offset = file.tell()
            else:
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(file.getvalue(), 1)


def sparse(real_size):
    """A tar.gz of an old GNU sparse file: all of it but its last 512 bytes is a hole."""
    entry = tarfile.TarInfo("wanted")
    entry.type, entry.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (real_size - 512, 512)
    header[483:495] = b"%011o\0" % real_size
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(header)[0]
    return gzip.compress(bytes(header) + bytes(512) + bytes(1024), 1)


def zstd(data):
    with pa.CompressedOutputStream(file := pa.BufferOutputStream(), "zstd") as stream:
        stream.write(data)
    return file.getvalue().to_pybytes()


PACKED = {
    "as it is": bytes,
    "gz": gzip.compress,
    "two gz in a row": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    "bz2": bz2.compress,
    "two bz2 in a row": lambda data: bz2.compress(data[:9]) + bz2.compress(data[9:]),
    "xz": lzma.compress,
    "zst": zstd,
}
TEXT = b"userId,movieId,rating,timestamp\n1,2,3.5,4\n" * 2000

BIG = bytes(2 * MIB)
SAID = (2 * MIB).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (zipped(("wanted", BIG)), "'wanted' has 2097152 bytes by its header, but an archive of"),
        (zipped(("wanted", BIG)).replace(SAID, (9).to_bytes(4, "little")), "not a readable archive: Bad CRC-32"),
        (zipped(("wanted", BIG), method=zipfile.ZIP_BZIP2), "by a method other than deflate"),
        (zipped(("wanted", BIG), method=zipfile.ZIP_LZMA), "by a method other than deflate"),
        (tarred(("wanted", BIG)), "'wanted' has 2097152 bytes by its header, but an archive of"),
        (tarred(("wanted", {"size": 1 << 50})), "'wanted' has 1125899906842624 bytes by its header"),
        (tarred(("before", BIG), ("wanted", b"1")), "'before' has 2097152 bytes by its header"),
        (tarred(*[(f"{i}", bytes(MIB // 4)) for i in range(5)], ("wanted", b"1")), "unpacks to more than the 1048576 bytes that an archive of"),
        (sparse(2 * MIB), "'wanted' has 2097152 bytes by its header"),
        (tarred(("a", {"type": tarfile.XHDTYPE, "size": 65537}), ("wanted", b"1")), "a header of 65537 bytes"),
        (tarred(("a", {"type": tarfile.GNUTYPE_LONGNAME, "size": -512}), kind=tarfile.GNU_FORMAT), "a header of -512"),
    ],
    ids=range(11),
)  # fmt: skip
def test_what_unpacks_to_far_more_than_its_size_is_refused(read, data, says):
    with pytest.raises(NisbenchError, match=says):
        read(data)


def test_a_stream_is_counted_as_it_is_read(tmp_path):
    """Whatever an archive claims, and in whatever pieces it is read."""
    (tmp_path / "archive").write_bytes(bytes(100))
    stream = io.BufferedReader(archives.Counted(io.BytesIO(bytes(300)), tmp_path / "archive", 200), 64)
    assert len(stream.read(128)) == 128
    with pytest.raises(NisbenchError, match="unpacks to more than the 200 bytes that an archive of 100 bytes may hold"):
        stream.read(128)


def test_as_much_as_an_archive_of_its_size_may_hold_is_read(read):
    assert read(zipped(("wanted", bytes(MIB)))) == bytes(MIB)
    assert read(tarred(("wanted", bytes(MIB - 8192)))) == bytes(MIB - 8192)
    random = bytes(range(256)) * 4096 * 2
    assert read(zipped(("wanted", random), method=zipfile.ZIP_STORED)) == random


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..\\x", "C:\\x", "C:x", "a/.."])
def test_names_that_reach_outside_are_refused(read, pack, name):
    with pytest.raises(NisbenchError, match="refused: it holds a file that would land outside its folder"):
        read(pack((name, b"1"), ("wanted", b"1")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_link_in_a_file_s_place_is_refused(read, kind):
    """And not followed: /etc/passwd is there."""
    with pytest.raises(NisbenchError, match="wanted is not a file but a folder, a link or the like"):
        read(tarred(("wanted", {"type": kind, "linkname": "/etc/passwd"})))


def test_links_beside_the_file_wanted_do_not_matter(read):
    assert read(tarred(("a", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), ("wanted", b"1"))) == b"1"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_holds_the_file_twice_is_refused(read):
    with pytest.raises(NisbenchError, match="holds 2 'wanted'"):
        read(zipped(("wanted", b"1"), ("wanted", b"2")))


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_names_are_not_shown_whole_nor_all(read, pack):
    with pytest.raises(NisbenchError) as raised:
        read(pack(*[(f"{i}" + "x" * 5000, b"1") for i in range(15)]))
    assert "holds no 'wanted'; it holds '0xxx" in str(raised.value)
    assert str(raised.value).endswith(" and 5 more")
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_too_many_files_are_refused(read, pack):
    with pytest.raises(NisbenchError, match="refused: it holds more than 20 files"):
        read(pack(*[(f"{i}", b"1") for i in range(21)], ("wanted", b"1")))


def test_a_name_that_no_file_can_hold_is_shown_all_the_same(read):
    with pytest.raises(NisbenchError, match="no 'wanted'; it holds") as raised:
        read(tarred(("a\udcff\x01", b"1"), kind=tarfile.GNU_FORMAT))
    assert str(raised.value).isprintable()


def test_a_line_without_an_end_is_refused():
    stream = io.BufferedReader(io.BytesIO(b"ab\n" + bytes(2 * MIB)))
    with pytest.raises(NisbenchError, match=r"x\.csv:2: a line of more than 1048576 bytes"):
        list(numbered_lines(stream, "x.csv"))


# --- what it is, its first bytes tell -------------------------------------------------------------------------


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("kind", [None, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_file_is_read_alone_or_from_a_tar_and_however_it_is_compressed(read, pack, kind):
    if kind is None:
        assert read(pack(TEXT), None) == TEXT
        assert read(pack(TEXT), "my ratings.csv", "https://host/a/my%20ratings.csv?x=1") == TEXT
        assert read(pack(TEXT), "r.csv", "/home/me/r.csv.GZ") == TEXT
    else:
        plain = gzip.decompress(tarred(("before", b"1"), ("./wanted", TEXT), kind=kind))
        assert read(pack(plain)) == TEXT


def test_bytes_that_are_no_text_are_read_alone_too(read):
    assert read(b"PAR1\0\0", None) == b"PAR1\0\0"
    assert read(b"PK,name\n", None) == b"PK,name\n"


@pytest.mark.parametrize("name", ["gz", "two gz in a row", "bz2", "xz", "zst"])
def test_a_compressed_file_is_counted_too(read, name):
    with pytest.raises(NisbenchError, match="unpacks to more than the 1048576 bytes"):
        read(PACKED[name](b"1,2\n" * (MIB // 2)), None)


@pytest.mark.parametrize("name", ["gz", "bz2", "xz", "zst"])
def test_a_damaged_file_is_refused(read, name):
    random = bytes(range(256)) * 4000
    with pytest.raises(NisbenchError, match="not a readable archive"):
        assert read(PACKED[name](random)[:-20], None) == random


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is an empty file"),
        (b"\xef\xbb\xbf\r\n <!DOCTYPE html><html>", "is an HTML page"),
        (gzip.compress(b"<HTML lang=de>"), "is an HTML page"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "is a 7z archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer to a file in Git LFS"),
        (TEXT, "holds no 'ml/ratings.csv': it is not a zip or tar archive but a single file, which begins with 'userId,movieId'. "),
    ],
    ids=range(6),
)  # fmt: skip
def test_what_is_no_archive_is_called_what_it_is_and_as_the_user_called_it(read, data, says, tmp_path):
    with pytest.raises(NisbenchError) as raised:
        read(data, "ml/ratings.csv", "/home/me/mine.csv")
    assert str(raised.value).startswith(f"/home/me/mine.csv: {says}")
    with pytest.raises(NisbenchError) as raised:
        read(data, "ml/ratings.csv", "https://me:secret@host/mine.csv")
    assert str(raised.value).startswith(f"https://host/mine.csv: {says}")
    assert str(raised.value).endswith(f"remove our copy, {tmp_path}, so that it is fetched anew.")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_of_which_no_file_is_named_says_what_it_holds(read, pack):
    with pytest.raises(NisbenchError, match=r"is an archive.* of those in it: 'a.csv', 'b.csv'"):
        read(pack(("a.csv", b"1"), ("b.csv", b"2")), None)


# --- progress -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [zipped, tarred, lambda file: file[1], lambda file: gzip.compress(file[1])])
def test_reading_reports_rows_share_and_time_left(pack, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "SILENCE", -1)
    path = tmp_path / "archive"
    path.write_bytes(pack(("archive", b"1\n" * (MIB // 4))))
    with open_member(path, "archive") as stream, caplog.at_level("INFO"):
        reading = archives.Reading("archive", stream)
        for data in iter(lambda: stream.read(MIB // 8), b""):
            reading.add(len(data) // 2)
    first, last = caplog.messages[0], caplog.messages[-1]
    assert re.fullmatch(r"archive: 65,536 rows; MiB \d of \d \(\d+%\), .* left", first)
    assert re.fullmatch(r"archive: 262,144 rows; MiB 0 of 0 \(100%\), 0.0 s left", last)
