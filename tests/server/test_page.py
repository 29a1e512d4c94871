"""The page at `/` as it is served: its files, their headers, and that they fit together."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from http_server import Served

from antiphon.server.page_routes import PAGE_PATHS

PAGE = files("antiphon.server").joinpath("page")
NAMES = sorted(entry.name for entry in PAGE.iterdir())
TEXTS = {name: PAGE.joinpath(name).read_text() for name in NAMES}
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}
INDEX = TEXTS["index.html"]
NEVER = ("unsafe-inline", "unsafe-eval", "unsafe-hashes", "http:", "https:", "ws:", "*", "strict-dynamic")


def policy(header: str) -> dict[str, str]:
    """Sources by directive."""
    return {name: sources for name, _, sources in (part.partition(" ") for part in header.split("; "))}


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_with_headers_that_leave_no_holes(served: Served, name: str) -> None:
    path = "/" if name == "index.html" else f"/page/{name}"
    answer = served.http.get(path)
    assert answer.status_code == 200
    assert answer.text == TEXTS[name]
    directives = policy(answer.headers["content-security-policy"])
    for directive in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert directives[directive] == "'none'"
    for directive in ("script-src", "style-src", "connect-src", "worker-src"):
        assert directives[directive] == "'self'"
    assert not any(word in sources for sources in directives.values() for word in NEVER)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert "microphone=(self), camera=(self)" in answer.headers["permissions-policy"]
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])


def test_what_a_browser_has_is_not_sent_again(served: Served) -> None:
    tag = served.http.get("/").headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        answer = served.http.get("/", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert "content-security-policy" in answer.headers
    assert served.http.get("/", headers={"If-None-Match": '"other"'}).status_code == 200
    assert served.http.head("/").status_code == 200


def test_nothing_but_the_pages_files_lies_there(served: Served) -> None:
    for path in ("/page/", "/page", "/page/index.html", "/page/..%2Fgate.py", "/page/nowhere.js"):
        assert served.http.get(path).status_code == 404
    assert not any(path.startswith("/page") for path in served.http.get("/openapi.json").json()["paths"])


def test_the_page_needs_no_key_and_opens_nothing_else(keyed: Served) -> None:
    assert {"/", "/page/main.js", "/page/page.css"} <= PAGE_PATHS
    for path in PAGE_PATHS:
        assert keyed.http.get(path).status_code == 200
    for path in ("/page/", "/page/nowhere.js", "/v1/models", "/metrics"):
        assert keyed.http.get(path).status_code == 401


def test_no_file_names_a_place_elsewhere_and_no_markup_needs_more_rights() -> None:
    for name, text in TEXTS.items():
        addresses = re.findall(r"\b(?:https?|wss?)://[^\s\"')]+|\burl\(|@import\b", text)
        assert [address for address in addresses if address != "http://www.w3.org/2000/svg"] == [], name
    assert re.findall(r"\s(?:style|on\w+)=|<style|javascript:", INDEX) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)", INDEX) == []
    for name, text in SCRIPTS.items():
        found = re.findall(
            r"\beval\b|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text
        )
        assert found == [], name


def test_every_id_that_a_script_uses_is_in_the_page_once() -> None:
    ids = re.findall(r'\sid="([^"]+)"', INDEX)
    assert len(ids) == len(set(ids))
    used = {match for text in SCRIPTS.values() for match in re.findall(r'byId\("([^"]+)"\)', text)}
    assert used and used <= set(ids)
    assert all("getElementById" not in text for name, text in SCRIPTS.items() if name != "main.js")
    for attribute in ("for", "aria-labelledby", "aria-describedby"):
        assert set(re.findall(rf'\s{attribute}="([^"]+)"', INDEX)) <= set(ids)


def test_every_file_is_used() -> None:
    used = set(re.findall(r'(?:src|href)="page/([^"]+)"', INDEX)) | {"index.html"}
    for text in SCRIPTS.values():
        used |= set(re.findall(r'(?:from "\./|module\(")([\w.]+)"', text))
    assert used == set(NAMES)


def test_everything_that_can_be_operated_has_a_name() -> None:
    for opening, content in re.findall(r"<button([^>]*)>(.*?)</button>", INDEX, re.DOTALL):
        words = re.sub(r"<svg.*?</svg>|<[^>]+>|\s", "", content, flags=re.DOTALL)
        assert words or 'aria-label="' in opening, opening
    for opening in re.findall(r"<(?:input|select|textarea)([^>]*)>", INDEX):
        (name,) = re.findall(r'\sid="([^"]+)"', opening)
        labelled = f'for="{name}"' in INDEX or re.search(rf'<label[^>]*>\s*<input[^>]*id="{name}"', INDEX)
        assert labelled or " hidden" in opening, name
    assert '<html lang="en">' in INDEX
    assert all('aria-hidden="true"' in svg for svg in re.findall(r"<svg[^>]*>", INDEX))


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_told_from_what_is_behind_it(scheme: int) -> None:
    """At least 4.5 to 1 for text, and 3 to 1 for edges that mean something."""
    block = re.findall(r":root \{(.*?)\}", TEXTS["page.css"], re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
    for text in ("ink", "quiet", "faint", "red"):
        for behind in ("paper", "raised"):
            assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for text, behind in (("ink", "red-wash"), ("red", "red-wash"), ("on-red", "red"), ("paper", "ink")):
        assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for edge in ("edge", "focus"):
        for behind in ("paper", "raised"):
            assert contrast(colours[edge], colours[behind]) >= 3, (edge, behind)
