import os
import pty
import re
import subprocess
import sys

PROGRAM = """
import sys, time
from i0t.progress import counted, working
shown = sys.argv[1] == "shown"
with working("fitting [async_bn]", shown=shown):
    time.sleep(0.3)
print([n for n in counted("ab", "measuring", shown=shown)])
"""


def seen_in_a_terminal(mode):
    """What a program writes to a terminal of its own."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode],
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # Linux says so when the last writer is gone
            break
        if not part:
            break
        text += part
    out, _ = process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == 0
    return out.decode(), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.decode())


def test_a_terminal_shows_the_work_and_its_count():
    out, bars = seen_in_a_terminal("shown")
    assert out.strip() == "['a', 'b']"
    assert "fitting [async_bn]" in bars
    assert "2/2" in bars


def test_nothing_is_shown_where_bars_are_switched_off():
    assert seen_in_a_terminal("hidden") == ("['a', 'b']\n", "")


def test_nothing_is_written_where_there_is_no_terminal():
    done = subprocess.run([sys.executable, "-c", PROGRAM, "shown"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() == "['a', 'b']"
