"""The Motions tab in a real browser: the library, the clips, and a training that survives a
reload."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_hub import FakeHub
from playwright.sync_api import Browser, Page, expect
from visits import DESKTOP, PATIENCE, PHONE, ROOT, check_accessible, listens, open_page
from walk import fill_training, mark_two, open_tab, pick_example, upload_clip, write_clip

from motion_app.library.motion_parcel import replace_bytes
from motion_app.models.checkpoint import Checkpoint
from motion_app.settings import Limits
from motion_app.ui.markup import Texts, script
from motion_app.ui.motions.clips import DraftClip, editor_html

POCKET = ROOT / "checkpoints" / "pocket"


@pytest.fixture
def page(page: Page) -> Page:
    open_tab(page, "motions")
    expect(page.locator(".motion-card").first).to_be_visible(timeout=PATIENCE)
    return page


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clips"))


def import_again(page: Page, folder: Path, name: str) -> None:
    """The first motion of the library, exported and brought in under another name."""
    with page.expect_download() as download:
        page.locator("[data-what=export]").first.click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    page.locator("#motion-import button").first.click()
    page.set_input_files("#motion-file input[type=file]", str(file))
    expect(page.locator("#motion-file")).to_contain_text(file.stem, timeout=PATIENCE)
    page.locator("#motion-import").get_by_label("Name", exact=True).fill(name)
    page.click("#motion-import-button")


def test_an_exported_motion_comes_back_and_its_deletion_is_undone(page: Page, tmp_path: Path):
    cards = page.locator(".motion-card")
    count = cards.count()
    import_again(page, tmp_path, "mine")
    mine = page.locator(".motion-card:has-text('mine')")
    expect(mine).to_be_visible(timeout=PATIENCE)
    mine.locator("[data-what=delete]").click()
    expect(cards).to_have_count(count, timeout=PATIENCE)
    page.click(".motion-undo button")
    expect(cards).to_have_count(count + 1, timeout=PATIENCE)
    page.fill(".motion-search input", "mine")
    expect(page.locator(".motion-card:visible")).to_have_count(1)


def test_ones_own_motions_are_found_renamed_shared_and_hidden(
    browser: Browser, server: str, page: Page, tmp_path: Path
):
    """By their maker alone: another browser uses what is shared, and changes nothing."""
    import_again(page, tmp_path, "our hop")
    shown = page.locator(".motion-card:visible")
    expect(page.locator(".motion-card h3", has_text="our hop")).to_be_visible()

    page.get_by_role("button", name="Mine", exact=True).click()
    ours = shown.filter(has=page.locator("h3", has_text="our hop"))
    expect(ours).to_have_count(1)
    assert set(shown.evaluate_all("cards => cards.map((card) => card.dataset.whose)")) == {"mine"}
    check_accessible(page)
    ours.get_by_role("button", name="Rename").click()
    field = ours.get_by_label("New name of the motion our hop")
    field.press("Escape")
    expect(ours.locator("h3")).to_be_visible()
    ours.get_by_role("button", name="Rename").click()
    field.fill("our leap")
    check_accessible(page)
    field.press("Enter")
    ours = shown.filter(has=page.locator("h3", has_text="our leap"))
    expect(ours).to_have_count(1)
    mine = page.locator("#library-cards [data-show=mine]")
    expect(mine).to_have_attribute("aria-pressed", "true")

    ours.get_by_role("button", name="Make private").click()
    expect(ours).to_contain_text("only you see it")
    ours.get_by_role("button", name="Share").click()
    expect(ours).to_contain_text("shared with all")
    other = open_page(browser, server, DESKTOP)
    open_tab(other, "motions")
    theirs = other.locator(".motion-card", has_text="our leap")
    expect(theirs).to_have_attribute("data-whose", "shared")
    expect(theirs.locator("[data-what]")).to_have_count(1)  # export

    open_tab(page, "transfer")
    pick_example(page)
    mark_two(page)
    page.locator(".motion-button").first.click()
    dialog = page.locator(".motion-dialog")
    dialog.get_by_role("button", name="Mine", exact=True).click()
    card = dialog.locator('.card[data-name="our leap"]')
    expect(card).to_be_visible()
    expect(dialog.locator(".card[data-whose=shipped]:visible")).to_have_count(0)
    check_accessible(page)
    card.click()
    chosen = page.locator(".motion-button").first
    expect(chosen).to_have_attribute("data-motion", "our leap")

    chosen.click()
    dialog.locator(".own-motions summary").click()
    ours = dialog.locator(".own-motion", has_text="our leap")
    ours.get_by_role("button", name="Make private").click()
    expect(ours).to_contain_text("only you see it")
    ours.get_by_role("button", name="Rename").click()
    field = ours.get_by_label("New name of the motion our leap")
    field.press("Escape")
    expect(field).to_be_hidden()
    ours.get_by_role("button", name="Rename").click()
    check_accessible(page)
    field.fill("our vault")
    field.press("Enter")
    ours = dialog.locator(".own-motion", has_text="our vault")
    expect(ours).to_contain_text("only you see it")
    dialog.get_by_role("button", name="Close").click()
    expect(chosen).to_have_attribute("data-motion", "our vault")
    open_tab(page, "motions")
    page.get_by_role("button", name="All", exact=True).click()
    expect(page.locator(".motion-card", has_text="our vault")).to_contain_text("only you see it")


def test_a_motion_of_the_hub_is_brought_in(page: Page, app_hub: FakeHub, tmp_path: Path):
    """What is there already, and what is for another model, cannot be; the command line pushes."""
    fresh = {"name": "hub hop", "created": "2031-01-31T12:00:00+00:00"}
    shipped = ROOT / "checkpoints" / "pocket" / "motions" / "jump.safetensors"
    files = {}
    for name, changes in (("ours", {}), ("new", fresh), ("far", {"name": "far", "base": "b" * 64})):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(shipped.read_bytes())
        replace_bytes(file, {}, changes)
        files[file.name] = file.read_bytes()
    repository = next(iter(app_hub.repositories.values()))
    repository.commit(repository.files | files | {"broken.safetensors": b"\xff" * 40})

    expect(page.locator("#banner .chip-ready")).to_be_visible()
    page.locator("#motion-hub button").first.click()
    hub = page.locator("#hub-motions")
    expect(hub).to_contain_text("motions push NAME --repo lab/motions")
    hub.get_by_role("button", name="Show its motions").click()
    expect(hub.locator("li:has-text('hub hop')")).to_be_visible()
    expect(hub.locator("li:has-text('jump')")).to_contain_text("in the library")
    expect(hub.locator("li:has-text('far')")).to_contain_text("for another model")
    expect(hub.locator(".motion-problems")).to_contain_text("cannot be used: 1")
    expect(hub.locator("[data-file]")).to_have_count(1)
    check_accessible(page)
    hub.get_by_role("button", name="Bring in the motion hub hop").click()
    expect(hub.locator("li:has-text('hub hop')")).to_contain_text("in the library")
    card = page.locator(".motion-card", has_text="hub hop")
    expect(card).to_have_attribute("data-whose", "mine")
    card.locator("[data-what=delete]").click()  # as the next one found it
    expect(card).to_have_count(0)


def test_what_is_wrong_with_a_form_stands_beside_its_fields_until_it_is_mended(
    page: Page, tmp_path: Path
):
    page.locator("#motion-import button").first.click()
    form = page.locator("#motion-import")
    name = form.get_by_label("Name", exact=True)
    name.fill("jump")
    page.click("#motion-import-button")
    notes = form.locator(".field-note p")
    expect(notes).to_have_count(2)
    expect(notes.nth(0)).to_contain_text("no file has been chosen")
    expect(notes.nth(1)).to_contain_text('"jump" already')
    check_accessible(page)
    name.fill("leap")
    expect(notes).to_have_count(1)
    broken = tmp_path / "x.safetensors"
    broken.write_bytes(b"\xff" * 40)
    page.set_input_files("#motion-file input[type=file]", str(broken))
    expect(notes).to_have_count(0)
    page.click("#motion-import-button")
    expect(notes).to_contain_text("not a safetensors file")

    page.click("#train")
    notes = page.locator(".motions-training .field-note p")
    expect(notes).to_have_count(4)
    expect(notes.nth(0)).to_contain_text("no clip was chosen")
    expect(notes.nth(1)).to_contain_text("the motion has no name")
    check_accessible(page)
    page.locator("#motion-name").locator("input, textarea").fill("jump")
    expect(notes).to_have_count(3)
    page.locator("#clip-examples button").first.click()  # a clip with words of its own
    expect(notes).to_have_count(0)
    page.locator("#motion-name").locator("input, textarea").fill("jump")
    page.click("#train")
    expect(notes).to_contain_text('"jump" already')

    open_tab(page, "study")
    page.click("#study-create")
    notes = page.locator("#study-tab .field-note p")
    expect(notes).to_have_count(2)
    page.fill("#study-title textarea, #study-title input", "Which jumps best?")
    expect(notes).to_have_count(1)
    expect(notes).to_contain_text("two results or more")
    check_accessible(page)


def test_on_a_phone_what_was_brought_in_comes_into_view(
    browser: Browser, server: str, tmp_path: Path
) -> None:
    page = open_page(browser, server, PHONE)
    open_tab(page, "motions")
    expect(page.locator(".motion-card").first).to_be_visible()
    import_again(page, tmp_path, "pocket hop")
    card = page.locator(".motion-card", has_text="pocket hop")
    expect(card).to_be_in_viewport(ratio=0.5)
    check_accessible(page)
    card.locator("[data-what=delete]").click()  # as the next one found it
    expect(card).to_have_count(0)


def test_handles_trim_and_a_drag_crops(page: Page, clip: Path):
    upload_clip(page, clip)
    facts = page.locator(".clip-facts")
    expect(facts).to_contain_text("26 frames")
    page.locator(".clip-start").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(facts).to_contain_text("0.5–3.3 s, 22 frames")
    page.locator(".clip-stage").scroll_into_view_if_needed()
    box = page.locator(".clip-stage").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.9 * box["height"], steps=4)
    page.mouse.up()
    expect(page.locator(".clip-box")).to_be_visible()
    expect(page.locator("[data-number='0']")).to_have_value("20")
    page.click(".clip-clear")
    expect(page.locator(".clip-box")).to_be_hidden()


TURNS = """() => new Promise((told) => {
  const plain = window.setTimeout;
  let turns = 0;
  window.setTimeout = (act, ...rest) => {
    turns += act.name === "play";
    return plain(act, ...rest);
  };
  plain(() => told(turns), 1000);
})"""


def test_a_clip_plays_until_it_is_paused_and_nothing_runs_from_then_on(
    browser: Browser, clip: Path
):
    """The editor alone, without the app around it."""
    geometry = Checkpoint.read(POCKET).geometry
    draft = DraftClip.read(clip, geometry, Limits())
    page = browser.new_context().new_page()
    page.set_content(editor_html([draft], geometry=geometry, texts=Texts("en")))
    drawn = "clipEditor(document.body, { choose() {}, remove() {} }).drawAll();"
    page.add_script_tag(content=script("clip_editor") + drawn)
    place = "document.querySelector('.clip-stage').style.backgroundPosition"
    page.wait_for_function(f"began => {place} !== began", arg=page.evaluate(place))
    assert page.evaluate(TURNS) > 0
    page.locator(".clip-play").click()
    paused = page.evaluate(place)
    assert page.evaluate(TURNS) == 0 and page.evaluate(place) == paused
    page.locator(".clip-play").click()
    page.wait_for_function(f"began => {place} !== began", arg=paused)


def test_a_reload_finds_the_training_and_it_can_be_cancelled_and_resumed(page: Page, clip: Path):
    fill_training(page, clip, name="leap", steps=400)
    page.click("#train")
    status = page.locator("#training-status")
    expect(status).to_contain_text("step", timeout=PATIENCE)
    page.reload()
    listens(page)
    open_tab(page, "motions")
    expect(status).to_contain_text("leap · learning", timeout=PATIENCE)
    expect(page.locator(".curve svg")).to_be_visible(timeout=PATIENCE)
    page.click("#training-cancel")
    expect(status).to_contain_text("was cancelled", timeout=PATIENCE)
    page.locator(".training [data-what=again]").click()
    expect(status).to_contain_text("learning", timeout=PATIENCE)
    page.click("#training-cancel")
    expect(status).to_contain_text("was cancelled", timeout=PATIENCE)
