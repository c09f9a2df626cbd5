"""A real JupyterLab in a real browser, for the tests: start it, open notebooks, run them, look at them, use widgets."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minimind_core.paths import PROJECT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
PICTURE_HEIGHT = 7000  # of a notebook in one picture, in pixels
THEMES = ("JupyterLab Light", "JupyterLab Dark")
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode":"none"}',  # all cells are in the page, so all can be looked at
    "apputils-extension/notification": '{"fetchNews":"false","checkForUpdates":false}',
}
KERNEL_IS_READY = """async () => {
    const panel = window.jupyterapp?.shell.currentWidget;
    if (!panel?.sessionContext) return false;
    await panel.context.ready; await panel.sessionContext.ready;
    const kernel = panel.sessionContext.session?.kernel;
    if (!kernel) return false;
    await kernel.info;
    return kernel.connectionStatus === "connected" && (kernel.status === "idle" || kernel.status === "busy");
}"""
# Texts in outputs whose colour is too near to what lies behind it. Browsers count contrast from 1 to 21.
TOO_PALE = """least => {
    const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    for (const area of document.querySelectorAll(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output")) {
        const walker = document.createTreeWalker(area, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
            if (!text || !element.offsetParent || element.closest("svg, option, select, button:disabled")) continue;
            const colour = parse(getComputedStyle(element).color);
            let behind = element, back = [0, 0, 0, 0];
            while (behind && (back.length === 4 && back[3] === 0)) {
                back = parse(getComputedStyle(behind).backgroundColor); behind = behind.parentElement;
            }
            const [a, b] = [light(colour), light(back)].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < least) found.push(text.slice(0, 40) + " " + colour + " on " + back);
        }
    }
    return [...new Set(found)];
}"""
# Parts of outputs that reach beyond the window, and cannot be scrolled to where they are.
TOO_WIDE = """() => {
    const panel = document.querySelector(".jp-NotebookPanel:not(.lm-mod-hidden)");
    const edge = panel.getBoundingClientRect().right, parts = ".jupyter-widgets, table, img, div";
    const scrolls = part => {
        for (; part && part !== panel; part = part.parentElement)
            if (["auto", "scroll"].includes(getComputedStyle(part).overflowX) && part.scrollWidth > part.clientWidth
                && part.getBoundingClientRect().right <= edge + 1) return true;
        return false;
    };
    return [...panel.querySelectorAll(".jp-OutputArea-output")].flatMap(area => [...area.querySelectorAll(parts)])
        .filter(part => part.offsetParent && part.getBoundingClientRect().right > edge + 1 && !scrolls(part))
        .map(part => part.tagName + " " + part.className + ": " + part.textContent.slice(0, 40));
}"""
# Controls that the Tab key passes by.
OUT_OF_REACH = """() => [...document.querySelectorAll(
    ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output :is(button, select, input, textarea, .noUi-handle)"
)].filter(part => part.offsetParent && !part.disabled && part.tabIndex < 0).map(part => part.outerHTML.slice(0, 120))"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Lab:
    """A JupyterLab of this Python over a copy of the course, with an out/ of its own; `stop()` ends it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.port, self.token = folder / "course", free_port(), secrets.token_hex(16)
        shutil.copytree(PROJECT / "notebooks", self.root / "notebooks", ignore=shutil.ignore_patterns(".ipynb_check*"))
        for name in ("docs", "minimind_core", "dataset", "README.md"):
            (self.root / name).symlink_to(PROJECT / name)
        self.own = Path(tempfile.mkdtemp(prefix="lab-", dir=folder))
        for name, text in SETTINGS.items():
            path = self.own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.out = self.root / "out"
        surroundings = os.environ | {
            "JUPYTER_CONFIG_DIR": str(self.own / "config"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.own / "workspaces"),
            "JUPYTERLAB_SETTINGS_DIR": str(self.own / "settings"),
            "JUPYTER_RUNTIME_DIR": str(self.own / "runtime"),
            "JUPYTER_PREFER_ENV_PATH": "1",
            "IPYTHONDIR": str(self.own / "ipython"),
            "MINIMIND_OUT": str(self.out),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        for name in ("OMP_NUM_THREADS", "MINIMIND_DATASET"):
            surroundings.pop(name, None)
        self.log = open(self.own / "lab.log", "wb")  # noqa: SIM115 - open as long as the server
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={self.port}",
                "--ip=127.0.0.1", f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.root}",
                "--LabApp.expose_app_in_browser=True",
            ],
            env=surroundings, stdout=self.log, stderr=self.log,
        )  # fmt: skip
        until = time.monotonic() + 120
        while not self._answers():
            if time.monotonic() > until or self.process.poll() is not None:
                raise RuntimeError((self.own / "lab.log").read_text(encoding="utf-8")[-3000:])
            time.sleep(0.3)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api?token={self.token}", timeout=2):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


class Page:
    """A notebook that is open in the browser."""

    def __init__(self, browser: Any, lab: Lab, notebook: str, width: int = 1280, busy: bool = False) -> None:
        """With `busy` the kernel works on a cell: JupyterLab does not know it as ready before that is done."""
        self.lab, self.notebook = lab, notebook
        self.console: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 1000})
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))
        place = f"{lab.url}/lab/workspaces/{secrets.token_hex(4)}/tree/notebooks/{notebook}"
        self.page.goto(f"{place}?token={lab.token}&reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=120_000)
        if not busy:
            self.wait_ready()
        self.page.keyboard.press("Control+b")  # the file browser goes, as on a small screen

    def wait_ready(self, seconds: float = 120) -> None:
        """Wait until the page is connected with a kernel that answers."""
        self.page.wait_for_function(KERNEL_IS_READY, timeout=1000 * seconds)

    def interrupt(self) -> None:
        """Press the toolbar's stop button, ■."""
        self.page.locator(".jp-NotebookPanel-toolbar [data-jp-item-name='interrupt']").first.click()

    def _heard(self, kind: str, text: str) -> None:
        if kind == "error" and "Failed to load resource" not in text:
            self.console.append(text)

    def dialogs(self) -> list[str]:
        """Texts of dialogs that wait for an answer."""
        return self.page.locator("dialog.jp-Dialog, .jp-Dialog").all_inner_texts()

    def start_all(self) -> None:
        """Run All, without waiting."""
        self.page.wait_for_function("jupyterapp.commands.isEnabled('notebook:run-all-cells')")
        self.page.evaluate(
            "window.ran = null;"
            "jupyterapp.commands.execute('notebook:run-all-cells').then(done => window.ran = done); null"
        )

    def wait_all(self, seconds: float) -> bool:
        """Wait until Run All is over; whether every cell ran."""
        self.page.wait_for_function("window.ran !== null", timeout=1000 * seconds)
        return bool(self.page.evaluate("window.ran"))

    def run_all(self, seconds: float) -> bool:
        self.start_all()
        return self.wait_all(seconds)

    def start_cell(self, number: int) -> None:
        """Run one cell, without waiting."""
        self.page.evaluate(
            "number => { jupyterapp.shell.currentWidget.content.activeCellIndex = number;"
            " jupyterapp.commands.execute('notebook:run-cell'); }",
            number,
        )

    def is_busy(self) -> bool:
        """Whether the kernel works on a cell."""
        return self.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel.status") == "busy"

    def restart_and_run_all(self, seconds: float) -> bool:
        """A new kernel, then every cell."""
        self.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        self.wait_ready()
        return self.run_all(seconds)

    def cells(self) -> list[dict[str, Any]]:
        """The notebook as it now is, cell by cell, as in its file."""
        return self.page.evaluate("jupyterapp.shell.currentWidget.content.model.toJSON().cells")

    def problems(self) -> list[str]:
        """Errors, warnings and unexpected numbers in outputs."""
        found = []
        for number, cell in enumerate(self.cells()):
            for output in cell.get("outputs", []):
                text = "".join(output.get("text", []))
                if output["output_type"] == "error":
                    found.append(f"cell {number}: {output['ename']}: {output['evalue']}")
                elif output.get("name") == "stderr":
                    found.append(f"cell {number} on stderr: {text[:300]}")
                elif "NOT as expected" in text:
                    found.append(f"cell {number}: {text[:600]}")
        selectors = (
            ".jp-RenderedWidgetError, .jupyter-widgets-error-widget, .jp-OutputArea-output[data-mime-type*='error']"
        )
        return found + [f"in the page: {text[:300]}" for text in self.page.locator(selectors).all_inner_texts()]

    def unfold(self) -> int:
        """Open the sections that are folded under their heading, as a click does; how many there were."""
        closed = self.page.locator(".jp-showHiddenCellsButton:visible")
        found = closed.count()
        for _ in range(found):
            closed.first.click()
        return found

    def theme(self, name: str) -> None:
        self.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: '{name}'}})")
        light = str(name == THEMES[0]).lower()
        self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")

    def picture(self, path: Path) -> None:
        """The whole notebook in pictures: PATH-1.png, PATH-2.png …, each of some screens."""
        path.parent.mkdir(parents=True, exist_ok=True)
        size = self.page.viewport_size
        box = "document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer')"
        height = int(self.page.evaluate(f"{box}.scrollHeight"))
        pages = -(-height // PICTURE_HEIGHT)
        self.page.set_viewport_size({"width": size["width"], "height": min(height, PICTURE_HEIGHT) + 110})
        for number in range(pages):
            self.page.evaluate(f"{box}.scrollTop = {number * PICTURE_HEIGHT}")
            self.page.wait_for_timeout(250)
            self.page.screenshot(path=str(path.with_name(f"{path.stem}-{number + 1}.png")))
        self.page.set_viewport_size(size)

    def too_pale(self, least: float = 4.5) -> list[str]:
        return self.page.evaluate(TOO_PALE, least)

    def too_wide(self) -> list[str]:
        return self.page.evaluate(TOO_WIDE)

    def out_of_reach(self) -> list[str]:
        return self.page.evaluate(OUT_OF_REACH)

    def walk(self, first: str, steps: int) -> list[str]:
        """What the Tab key comes by from the control of that description: buttons' texts and other parts' tags."""
        self.control(first).locator("input, textarea").first.focus()
        found = []
        for _ in range(steps):
            self.page.keyboard.press("Tab")
            name = "(e => e.tagName === 'BUTTON' ? e.textContent.trim() : e.tagName)(document.activeElement)"
            found.append(self.page.evaluate(name))
        return found

    # --- widgets --------------------------------------------------------------------------------------------------

    def control(self, description: str, which: int = 0) -> Any:
        """The control with that description."""
        label = f"//*[contains(@class, 'widget-label')][normalize-space()='{description}']"
        return self.page.locator(f"xpath={label}/..").nth(which)

    def fill(self, description: str, text: str, enter: bool = False, which: int = 0) -> None:
        field = self.control(description, which).locator("input, textarea").first
        field.fill(text)
        if enter:
            field.press("Enter")

    def slide(self, description: str, key: str, times: int = 1, which: int = 0) -> None:
        """Move a slider by the keyboard."""
        handle = self.control(description, which).locator(".noUi-handle").first
        handle.focus()
        for _ in range(times):
            handle.press(key)

    def choose(self, description: str, label: str, which: int = 0) -> None:
        self.control(description, which).locator("select").first.select_option(label=label)

    def choose_last(self, description: str) -> None:
        """The last entry of a drop-down, whatever it says: ages of files change while one looks."""
        drop_down = self.control(description).locator("select").first
        drop_down.select_option(index=drop_down.locator("option").count() - 1)

    def press(self, text: str, which: int = 0) -> None:
        self.page.locator(".jp-OutputArea-output button", has_text=text).nth(which).click()

    def wait_text(self, text: str, seconds: float = 30, gone: bool = False) -> None:
        """Wait until a text stands in an output (or does not any more)."""
        outputs = "[...document.querySelectorAll('.jp-OutputArea-output')]"
        script = f"([text, gone]) => {outputs}.some(o => o.textContent.includes(text)) !== gone"
        self.page.wait_for_function(script, arg=[text, gone], timeout=1000 * seconds)

    def changes(self, text: str, do: Callable[[], None], seconds: float = 30) -> None:
        """Do something, and wait until the page of a widget that held `text` shows something else."""
        pages = "[...document.querySelectorAll('.jp-OutputArea-output .widget-html')]"
        script = f"text => {{ window.watched = {pages}.find(page => page.textContent.includes(text)); "
        before = self.page.evaluate(script + "return window.watched.innerHTML; }", text)
        do()
        self.page.wait_for_function("before => window.watched.innerHTML !== before", arg=before, timeout=1000 * seconds)

    def save(self) -> None:
        """Write the notebook to its file."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")

    def close(self, kernel: bool = True) -> None:
        """Close the page; its kernel goes on unless `kernel`."""
        if kernel:
            self.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
