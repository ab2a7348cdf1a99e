"""Chromium without a window, driven by Selenium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service


@contextmanager
def running_browser(chromium: tuple[str, str], profile: Path, *arguments: str) -> Iterator[webdriver.Chrome]:
    """Run Chromium. Args: paths of the browser and its driver; an empty directory; more of Chromium's arguments."""
    binary, driver_path = chromium
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--lang=en-US",
        f"--user-data-dir={profile}",
        *arguments,
    ):
        options.add_argument(argument)
    # Both paths are given, so that Selenium has nothing to look for, or to download.
    driver = webdriver.Chrome(options=options, service=Service(executable_path=driver_path))
    try:
        yield driver
    finally:
        driver.quit()
