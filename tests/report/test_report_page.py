"""The page in a real browser, opened from the disk."""

import io
import json
import re
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from netinterp_fast.data.protocol import Concept
from netinterp_fast.report import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium or chromedriver is missing")

OPTIONS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in OPTIONS.split():
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=CHROMEDRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


class Page:
    """A report open in the browser, and what a reader does and sees."""

    def __init__(self, browser, index, fragment=""):
        self.browser, self.index, self.js = browser, index, browser.execute_script
        self.resize(1280, 900)
        browser.get("about:blank")
        for log in ("browser", "performance"):
            browser.get_log(log)  # forgets what came before
        browser.get(index.as_uri() + fragment)
        self.wait("return document.getElementById('count').textContent.includes('unit')")

    def wait(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.02)

    def resize(self, width, height):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def set(self, control, value):
        """Give a control a value as a reader would; returns the milliseconds that the page worked on it."""
        return self.js(
            "const control = document.getElementById(arguments[0]);"
            "control[control.type === 'checkbox' ? 'checked' : 'value'] = arguments[1];"
            "const start = performance.now();"
            "control.dispatchEvent(new Event('input'));"
            "return performance.now() - start;",
            control,
            value,
        )

    def texts(self, selector):
        return self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    @property
    def units(self):
        return [int(text.removeprefix("unit ")) for text in self.texts("#cards .number")]

    @property
    def count(self):
        return self.texts("#count")[0]

    def assert_clean(self):
        """Nothing was logged, nothing came from elsewhere, the page is no wider than the window."""
        assert self.browser.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert self.index.with_name("data").as_uri() + "/layer_0.js" in urls
        assert all(url.startswith((self.index.parent.as_uri(), "data:,", "about:", "chrome:")) for url in urls)
        assert self.js("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.fixture
def open_page(browser, tmp_path):
    def open_page(result, fragment=""):
        return Page(browser, write_report(result, tmp_path / "report"), fragment)

    return open_page


def test_sorting_and_filters(open_page, make_dissection, make_layer):
    page = open_page(make_dissection(make_layer()))
    assert page.units == [1, 5, 0, 2, 3, 4]
    assert page.texts("#cards h3") == ["cat", "car", "car", "carpet", "striped", "no concept"]
    assert page.texts("#cards .iou")[:2] == ["IoU 0.500", "IoU 0.400"]
    assert page.count == "6 units"

    page.set("sort", "unit")
    assert page.units == [0, 1, 2, 3, 4, 5]
    page.set("sort", "label")
    assert page.units == [5, 0, 2, 1, 3, 4]

    page.set("query", "CAR")
    assert page.units == [5, 0, 2]
    assert page.count == "3 of 6 units"
    page.set("query", '"car"')
    assert page.units == [5, 0]
    page.set("query", "no such thing")
    assert page.units == []
    assert page.js("return document.getElementById('nothing').innerText") == "No unit matches."

    page.set("query", "")
    page.set("category", "texture")
    assert page.units == [3]
    page.set("detectors", True)
    assert page.units == []
    page.set("category", "")
    assert page.units == [5, 0, 2, 1]
    page.assert_clean()


def test_layers_and_the_address(open_page, make_dissection, make_layer):
    first, second = make_layer("block/1 & more"), make_layer("block.2", [{4: 70}, {4: 90}])
    page = open_page(make_dissection(first, second), "#layer=block.2&sort=unit&q=stri")
    assert page.units == [0, 1]
    assert page.js("return document.getElementById('query').value") == "stri"
    assert page.js("return [...document.querySelectorAll('.summary')].map((e) => e.hidden)") == [True, False]

    page.js("document.querySelector('.tabs a').click()")
    page.wait("return document.getElementById('count').textContent === '6 units'")
    assert page.units == [1, 5, 0, 2, 3, 4]
    assert page.texts(".tabs a[aria-current] .name") == ["block/1 & more"]

    page.set("query", "car")
    page.set("detectors", True)
    page.wait("return location.hash.includes('q=car')")
    address = page.js("return location.hash")
    page = Page(page.browser, page.index, address)
    assert page.units == [5, 0, 2]
    assert page.js("return document.getElementById('detectors').checked")

    page.js("document.querySelector('.chart a').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    page.wait("return document.getElementById('query').value === '\"car\"'")
    assert page.units == [5, 0]
    page.assert_clean()


def test_regions_are_painted_over_the_images(open_page, make_dissection, make_layer):
    layer = make_layer(iou_percent=[{1: 50}], n_top=2)
    layer.thresholds[:] = 0.5
    layer.top_maps = (torch.arange(8) < 4).float().expand(1, 2, 8, 8).clone()  # the left half
    layer.top_maps[0, 1] = layer.top_maps[0, 1].T.clone()
    page = open_page(make_dissection(layer))
    page.wait("return document.querySelectorAll('canvas')[1].width === 112")
    alphas = page.js(
        "return [...document.querySelectorAll('canvas')].map((canvas) => {"
        "const pixels = canvas.getContext('2d').getImageData(0, 0, 112, 112).data;"
        "return [...pixels.filter((_, i) => i % 4 === 3)];})"
    )
    left, upper = (np.array(alpha).reshape(112, 112) for alpha in alphas)
    assert (left[:, :56] == 0).all()
    assert (left[:, 56:] > 100).all()
    assert (upper == left.T).all()

    page.wait("return [...document.images].every((image) => image.complete && image.naturalWidth)")
    tile = page.browser.find_elements("css selector", ".strip li")[0]
    seen = np.asarray(Image.open(io.BytesIO(tile.screenshot_as_png)).convert("L")).astype(int)
    height, width = seen.shape
    assert seen[height // 2, width // 4] > 240  # the white thumbnail
    assert seen[height // 2, 3 * width // 4] < 120  # darkened
    assert page.texts("#cards .strip li") == ["", ""]
    assert page.js("return document.images[0].alt").startswith("photo 0, activation 0.9")
    page.assert_clean()


def test_details_of_a_unit(open_page, make_dissection, make_layer):
    page = open_page(make_dissection(make_layer()))
    page.js("for (const details of document.querySelectorAll('.unit details')) details.open = true")
    page.wait("return document.querySelectorAll('.unit details tr').length > 0")
    rows = page.js(
        "return [...document.querySelectorAll('.unit:first-child tr')]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert rows == [["threshold", "0.6", ""], ["object", "cat", "0.500"], ["part", "wheel", "0.050"]]
    page.assert_clean()


def test_units_without_concept_units_or_images(open_page, make_dissection, make_layer):
    dead, empty, bare = make_layer("dead", [{}, {}]), make_layer("empty", []), make_layer("bare", n_top=0)
    dead.top_images[0, 1:] = -1
    dead.top_images[1] = -1
    page = open_page(make_dissection(dead, empty, bare))
    assert page.texts("#cards h3") == ["no concept", "no concept"]
    strips = "return [...document.querySelectorAll('.strip')].map((strip) => strip.children.length)"
    assert page.js(strips) == [1, 0]
    page.js("location.hash = '#layer=empty'")
    page.wait("return document.getElementById('count').textContent === '0 units'")
    assert page.texts("#nothing") == ["This layer has no units."]
    page.js("location.hash = '#layer=bare'")
    page.wait("return document.getElementById('count').textContent === '6 units'")
    assert page.js(strips) == [0] * 6
    page.assert_clean()


HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "'); window.hacked = 1; ('",
    "<!--<script>\u2028\u2029</title></template></style>",
    "{{ 7 * 7 }}${window.hacked = 1}\\",
]


def test_hostile_names_are_only_text(open_page, make_dissection, make_layer):
    concepts = [Concept(i, name, f"{name} {i}") for i, name in enumerate(HOSTILE, start=1)]
    layers = [make_layer(name, [{i: 30} for i in range(1, 6)], concepts) for name in HOSTILE]
    result = make_dissection(*layers, **{name: [name] for name in HOSTILE})
    result.settings["model"] = result.settings["dataset"] = "".join(HOSTILE)
    result.settings["time"] = {"finished": HOSTILE[0] + "\n" + HOSTILE[1], "seconds": 1}
    result.image_names = {i: HOSTILE[i % 5] for i in result.image_names}
    page = open_page(result)
    for tab in range(5):
        page.js("document.querySelectorAll('.tabs a')[arguments[0]].click()", tab)
        page.wait(f"return document.querySelectorAll('.tabs a')[{tab}].hasAttribute('aria-current')")
        page.wait("return document.getElementById('count').textContent === '5 units'")
        page.js("for (const details of document.querySelectorAll('.unit details')) details.open = true")
        page.set("sort", "unit")
        assert page.texts("#cards h3") == HOSTILE
    for i, concept in enumerate(concepts):
        page.set("category", concept.category)
        assert page.units == [i]
    assert page.texts("h1") == [f"{''.join(HOSTILE)} on {''.join(HOSTILE)}"]
    assert page.texts(".settings th")[-5:] == HOSTILE
    assert page.js("return document.images[0].alt").startswith(HOSTILE[4])
    assert page.js("return window.hacked") is None
    assert page.js("return document.scripts.length") == 1 + len(layers)
    assert page.js("return document.querySelectorAll('img[src=x], [onerror]').length") == 0
    page.assert_clean()


def of_model(layer, model):
    """A layer as one of several models has it."""
    layer.model, layer.name = model, f"{model}/{layer.name}"
    return layer


def test_several_models(open_page, make_dissection, make_layer):
    """Names that need escaping, in a table of links; the second model has one layer."""
    first, second = HOSTILE[:2]
    first, second = first.replace("/", "|"), second.replace("/", "|")
    layers = [
        of_model(make_layer("a | lower"), first),
        of_model(make_layer(HOSTILE[0], [{4: 70}, {4: 90}]), first),
        of_model(make_layer("a | lower", [{}]), second),
    ]
    page = open_page(make_dissection(*layers))
    assert page.texts(".matrix th") == ["a | lower", HOSTILE[0], first, second]
    assert page.texts(".matrix td a span") == ["3", "1", "0"]
    assert page.texts(".matrix .legend li") == ["object", "texture", "part"]
    bars = "return [...document.querySelectorAll('.matrix td svg')].map((svg) => svg.viewBox.baseVal.width)"
    assert page.js(bars) == [3, 3, 3]
    for cell, units in enumerate(["6 units", "2 units", "1 units"]):
        page.js("document.querySelectorAll('.matrix a')[arguments[0]].click()", cell)
        page.wait(f"return document.getElementById('count').textContent === '{units}'")
        assert page.js("return [...document.querySelectorAll('.matrix a')].map((a) => a.ariaCurrent)") == [
            "true" if i == cell else None for i in range(3)
        ]
        assert page.texts(".summary:not([hidden]) dd.name") == [layers[cell].name]
    assert page.js("return window.hacked") is None
    page.assert_clean()


@pytest.mark.parametrize("width", [390, 1280])
def test_many_models_and_long_names(open_page, make_dissection, make_layer, width):
    layers = [
        of_model(
            make_layer(f"features.stage4.block{layer}.conv_with_a_name_that_goes_on"), f"epoch={epoch}-loss=0.123456789"
        )
        for epoch in range(25)
        for layer in range(7)
    ]
    page = open_page(make_dissection(*layers))
    page.resize(width, 844)
    page.wait(f"return document.documentElement.clientWidth <= {width}")
    assert len(page.texts(".matrix td a")) == 25 * 7
    assert page.js("return document.querySelector('.matrix').offsetHeight") < 844
    page.assert_clean()


@pytest.mark.parametrize("width", [390, 320, 700, 1280])
def test_no_sideways_scrolling(open_page, make_dissection, make_layer, width):
    concepts = [Concept(i, f"a_long_concept_name-{i}" * (1 + i % 3), f"category{i % 6}") for i in range(1, 61)]
    names = ["features.stage4.block23.conv_with_a_name_that_goes_on_and_on", "b"]
    layers = [make_layer(name, [{i: 30} for i in range(1, 61)], concepts, n_top=9) for name in names]
    page = open_page(make_dissection(*layers, weights="0123456789abcdef" * 12))
    page.js("for (const details of document.querySelectorAll('details')) details.open = true")
    page.resize(width, 844)
    page.wait(f"return document.documentElement.clientWidth <= {width}")
    page.assert_clean()


def test_light_and_dark(open_page, make_dissection, make_layer):
    page = open_page(make_dissection(make_layer()))
    brightness = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        for colour, of in (("page", "backgroundColor"), ("text", "color")):
            value = page.js(f"return getComputedStyle(document.body).{of}")
            brightness[scheme, colour] = sum(int(part) for part in re.findall(r"\d+", value)[:3]) / 3
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert brightness["light", "page"] - brightness["light", "text"] > 180
    assert brightness["dark", "text"] - brightness["dark", "page"] > 180


def script_milliseconds(browser):
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return 1000 * next(metric["value"] for metric in metrics if metric["name"] == "ScriptDuration")


def test_thousands_of_units_stay_quick(browser, open_page, make_dissection, make_layer, capsys):
    concepts = [Concept(i, f"concept {i}", f"category {i % 6}") for i in range(1, 301)]
    layer = make_layer("big", [{1 + unit % 300: 1 + unit % 90} for unit in range(4096)], concepts, n_top=9)
    layer.top_images %= 40
    browser.execute_cdp_cmd("Performance.enable", {})
    before = script_milliseconds(browser)
    page = open_page(make_dissection(layer))
    loading = script_milliseconds(browser) - before
    times = {
        "search": page.set("query", "concept 1"),
        "category": page.set("category", "category 2"),
        "sort by label": page.set("sort", "label"),
        "detectors": page.set("detectors", True),
    }
    page.set("query", "")
    page.set("category", "")
    with capsys.disabled():
        print(
            f"\n4096 units: script {loading:.0f} ms to load,",
            ", ".join(f"{k} {v:.0f}" for k, v in times.items()),
        )
    assert max(times.values()) < 3000
    assert page.count == "3,912 of 4,096 units"
    assert len(page.units) < 200  # the rest waits until it is scrolled to
    before = len(page.units)
    page.js("window.scrollTo(0, document.body.scrollHeight)")
    page.wait(f"return document.querySelectorAll('#cards .unit').length > {before}")
    painted = "return [...document.querySelectorAll('canvas')].filter((canvas) => canvas.width > 0).length"
    page.wait(f"{painted} < document.querySelectorAll('canvas').length / 2")
    page.assert_clean()
