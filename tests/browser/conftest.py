"""A browser without a screen, or the reason why there is none."""

import json
import shutil

import pytest


@pytest.fixture(scope="session")
def chromium():
    """Headless Chromium, driven by Selenium."""
    binary, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (binary and driver):
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # As root and in containers it neither has a sandbox nor enough /dev/shm.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    browser.set_script_timeout(120)
    yield Browser(browser)
    browser.quit()


class Browser:
    """A page at a time, at a width."""

    def __init__(self, driver):
        self.driver = driver

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
        """Axe's findings of impact serious or critical, each with the element's markup."""
        from axe_core_python.selenium import Axe

        # What plotly draws is hidden behind its figure's label, and has thousands of elements.
        found = Axe().run(self.driver, {"exclude": [[".js-plotly-plot"]]})["violations"]
        return [
            (v["id"], v["impact"], [n["html"][:160] for n in v["nodes"]][:3])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]

    def screenshot(self, path):
        """What is on the screen, as a PNG."""
        self.driver.save_screenshot(str(path))
