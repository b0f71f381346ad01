"""The page in a real browser: drawn without a word on the console, and its buttons do what they say."""

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

LISTEN = """<script>
window.heard = [];
addEventListener("error", (event) => heard.push(String(event.message)));
addEventListener("unhandledrejection", (event) => heard.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => heard.push(`${event.violatedDirective} ${event.blockedURI}`));
for (const kind of ["error", "warn"]) {
  const said = console[kind];
  console[kind] = (...what) => { heard.push(what.join(" ")); said(...what); };
}
</script>"""

TRY = """<script>(async () => {
  const found = {}, root = document.documentElement;
  const wait = (time) => new Promise((done) => setTimeout(done, time));
  while (root.dataset.ready !== "yes") await wait(50);
  const figures = [...document.querySelectorAll("figure")];
  found.figures = figures.length;
  found.drawn = figures.filter((one) => one.querySelector("svg .mark-line, svg .mark-rect, svg .mark-symbol")).length;
  found.labels = figures.map((one) => one.querySelector(".chart").getAttribute("aria-label"));
  found.roles = figures.map((one) => one.querySelector(".chart").getAttribute("role"));
  found.unnamed = [...document.querySelectorAll("button, select, a")].filter((one) =>
    !one.textContent.trim() && !one.getAttribute("aria-label")).length;
  found.wide = root.scrollWidth - root.clientWidth;
  const loss = document.getElementById("figure-loss");
  const axis = () => [...loss.querySelectorAll(".role-axis-label text")].map((one) => one.textContent).join(" ");
  const press = async (what) => { loss.querySelector(what).click(); await wait(400); return axis(); };
  found.plain = axis();
  found.log = await press('[data-log="x"]');
  found.pressed = loss.querySelector('[data-log="x"]').getAttribute("aria-pressed");
  await press('[data-log="x"]');
  found.near = await press('[data-do="in"]');
  found.reset = await press('[data-do="reset"]');
  const type = async (key) => {
    loss.querySelector(".chart").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    await wait(400);
    return axis();
  };
  found.right = await type("ArrowRight");
  found.closer = await type("+");
  found.back = await type("0");
  HTMLAnchorElement.prototype.click = function () { found[this.download] = this.href.slice(0, 22); };
  await press('[data-do="svg"]'); await press('[data-do="png"]'); await wait(800);
  const ink = () => getComputedStyle(document.body).color;
  found.before = [root.dataset.theme, ink()];
  document.getElementById("theme").click();
  found.after = [root.dataset.theme, ink()];
  const verdict = document.getElementById("of-verdict");
  verdict.value = "wrong"; verdict.dispatchEvent(new Event("change"));
  const shown = [...document.querySelectorAll(".answers > li")].filter((one) => !one.hidden);
  found.shown = shown.map((one) => one.dataset.verdict);
  found.heard = heard;
  document.title = JSON.stringify(found);
})();</script>"""


def browse(page: Path, width: int, *flags: str) -> str:
    """The console's lines and what a browser makes of the page."""
    assert CHROMIUM is not None
    size = f"--window-size={width},900"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", size, *flags]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *options, profile, "--virtual-time-budget=60000", "--enable-logging=stderr"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, timeout=240)
    console = [line for line in done.stderr.decode(errors="replace").splitlines() if ":CONSOLE:" in line]
    assert console == []
    return done.stdout.decode(errors="replace")


def tried(tmp_path: Path, width: int, *flags: str) -> dict[str, Any]:
    runs = [write_run(tmp_path / name) for name in ("metalm", "gpt")]
    for run in runs:
        write_results(run)
    page = write_report(read_runs(runs))
    text = page.read_text(encoding="utf-8").replace("<style>", f"{LISTEN}<style>", 1)
    head, _, tail = text.rpartition("</body>")
    page.write_text(f"{head}{TRY}</body>{tail}", encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", browse(page, width, *flags))
    assert title is not None
    assert title[1].startswith("{"), "the page did not get ready"
    found: dict[str, Any] = json.loads(html.unescape(title[1]))
    return found


def test_the_page_is_drawn_and_answers_its_buttons(tmp_path: Path) -> None:
    found = tried(tmp_path, 1200, "--blink-settings=preferredColorScheme=1")
    assert found["heard"] == []
    assert found["figures"] == found["drawn"] == 14
    assert all(found["labels"])
    assert set(found["roles"]) == {"graphics-document"}
    assert found["unnamed"] == 0
    assert found["plain"] == found["reset"]
    assert len({found["plain"], found["log"], found["near"]}) == 3
    assert found["plain"] == found["back"]
    assert len({found["plain"], found["right"], found["closer"]}) == 3
    assert found["pressed"] == "true"
    assert found["loss.svg"].startswith("blob:")
    assert found["loss.png"] == "data:image/png;base64,"
    assert found["before"] == ["light", "rgb(27, 31, 36)"]
    assert found["after"] == ["dark", "rgb(230, 237, 243)"]
    assert set(found["shown"]) == {"wrong"}


def test_the_page_follows_a_dark_system_and_fits_a_narrow_window(tmp_path: Path) -> None:
    found = tried(tmp_path, 500, "--blink-settings=preferredColorScheme=0")
    assert found["heard"] == []
    assert found["before"][0] == "dark"
    assert found["wide"] <= 0
