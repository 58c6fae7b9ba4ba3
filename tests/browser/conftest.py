"""A headless Chromium, and pages opened in it that may neither complain nor ask the network for anything."""

import os
import shutil
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser():
    """The browser of the session, which takes a second to start; tests that need it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    with playwright.sync_playwright() as driver:
        installed = [path for path in map(shutil.which, _NAMES) if path]
        executable = installed[0] if installed else driver.chromium.executable_path
        if not Path(executable).exists():
            pytest.skip("there is no Chromium: `apt-get install chromium` or `playwright install chromium`")
        # Chromium's sandbox refuses to run as root, as in a container.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = driver.chromium.launch(executable_path=executable, args=[*arguments, "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Opens a page of the test's; fails the test on console errors, page errors and requests that leave the page."""
    contexts, complaints = [], []

    def opened(path, *, width=1280, height=900, dark=False, javascript=True):
        """The page of a file, once it has loaded.

        Args:
            path: The HTML file.
            width: Of the window; below 640 it is a phone that is touched.
            height: Of the window.
            dark: Whether the reader prefers dark pages.
            javascript: Whether scripts run.
        """
        address = Path(path).resolve().as_uri()
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=javascript,
            has_touch=width < 640,
        )
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("request", lambda request: _check_request(request.url, address, complaints))
        page.goto(address)
        return page

    opened.complaints = complaints
    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def _check_request(url, address, complaints):
    if url.split("#")[0] != address and not url.startswith(("data:", "blob:")):
        complaints.append(f"request that leaves the page: {url[:200]}")
