"""How the browser tests come to the page."""

from __future__ import annotations

from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FrameLocator, Page, expect

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 120_000  # ms; on a free machine everything here takes a few seconds
expect.set_options(timeout=PATIENCE)  # for all that says no other
DESKTOP = {"width": 1366, "height": 768}
PHONE = {"width": 390, "height": 844}


def open_page(browser: Browser, server: str, viewport: dict[str, int]) -> Page:
    """A page of a browser that knows nothing of what was done here before."""
    known = getattr(browser, "known_page", browser.new_page)  # of the tests' one browser
    page = known(viewport=viewport)
    page.goto(server)
    listens(page)
    return page


def lively(page: Page) -> None:
    """From its next film on they play by themselves, as for everybody who has not asked for less
    motion."""
    page.emulate_media(reduced_motion="no-preference")


def listens(page: Page | FrameLocator) -> None:
    """Wait until the scripts of the app's page have drawn it: before, nobody hears what is done."""
    expect(page.locator("#generate")).to_be_visible()
    for panel in ("#sources", "#stage", "#objects"):
        expect(page.locator(f"{panel} .mount > *").first).to_be_attached()
    expect(page.locator("#gallery :is(.gallery-empty, .gallery-card)").first).to_be_attached()


def console_of(page: Page) -> list[str]:
    """The errors of its scripts and of its console, as they come."""
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    return faults


STILL = """() => {
  const sheet = new CSSStyleSheet();  // allowed where a page's policy refuses styles within it
  const still = "transition: none !important; animation: none !important";
  sheet.replaceSync(`*, ::before, ::after { ${still} }`);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  const animate = Element.prototype.animate;
  Element.prototype.animate = function (...given) {
    const fade = animate.apply(this, given);
    end(fade);
    return fade;
  };
  const end = (fade) => {
    if (fade.effect.getComputedTiming().endTime !== Infinity) fade.finish();
  };
  document.getAnimations().forEach(end);
}"""


def stand_still(page: Page) -> None:
    """Nothing is half seen from now on: what fades in or out has done so at once."""
    page.evaluate(STILL)


def check_accessible(page: Page) -> None:
    """axe-core finds nothing wrong with what is shown, of whatever severity; a label says what is
    written on its button too. A message that fades meanwhile has no contrast of its own."""
    stand_still(page)
    rules = {"label-content-name-mismatch": {"enabled": True}}  # a newer one, off by itself
    found = Axe().run(page, options={"rules": rules}).response["violations"]
    told = [
        f"{rule['id']} ({rule['impact']}): {node['html'][:200]}"
        for rule in found
        for node in rule["nodes"]
    ]
    assert not told, "\n".join(told)
