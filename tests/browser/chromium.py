"""Chromium without a screen: what tests ask of a page, and pictures of it."""

import base64
import json
import shutil

FAINT = """
const light = colour => {
  const part = colour.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
};
const ground = light(getComputedStyle(document.body).backgroundColor);
return [...document.querySelectorAll('.js-plotly-plot text')]
  .filter(e => e.textContent.trim() && e.getClientRects().length)
  .map(e => [e.textContent, light(getComputedStyle(e).fill)])
  .filter(([_, l]) => (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05) < 4.5)
  .map(([words, _]) => words);
"""
BROKEN = """
const broken = [];
for (const cell of document.querySelectorAll('th:first-child, td:first-child')) {
  const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    for (const word of walker.currentNode.data.matchAll(/[\\p{L}\\d]+/gu)) {
      const range = document.createRange();
      range.setStart(walker.currentNode, word.index);
      range.setEnd(walker.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map(r => r.top)).size > 1) broken.push(word[0]);
    }
  }
}
return broken;
"""
OVERLAPS = """
const box = e => {const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]};
const named = e => (e.closest('figure') ?? e).innerText?.trim().slice(0, 40) || e.outerHTML.slice(0, 40);
const shown = s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility());
const found = [];
for (const plot of shown('.plot')) {
  const [left, top, right, bottom] = box(plot);
  for (const svg of plot.querySelectorAll('.main-svg')) {
    const [l, t, r, b] = box(svg);
    if (l < left - 1 || t < top - 1 || r > right + 1 || b > bottom + 1) found.push(['outside its box', named(plot)]);
  }
}
const parts = shown('h1, h2, h3, p, .wide, figcaption, summary, img, .plot, .plot .main-svg')
  .map(e => [e, box(e)]);
for (const [i, [a, x]] of parts.entries()) {
  for (const [b, y] of parts.slice(i + 1)) {
    if (a.closest('.plot') && a.closest('.plot') === b.closest('.plot')) continue;
    const width = Math.min(x[2], y[2]) - Math.max(x[0], y[0]);
    const height = Math.min(x[3], y[3]) - Math.max(x[1], y[1]);
    if (width > 1 && height > 1 && !a.contains(b)) found.push([named(a), named(b)]);
  }
}
return found;
"""


def headless():
    """Selenium's driver of a Chromium without a screen; None if that is not installed."""
    binary, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (binary and driver):
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # As root and in containers it neither has a sandbox nor enough /dev/shm, and WebGL is drawn by the processor.
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    browser.set_script_timeout(120)
    return browser


class Browser:
    """A page at a time, at a width; `axe_script` is what `accessibility` runs."""

    def __init__(self, driver, axe_script=""):
        self.driver, self._axe = driver, axe_script

    def open(self, path, width, dark=False):
        """Load a file; the page has that width in CSS pixels."""
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(path.resolve().as_uri())

    def run(self, script):
        """The value that a script returns."""
        return self.driver.execute_script(script)

    def errors(self):
        """Messages of the console since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """Addresses asked for since the page was opened, but for the file itself and what it holds."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("file:", "data:", "blob:"))]

    def accessibility(self):
        """Axe's findings of impact serious or critical, each with the element's markup; figures are looked at too."""
        self.driver.execute_script(self._axe)
        found = self.driver.execute_async_script("axe.run().then(arguments[0])")["violations"]
        return [
            (v["id"], v["impact"], [n["html"][:160] for n in v["nodes"]][:3])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]

    def faint_text(self):
        """Texts of figures whose contrast with the page is below WCAG's 4.5; axe cannot see what is behind SVG text."""
        return self.run(FAINT)

    def overlaps(self):
        """Pairs of figures, headings, captions, pictures and tables that lie over each other, and figures outside their box."""
        return self.run(OVERLAPS)

    def broken_words(self):
        """Words in the first column of tables that go over more than one line."""
        return self.run(BROKEN)

    def screenshot(self, path, section=None):
        """Write a PNG of what is on the screen, or of the section with this title, whole."""
        clip = {}
        if section is not None:
            box = self.driver.execute_script(
                "const h = [...document.querySelectorAll('h2')].find(e => e.textContent === arguments[0]);"
                "const r = h.parentElement.getBoundingClientRect();"
                "return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height, scale: 1}",
                section,
            )
            clip = {"clip": box, "captureBeyondViewport": True}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", **clip})
        path.write_bytes(base64.b64decode(shot["data"]))
