"""The annotators' form in headless Chromium, opened from the disk as annotators open it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from rated import METHODS, run_folder

from cotray.commands.annotate import main
from cotray.criteria.annotation_form import write_form
from cotray.criteria.annotation_key import Key
from cotray.criteria.rated_items import Item, Source

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
EVIL = "</script><script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\">"


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Offline, with a storage of its own."""
    context = browser.new_context(
        offline=True, accept_downloads=True, viewport={"width": 1000, "height": 900}
    )
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    config = run_folder(tmp_path)
    (tmp_path / "c.yaml").write_text(f"run_dir: {config.run_dir}\nmethods: {list(METHODS)}")
    options = ["--rationales=4", "--annotators=2", "--out", str(tmp_path / "a")]
    assert main(["export", "-c", str(tmp_path / "c.yaml"), *options]) == 0
    return tmp_path / "a"


def open_form(context: BrowserContext, path: Path) -> tuple[Page, list[str]]:
    """The page, and what it complains about or asks for beside itself."""
    page = context.new_page()
    seen: list[str] = []
    page.on("console", lambda message: seen.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on(
        "request",
        lambda asked: seen.append(asked.url) if not asked.url.startswith(("file:", "blob:")) else None,
    )
    page.goto(path.as_uri())
    return page, seen


def save(page: Page, path: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert download.value.suggested_filename == path.name
    download.value.save_as(path)
    return path


def shoot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_rates_put_into_the_form_by_keyboard_come_out_of_the_import(
    context: BrowserContext, exported: Path, tmp_path: Path
) -> None:
    """Greedy teachers: grammatical, nothing new. Contrastive ones: new and relevant. Students: irrelevant."""
    method = {one.id: one.sources[0] for one in Key.read(exported / "key.json").items}
    keys = {"greedy": "yn", "contrast-wrong": "yyy", METHODS[-1]: "nyn"}
    saved = []
    for annotator in (1, 2):
        page, seen = open_form(context, exported / f"annotator-{annotator}.html")
        expect(page.get_by_role("status")).to_have_text("0 of 12 rated")
        ids = page.locator(".card").evaluate_all("cards => cards.map((card) => card.dataset.id)")
        page.get_by_role("button", name="Next open question").focus()
        page.keyboard.press("Enter")
        for id_ in ids:
            for key in keys[method[id_].method]:
                page.keyboard.press(key)
        expect(page.get_by_role("status")).to_have_text("12 of 12 rated")
        saved.append(save(page, tmp_path / f"annotator-{annotator}.csv"))
        expect(page.get_by_role("alert")).to_have_text(
            f"Saved as annotator-{annotator}.csv. Please send it back."
        )
        assert not seen
    command = [
        "import",
        "-c",
        str(tmp_path / "c.yaml"),
        "--key",
        str(exported / "key.json"),
        *map(str, saved),
    ]
    assert main(command) == 0
    people = json.loads((tmp_path / "runs/demo/criteria.json").read_text())["people"]
    rates = {(rate["method"], rate["measure"]): rate["rate"] for rate in people["rates"]}
    assert [rates[m, "grammaticality"] for m in keys] == [1, 1, 0]
    assert [rates[m, "new_info"] for m in keys] == [0, 1, 1]
    assert [rates[m, "supports_answer"] for m in keys] == [0, 1, 0]
    assert [rates[m, "supports_given_new"] for m in keys] == [None, 1, 0]
    assert {one["alpha"] for one in people["agreement"].values()} == {1.0}


def test_progress_survives_closing_and_is_each_forms_own(context: BrowserContext, exported: Path) -> None:
    page, _ = open_form(context, exported / "annotator-1.html")
    card = page.locator(".card").first
    for fieldset in range(3):
        card.locator("fieldset").nth(fieldset).get_by_label("yes").check()
    expect(page.get_by_role("status")).to_have_text("1 of 12 rated")
    page.close()
    page, _ = open_form(context, exported / "annotator-1.html")
    expect(page.get_by_role("status")).to_have_text("1 of 12 rated")
    expect(page.locator(".card").first.locator("fieldset").nth(2).get_by_label("yes")).to_be_checked()
    shoot(page, "form")
    page.locator(".card").nth(1).scroll_into_view_if_needed()
    page.locator(".card").nth(1).locator("fieldset").nth(1).get_by_label("no").focus()
    page.keyboard.press("n")
    shoot(page, "form-cards")
    other, _ = open_form(context, exported / "annotator-2.html")
    expect(other.get_by_role("status")).to_have_text("0 of 12 rated")


def test_support_is_asked_only_where_something_is_new(context: BrowserContext, exported: Path) -> None:
    page, _ = open_form(context, exported / "annotator-1.html")
    card = page.locator(".card").first
    supports = card.locator("fieldset").nth(2)
    card.locator("fieldset").nth(1).get_by_label("yes").check()
    supports.get_by_label("no").check()
    card.locator("fieldset").nth(1).get_by_label("no").check()
    expect(supports.get_by_label("yes")).to_be_disabled()
    expect(supports.get_by_label("no")).not_to_be_checked()


def test_unfinished_form_says_so_and_its_file_is_refused(
    context: BrowserContext, exported: Path, tmp_path: Path, capsys
) -> None:
    page, _ = open_form(context, exported / "annotator-1.html")
    path = save(page, tmp_path / "annotator-1.csv")
    expect(page.get_by_role("alert")).to_contain_text("12 explanations are still open")
    command = ["import", "-c", str(tmp_path / "c.yaml"), "--key", str(exported / "key.json"), str(path)]
    assert main(command) == 2
    assert "row 2: grammaticality is empty; answer yes or no (and 11 more rows)" in capsys.readouterr().err


def test_texts_of_models_are_never_code(context: BrowserContext, tmp_path: Path) -> None:
    source = Source("r", "teacher", "greedy")
    evil = Item("a" * 16, f"Q {EVIL}", (EVIL, "no"), EVIL, f"=1+1 {EVIL}", (source,))
    write_form(tmp_path / "f.html", [evil], form="x")
    page, seen = open_form(context, tmp_path / "f.html")
    expect(page.locator("blockquote")).to_have_text(f"=1+1 {EVIL}")
    expect(page).to_have_title("Rate explanations")
    assert not seen
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_form_fits_a_phone(browser: Browser, exported: Path, scheme) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page, _ = open_form(context, exported / "annotator-1.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(".card").first.scroll_into_view_if_needed()
    shoot(page, f"form-phone-{scheme}")
    context.close()
