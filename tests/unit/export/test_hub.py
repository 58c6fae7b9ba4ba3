"""Pushing, against a server that speaks the hub's protocol as far as a small folder needs it."""

import base64
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub(BaseHTTPRequestHandler):
    """Keeps what is committed in ``server.files`` and every request in ``server.requests``."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, body))
        if self.headers.get("Authorization") != "Bearer hf_mine":
            self.answer({"error": "Invalid username or password."}, status=401)
        elif self.path == "/api/repos/create":
            about = json.loads(body)
            self.answer({"url": f"{self.server.address}/me/{about['name']}", "id": f"me/{about['name']}"})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        elif self.path.endswith("/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.answer({"commitUrl": f"{self.server.address}/me/mine/commit/abc", "commitOid": "abc"})
        else:
            self.answer({})

    def do_GET(self):
        self.server.requests.append((self.path, b""))
        self.answer({"sha": "0" * 40, "id": "me/mine"})

    def answer(self, content, status=200):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.requests = {}, []
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("# mine\n")
    (folder / "gap_reducer.json").write_text("{}\n")
    return folder


def push(folder, address, *, token="hf_mine", repository="me/mine", private=False, cache):
    """In a process of its own: the hub's address and token are read when its library is imported."""
    program = f"""
from pathlib import Path
from i0t.command_line import one_line_errors
from i0t.export.hub import push
with one_line_errors("i0t-export"):
    print(push(Path({str(folder)!r}), {repository!r}, private={private}))
"""
    environment = {"HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment, check=False
    )


def test_the_folder_arrives_as_it_is(hub, folder, tmp_path):
    done = push(folder, hub.address, private=True, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("/me/mine")
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    created = json.loads(next(body for path, body in hub.requests if path == "/api/repos/create"))
    assert created["name"] == "mine"
    assert created.get("private") is True or created.get("visibility") == "private"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "hf_other"}, "401"),
        ({"repository": "a/b/c"}, "a/b/c"),
    ],
)
def test_a_refusal_is_one_line_and_the_folder_stays(hub, folder, tmp_path, options, message):
    done = push(folder, hub.address, cache=tmp_path, **options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr
    assert "hf upload" in done.stderr
    assert hub.files == {}
    assert (folder / "README.md").exists()


def test_no_answer_is_one_line(folder, tmp_path):
    done = push(folder, "http://127.0.0.1:9", cache=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "hf upload me/mine" in done.stderr
