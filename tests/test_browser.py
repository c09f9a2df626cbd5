"""Every notebook in a real JupyterLab: run once from top to bottom, looked at in both themes, its widgets used.

This is also where CI runs the notebooks: nothing is run twice but what is about running twice. Pictures of each page
are kept in out/browser. Skipped where there is no Chromium.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import nbformat
import pytest

from minimind_core.course import closing_words
from minimind_core.lessons import LESSONS
from minimind_core.paths import PROJECT
from minimind_core.runs import kill_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from jupyterlab_page import CHROMIUM, FLAGS, THEMES, Lab, Page  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (apt install chromium)"),
]
PICTURES = PROJECT / "out" / "browser"
LIMIT = {6: 600}  # seconds that Run All may take on a busy machine; LESSONS says what it takes on a quiet one


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    started = Lab(tmp_path_factory.mktemp("lab"))
    yield started
    kill_run(started.out / "tiny" / "pretrain_16.pth")  # should a test have failed
    kill_run(started.out / "pretrain_128.pth")
    started.stop()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@contextlib.contextmanager
def opened(browser, lab: Lab, notebook: str) -> Iterator[Page]:
    """A notebook in the browser; when something fails, a picture of it is kept."""
    page = Page(browser, lab, notebook)
    try:
        yield page
    except BaseException:
        with contextlib.suppress(Exception):
            page.page.screenshot(path=str(PICTURES / f"failed-{notebook.removesuffix('.ipynb')}.png"))
        raise
    finally:
        with contextlib.suppress(Exception):
            page.close()


# --- what is done with the widgets of each notebook ------------------------------------------------------------------


def use_01(page: Page) -> None:
    """Look for a word in the row browser, go to the next find, move the slider by the keyboard."""
    page.fill("Find", "山", enter=True)
    page.wait_text("“山” stands in")
    page.changes("“山” stands in", lambda: page.press("find ▶"))
    page.slide("Row", "Home")
    page.wait_text("row 0 · ")


def use_02(page: Page) -> None:
    """Walk some merges on, then type a text of one's own into the token explorer, and another into the mask viewer."""
    page.changes("0 of ", lambda: page.slide("merges", "ArrowRight", times=3))
    page.fill("Text", "<b>龘</b>", which=1)
    page.wait_text("8 characters · 10 bytes")
    page.choose("Tokenizer", "bytes only (259)")
    page.wait_text("8 characters · 10 bytes · 10 tokens")
    page.changes("31 positions: ", lambda: page.choose("Loader", "as MiniMind"))
    page.wait_text("1 inside the text do not")
    page.changes("31 positions: ", lambda: page.fill("Text", "<i>山", which=2))
    page.slide("max_length", "Home")
    page.wait_text("3 positions: 3 count")


def use_03(page: Page) -> None:
    """Another token in the attention viewer, other choices in the router viewer; experts in the cost viewer."""
    page.changes(" looks at ", lambda: page.slide("token", "Home"))
    page.wait_text("(token 0) looks at")
    page.changes("of the work", lambda: page.slide("choice", "ArrowRight"))
    page.page.locator(".jp-OutputArea-output .widget-checkbox input").last.check()
    page.wait_text("95,052,288")


def use_04(page: Page) -> None:
    """Ask for the rate of a step, and give the schedule another shape: words and picture follow."""
    page.fill("micro-step", "22080", enter=True)
    page.wait_text("after 50.00% of the run")
    picture = page.page.locator(".jp-OutputArea-output .widget-image").last
    before = picture.get_attribute("src")
    page.changes("farthest", lambda: page.choose("shape", "constant"))
    page.page.wait_for_function("([img, before]) => img.src !== before", arg=[picture.element_handle(), before])


def use_05(page: Page) -> None:
    """Look at a number's bits, at what is no number, and scale gradients up until they overflow."""
    page.changes("sign exponent fraction", lambda: page.press("257"))
    page.page.locator(".widget-html caption", has_text=re.compile("^257$")).wait_for()
    page.changes("sign exponent fraction", lambda: page.fill("number", "no number", enter=True))
    page.wait_text("is not understood")
    page.changes("scale 2^", lambda: page.slide("scale 2^", "End"))
    page.wait_text("scale 2^32 = ")


def use_06(page: Page) -> None:
    """The dashboard shows the finished run; a price turns time into money."""
    page.changes("pretrain_128", lambda: page.fill("price per hour", "3600", enter=True))
    page.wait_text("cost so far")
    assert page.page.locator("button:has-text('Complete')").first.is_disabled()
    assert page.page.locator("button:has-text('Stop')").first.is_disabled()


GROWS_AND_STOPS = """async () => {
    const press = name => [...document.querySelectorAll(".jp-OutputArea-output button")]
        .find(button => button.textContent.trim() === name).click();
    const status = () => {
        const page = [...document.querySelectorAll(".widget-html")].find(p => p.textContent.includes(" tokens in "));
        return page ? [...page.querySelectorAll("div")].pop().textContent : "";
    };
    const before = status(), seen = new Set(), sleep = () => new Promise(done => setTimeout(done, 10));
    press("Continue");
    for (let waited = 0; seen.size < 3 && waited < 800; waited++) {
        if (status() !== before && status().startsWith("writing")) seen.add(status());
        await sleep();
    }
    if (seen.size === 3) press("Stop");
    for (let waited = 0; status().startsWith("writing") && waited < 800; waited++) await sleep();
    return seen.size === 3 ? status() : "did not grow";
}"""


def use_07(page: Page) -> None:
    """Continue streams, Stop stops, colours and alternatives appear, untrusted text stays text; then bars and ages."""
    page.fill("Prompt", "<img src=x onerror='window.harmed=1'>世界上")
    for name in ("new tokens", "temperature", "top-p"):
        page.slide(name, "End")  # so hot a text seldom comes to an end by itself
    assert any(streams_and_stops(page) for _ in range(8)), "no text was seen to grow and to stop"
    halted = status(page)
    time.sleep(0.6)
    assert status(page) == halted, "after Stop nothing more is written"
    assert not page.page.evaluate("window.harmed === 1") and page.page.locator(".widget-html img[src='x']").count() == 0
    page.press("Probabilities")
    page.wait_text("probability of each token")
    page.slide("token", "ArrowRight", times=2)
    page.wait_text("Token 3: ")
    page.press("世界上最高的山峰是")
    page.slide("new tokens", "Home")
    page.press("Continue")
    page.wait_text("1 token in ")
    page.wait_text("Earlier texts (")
    page.choose_last("Model")
    page.wait_text("Press Continue")  # another model begins on an empty page
    page.slide("top-k (0: off)", "ArrowRight", times=5)
    page.slide("repetition penalty", "ArrowRight", times=3)
    page.changes("Press Continue", lambda: page.press("Continue"))
    page.page.locator(".widget-html span[title]").first.hover()  # a token of the new text, in its colour
    walked = page.walk("Prompt", 26)
    assert {"Continue", "Clear", "Probabilities"} <= set(walked), walked  # Stop rests, as nothing is written now
    page.press("Clear")
    page.wait_text("Press Continue")
    page.slide("temperature", "Home", which=1)
    page.wait_text("→ 0.00 bits")
    page.slide("updates", "Home")
    page.wait_text("after 0 updates")


def streams_and_stops(page: Page) -> bool:
    """Continue, and Stop when the text has been seen to grow; False where it ended by itself before."""
    page.slide("seed", "ArrowRight")
    return page.page.evaluate(GROWS_AND_STOPS).startswith("stopped")


def status(page: Page) -> str:
    return page.page.locator(".widget-html", has_text=" tokens in ").first.inner_text().split("\n")[-1]


USE = {1: use_01, 2: use_02, 3: use_03, 4: use_04, 5: use_05, 6: use_06, 7: use_07}


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_a_notebook_runs_looks_well_in_both_themes_and_its_widgets_work(browser, lab, lesson, capsys):
    with opened(browser, lab, lesson.path.name) as page:
        started = time.monotonic()
        assert page.run_all(LIMIT.get(lesson.number, 300)), page.problems()
        took = time.monotonic() - started
        assert not page.dialogs() and not page.problems()
        folded = [cell for cell in page.cells() if cell["metadata"].get("jp-MarkdownHeadingCollapsed")]
        assert page.unfold() == len(folded), "what goes deeper is folded, and a click opens it"
        for theme in THEMES:
            page.theme(theme)
            page.picture(PICTURES / f"{lesson.name}-{theme.split()[1].lower()}.png")
            assert not page.too_pale(), theme
        USE[lesson.number](page)
        page.theme(THEMES[0])
        page.picture(PICTURES / f"{lesson.name}-widgets.png")
        page.page.set_viewport_size({"width": 800, "height": 1000})
        page.page.wait_for_timeout(300)
        assert not page.too_wide() and not page.out_of_reach()
        assert not page.dialogs() and not page.problems() and not page.console
        took_all = time.monotonic() - started
    with capsys.disabled():
        what = USE[lesson.number].__doc__.split("\n")[0]
        print(f"\n{lesson.name}: Run All {took:.0f} s, with all looks {took_all:.0f} s. {what}")


AGAIN = {  # notebooks that use what others left in out/, and what they say of it
    3: r"Model: \S*\bpretrain_128\.pth: ",
    6: r"Already there: ",
}


@pytest.mark.parametrize("number", AGAIN)
def test_a_notebook_runs_again_with_all_that_lies_there(browser, lab, number, capsys):
    """Restart and run all, where out/ has a finished run: nothing is trained again."""
    with opened(browser, lab, LESSONS[number - 1].path.name) as page:
        started = time.monotonic()
        assert page.restart_and_run_all(200), page.problems()
        assert not page.problems() and not page.dialogs()
        said = "".join("".join(o.get("text", [])) for cell in page.cells() for o in cell.get("outputs", []))
        assert re.search(AGAIN[number], said), said
    with capsys.disabled():
        print(f"\n{LESSONS[number - 1].name} again, with a full out/: {time.monotonic() - started:.0f} s")


# --- a run that outlives the tab --------------------------------------------------------------------------------------

TINY = """
import os

from minimind_core import SAMPLE, plan_run
from minimind_core.widgets.dashboard import dashboard

os.environ["OMP_NUM_THREADS"] = "1"  # for so small a model
plan = plan_run(
    data_path=str(SAMPLE), out_dir=r"{out}", dim=16, n_layers=1, n_heads=2, n_kv_heads=1, vocab_size=400,
    max_seq_len=64, batch_size=4, accumulation_steps=1, max_steps=20000, device="cpu", eval_interval=250, epochs=99,
)
dashboard(plan, price_per_hour=36.0, every=0.5)
"""
WAITS = """
from minimind_core.runs import wait_beside

status = await wait_beside(plan.weights, every=0.3)
print("waited until it was", status.state)
"""


def small_notebook(lab: Lab, name: str) -> str:
    source = TINY.format(out=lab.out / "tiny").strip()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (source, WAITS.strip())])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, lab.root / "notebooks" / name)
    return name


def board(page: Page) -> str:
    """What the dashboard says of the run; nothing before it is there."""
    found = page.page.locator(".widget-html", has_text="pretrain_16")
    return found.first.inner_text() if found.count() else ""


def reached(page: Page) -> int:
    """The update that the dashboard shows; 0 before the first."""
    text = board(page)
    found = [word for word in text.replace("\n", " ").split("update ")[1:] if word[0].isdigit()]
    return int(found[0].split()[0].replace(",", "")) if found else 0


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def test_a_run_outlives_its_page_and_is_attached_to_stopped_and_resumed(browser, lab, capsys):
    steps, weights = [], lab.out / "tiny" / "pretrain_16.pth"
    first, second = small_notebook(lab, "tiny.ipynb"), small_notebook(lab, "again.ipynb")
    page = Page(browser, lab, first)
    assert page.run_all(60), page.problems()
    page.wait_text("not started")
    page.press("Start")
    wait_until(lambda: reached(page) > 5)
    page.start_cell(1)  # it waits for the run, as in lesson 06
    wait_until(lambda: page.is_busy() and reached(page) > 10)
    seen = reached(page)
    page.save()  # as JupyterLab does by itself every two minutes
    page.close(kernel=False)
    steps.append(f"Start pressed; at update {seen}, with a cell that waits for the run, the page is closed")

    page = Page(browser, lab, first, busy=True)  # opened again: what is in the page stays as it was while a cell waits
    page.page.wait_for_function("jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel", timeout=60_000)
    page.page.wait_for_timeout(1000)
    page.interrupt()  # ■ ends the waiting, not the run
    page.wait_ready(30)
    page.wait_text("running")
    wait_until(lambda: reached(page) > seen)
    seen = reached(page)
    page.picture(PICTURES / "dashboard-running-light.png")
    page.theme(THEMES[1])
    page.picture(PICTURES / "dashboard-running-dark.png")
    assert not page.too_pale()
    steps.append(f"opened again, ■ pressed to end the waiting: the dashboard is alive, update {seen}")
    page.start_cell(1)
    wait_until(page.is_busy)
    page.press("Stop")  # while a cell waits for the run
    page.wait_text("waited until it was stopped")
    stopped = reached(page)
    steps.append(f"the cell waits again, Stop pressed meanwhile: stopped at update {stopped}, and that cell is done")
    page.press("Resume")
    wait_until(lambda: reached(page) > stopped)
    steps.append(f"Resume: update {reached(page)}")
    assert kill_run(weights)
    page.wait_text("SIGKILL")
    dead = reached(page)
    steps.append(f"killed from outside: the dashboard says why, update {dead}")
    page.press("Resume")
    wait_until(lambda: "running" in board(page) and reached(page) > stopped)
    seen = reached(page)
    steps.append(f"Resume after the death: update {seen}")
    page.close(kernel=True)  # now the kernel goes as well

    with opened(browser, lab, second) as page:  # another notebook, another kernel
        page.start_all()
        wait_until(lambda: reached(page) > seen)
        samples = page.page.locator(".widget-html", has_text="世界上最高的山峰是").first.inner_text()
        assert "update 0 " in samples, "the whole history is there, from the first look on"
        seen = reached(page)
        steps.append(f"kernel shut down, another notebook attached: update {seen}, samples from update 0 on")
        page.press("Stop")
        page.wait_text("waited until it was stopped")
        stopped = reached(page)
        time.sleep(1.5)
        assert reached(page) == stopped and not page.problems() and not page.console
        steps.append(f"Stop: it stays at update {stopped}")
    with capsys.disabled():
        print("\n" + "\n".join(steps))


def test_the_course_ends_with_what_its_model_says(lab, monkeypatch, capsys):
    """What `make course` prints last, of the model that the notebooks made."""
    monkeypatch.setenv("MINIMIND_OUT", str(lab.out))
    closing_words()
    said = capsys.readouterr().out
    assert "Model: " in said and "Held-out loss, nats per token: lowest" in said and "a bigram model" in said
    assert re.search(r"✔ [3-7] of 7 state something that the sample states", said), said
