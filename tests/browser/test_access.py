"""The page for everybody: by keyboard, for screen readers, on phones, in the dark, without motion."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browser_page import Talker
from mock_realtime import MockRealtime

pytestmark = [pytest.mark.slow, pytest.mark.long]

Open = Callable[..., Talker]

NAMELESS = """
[...document.querySelectorAll("button, input:not([hidden]), select, textarea, [role=meter]")]
    .filter((element) => !(element.ariaLabel || element.innerText?.trim() || element.labels?.length))
    .map((element) => element.id)
"""


def test_all_that_can_be_operated_is_reached_by_keyboard_in_the_order_of_the_page(talker: Open) -> None:
    page = talker().open()
    reached = []
    order = [
        "skip",
        "settings-button",
        "new",
        "scroller",
        "hands-free",
        "talk",
        "choose",
        "camera",
        "question",
    ]
    for _ in order:
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id || document.activeElement.className"))
        outline = page.page.evaluate(
            """(() => {
                const active = document.activeElement; // or what shows that it is
                const shown = active.matches(".modes input") ? active.nextElementSibling : active;
                return getComputedStyle(shown.id === "question" ? shown.form : shown).outlineStyle;
            })()"""
        )
        assert outline == "solid", reached[-1]
    assert reached == order


def test_names_roles_and_live_regions(talker: Open) -> None:
    page = talker().open()
    assert page.page.evaluate(NAMELESS) == []
    for role, name in [
        ("banner", ""),
        ("main", ""),
        ("button", "Start talking"),
        ("button", "New conversation"),
        ("button", "Settings"),
        ("radio", "Hands free"),
        ("textbox", "Question"),
        ("meter", "Loudness"),
    ]:
        assert page.page.get_by_role(role, name=name or None).count() == 1, (role, name)  # type: ignore[arg-type]
    assert page.get("announcer").get_attribute("aria-live") == "polite"
    assert page.get("notice").get_attribute("role") == "alert"
    assert page.page.get_by_role("list", name="Conversation").count() == 0  # nothing was said yet
    page.ask("Hello")
    page.settled()
    assert page.page.get_by_role("list", name="Conversation").get_by_role("listitem").count() == 2
    assert page.page.get_by_role("heading", name="Reply").count() == 1


def test_what_was_understood_is_announced(mock: MockRealtime, talker: Open) -> None:
    page = talker().open()
    page.get("talk").click()
    page.until(lambda: page.get("announcer").inner_text() == f"You said: {mock.heard}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "size", [(1280, 800), (390, 844), (320, 568), (844, 390)], ids=["desktop", "phone", "small", "turned"]
)
def test_everything_fits(talker: Open, size: tuple[int, int], scheme: str) -> None:
    """Nothing is cut off, overlaps or has to be scrolled to sideways, and fingers hit what they aim at."""
    viewport = {"width": size[0], "height": size[1]}
    page = talker(viewport=viewport, color_scheme=scheme, reduced_motion="reduce").open()
    page.ask("What is it? " * 20)
    page.phase("speaking")
    assert page.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    for name in ("talk", "stop", "question", "send", "choose", "camera", "new", "settings-button"):
        box = page.get(name).bounding_box()
        assert box is not None, name
        assert box["x"] >= 0 and box["x"] + box["width"] <= size[0], name
        assert box["y"] >= 0 and box["y"] + box["height"] <= size[1], name
        assert min(box["width"], box["height"]) >= 40, name
    modes, state = (page.page.locator(place).bounding_box() for place in (".modes", "#state"))
    assert modes is not None and state is not None
    assert state["x"] + state["width"] <= modes["x"]
    dark = (
        page.page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(22, 21, 19)"
    )
    assert dark is (scheme == "dark")
    assert page.page.evaluate("document.getAnimations().length") == 0
    last = page.page.locator(".turn.assistant .words").bounding_box()
    dock = page.page.locator(".dock").bounding_box()
    assert last is not None and dock is not None
    assert last["y"] + last["height"] <= dock["y"] + 1
