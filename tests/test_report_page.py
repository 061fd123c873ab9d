"""The page of a report: whole, safe, small, and usable in a real browser."""

import json
import os
import re
import shutil

import numpy as np
import pytest

from src.reporting import pictures
from src.reporting.curves import Curve, learning_curves, thinned
from src.reporting.page import as_page, named
from src.reporting.report import make_report
from src.reporting.stored import find_runs
from tests.test_report import store


def with_rows(folder, rows):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def study(tmp_path):
    """Two methods with three seeds each, and a run that was refused."""
    for seed in range(3):
        for method, slope in (("rhg", 0.1), ("bda", 0.2)):
            folder = tmp_path / f"{method}{seed}"
            curve = {"test/accuracy": [0.2, 0.5 + slope], "test/accuracy_ci95": [0.0, 0.1]}
            store(folder, method, seed, 0.5 + slope + 0.01 * seed, adaptation=curve)
            rows = [
                {"step": step, "train/upper_loss": 100.0 ** (1 - step), "train/alpha": 0.5}
                | {"validation/accuracy": slope * step + 0.01 * seed, "seconds": 1.0}
                for step in (0, 1, 2)
            ]
            with_rows(folder, rows)
    failure = {"folder": str(tmp_path / "<d>"), "overrides": ["a=<b>"], "reason": "no & no"}
    (tmp_path / "failures.jsonl").write_text(json.dumps(failure) + "\n")
    return tmp_path


def test_curves_are_means_over_seeds(study):
    bda = make_report(find_runs([study])).groups[0]
    curve = learning_curves(bda)["validation/accuracy"]
    assert curve.steps.tolist() == [0, 1, 2]
    np.testing.assert_allclose(curve.values, [0.01, 0.21, 0.41])
    np.testing.assert_allclose(curve.half_widths, 4.302653 * 0.01 / 3**0.5, rtol=1e-5)
    assert set(learning_curves(bda)) == {"validation/accuracy", "train/upper_loss", "train/alpha"}


def test_runs_of_other_lengths_are_averaged_where_all_have_rows(study):
    with_rows(study / "bda0", [{"step": step, "train/alpha": 2.0} for step in (1, 2, 3)])
    curve = learning_curves(make_report(find_runs([study])).groups[0])["train/alpha"]
    assert (curve.steps.tolist(), curve.values.tolist()) == ([1, 2], [1.0, 1.0])


def test_seeds_that_share_no_step_have_no_curve_and_it_is_said(study):
    for seed, steps in enumerate([(10, 20), (7, 14), (9, 18)]):
        with_rows(study / f"bda{seed}", [{"step": s, "train/upper_loss": 1.0} for s in steps])
    page = as_page(make_report(find_runs([study])), study)
    assert "Not drawn: train/upper_loss (method=bda). Its seeds share no iteration" in page
    assert 'aria-label="train: upper loss F"' in page  # of the other row


def test_long_curves_are_thinned():
    line = np.arange(10_001.0)
    short = thinned(Curve(line, line, line, line))
    assert len(short.steps) == 200
    assert short.steps[[0, -1]].tolist() == [0, 10_000]


def test_the_page_holds_everything_and_nothing_from_elsewhere(study):
    page = as_page(make_report(find_runs([study]), baseline="method=rhg"), study)
    assert "6 runs compared by best/test/accuracy" in page
    pictures = re.findall(r'<svg role="img" aria-label="([^"]+)"', page)
    assert pictures == [
        *("validation: accuracy", "train: upper loss F", "train: alpha (mean)", "test: accuracy"),
        "best/test/accuracy",
    ]
    # What was typed, or stands in a file, is text and not a part of the page.
    assert "no &amp; no (a=&lt;b&gt;)" in page
    assert 'href="%3Cd%3E/"' in page
    assert "<d>" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith("#") or not re.match(r"\w+:|//", link) for link in links)
    assert "@import" not in page
    assert "url(http" not in page


def test_numbers_at_an_axis_are_not_cut():
    curve = Curve(np.arange(2), np.array([0.9991, 0.9998]), np.full(2, np.nan), np.ones(2))
    svg = pictures.curves([(pictures.styles(1)[0], curve)], "iteration", "test/narrow")
    numbers = re.findall(r">(0\.999\d)<", svg)
    assert len(set(numbers)) == len(numbers) > 2


def test_a_hundred_runs_are_less_than_three_megabytes(tmp_path):
    names = [f"{split}/{name}" for split in ("train", "validation") for name in "abcdefgh"]
    for i in range(100):
        store(tmp_path / f"r{i}", f"method{i}", 0, i / 100)
        rows = [{"step": s, **dict.fromkeys(names, s * 0.37 % (i + 2))} for s in range(1000)]
        with_rows(tmp_path / f"r{i}", rows)
    page = as_page(make_report(find_runs([tmp_path])), tmp_path)
    assert len(page.encode()) < 3_000_000
    assert "Of 100 rows the first 20 are drawn" in page


def test_a_group_is_named_by_what_sets_it_apart(tmp_path):
    store(tmp_path / "a", "rhg", 0, 0.1, config={"num_iterations": 5})
    store(tmp_path / "b", "rhg", 0, 0.1, config={"num_iterations": 6})
    store(tmp_path / "c", "bda", 0, 0.1, config={"num_iterations": 6})
    report = make_report(find_runs([tmp_path]))
    assert [named(report, group) for group in report.groups] == [
        "method=rhg, num_iterations=5",
        "method=rhg, num_iterations=6",
        "method=bda",
    ]


@pytest.fixture
def browser(tmp_path_factory):
    """A headless Chromium of this machine."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("the page is not opened: there is no chromium with chromedriver here")
    options = selenium.ChromeOptions()
    options.binary_location = programs[0]
    flags = ["headless", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
    flags += ["disable-background-networking", "disable-component-update"]
    flags += ["no-sandbox"] if os.geteuid() == 0 else []
    flags += [f"user-data-dir={tmp_path_factory.mktemp('chromium')}", "window-size=1200,900"]
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = selenium.ChromeService(programs[1])
    driver = selenium.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def test_the_page_in_a_browser(study, browser):
    """Sorts by numbers, filters, fits a narrow window, and is dark where the reader's system is."""
    page = study / "report.html"
    page.write_text(as_page(make_report(find_runs([study])), study), encoding="utf-8")
    browser.get(page.as_uri())

    def column(table, index):
        script = (
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())"
        )
        return browser.execute_script(script, f"#{table} tr:not([hidden]) td:nth-child({index})")

    def click(table, index):
        browser.find_element("css selector", f"#{table} th:nth-child({index}) button").click()

    assert column("groups", 1) == ["bda", "rhg"]
    click("groups", 3)
    assert column("groups", 1) == ["rhg", "bda"]
    click("groups", 3)
    assert column("groups", 1) == ["bda", "rhg"]
    browser.find_element("css selector", 'input[data-of="runs"]').send_keys("rhg")
    assert set(column("runs", 2)) == {"rhg"}
    count = browser.find_element("css selector", '[data-count="runs"]').text
    assert count == "3 of 6 rows"

    def paper():
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    light = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", light)
    assert paper() == "rgb(255, 255, 255)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    assert paper() == "rgb(20, 23, 26)"
    browser.find_element("css selector", ".theme").click()
    assert paper() == "rgb(255, 255, 255)"

    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
