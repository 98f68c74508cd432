"""From results made in the app to answers and the administrator's numbers, in a browser."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import httpx
import numpy as np
import pytest
from daily import some_daily
from PIL import Image
from playwright.sync_api import Browser, FrameLocator, Page, expect
from starlette.routing import Mount
from tiny_study import Caller
from visits import DESKTOP, PHONE, ROOT, check_accessible, lively

from motion_app.host import ModelHost
from motion_app.jobs.folder import JobRow
from motion_app.media.files import encode_data_uri, write_video
from motion_app.media.results import save_result
from motion_app.scene import GeneratedVideo
from motion_app.settings import Settings
from motion_app.study.answers import Study
from motion_app.study.archive import StudyArchive
from motion_app.study.site.app import StudySettings, build_study_app
from motion_app.ui.markup import Texts
from motion_app.ui.page import launch_options
from motion_app.ui.study_tab import StudyTab
from motion_app.ui.visitor import PageVisit

OWNER = secrets.token_hex(16)
MOTION = "circle"  # of the pocket checkpoint's library; it has a preview
TITLE = "Which fox circles best?"


class KnownVisit(PageVisit):
    """A browser whose token is known, so that it has results from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.owner = OWNER


def add_result(host: ModelHost, method: str, *, shade: int) -> str:
    """The id of a finished job as the app leaves one: its video marked, its recipe beside it and
    inside."""
    frames = np.full((8, 64, 96, 3), shade, np.uint8)
    for t, frame in enumerate(frames):
        frame[20:40, 4 + 6 * t : 24 + 6 * t] = (240, 200, 60)
    request = {
        "image": encode_data_uri(np.full((64, 96, 3), 90, np.uint8)),
        "objects": [{"motion": MOTION, "sentence": "a fox"}],
        "method": method,
    }
    recipe = {"request": request, "prompt": "A fox walks in a circle.", "method": method}
    job = secrets.token_hex(16)
    result = GeneratedVideo(frames, np.zeros((1, 2, 8, 12), bool), recipe, 8.0)
    saved = save_result(result, host.jobs.folder(job))
    host.jobs.store.add(
        JobRow(
            id=job,
            kind="generate",
            owner=OWNER,
            state="done",
            title="fox: circle",
            created=time.time(),
            inputs={"request": request, "badge": False},
            outcome={"video": saved.video.name, "recipe": saved.recipe.name},
        )
    )
    return job


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ModelHost:
    pocket = ROOT / "checkpoints" / "pocket"
    made = ModelHost(Settings(outputs=tmp_path_factory.mktemp("outputs"), model=str(pocket)))
    for shade, method in enumerate(("fleximmt", "concat")):
        add_result(made, method, shade=60 + 40 * shade)
    return made


@pytest.fixture(scope="module")
def server(host: ModelHost) -> Iterator[str]:
    """The tab alone, in two languages, and the studies below it as the app has them."""
    with gr.Blocks(analytics_enabled=False, fill_width=True) as page:
        study_page(host, "en")
    with page.route("中文", "/zh", show_in_navbar=False):
        study_page(host, "zh")
    app, url, _ = page.launch(
        server_name="127.0.0.1",
        server_port=None,
        prevent_thread_lock=True,
        quiet=True,
        **launch_options(),
    )
    folder = host.settings.outputs / "studies"
    folder.mkdir(exist_ok=True)
    app.router.routes.insert(0, Mount("/study", build_study_app(StudySettings(folder))))
    yield url
    page.close()


def study_page(host: ModelHost, language: str) -> None:
    session = gr.State(KnownVisit())
    gr.Navbar(visible=False)
    with gr.Tabs():
        with gr.Tab("One"):
            gr.Markdown("Another tab")
        with gr.Tab("Study", id="study") as tab:
            study = StudyTab(host, Texts(language))
    study.wire(session, tab)


def open_tab(browser: Browser, url: str, **options: Any) -> Page:
    page = browser.known_page(**{"viewport": DESKTOP, "locale": "en-GB", **options})
    page.goto(url)
    page.get_by_role("tab", name="Study").click()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    return page


SLOW_FRAMES = """
  const plain = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (draw) =>
    plain((moment) => window.slow ? setTimeout(draw, 1000, moment) : draw(moment));
"""
SOME_FRAMES = """() => new Promise((done) => {
  let left = 4;
  const frame = () => (left -= 1) > 0 ? requestAnimationFrame(frame) : done();
  requestAnimationFrame(frame);
})"""


def test_what_is_ticked_on_a_slow_machine_as_soon_as_it_is_seen_stays(
    browser: Browser, server: str
) -> None:
    """gradio fills in what a tab shows first once more, a frame or two later: it undid the tick."""
    page = browser.known_page(viewport=DESKTOP, locale="en-GB")
    page.add_init_script(SLOW_FRAMES)  # before the page's own script
    page.goto(server)
    tab = page.get_by_role("tab", name="Study")
    expect(tab).to_be_visible()
    page.evaluate("window.slow = true")
    tab.click()
    box = page.get_by_role("checkbox", name="fleximmt")
    box.check()
    page.evaluate(SOME_FRAMES)
    expect(box).to_be_checked()


def test_what_was_deleted_elsewhere_is_no_longer_ticked(
    browser: Browser, server: str, host: ModelHost
) -> None:
    gone = add_result(host, "none", shade=200)
    page = browser.known_page(viewport=DESKTOP, locale="en-GB")
    page.goto(server)
    page.get_by_role("tab", name="Study").click()
    for method in ("fleximmt", "none"):
        page.get_by_role("checkbox", name=method).check()
    host.jobs.delete(gone)
    page.get_by_role("tab", name="One").click()
    page.get_by_role("tab", name="Study").click()
    expect(page.get_by_role("checkbox")).to_have_count(2)
    expect(page.get_by_role("checkbox", name="fleximmt")).to_be_checked()
    page.locator("#study-title input, #study-title textarea").fill(TITLE)
    page.locator("#study-create").click()
    expect(page.locator(".toast-body")).to_contain_text("1 were chosen")


def test_results_of_one_method_make_no_study_and_the_page_says_why(
    browser: Browser, server: str
) -> None:
    page = open_tab(browser, server)
    page.locator("#study-title input, #study-title textarea").fill(TITLE)
    page.get_by_role("checkbox", name="fleximmt").check()
    page.locator("#study-create").click()
    expect(page.locator(".toast-body")).to_contain_text(
        "compares two results or more, 1 were chosen"
    )
    page.get_by_role("checkbox", name="concat").check()
    page.locator("#study-title input, #study-title textarea").fill("Is FlexiMMT better?")
    page.locator("#study-create").click()
    expect(page.locator(".toast-body").last).to_contain_text('names the method "fleximmt"')
    expect(page.locator(".study-card")).to_have_count(0)


def test_a_study_made_in_the_tab_is_answered_and_its_administrator_sees_it(
    browser: Browser, server: str, host: ModelHost
) -> None:
    page = open_tab(browser, server)
    for method in ("fleximmt", "concat"):
        page.get_by_role("checkbox", name=method).check()
    page.locator("#study-title input, #study-title textarea").fill(TITLE)
    page.locator("#study-raters input").fill("2")
    page.locator("#study-create").click()
    card = page.locator(".study-card")
    expect(card).to_contain_text("0 of 2 raters finished")
    secret = card.locator("code").inner_text()
    with page.expect_popup() as popup:
        card.get_by_role("button").click()  # nothing is to be pasted
    admin = popup.value
    assert secret not in admin.url
    expect(admin.locator("#title")).to_have_text(TITLE)
    expect(admin.locator("#open-link")).not_to_have_value("")
    _take_part(browser, admin.locator("#open-link").input_value(), host)
    expect(admin.locator("#finished")).to_have_text("1 finished")
    admin.locator("#open-unblind").click()
    admin.locator("#confirm").fill(TITLE)
    admin.locator("#unblind button.danger").click()
    shares = admin.locator("#results .question").first
    expect(shares).to_contain_text("fleximmt")
    expect(shares).to_contain_text("1 / 1")
    expect(shares.locator("td.best")).to_have_count(0)  # of one rater nothing is sure
    page.get_by_role("tab", name="One").click()
    page.get_by_role("tab", name="Study").click()
    expect(card).to_contain_text("1 of 2 raters finished")


def test_the_demo_study_is_rated_in_the_tab_itself_and_its_report_read_there(
    browser: Browser, server: str, host: ModelHost
) -> None:
    before = sorted((host.settings.outputs / "studies").iterdir())
    page = open_tab(browser, server)
    lively(page)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    frame = page.frame_locator("#demo-frame")
    expect(frame.locator("#consent-text")).to_contain_text("Nothing that you answer is kept")
    frame.locator("#agree").check()
    frame.locator("#begin").click()
    _rate(frame, "Practice 1 of 1", place=1)
    while "wrong" in (frame.locator("#questions fieldset").first.get_attribute("class") or ""):
        right = re.search(r"candidate (\d)", frame.locator(".wrong .note").first.inner_text())[1]
        _rate(frame, "Practice 1 of 1", place=int(right))
        expect(frame.locator("fieldset.right")).to_have_count(4)
    frame.locator("#next").click()
    frame.locator("#start-study").click()
    for number in (1, 2, 3):
        _rate(frame, f"Item {number} of 3", place=number)
    frame.locator("#report").click()
    results = frame.locator("#results .question")
    expect(results).to_have_count(4)
    expect(results.first).to_contain_text("FlexiMMT without m2x")
    assert faults == [] and page.url.rstrip("/") == server.rstrip("/")
    assert sorted((host.settings.outputs / "studies").iterdir()) == before


def _rate(frame: FrameLocator, name: str, *, place: int) -> None:
    """All questions of the screen ``name``, and on."""
    expect(frame.locator("#place")).to_have_text(name)
    expect(frame.locator(".tile.watched")).to_have_count(6)
    for row in frame.locator(".choices").all():
        row.locator(f"input[value='{place}']").check(force=True)
    frame.locator("#next").click()
    if name.startswith("Practice"):
        expect(frame.locator("#questions fieldset.right, #questions fieldset.wrong")).to_have_count(
            4
        )


@pytest.mark.parametrize("language", some_daily(["en", "zh"], "zh"))
def test_axe_finds_nothing_wrong_with_the_demo_and_its_report(
    browser: Browser, server: str, host: ModelHost, language: str
) -> None:
    page = browser.known_page(viewport=DESKTOP, locale="en-GB")
    page.goto(f"{server}study/~demo/?lang={language}")
    expect(page.locator("#consent-facts")).not_to_be_empty()
    check_accessible(page)
    home, token = page.evaluate("document.baseURI"), urlsplit(page.url).path.rpartition("/")[2]
    page.locator("#agree").check()
    page.locator("#begin").click()
    expect(page.locator("#questions fieldset").first).to_be_visible()
    check_accessible(page)
    for name in ("keys", "delete"):
        page.locator(f"#open-{name}").click()
        check_accessible(page)
        page.keyboard.press("Escape")
    with httpx.Client(base_url=home, timeout=60) as client:
        visitor = Caller(client, token)
        session = visitor.get("/api/session").json()
        for number in range(session["practice"] + session["items"]):
            for question in session["questions"]:
                visitor.answer(number, question["id"], 1, coverage=[1.0] * 6)
        assert visitor.post("/api/finish", {}).json()["report"] == "report"
    page.reload()
    expect(page.locator("#report")).to_be_visible()
    check_accessible(page)
    page.goto(f"{home}report?lang={language}")
    expect(page.locator("#results .question")).to_have_count(4)
    check_accessible(page)


def _take_part(browser: Browser, link: str, host: ModelHost) -> None:
    """A whole visit in a browser of one's own; practice is answered right."""
    (folder,) = (host.settings.outputs / "studies").iterdir()
    study = Study.open(folder)
    right = {item.candidates[item.answer] for item in study.archive.items.values() if item.answer}
    page = browser.known_page(viewport=DESKTOP, locale="en-GB")
    lively(page)
    page.goto(link)
    page.locator("#agree").check()
    page.locator("#begin").click()
    expect(page.locator("#instrument")).to_be_visible()
    rater = study.raters.join(page.evaluate("history.state.token")).id
    screens = ("Practice 1 of 2", "Practice 2 of 2", "Item 1 of 2", "Item 2 of 2")
    for number, name in enumerate(screens):
        expect(page.locator("#place")).to_have_text(name)
        expect(page.locator(".tile.watched")).to_have_count(2)
        shown = study.answers.trial(rater, number).candidates
        place = next((k for k, name in enumerate(shown, start=1) if name in right), 1)
        for row in page.locator(".choices").all():
            row.locator(f"input[value='{place}']").check(force=True)
        page.locator("#next").click()
        if name.startswith("Practice"):
            expect(page.locator("#next")).to_have_text("Continue")
            page.locator("#next").click()
        if number == 1:
            page.locator("#start-study").click()
    expect(page.locator("#code")).not_to_be_empty()
    study.close()


def write_items(items: Path) -> Path:
    """Two items as a person lays them out: a folder each, a video for each method."""
    for name in ("fox", "cat"):
        folder = items / name
        folder.mkdir(parents=True)
        (folder / "caption.txt").write_text(f"A {name} rolls.")
        Image.new("RGB", (96, 64), "teal").save(folder / "first_frame.png")
        for clip, shade in (("reference", 40), ("ours", 90), ("theirs", 140)):
            frames = np.full((8, 64, 96, 3), shade, np.uint8)
            write_video(folder / f"{clip}.mp4", frames, 8)
    return items


def made_since(host: ModelHost, before: set[Path]) -> StudyArchive:
    """The one study that was made; its folder goes."""
    (made,) = set((host.settings.outputs / "studies").iterdir()) - before
    archive = StudyArchive.open(made)
    archive.close()
    shutil.rmtree(made)
    return archive


@pytest.mark.parametrize("how", some_daily(["chosen", "dropped"], "dropped"))
def test_a_folder_makes_a_study_chosen_or_dropped(
    browser: Browser, server: str, host: ModelHost, tmp_path: Path, how: str
) -> None:
    items = write_items(tmp_path / "Füchse 狐")
    (items / ".git").mkdir()
    (items / ".git" / "HEAD").write_text("no item")
    before = set((host.settings.outputs / "studies").iterdir())
    page = open_tab(browser, server)
    page.get_by_role("radio", name="A ZIP or folder of items").check()
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    (nothing / ".hidden").touch()
    bring_folder(page, nothing, how)
    expect(page.locator("#study-folder .note")).to_have_text("That folder holds no files.")
    bring_folder(page, items, how)
    expect(page.locator("#study-file")).to_contain_text("Füchse 狐")
    expect(page.locator("#study-folder button")).to_be_hidden()
    page.locator("#study-title input, #study-title textarea").fill("Foxes and cats")
    page.locator("#study-create").click()
    expect(page.locator(".study-card", has_text="Foxes and cats")).to_be_visible()
    archive = made_since(host, before)
    assert archive.config.methods == ("ours", "theirs")
    main = [item for item in archive.items.values() if item.kind == "main"]
    assert sorted((item.name, item.caption) for item in main) == [
        ("cat", "A cat rolls."),
        ("fox", "A fox rolls."),
    ]


def bring_folder(page: Page, folder: Path, how: str) -> None:
    if how == "chosen":
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose a folder").click()
        chooser.value.set_files(folder)
        return
    expect(page.frame_locator("#demo-frame").locator("#begin")).to_be_visible()  # all has its place
    expect(page.locator("#study-folder button")).to_be_visible()
    field = page.locator("#study-file")
    field.scroll_into_view_if_needed()
    place = None
    while place != (place := field.bounding_box()):  # until nothing above it grows any more
        page.wait_for_timeout(500)
    x, y = (place[at] + place[size] / 2 for at, size in (("x", "width"), ("y", "height")))
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})


def test_a_folder_that_is_no_study_is_told_beside_its_field(
    browser: Browser, server: str, host: ModelHost, tmp_path: Path
) -> None:
    items = write_items(tmp_path / "items")
    (items / "cat" / "caption.txt").unlink()
    page = open_tab(browser, server)
    page.get_by_role("radio", name="A ZIP or folder of items").check()
    page.locator("#study-create").click()
    expect(page.locator(".field-note .note", has_text="no ZIP file and no folder")).to_be_visible()
    bring_folder(page, items, "chosen")
    expect(page.locator("#study-file")).to_contain_text("items")
    page.locator("#study-title input, #study-title textarea").fill("Foxes")
    page.locator("#study-create").click()
    lacking = 'the item "cat" has no caption.txt; add one'
    expect(page.locator(".field-note .note", has_text=lacking)).to_be_visible()


def test_a_zip_makes_a_study_with_what_was_chosen_for_it(
    browser: Browser, server: str, host: ModelHost, tmp_path: Path
) -> None:
    items = write_items(tmp_path / "items")
    upload = shutil.make_archive(str(items), "zip", items)
    before = set((host.settings.outputs / "studies").iterdir())
    page = open_tab(browser, server, viewport=PHONE)
    page.get_by_role("radio", name="A ZIP or folder of items").check()
    with page.expect_file_chooser() as chooser:
        page.locator("#study-file button").first.click()
    chooser.value.set_files(upload)
    expect(page.locator("#study-file")).to_contain_text("items")
    page.locator("#study-title input, #study-title textarea").fill("Rolling animals")
    page.locator("#study-more > button").click()
    page.get_by_label("Contact for questions").fill("me@lab.example")
    page.get_by_label("TS", exact=True).uncheck()
    page.locator("#study-create").click()
    card = page.locator(".study-card", has_text="Rolling animals")
    expect(card).to_contain_text("0 of 20 raters finished")
    expect(card).to_be_in_viewport(ratio=0.5)  # what was just made comes into view
    config = made_since(host, before).config
    assert (config.methods, config.contact) == (("ours", "theirs"), "me@lab.example")
    assert config.questions == ("MF", "TC", "AC")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_page(
    browser: Browser, server: str, scheme: str
) -> None:
    page = open_tab(browser, server + "zh", viewport=PHONE, color_scheme=scheme)
    expect(page.locator("#study-create")).to_have_text("创建研究")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
