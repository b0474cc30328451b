"""The pages in a real browser. `nox -s browser` runs these, `nox -s tests` reports them as skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from page_pieces import HOSTILE, folder_of, gate_of, large_results, results_with, row_of, run_of, small_results

from parity.pages import PAGE, render_page
from parity.pages.compare import compare, sides_of
from parity.pages.compare_report import comparison_page
from parity.results import Results

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif("PARITY_CHROMIUM" not in os.environ, reason="opens pages in Chromium: `nox -s browser` runs it"),
]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = {"phone": 360, "desktop": 1440, "wide": 2560}


@dataclass
class Opened:
    """A page that was opened, and what it did besides: console messages, exceptions, requests."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))

    @property
    def fetched(self) -> list[str]:
        return [url for url in self.requests[1:] if not url.startswith("data:")]

    def scroll_through(self) -> None:
        """Bring every chart near, so that all are drawn."""
        height = self.page.evaluate("document.body.scrollHeight")
        for place in range(0, height, 500):
            self.page.evaluate(f"scrollTo({{top: {place}, behavior: 'instant'}})")
            self.page.wait_for_timeout(30)
        self.page.evaluate("scrollTo({top: 0, behavior: 'instant'})")


Open = Callable[..., Opened]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["PARITY_CHROMIUM"], args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    contexts = []

    def open_it(text: str | Results, width: int = 1440, scheme: str = "light", ready: bool = True) -> Opened:
        if isinstance(text, Results):
            path = folder_of(tmp_path / "run", text) / PAGE
        else:
            path = tmp_path / "page.html"
            path.write_text(text, encoding="utf-8")
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        opened = Opened(contexts[-1].new_page())
        opened.page.set_default_timeout(120_000)
        opened.watch()
        opened.page.goto(path.as_uri())
        if ready:
            opened.page.wait_for_selector("html[data-ready]")
        return opened

    yield open_it
    for context in contexts:
        context.close()


def comparison_text() -> str:
    runs = [run_of(small_results(error)) for error in (0.5, 2.0)]
    return comparison_page(compare(sides_of(runs, None), command="parity compare a b"))


def hostile_results() -> Results:
    return results_with([row_of(name, name, "f32", name, 2.0) for name in HOSTILE.values()])


def gate_text(name: str = "alpha") -> str:
    return render_page(run_of(small_results(2.0)), gate_of(name))


PAGES: dict[str, Callable[[], str | Results]] = {
    "passing": small_results,
    "failing": lambda: small_results(2.0),
    "hostile": hostile_results,
    "empty": lambda: results_with([]),
    "comparison": comparison_text,
    "gate": gate_text,
    "hostile gate": lambda: gate_text("".join(HOSTILE.values())),
}
pages = pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)


@pages
def test_no_message_on_the_console_and_no_request(make: Callable[[], str | Results], open_page: Open) -> None:
    opened = open_page(make())
    opened.scroll_through()
    assert opened.complaints == []
    assert opened.fetched == []
    assert opened.page.evaluate("window.harmed") is None
    assert opened.page.evaluate("Object.keys(Object.prototype)") == []


def test_a_changed_prototype_would_be_seen(open_page: Open) -> None:
    """What the charts' library does to a label that is "__proto__", were it given one."""
    page = open_page(small_results()).page
    page.evaluate(
        "echarts.init(Object.assign(document.body.appendChild(document.createElement('div')), {style: 'height:99px'}))"
        ".setOption({xAxis: {data: ['__proto__', 'a']}, yAxis: {}, series: [{type: 'bar', data: [1, 2]}]})"
    )
    assert page.evaluate("Object.keys(Object.prototype)") != []


def test_a_message_and_a_request_would_be_seen(open_page: Open) -> None:
    planted = '<!doctype html><script>console.error("planted")</script><img src="http://127.0.0.1:9/x.png">'
    opened = open_page(planted, ready=False)
    assert any("planted" in complaint for complaint in opened.complaints)
    assert opened.fetched == ["http://127.0.0.1:9/x.png"]


def test_the_policy_stops_what_a_name_might_have_smuggled_in(open_page: Open) -> None:
    opened = open_page(small_results())
    opened.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"http://127.0.0.1:9/x.png\">')")
    opened.page.wait_for_timeout(300)
    assert any("Content Security Policy" in complaint for complaint in opened.complaints)


def rows(page: Any) -> list[list[str]]:
    found: list[list[str]] = page.eval_on_selector_all(
        "#layer-rows tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return found


@pytest.mark.parametrize(
    ("name", "label", "column", "left"),
    [("component", "beta", 0, 8), ("profile", "other", 2, 8), ("rung", "f64", 3, 8), ("verdict", "fail", 4, 2)],
)
def test_a_filter_leaves_its_rows_and_no_others(name: str, label: str, column: int, left: int, open_page: Open) -> None:
    page = open_page(small_results(2.0)).page
    assert len(rows(page)) == 16
    page.select_option(f"#filter-{name}", label=label)
    assert [row[column] for row in rows(page)] == [label] * left
    assert page.text_content("#shown") == f"{left} of 16 rows"
    page.click("#reset")
    assert len(rows(page)) == 16


def test_filters_combine_and_the_search_finds_layers(open_page: Open) -> None:
    page = open_page(small_results(2.0)).page
    page.select_option("#filter-component", label="beta")
    page.fill("#filter-search", "AC")
    assert {(row[0], row[1]) for row in rows(page)} == {("beta", "act")}
    assert len(rows(page)) == 4
    page.fill("#filter-search", "nowhere")
    assert rows(page) == []
    assert page.is_visible("#layers-empty")


@pytest.mark.parametrize("column", range(12))
def test_every_column_sorts_both_ways(column: int, open_page: Open) -> None:
    page = open_page(small_results(2.0)).page
    head = page.locator("#layer-table thead th").nth(column)
    orders = []
    for _ in range(2):
        head.locator(".sort").click()
        orders.append((head.get_attribute("aria-sort"), [row[column] for row in rows(page)]))
    assert {order for order, _ in orders} == {"ascending", "descending"}
    values = dict(orders)
    key = {"f64": 0, "f32": 1}.get
    plain = column in (0, 1, 2, 4)
    if column == 3:
        assert [key(v) for v in values["ascending"]] == sorted(key(v) for v in values["ascending"])
    elif plain:
        assert values["ascending"] == sorted(values["ascending"])
        assert values["descending"] == sorted(values["descending"], reverse=True)
    else:
        numbers = [float(v.split()[0].replace("∞", "inf")) for v in values["descending"] if v != "\u2013"]
        assert numbers == sorted(numbers, reverse=True)


def test_a_table_of_the_page_itself_sorts(open_page: Open) -> None:
    page = open_page(small_results(2.0)).page
    page.click("#profile-table thead th:nth-child(4) .sort")
    values = page.eval_on_selector_all(
        "#profile-table td:nth-child(4)", "cells => cells.map(c => Number(c.dataset.value))"
    )
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 1


def test_the_gate_draws_what_moved_and_its_table_sorts(open_page: Open) -> None:
    page = open_page(gate_text()).page
    page.evaluate("document.getElementById('drift').scrollIntoView({block: 'center', behavior: 'instant'})")
    page.wait_for_selector("#drift canvas")
    drawn = page.evaluate(
        "echarts.getInstanceByDom(document.getElementById('drift')).getOption().series[0].data.map(d => d.value)"
    )
    assert drawn[1] == [-0.2, -0.02, -0.02, -0.02, 0.16]
    assert all(abs(value) < 10 for value in drawn[2])
    assert page.eval_on_selector_all("#drift-table td:first-child", "cells => cells.map(c => c.textContent)") == [
        "1",
        "2",
        "3",
    ]
    labels = page.evaluate("echarts.getInstanceByDom(document.getElementById('drift')).getOption().yAxis[0].data")
    assert [label.split()[0] for label in labels] == ["1", "2", "3"]
    page.click("#drift-table thead th:nth-child(3) .sort")
    values = page.eval_on_selector_all("#drift-table td:nth-child(3)", "cells => cells.map(c => c.textContent)")
    assert values == ["+∞", "+0.500", "-0.020"]


def test_a_layer_opens_by_keyboard_and_closes_again(open_page: Open) -> None:
    page = open_page(small_results(2.0)).page
    page.focus("#layer-rows a")
    page.keyboard.press("Enter")
    page.wait_for_selector("#layer:not([hidden])")
    assert page.text_content("#layer-name") == "act"
    assert page.evaluate("document.activeElement.id") == "layer"
    assert "parity run beta --profile" in page.text_content("#layer-worst code")
    assert len(page.query_selector_all("#layer-lines tr")) == 4
    page.click("#layer-close")
    assert page.is_hidden("#layer")


def test_a_cell_of_the_heat_map_opens_component_and_layer(open_page: Open) -> None:
    page = open_page(small_results(2.0)).page
    where = "[0, 0]"

    def press() -> None:
        page.evaluate("document.getElementById('heat').scrollIntoView({block: 'center', behavior: 'instant'})")
        page.wait_for_selector("#heat canvas")
        page.wait_for_timeout(200)
        x, y = page.evaluate(
            "() => { const place = document.getElementById('heat'), box = place.getBoundingClientRect();"
            f"const at = echarts.getInstanceByDom(place).convertToPixel({{seriesIndex: 0}}, {where});"
            "return [box.x + at[0], box.y + at[1]]; }"
        )
        page.mouse.click(x, y)

    press()
    page.wait_for_function("document.getElementById('heat-title').textContent === 'Layers of alpha'")
    press()
    page.wait_for_selector("#layer:not([hidden])")
    assert page.text_content("#layer-name") == "dense"


def test_a_term_explains_itself_by_keyboard(open_page: Open) -> None:
    page = open_page(small_results()).page
    page.focus("#headroom .what")
    page.keyboard.press("Enter")
    assert page.is_visible("#term-headroom")
    page.keyboard.press("Escape")
    assert page.is_hidden("#term-headroom")


def test_the_theme_follows_the_system_and_the_button(open_page: Open) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page(small_results(), scheme=scheme).page for scheme in ("light", "dark"))
    colors = [light.evaluate(background), dark.evaluate(background)]
    assert colors[0] != colors[1]
    light.click("#theme")
    assert light.evaluate(background) == colors[1]
    light.click("#theme")
    assert light.evaluate(background) == colors[0]


@pages
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_fits_its_width(make: Callable[[], str | Results], width: int, open_page: Open) -> None:
    page = open_page(make(), width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def broken_words(page: Any) -> list[str]:
    """Words of tables, no longer than 30 characters, that stand on two lines."""
    found: list[str] = page.evaluate(
        """() => {
          const found = [];
          for (const cell of document.querySelectorAll('th, td')) {
            const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
            for (let node = walker.nextNode(); node; node = walker.nextNode())
              for (const match of node.data.matchAll(/[\\w.]+/g)) {
                const range = document.createRange();
                range.setStart(node, match.index);
                range.setEnd(node, match.index + match[0].length);
                const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
                if (match[0].length <= 30 && lines.size > 1) found.push(match[0]);
              }
          }
          return found;
        }"""
    )
    return found


@pytest.mark.parametrize("width", [390, 1280, 1440])
def test_no_word_of_a_table_is_broken_and_what_is_hidden_is_hinted_at(width: int, open_page: Open) -> None:
    rows = [row_of("blockdiag_linear", "canonical_strict", "f32", f"bert.encoder.layer{n}", 2.0) for n in range(3)]
    page = open_page(results_with(rows), width=width).page
    page.wait_for_timeout(100)
    assert broken_words(page) == []
    wide = page.eval_on_selector_all(
        ".scroll",
        "all => all.map(one => [one.scrollWidth > one.clientWidth + 2, (one.dataset.hides ?? '').includes('right')])",
    )
    assert all(hidden == hinted for hidden, hinted in wide)
    assert any(hidden for hidden, _ in wide) or width > 390
    page.add_style_tag(content="td, th { max-width: 3rem !important; overflow-wrap: anywhere !important; }")
    assert broken_words(page) != []


def test_all_charts_are_drawn_for_paper(open_page: Open) -> None:
    page = open_page(small_results(2.0)).page
    bare = "[...document.querySelectorAll('.chart')].filter(c => c.offsetParent && !c.querySelector('canvas')).length"
    assert page.evaluate(bare) > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(bare) == 0


def test_a_single_page_of_rows_has_no_buttons_to_turn_it(open_page: Open) -> None:
    page = open_page(small_results()).page
    assert page.is_hidden("#pager-back")
    assert page.is_hidden("#pager-on")
    page = open_page(large_results(60)).page
    page.click("text=Next")
    assert page.text_content("#pager-text") == "51 to 60 of 60"
    page.click("text=Previous")
    assert page.text_content("#pager-text") == "1 to 50 of 60"


def serious(page: Any) -> list[str]:
    """Serious and critical violations that axe-core finds, with the elements."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:150]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pages
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(make: Callable[[], str | Results], scheme: str, open_page: Open) -> None:
    opened = open_page(make(), scheme=scheme)
    opened.scroll_through()
    assert serious(opened.page) == []


def test_axe_finds_nothing_serious_on_a_phone_with_a_layer_open(open_page: Open) -> None:
    opened = open_page(small_results(2.0), width=WIDTHS["phone"])
    opened.page.evaluate("location.hash = 'layer-1'")
    opened.page.wait_for_selector("#layer:not([hidden])")
    opened.scroll_through()
    assert serious(opened.page) == []


def test_axe_would_find_a_field_without_a_label(open_page: Open) -> None:
    page = open_page(small_results()).page
    page.evaluate("document.querySelector('label[for=filter-rung]').remove()")
    assert any(found.startswith("select-name") for found in serious(page))
