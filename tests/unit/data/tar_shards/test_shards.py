"""Where shards are, and how one is read."""

import functools
import http.server
import tarfile
import threading

import pytest

from i0t.data.shards import UnreadableShard, expand_shards, read_shard

SUFFIXES = {"jpg", "txt"}


def keys(location):
    return [sample["__key__"] for sample in read_shard(str(location), SUFFIXES)]


# --- where ---


def test_braces_and_stars_name_files_in_order_and_urls_stay_as_they_are(tmp_path):
    for name in ("b/2.tar", "b/1.tar", "a/00.tar", "a/01.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert expand_shards("b/*.tar", tmp_path) == [str(tmp_path / "b/1.tar"), str(tmp_path / "b/2.tar")]
    assert expand_shards("a/{00..01}.tar", tmp_path) == [str(tmp_path / "a/00.tar"), str(tmp_path / "a/01.tar")]
    assert expand_shards(str(tmp_path / "b/1.tar"), tmp_path / "elsewhere") == [str(tmp_path / "b/1.tar")]
    assert expand_shards(["https://x.org/{8..10}.tar", "pipe:cat a.tar", "a/*1.tar"], tmp_path) == [
        "https://x.org/8.tar",
        "https://x.org/9.tar",
        "https://x.org/10.tar",
        "pipe:cat a.tar",
        str(tmp_path / "a/01.tar"),
    ]


def test_s3_is_read_by_the_command_line_client_without_a_shell_reading_the_name():
    assert expand_shards("s3://bucket/a b;{1..2}.tar", None) == [
        "pipe:aws s3 cp 's3://bucket/a b;1.tar' -",
        "pipe:aws s3 cp 's3://bucket/a b;2.tar' -",
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{0..7}.tar", r"8 of 8 shards are not there: .*0\.tar, .*4\.tar, …"),
        ("*.tar", r"no shard matches '\*\.tar' in "),
        ("{0..7.tar", "braces do not close"),
    ],
)
def test_shards_that_are_not_there_are_named(tmp_path, pattern, message):
    with pytest.raises(ValueError, match=message):
        expand_shards(pattern, tmp_path)


# --- reading one ---


def naive_samples(path):
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()]
    samples = {}
    for name, data in members:
        key, suffix = name.split(".", 1)
        samples.setdefault(key, {})[suffix] = data
    return samples


def test_a_shard_is_read_as_it_was_written(write_shard):
    path = write_shard("0.tar", 0, 5, lambda number, sample: sample.update(cls=number))
    read = list(read_shard(str(path), SUFFIXES))
    assert [{k: v for k, v in s.items() if k[0] != "_"} for s in read] == [
        {k: v for k, v in s.items() if k != "cls"} for s in naive_samples(path).values()
    ]
    assert [s["__key__"] for s in read] == list(naive_samples(path))
    assert {s["__url__"] for s in read} == {str(path)}


def last_member(path):
    with tarfile.open(path) as tar:
        return tar.getmembers()[-1]


@pytest.mark.parametrize("where", ["in content", "in a header", "before a header", "before the end mark"])
def test_a_shard_cut_short_anywhere_gives_what_came_before_and_says_so(write_shard, cut, where):
    path = write_shard("0.tar", 0, 5)
    last = last_member(path)
    size = {
        "in content": last.offset_data + 1,
        "in a header": last.offset + 100,
        "before a header": last.offset,
        "before the end mark": last.offset_data + 512,
    }[where]
    short = cut(path, size, "short.tar")
    for location in (str(short), f"pipe:cat {short}"):
        samples = read_shard(location, SUFFIXES)
        assert [next(samples)["__key__"] for _ in range(4)] == ["000000", "000001", "000002", "000003"]
        with pytest.raises(UnreadableShard, match=rf"cannot read shard {location}: .+"):
            next(samples)


def test_a_damaged_header_is_not_the_end(write_shard):
    path = write_shard("0.tar", 0, 5)
    data = bytearray(path.read_bytes())
    data[last_member(path).offset + 20] ^= 255
    path.write_bytes(data)
    samples = read_shard(str(path), SUFFIXES)
    assert len([next(samples) for _ in range(4)]) == 4
    with pytest.raises(UnreadableShard, match=r"0\.tar: a header is damaged"):
        next(samples)


@pytest.mark.parametrize("content", [b"", b"not a tar" * 200])
def test_what_is_no_tar_is_refused(tmp_path, content):
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(UnreadableShard, match=r"cannot read shard .*0\.tar"):
        keys(tmp_path / "0.tar")


def test_compressed_shards_stream_too(write_shard, tmp_path):
    path = write_shard("0.tar.gz", 0, 3)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert keys(path) == ["000000", "000001", "000002"]


def test_a_command_is_read_and_one_that_fails_is_an_error(write_shard):
    path = write_shard("0.tar", 0, 3)
    assert keys(f"pipe:cat {path}") == ["000000", "000001", "000002"]
    with pytest.raises(UnreadableShard, match="exit 3"):
        keys(f"pipe:cat {path}; exit 3")
    with pytest.raises(UnreadableShard, match="pipe:cat"):
        keys(f"pipe:cat {path}.absent 2>/dev/null")


def test_a_command_is_heard_to_its_end_though_the_tar_ends_before(write_shard):
    command = f"pipe:cat {write_shard('0.tar', 0, 3)}; head -c 300000 /dev/zero"
    assert keys(command) == ["000000", "000001", "000002"]
    with pytest.raises(UnreadableShard, match="exit 3"):
        keys(f"{command}; exit 3")


def test_a_command_left_early_is_no_error(write_shard):
    path = write_shard("0.tar", 0, 60)
    samples = read_shard(f"pipe:cat {path} /dev/zero", SUFFIXES)
    assert next(samples)["__key__"] == "000000"
    samples.close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def url_of(tmp_path):
    """Serves ``tmp_path`` on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url_is_read_and_one_that_is_not_there_is_an_error(write_shard, url_of):
    write_shard("0.tar", 0, 3)
    assert keys(f"{url_of}/0.tar") == ["000000", "000001", "000002"]
    with pytest.raises(UnreadableShard, match=r"http://.*/1\.tar"):
        keys(f"{url_of}/1.tar")


def test_the_error_of_a_worker_is_one_line():
    trace = "Traceback …\ni0t.data.shards.UnreadableShard: a line"
    text = f"Caught UnreadableShard in DataLoader worker process 0.\nOriginal {trace}"
    assert str(UnreadableShard(text)) == "a line"
