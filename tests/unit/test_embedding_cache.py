"""A set is found by what it depends on, or by an earlier request whose files have not changed."""

import json
import os
import subprocess
import sys

import pytest
import torch

from i0t.embedding_cache import EmbeddingCache, digest, files_digest, stamp, stamps_of
from i0t.embedding_store import save_set
from i0t.embeddings import EmbeddingSet

KEY = {"weights": "abc", "texts": "def"}
REQUEST = {"model": {"name": "a"}, "split": "test"}


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "photos" / name for name in ("a.jpg", "b.jpg")]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(b"photo")
    return paths


@pytest.fixture
def cache(tmp_path, files):
    cache = EmbeddingCache(tmp_path / "cache")
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    save_set(EmbeddingSet.from_index(x, x, torch.arange(3)), cache.folder(KEY))
    cache.remember(REQUEST, KEY, stamps_of(files))
    return cache


def test_a_set_is_found_by_key_and_by_request(cache):
    assert cache.load(KEY).num_images == 3
    assert cache.recall(REQUEST).num_images == 3
    assert cache.load({**KEY, "weights": "other"}) is None
    assert cache.recall({**REQUEST, "split": "val"}) is None


def test_a_new_file_and_a_changed_part_of_the_config_are_not_recalled(cache, files, tmp_path):
    (files[0].parent / "c.jpg").write_bytes(b"photo")
    assert cache.recall(REQUEST) is None
    (tmp_path / "tokenizer").mkdir()
    for name in ("small.json", "w.pt", "open_clip_config.json", "tokenizer/vocab.txt"):
        (tmp_path / name).write_text("{}")
    node = {"architecture": str(tmp_path / "small.json"), "nested": [{"tokenizer": str(tmp_path / "tokenizer")}]}
    for number, name in enumerate(("small.json", "open_clip_config.json", "tokenizer/vocab.txt")):
        cache.remember(REQUEST, KEY, stamps_of(files, named_in=[node, "x" * 5000, None, 3]))
        assert cache.recall(REQUEST) is not None
        (tmp_path / name).write_text("{}" + " " * (number + 1))
        assert cache.recall(REQUEST) is None, name


@pytest.mark.parametrize("change", ["touched", "longer", "gone"])
def test_a_changed_file_is_not_recalled(cache, files, change):
    if change == "touched":
        os.utime(files[1], ns=(1, 1))
    elif change == "longer":
        _, time = stamp(files[1])
        files[1].write_bytes(b"other photo")
        os.utime(files[1], ns=(time, time))
    else:
        files[1].unlink()
    assert cache.recall(REQUEST) is None
    assert cache.load(KEY) is not None  # the key says itself what it depends on


def test_another_library_version_is_another_request(cache, monkeypatch):
    monkeypatch.setattr("i0t.embedding_cache.__version__", "99")
    assert cache.recall(REQUEST) is None


def test_a_damaged_set_or_request_is_not_trusted(cache, caplog):
    (request,) = cache.root.glob("requests/*.json")
    text = request.read_text()
    for damaged in (text[:-5], "[]", json.dumps({"set": digest(KEY)}), ""):
        request.write_text(damaged)
        assert cache.recall(REQUEST) is None
    request.write_text(text)
    shard = cache.folder(KEY) / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert cache.recall(REQUEST) is None
    assert "it is encoded again" in caplog.text


def test_digests_are_those_of_every_process_and_place(files, tmp_path):
    code = f"from i0t.embedding_cache import digest; print(digest({KEY!r}))"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == digest(dict(reversed(KEY.items())))
    before = files_digest(files)
    (tmp_path / "photos").rename(tmp_path / "moved")
    moved = [tmp_path / "moved" / path.name for path in files]
    assert files_digest(moved) == before
    assert files_digest(moved[::-1]) != before


def test_the_lock_is_held_by_one_job_at_a_time(cache):
    with cache.lock(KEY):
        code = (
            "from filelock import Timeout; from i0t.embedding_cache import EmbeddingCache\n"
            f"cache = EmbeddingCache({str(cache.root)!r})\n"
            f"try:\n    cache.lock({KEY!r}).acquire(timeout=0.1)\nexcept Timeout:\n    print('waits')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "waits"
