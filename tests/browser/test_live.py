"""The search box of chapter 4 with a kernel behind it, in Voila and in JupyterLab."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from time import monotonic, sleep

from chapters import ENVIRONMENT, chapters
from playwright.sync_api import Error, expect

from rrhelpers import load_papers

CHAPTER = next(path for path in chapters() if path.stem.startswith("04-"))
QUERIES = ("how many parameters does distilbert have", "can LoRA be merged into the weights")
SECOND = 1000  # Playwright counts milliseconds


@contextmanager
def serve(folder, *command: str):
    """Run a Jupyter server in the folder, on this machine alone; stop it and its kernels whatever happens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copy(CHAPTER, folder)
    home = {  # nothing of the user's own settings, and nothing left among them
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }  # fmt: skip
    environment = os.environ | ENVIRONMENT | {key: str(folder / ".jupyter" / name) for key, name in home.items()}
    environment |= {"OMP_NUM_THREADS": str(os.cpu_count() or 2)}  # one kernel at a time
    environment.setdefault("RRHELPERS_CACHE", str(folder / ".cache"))
    environment["JUPYTER_TOKEN"] = token = secrets.token_hex(16)
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, f"--port={port}", "--no-browser"],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            _wait_until_it_answers(server, port, folder / "server.log")
            yield f"http://127.0.0.1:{port}", token
        finally:
            _stop(server)


def _wait_until_it_answers(server, port: int, log) -> None:
    until = monotonic() + 90
    while monotonic() < until and server.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        sleep(0.2)
    raise AssertionError(f"the server doesn't answer:\n{log.read_text()[-3000:]}")


def _stop(server) -> None:
    """Ask the server to stop, which stops its kernels; then make sure."""
    server.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(15)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def use_search_box(page, seconds: int) -> None:
    """Ask two questions, one with Enter and one with the button, and see the answers differ."""
    box = page.get_by_placeholder("Type a question and press Enter")
    widget = page.locator(".widget-vbox, .jupyter-widgets.widget-box").filter(has=box).last
    results = widget.locator("ol > li")
    titles = set(load_papers()["title"])

    def titles_shown() -> list[str]:
        expect(results).to_have_count(5, timeout=seconds * SECOND)
        shown = results.locator("b").all_inner_texts()
        assert set(shown) <= titles
        return shown

    box.scroll_into_view_if_needed()
    box.fill(QUERIES[0])
    box.press("Enter")
    titles_shown()
    first = widget.locator("ol").inner_text()
    assert "distil" in first.lower()

    box.fill(QUERIES[1])
    widget.get_by_role("button", name="Search").click()
    expect(widget.locator("ol")).not_to_have_text(first, timeout=seconds * SECOND, use_inner_text=True)
    titles_shown()
    assert "lora" in widget.locator("ol").inner_text().lower()
    assert "retrieved at rank" in widget.locator("ol").inner_text()

    widget.get_by_label("rerank").uncheck()
    expect(widget.locator("ol")).not_to_contain_text("retrieved at rank", timeout=seconds * SECOND)
    titles_shown()


def test_search_box_in_voila(page, tmp_path):
    with serve(tmp_path, "voila", CHAPTER.name, "--Voila.ip=127.0.0.1") as (url, token):
        page.goto(f"{url}/?token={token}", timeout=180 * SECOND)
        page.get_by_placeholder("Type a question").wait_for(timeout=180 * SECOND)
        use_search_box(page, 60)


def test_search_box_in_jupyterlab(page, tmp_path):
    options = ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={tmp_path}", "--allow-root"]
    with serve(tmp_path, "jupyterlab", *options) as (url, token):
        page.goto(f"{url}/lab/tree/{CHAPTER.name}?token={token}", timeout=120 * SECOND)
        status = page.locator("#jp-main-statusbar")
        expect(status).to_contain_text("| Idle", timeout=90 * SECOND)
        run_all(page)
        use_search_box(page, 60)


def run_all(page) -> None:
    """Run all cells of the notebook that JupyterLab shows; ask again if it didn't hear."""
    running = page.locator(".jp-InputArea-prompt", has_text="[*]")
    for _ in range(3):
        with suppress(Error, AssertionError):
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            expect(running).not_to_have_count(0, timeout=10 * SECOND)
            break
        page.keyboard.press("Escape")
    expect(running).to_have_count(0, timeout=180 * SECOND)
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=30 * SECOND)
