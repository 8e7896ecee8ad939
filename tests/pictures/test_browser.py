"""The pages in a browser: the graph is drawn, folds, is searched and reached by keys, wide and narrow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import FIXTURES, RESIDUAL
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.pictures import model_graph, page

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)
COUNT = "return document.querySelectorAll('#graph .layer').length"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def labelled(browser: Any, text: str) -> Any:
    """The first layer in the picture whose label for screen readers has ``text``."""
    layers = browser.find_elements("css selector", "#graph .layer")
    return next(e for e in layers if text in e.get_attribute("aria-label"))


def opened(browser: Any, path: Path, width: int = 1280) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(path.as_uri())
    WebDriverWait(browser, 60).until(
        lambda b: b.execute_script("return document.getElementById('graph').dataset.ready")
    )
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    return browser


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = dpnn_bridge.to_torch(dpnn_bridge.read_t7(RESIDUAL)["module"])
    path = tmp_path_factory.mktemp("page") / "residual.html"
    path.write_text(page(model_graph(module, histograms=True), "residual", source=RESIDUAL), encoding="utf-8")
    return path


def test_layers_fold_and_unfold_and_show_their_details(browser: Any, residual: Path) -> None:
    opened(browser, residual)
    assert browser.execute_script(COUNT) == 15
    browser.find_element("id", "fold").click()
    folded = browser.execute_script(COUNT)
    assert folded < 15
    box = next(
        e
        for e in browser.find_elements("css selector", "#graph .layer")
        if "ConcatTable" in e.get_attribute("aria-label")
    )
    assert box.get_attribute("aria-expanded") == "false"
    box.send_keys("\n")
    assert browser.execute_script(COUNT) > folded
    assert "ConcatTable" in browser.find_element("id", "details").text
    browser.find_element("id", "unfold").click()
    assert browser.execute_script(COUNT) == 15
    layer = labelled(browser, "Conv2d")
    layer.send_keys(" ")
    assert browser.find_elements("css selector", "#details .bars[aria-label^='Histogram of weight']")


def test_keys_go_through_the_tree(browser: Any, residual: Path) -> None:
    """Tab has one stop among the layers; arrow keys go on from there, fold, and bring what they reach into view."""
    from selenium.webdriver.common.keys import Keys

    opened(browser, residual)
    assert len(browser.find_elements("css selector", "#graph [tabindex='0']")) == 1
    browser.find_element("id", "search").send_keys(Keys.TAB)

    def press(*keys: str) -> str:
        for key in keys:
            browser.switch_to.active_element.send_keys(key)
        return browser.switch_to.active_element.get_attribute("aria-label")

    places = [press(Keys.HOME)] + [press(Keys.ARROW_DOWN) for _ in range(14)]
    assert "the model" in places[0]
    assert [p.split(", ")[-1] for p in places[1:3]] == ["modules[1]", "modules[2]"]
    inside = "const a = document.activeElement.getBoundingClientRect(), b = graph.getBoundingClientRect();"
    assert browser.execute_script(inside + "return a.top >= b.top && a.bottom <= b.bottom"), "the last is in view"
    assert press(Keys.ARROW_DOWN) == places[-1], "there is nothing behind the last"
    container = press(Keys.HOME, *[Keys.ARROW_DOWN] * next(i for i, p in enumerate(places) if "ConcatTable" in p))
    assert "ConcatTable" in container
    before = browser.execute_script(COUNT)
    assert "ConcatTable" in press(Keys.ARROW_LEFT)
    assert browser.execute_script(COUNT) < before
    assert browser.switch_to.active_element.get_attribute("aria-expanded") == "false"
    assert "▸" in browser.switch_to.active_element.get_attribute("textContent")
    assert press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).startswith(places[places.index(container) + 1].split(",")[0])
    assert press(Keys.ARROW_LEFT, Keys.ARROW_LEFT) == container, "one folds, one goes up"
    assert press(Keys.ENTER) == container
    assert "ConcatTable" in browser.find_element("id", "details").text


def test_screen_readers_meet_a_tree(browser: Any, residual: Path) -> None:
    opened(browser, residual)
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = [n for n in browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"] if not n["ignored"]]
    roles: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        roles.setdefault(node["role"]["value"], []).append(node)
    (tree,) = roles["tree"]
    assert tree["name"]["value"] == "Graph of the model"
    assert "Arrow keys" in tree["description"]["value"]
    assert len(roles["treeitem"]) == 15
    assert all(node["name"]["value"] for node in roles["treeitem"])
    levels = {p["value"]["value"] for node in roles["treeitem"] for p in node["properties"] if p["name"] == "level"}
    assert levels == {1, 2, 3, 4}
    buttons = {node["name"]["value"] for node in roles["button"]}
    assert buttons == {"Unfold all", "Fold all", "Zoom in", "Zoom out", "Fit"}
    assert [node["name"]["value"].strip() for node in roles["searchbox"]] == ["Search"]


def test_paper_shows_all_of_the_graph_in_light_colours(browser: Any, residual: Path) -> None:
    opened(browser, residual)
    for _ in range(3):
        browser.find_element("id", "closer").click()
    shown = "const [, , w, h] = document.querySelector('#graph svg').getAttribute('viewBox').split(' '); return +h"
    before = browser.execute_script(shown)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(shown) > before
    box = "const s = document.querySelector('#graph svg'), g = s.querySelector('.graph').getBoundingClientRect();"
    assert browser.execute_script(box + "return g.height <= s.getBoundingClientRect().height")
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(shown) == before
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    try:
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(255, 255, 255)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_search_marks_what_it_finds(browser: Any, residual: Path) -> None:
    opened(browser, residual)
    browser.find_element("id", "search").send_keys("SpatialConvolution\n")
    assert browser.find_element("id", "found").text == "3 of 15 layers"
    assert len(browser.find_elements("css selector", "#graph .hit")) == 3


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(browser: Any, residual: Path, width: int) -> None:
    opened(browser, residual, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    graph = browser.find_element("id", "graph").rect
    assert graph["width"] <= width
    assert graph["height"] > 300


def test_report_colours_layers_and_filters_what_failed(browser: Any, deviating: Path, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    assert CliRunner().invoke(verify_command, [str(deviating), "--html", str(html)]).exit_code == 4
    opened(browser, html, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    (different,) = browser.find_elements("css selector", "#graph .node.v-different")
    assert "modules[5].modules[1].modules[1]" in different.get_attribute("aria-label")
    assert "✗" in different.get_attribute("textContent"), "colour is not the only sign"
    equal = browser.find_elements("css selector", "#graph .node.v-equal")
    assert all("✓" in e.get_attribute("textContent") for e in equal)
    narrow = "return document.querySelector('#graph svg').getBoundingClientRect().width <= graph.clientWidth"
    assert browser.execute_script(narrow)
    browser.find_element("css selector", "#filter").send_keys("different")
    assert "of 15 layers" in browser.find_element("id", "found").text


@pytest.mark.parametrize(
    "sample",
    [
        "AdaIN-style__decoder",
        "char-rnn__lstm",
        "deepmask__symmetric_padding_small",
        "imagenet-multiGPU__features_DPT_small",
        "neuraltalk2__LanguageModel",
        "rnn__recurrent-visual-attention",
        "torch-demos__mnist_convnet",
    ],
)
def test_samples_are_drawn(browser: Any, tmp_path: Path, sample: str) -> None:
    path = FIXTURES / "samples" / sample / "model.t7"
    html = tmp_path / "sample.html"
    html.write_text(page(model_graph(dpnn_bridge.load(path)), sample, source=path), encoding="utf-8")
    opened(browser, html)
    assert browser.execute_script(COUNT) > 1


def test_support_page_is_searched_from_a_file(browser: Any, tmp_path: Path) -> None:
    docs = Path(__file__).parents[2] / "docs"
    body, script = (docs / "support.md").read_text(), (docs / "support.js").read_text()
    page = tmp_path / "support.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><body>{body}<script>{script}</script>", encoding="utf-8")
    shown = "return [...document.querySelectorAll('details.support tbody tr')].filter(r => r.checkVisibility()).length"
    browser.get(page.as_uri())
    assert browser.execute_script(shown) == 0  # closed sections
    field = browser.find_element("css selector", ".support-search input")
    field.send_keys("spatialconvolution cudnn")
    rows = browser.execute_script(shown)
    assert 0 < rows < 20
    field.send_keys(" nonsense")
    assert browser.execute_script(shown) == 0
    assert browser.find_element("css selector", ".support-none").is_displayed()
    browser.get(f"{page.as_uri()}?class=onmt.Decoder")
    assert browser.execute_script(shown) > 0


def test_pages_are_small_and_show_deep_networks(browser: Any, tmp_path: Path) -> None:
    """At most 300 kB for a LeNet; 1,000 layers open; every kind of layer in its colour, named in the legend."""
    lenet = dpnn_bridge.load(SAMPLES / "torch-demos__mnist_convnet" / "model.t7")
    path = tmp_path / "lenet.html"
    path.write_text(page(model_graph(lenet, histograms=True), "lenet"), encoding="utf-8")
    assert path.stat().st_size < 300_000
    opened(browser, path)
    texts = browser.execute_script("return [...document.querySelectorAll('#graph text')].map((e) => e.textContent)")
    assert {"5×5", "3×3, stride 3, pad 1", "1 → 32", "576 → 200"} <= set(texts)
    kinds = {c for e in browser.find_elements("css selector", "#graph .node") for c in e.get_attribute("class").split()}
    legend = {e.text for e in browser.find_elements("css selector", ".kinds span")}
    assert {"k-convolution", "k-activation", "k-pooling", "k-linear"} <= kinds
    assert {"convolution", "activation", "pooling", "linear"} <= legend
    assert not browser.find_element("id", "map").is_displayed(), "all of it is in view"
    assert browser.find_elements("css selector", "#graph .weights") == []
    browser.find_element("id", "weights").click()
    assert len(browser.find_elements("css selector", "#graph .weights")) == 4
    assert any(e.text.startswith("-0.1998 to 0.1999") for e in browser.find_elements("css selector", "#graph text"))
    deep = nn.Sequential(*(nn.Conv2d(1, 1, 3) if i % 2 else nn.ReLU() for i in range(1000)))
    path.write_text(page(model_graph(deep), "deep"), encoding="utf-8")
    opened(browser, path)
    assert browser.find_elements("id", "weights") == [], "the page has no histograms"
    browser.find_element("id", "unfold").click()
    small = browser.find_element("id", "map")
    assert small.is_displayed()
    assert {e.get_attribute("class") for e in small.find_elements("tag name", "path")} == {
        "k-convolution",
        "k-activation",
    }
    frame = "return document.querySelector('#map rect').getAttribute('y')"
    before = float(browser.execute_script(frame))
    browser.find_element("id", "closer").click()
    small.click()
    assert float(browser.execute_script(frame)) > before, "a click moves the view"
