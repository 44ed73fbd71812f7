"""A browser without a screen: `browser.py PERSON COOKIES LINK` signs somebody in at the link, as the pages there ask.

It keeps its cookies in a file and says on standard output what it filled in. With USER_CODE in the environment it
enters that code, and with ABORT it declines it; with SILENT it takes out of the link what would make the person sign in
anew.
"""

import os
import sys
import time
from html.parser import HTMLParser
from http.cookiejar import LWPCookieJar
from pathlib import Path

import httpx

PAGES = 20


class Form(HTMLParser):
    """The first form of a page, and the values that its fields have."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form" and self.action is None:
            self.action = attributes["action"]
        if tag == "input" and "name" in attributes:
            self.fields[attributes["name"]] = attributes.get("value", "")


def visit(person: str, cookies: Path, link: httpx.URL) -> str:
    """The text of the last page."""
    jar = LWPCookieJar(cookies)
    if cookies.exists():
        jar.load(ignore_discard=True)
    answers = {"login": person, "password": "any", "user_code": os.environ.get("USER_CODE", "")}
    with httpx.Client(cookies=jar, follow_redirects=True, trust_env=False) as http:
        response = http.get(link)
        for _ in range(PAGES):
            form = Form(response.text)
            if form.action is None:
                break
            filled = {name: value or answers.get(name, "") for name, value in form.fields.items()}
            if "confirm" in filled and "ABORT" in os.environ:
                filled["abort"] = filled.pop("confirm")
            if "password" in filled:
                # As anybody takes to type it. A provider says in whole seconds when that was, and one in which it was
                # asked for would be too early.
                time.sleep(1)
            sys.stdout.write(f"{','.join(form.fields)}\n")
            response = http.post(response.url.join(form.action), data=filled)
        jar.save(ignore_discard=True)
    return response.text if response.is_success else f"{response.status_code} {response.text}"


def main() -> None:
    person, cookies, text = sys.argv[1:]
    link = httpx.URL(text)
    if "SILENT" in os.environ:
        link = link.copy_remove_param("prompt").copy_set_param("max_age", "3600")
    sys.stdout.write(visit(person, Path(cookies), link))


if __name__ == "__main__":
    main()
