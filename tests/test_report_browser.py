"""The report in a real browser: its table sorts and searches, nothing is fetched, no text of the data runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, find_chromium, open_page
from run_folders import texts, write_influence

from instsel.report import build_page, read_report

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium to be found (Debian: apt-get install chromium)"),
    pytest.mark.long,
]

COUNT = 230
HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">\u202e" + "w" * 4000
)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as profile, open_page(CHROMIUM, Path(profile)) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    pool = texts(COUNT)
    pool["instruction"][11] = HOSTILE
    pool["output"][11] = HOSTILE
    pool["task"] = [HOSTILE if row == 11 else f"task {row % 3}" for row in range(COUNT)]
    run = write_influence(folder / "pool", COUNT, pool=pool, input=HOSTILE)
    path = folder / "page.html"
    path.write_text(build_page(read_report([run], colour_by="task")), encoding="utf-8")
    return path


def cells(page: Page, column: int) -> list[str]:
    found = page.run(f"[...document.querySelectorAll('#rows tbody tr')].map(r => r.cells[{column}].textContent)")
    return list(found)


def told(page: Page) -> str:
    return str(page.run("document.querySelector('#rows [role=status]').textContent"))


def type_into(page: Page, text: str) -> None:
    page.run(
        f"(s => {{ s.value = {text!r}; s.dispatchEvent(new Event('input')) }})(document.querySelector('#rows input'))"
    )


def press_head(page: Page, column: int) -> None:
    page.run(f"document.querySelectorAll('#rows th button')[{column}].click()")


def test_sorting(page: Page, file: Path) -> None:
    page.show(file)
    assert told(page) == f"1 to 50 of {COUNT} rows"
    numbers = [float(cell) for cell in cells(page, 1)]
    assert numbers == sorted(numbers, reverse=True) and len(numbers) == 50
    press_head(page, 1)  # the other way round; rows without a number stay last
    numbers = [float(cell) for cell in cells(page, 1)]
    assert numbers == sorted(numbers)
    for _ in range(4):
        page.run("document.querySelector('#rows .on').click()")
    assert told(page) == f"201 to {COUNT} of {COUNT} rows"
    assert cells(page, 1)[-2:] == ["none", "none"] and set(cells(page, 0)[-2:]) == {"#3", "#5"}
    assert page.run("document.querySelector('#rows .on').disabled")
    press_head(page, 0)
    assert cells(page, 0)[:3] == ["#0", "#1", "#2"]
    heads = page.run("[...document.querySelectorAll('#rows th')].map(h => h.getAttribute('aria-sort'))")
    assert heads[0] == "ascending" and set(heads[1:]) == {None}


def test_searching_and_filtering(page: Page, file: Path) -> None:
    page.show(file)
    type_into(page, "ANSWER 123")  # all words, in any case
    assert cells(page, 0) == ["#123"] and told(page) == "1 to 1 of 1 rows"
    type_into(page, "no such words")
    assert cells(page, 0) == [] and told(page) == "no row matches"
    type_into(page, "#77")
    assert cells(page, 0) == ["#77"]
    type_into(page, "")
    choose = "(s => { s.value = 'too_long'; s.dispatchEvent(new Event('change')) })"
    page.run(f"{choose}([...document.querySelectorAll('select.filter')].at(-1))")
    assert cells(page, 0) == ["#3"]


def test_text_of_the_data_stays_text(page: Page, file: Path) -> None:
    page.show(file)
    type_into(page, "document.title")
    assert cells(page, 0) == ["#11"]
    shown = cells(page, 5)[0]
    assert shown.startswith("</script><script>document.title='taken'</script><img src=x") and "⟨U+202E⟩" in shown
    assert page.run("document.title") == "instsel: pool"
    assert page.run("document.querySelectorAll('img').length") == 0


def test_a_script_of_somebody_elses_would_not_run(page: Page, file: Path, tmp_path: Path) -> None:
    """The second lock: even text that was put in as HTML may not run or fetch anything."""
    broken = tmp_path / "broken.html"
    evil = "<script>document.title = 'taken'</script><img src='http://127.0.0.1:9/a.png'>"
    broken.write_text(file.read_text(encoding="utf-8").replace("<main>", f"<main>{evil}"), encoding="utf-8")
    page.show(broken)
    assert page.run("document.title") == "instsel: pool" and page.run("document.querySelectorAll('img').length") == 1
    assert len(page.complaints) >= 2, "the browser says what it refused"
    page.complaints.clear()
    page.requests.clear()


@pytest.mark.parametrize("width", [1200, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen_and_fetches_nothing(page: Page, file: Path, width: int, scheme: str) -> None:
    page.complaints.clear()
    page.requests.clear()
    page.show(file, width=width, scheme=scheme)
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.complaints == [] and page.requests == [file.resolve().as_uri()]


# The contrast of every text with what lies under it, as WCAG defines it; 4.5 is its level AA.
CONTRAST = """
(() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => {
    const [r, g, b] = rgb(c).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const under = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (rgb(c)[3] !== 0) return c;
    }
  };
  let worst = [99, ""];
  const texts = "h1,h2,h3,p,a,span,td,th,small,summary,figcaption,text,label,button:not(:disabled)";
  for (const e of document.querySelectorAll(texts)) {
    if (!e.textContent.trim() || e.matches(".dot, .bar")) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(under(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < worst[0]) worst = [contrast, e.outerHTML.slice(0, 200)];
  }
  return worst;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(page: Page, file: Path, scheme: str) -> None:
    page.show(file, scheme=scheme)
    contrast, where = page.run(CONTRAST)
    assert contrast >= 4.5, where
    page.run("document.querySelector('h2').style.color = 'rgb(128, 128, 128)'")
    assert page.run(CONTRAST)[0] < 4.5, "the control: a grey that is hard to read is found"
    backgrounds = page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, backgrounds.strip("rgb()").split(","))) > 384) == (scheme == "light")


@pytest.mark.slow
def test_ten_thousand_rows_answer_at_once(page: Page, tmp_path: Path) -> None:
    pool = {name: [f"{text} {'word ' * 40}" for text in column] for name, column in texts(10_000).items()}
    run = write_influence(tmp_path / "pool", 10_000, pool=pool)
    path = tmp_path / "page.html"
    path.write_text(build_page(read_report([run])), encoding="utf-8")
    assert path.stat().st_size < 12 << 20
    page.show(path)
    assert told(page) == "1 to 50 of 10000 rows"
    milliseconds = []
    for action in (lambda: type_into(page, "answer 77 word"), lambda: type_into(page, ""), lambda: press_head(page, 2)):
        start = page.run("performance.now()")
        action()
        milliseconds.append(page.run("performance.now()") - start)
    assert np.max(milliseconds) < 2000, milliseconds
