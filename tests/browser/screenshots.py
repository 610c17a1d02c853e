"""Takes the pictures of a report that the documentation shows: `python tests/browser/screenshots.py runs/digits`.

The run is a finished and evaluated one; the pictures in `docs/images` are of the preset digits. Needs Chromium.
"""

import argparse
import sys
from pathlib import Path

from chromium import Browser, headless

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SECTIONS = {"training": "Training", "mixture": "The fitted mixture", "nearest": "Nearest training rows"}


def main() -> None:
    """Write report.png, report-phone.png and a picture of each of `SECTIONS`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    page = parser.parse_args().run / "report.html"
    driver = headless()
    if driver is None:
        sys.exit("needs Chromium: apt-get install chromium chromium-driver")
    browser = Browser(driver)
    try:
        browser.open(page, 1100)
        browser.screenshot(IMAGES / "report.png")
        for name, title in SECTIONS.items():
            browser.screenshot(IMAGES / f"report-{name}.png", title)
        browser.open(page, 390, dark=True)
        browser.screenshot(IMAGES / "report-phone.png")
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
