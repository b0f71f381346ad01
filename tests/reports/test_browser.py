"""The page in a real browser: no messages on the console, and the buttons work."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.reports import read_runs
from metalm_cli.reports.write_report import write_report
from report_fixtures import write_results, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")

LISTEN_SCRIPT = """<script>
window.messages = [];
addEventListener("error", (event) => messages.push(String(event.message)));
addEventListener("unhandledrejection", (event) => messages.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => messages.push(`${event.violatedDirective} ${event.blockedURI}`));
for (const kind of ["error", "warn"]) {
  const write = console[kind];
  console[kind] = (...parts) => { messages.push(parts.join(" ")); write(...parts); };
}
</script>"""

TRY_SCRIPT = """<script>(async () => {
  const state = {}, root = document.documentElement;
  const wait = (time) => new Promise((done) => setTimeout(done, time));
  while (root.dataset.ready !== "yes") await wait(50);
  const figures = [...document.querySelectorAll("figure")];
  state.figures = figures.length;
  const marks = "svg .mark-line, svg .mark-rect, svg .mark-symbol";
  state.drawn = figures.filter((figure) => figure.querySelector(marks)).length;
  state.labels = figures.map((figure) => figure.querySelector(".chart").getAttribute("aria-label"));
  state.roles = figures.map((figure) => figure.querySelector(".chart").getAttribute("role"));
  state.unnamed = [...document.querySelectorAll("button, select, a")].filter((element) =>
    !element.textContent.trim() && !element.getAttribute("aria-label")).length;
  state.wide = root.scrollWidth - root.clientWidth;
  const loss = document.getElementById("figure-loss");
  const axis = () => [...loss.querySelectorAll(".role-axis-label text")].map((label) => label.textContent).join(" ");
  const press = async (selector) => { loss.querySelector(selector).click(); await wait(400); return axis(); };
  state.plain = axis();
  state.log = await press('[data-log="x"]');
  state.pressed = loss.querySelector('[data-log="x"]').getAttribute("aria-pressed");
  await press('[data-log="x"]');
  state.near = await press('[data-do="in"]');
  state.reset = await press('[data-do="reset"]');
  const type = async (key) => {
    loss.querySelector(".chart").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    await wait(400);
    return axis();
  };
  state.right = await type("ArrowRight");
  state.closer = await type("+");
  state.back = await type("0");
  HTMLAnchorElement.prototype.click = function () { state[this.download] = this.href.slice(0, 22); };
  await press('[data-do="svg"]'); await press('[data-do="png"]'); await wait(800);
  const ink = () => getComputedStyle(document.body).color;
  state.before = [root.dataset.theme, ink()];
  document.getElementById("theme").click();
  state.after = [root.dataset.theme, ink()];
  const verdict = document.getElementById("verdict-filter");
  verdict.value = "wrong"; verdict.dispatchEvent(new Event("change"));
  const visible = [...document.querySelectorAll(".answers > li")].filter((answer) => !answer.hidden);
  state.verdicts = visible.map((answer) => answer.dataset.verdict);
  state.messages = messages;
  document.title = JSON.stringify(state);
})();</script>"""


def browse(page: Path, width: int, *flags: str) -> str:
    """Open the page in a browser, check that its console is empty, and return the resulting document."""
    assert CHROMIUM is not None
    size = f"--window-size={width},900"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", size, *flags]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *options, profile, "--virtual-time-budget=60000", "--enable-logging=stderr"]
    process = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, timeout=240)
    console = [line for line in process.stderr.decode(errors="replace").splitlines() if ":CONSOLE:" in line]
    assert console == []
    return process.stdout.decode(errors="replace")


def try_page(tmp_path: Path, width: int, *flags: str) -> dict[str, Any]:
    runs = [write_run(tmp_path / name) for name in ("metalm", "gpt")]
    for run in runs:
        write_results(run)
    page = write_report(read_runs(runs))
    text = page.read_text(encoding="utf-8").replace("<style>", f"{LISTEN_SCRIPT}<style>", 1)
    head, _, tail = text.rpartition("</body>")
    page.write_text(f"{head}{TRY_SCRIPT}</body>{tail}", encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", browse(page, width, *flags))
    assert title is not None
    assert title[1].startswith("{"), "the page did not get ready"
    state: dict[str, Any] = json.loads(html.unescape(title[1]))
    return state


def test_the_page_is_drawn_and_its_buttons_work(tmp_path: Path) -> None:
    state = try_page(tmp_path, 1200, "--blink-settings=preferredColorScheme=1")
    assert state["messages"] == []
    assert state["figures"] == state["drawn"] == 14
    assert all(state["labels"])
    assert set(state["roles"]) == {"graphics-document"}
    assert state["unnamed"] == 0
    assert state["plain"] == state["reset"]
    assert len({state["plain"], state["log"], state["near"]}) == 3
    assert state["plain"] == state["back"]
    assert len({state["plain"], state["right"], state["closer"]}) == 3
    assert state["pressed"] == "true"
    assert state["loss.svg"].startswith("blob:")
    assert state["loss.png"] == "data:image/png;base64,"
    assert state["before"] == ["light", "rgb(27, 31, 36)"]
    assert state["after"] == ["dark", "rgb(230, 237, 243)"]
    assert set(state["verdicts"]) == {"wrong"}


def test_the_page_follows_a_dark_system_and_fits_a_narrow_window(tmp_path: Path) -> None:
    state = try_page(tmp_path, 500, "--blink-settings=preferredColorScheme=0")
    assert state["messages"] == []
    assert state["before"][0] == "dark"
    assert state["wide"] <= 0
