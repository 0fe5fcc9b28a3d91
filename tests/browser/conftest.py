"""A browser, the built site served on this machine alone, and a page that lets nothing out."""

import functools
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))  # what the tools know of the chapters, the tests know from them

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
OUTSIDE = re.compile(r"^(?:https?|wss?|ftp)://(?!127\.0\.0\.1[:/])")
DESKTOP = {"width": 1400, "height": 900}
# The theme declares a variable twice where there is a launch button, and has no mode on a first visit.
HARMLESS = ("THEBE_JS_URL", "Got invalid theme mode: .")


def pytest_configure() -> None:
    """Let a request to stop be like Ctrl-C, so that no server or browser is left running."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@dataclass
class Log:
    """What a page did: requests to other hosts, requests that failed, and errors of its scripts."""

    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def watch(self, context) -> None:
        """Record what the context's pages do, and stop every request to another host."""
        context.route(OUTSIDE, lambda route: (self.outside.append(route.request.url), route.abort()))
        context.on("response", lambda r: r.status >= 400 and self.failed.append(f"{r.status} {r.url}"))
        context.on("requestfailed", lambda r: OUTSIDE.match(r.url) or self.failed.append(f"{r.failure} {r.url}"))
        context.on("weberror", lambda error: self._error(str(error.error)))
        context.on("console", lambda message: message.type == "error" and self._error(message.text))

    def problems(self) -> list[str]:
        """Return everything recorded, in words."""
        kinds = {"asked another host": self.outside, "failed": self.failed, "script error": self.errors}
        return [f"{kind}: {what}" for kind, all_of_it in kinds.items() for what in all_of_it]

    def _error(self, text: str) -> None:
        if not any(harmless in text for harmless in HARMLESS):
            self.errors.append(text)


@dataclass
class Site:
    """The built site: its folder, and the address that it is served under."""

    folder: Path
    url: str


def find_browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of a Chromium; install Debian's where there is none and we may."""
    if not find_browser() and shutil.which("apt-get") and os.geteuid() == 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            try:
                subprocess.run(["apt-get", "-qq", *command], env=environment, check=True, timeout=600,
                               stdin=subprocess.DEVNULL, capture_output=True)  # fmt: skip
            except (subprocess.SubprocessError, OSError):
                break
    if not (path := find_browser()):
        pytest.skip("there is no Chromium: install one (Debian: apt-get install chromium) and run `make browser` again")
    return path


@pytest.fixture(scope="session")
def browser(chromium):
    """Run one Chromium for all tests."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield running
        running.close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serve files, and keep quiet about it."""

    def log_message(self, *args) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def site():
    """Build the site from the saved outputs and serve it on this machine alone."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "build.py")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
    )  # fmt: skip
    if run.returncode:
        pytest.fail("\n".join(["`make site` fails:", *run.stdout.splitlines()[-8:]]), pytrace=False)
    folder = ROOT / "_build" / "html"
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Site(folder, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@contextmanager
def desktop(browser):
    """Open an empty page on a desktop screen; it reaches no other host, and its log says what it did."""
    context, log = browser.new_context(viewport=DESKTOP, reduced_motion="reduce"), Log()
    context.set_default_timeout(30_000)
    log.watch(context)
    try:
        yield context.new_page(), log
    finally:
        context.close()


@pytest.fixture
def page(browser):
    """Open an empty page for one test."""
    with desktop(browser) as (page, _):
        yield page
