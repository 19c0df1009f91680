"""The built book in a headless browser: links, alt text, offline equations, no outside request, accessibility."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from medrepro import bookbuild, paths
from tests.checkout import Checkout

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser_only = [
    pytest.mark.slow,
    pytest.mark.xdist_group("book"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
PAGES = ["book/index", "book/use", "book/ledger", "book/data", "book/glossary", "book/references"]
PAGES += [f"notebooks/{name}" for name in bookbuild.pages()]
VIEWS = {
    "desktop": (1280, 900, "light"),
    "dark": (1280, 900, "dark"),
    "phone": (360, 740, "light"),
    "narrow": (320, 700, "light"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    copy = Checkout(tmp_path_factory.mktemp("book"))
    copy.book()
    return copy.build / "html"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


def opened(browser, site, page, view):
    width, height, scheme = VIEWS[view]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab, requests, errors = context.new_page(), [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto((site / f"{page}.html").as_uri())
    tab.wait_for_timeout(600)
    outside = [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    return tab, outside, errors


class TestBook:
    pytestmark = browser_only

    def test_pages_have_no_dead_link_no_missing_alt_and_no_outside_address(self, site):
        assert bookbuild.page_faults(site) == []

    @pytest.mark.parametrize("page", PAGES)
    @pytest.mark.parametrize("view", VIEWS)
    def test_page_asks_no_other_host_and_does_not_scroll_sideways(self, browser, site, page, view):
        tab, outside, errors = opened(browser, site, page, view)
        assert outside == []
        assert errors == []
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        tab.context.close()

    @pytest.mark.parametrize("page", PAGES)
    @pytest.mark.parametrize("view", ["desktop", "dark", "phone"])
    def test_page_has_no_serious_accessibility_finding(self, browser, site, page, view):
        from axe_playwright_python.sync_playwright import Axe

        tab, _, _ = opened(browser, site, page, view)
        found = Axe().run(tab).response["violations"]
        told = [
            (one["id"], one["impact"], one["nodes"][0]["html"][:200])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert told == []
        tab.context.close()

    @pytest.mark.parametrize("page", [f"notebooks/{name}" for name in bookbuild.pages()])
    def test_equations_render_offline(self, browser, site, page):
        tab, _, _ = opened(browser, site, page, "desktop")
        tab.wait_for_selector("mjx-container", timeout=10_000)
        assert tab.locator("mjx-container").count() >= 2
        assert tab.locator("mjx-merror").count() == 0
        tab.context.close()

    def test_pictures_carry_sentences_as_alt_text(self, browser, site):
        for page in PAGES:
            tab, _, _ = opened(browser, site, page, "desktop")
            for alt in tab.eval_on_selector_all("article img", "all => all.map(one => one.alt)"):
                assert len(alt.split()) >= 6, f"{page}: {alt!r}"
                assert not re.search(r"\.(png|jpe?g|svg)", alt)
            tab.context.close()

    def test_injected_parameters_are_hidden_and_stay_in_the_download(self, site):
        for name in bookbuild.pages():
            html = (site / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
            assert "# Parameters" not in html
            download = next(site.glob(f"_sources/notebooks/{name}.ipynb*"))
            tags = [
                cell["metadata"].get("tags", []) for cell in json.loads(download.read_text(encoding="utf-8"))["cells"]
            ]
            assert any("injected-parameters" in one for one in tags)

    def test_folds_and_quiz_open_by_keyboard(self, browser, site):
        tab, _, _ = opened(browser, site, PAGES[-1], "desktop")
        fold = tab.locator(".mr-quiz details").first
        fold.locator("summary").focus()
        tab.keyboard.press("Enter")
        assert fold.evaluate("one => one.open")
        tab.context.close()

    def test_there_is_one_search_bar(self, browser, site):
        tab, _, _ = opened(browser, site, "book/index", "desktop")
        assert tab.locator("button.search-button__button:visible, button.search-button-field:visible").count() == 1
        tab.context.close()

    def test_no_button_without_an_address_and_launch_buttons_with_one(self, site, tmp_path, monkeypatch):
        assert "mybinder.org" not in (site / "notebooks" / f"{bookbuild.pages()[0]}.html").read_text(encoding="utf-8")
        build = site.parent
        copy = Checkout(tmp_path)
        shutil.copytree(
            build.parent, copy.root / "_build", dirs_exist_ok=True, ignore=shutil.ignore_patterns("html", "*.stamp")
        )
        environment = {**copy.environment, "MEDREPRO_REPOSITORY": "https://github.com/example/book"}
        command = [sys.executable, "-m", "medrepro.cli", "job", "book", "smoke", str(tmp_path / "stamp")]
        done = subprocess.run(command, cwd=copy.root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        page = (copy.build / "html" / "notebooks" / f"{bookbuild.pages()[0]}.html").read_text(encoding="utf-8")
        assert "mybinder.org" in page
        assert "github.com/example/book" in page


@pytest.mark.quick
def test_readme_tells_what_the_ledger_says():
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    between = re.search(r"<!-- status: begin[^\n]*-->\n(.*)<!-- status: end -->", text, re.S).group(1)
    assert between == bookbuild.status_table("cpu")


@pytest.mark.quick
def test_every_page_of_the_contents_exists():
    generated = {"book/ledger", "book/data"}
    for name in bookbuild.toc():
        found = [paths.root() / f"{name}{ending}" for ending in (".md", ".ipynb")]
        assert name in generated or any(path.is_file() for path in found), name
