"""A page in a browser that sees whatever runs in it, whatever it asks for, and whatever is in it that could do so later."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from attacks import PAGES

#: What the attacks call, and what they could call in its place.
HOOK = """
  window.__xss = [];
  window.x = (...given) => { window.__xss.push(given.map(String).join(',')); };
  for (const name of ['alert', 'confirm', 'prompt']) window[name] = window.x;
"""
#: Elements and attributes that no page of ours has, or that lead where none of ours leads.
FOREIGN = """(allowed) => {
  const found = [], own = new RegExp(allowed);
  const tags = /^(iframe|object|embed|base|frame|math|audio|video|source|marquee|xmp|img|set|animate|foreignobject)$/i;
  const leads = /^(href|src|xlink:href|action|formaction|data|srcset|srcdoc|poster|background|ping)$/i;
  for (const node of document.querySelectorAll('*')) {
    if (tags.test(node.localName)) found.push(`<${node.localName}>`);
    if (node.localName === 'meta' && /refresh/i.test(node.httpEquiv)) found.push('<meta refresh>');
    for (const { name, value } of node.attributes) {
      if (/^on/i.test(name)) found.push(`${node.localName} ${name}=${value}`);
      if (leads.test(name) && !own.test(value)) found.push(`${node.localName} ${name}=${value}`);
      if (name === 'style' && /url\\(|expression|@import/i.test(value)) found.push(`${node.localName} style=${value}`);
    }
  }
  return found;
}"""
OPEN_ALL = """() => {
  document.querySelectorAll('details').forEach((one) => { one.open = true; });
  document.querySelectorAll('.view').forEach((one) => { one.hidden = false; });
}"""


class Watched:
    """A page with what ran in it, what it said and what it asked for.

    Args:
        browser: playwright's.
        policy: keep the page's content security policy; without it the escaping stands alone.
    """

    def __init__(self, browser: Any, *, policy: bool) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, bypass_csp=not policy)
        self.context.add_init_script(HOOK)
        self.context.route(re.compile(r"leak\.invalid"), lambda route: route.abort())
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, address: str) -> None:
        """Shows a page and unfolds all of it."""
        self.page.goto(address)
        self.page.evaluate(OPEN_ALL)

    def ran(self) -> list[str]:
        """What the attacks' function was called with, in any frame."""
        found: list[str] = []
        for frame in self.page.frames:
            found += frame.evaluate("() => window.__xss ?? []")
        return found

    def foreign(self, allowed: str) -> list[str]:
        """What is in the page and not ours; `allowed`: a pattern of what links and sources may lead to."""
        return list(self.page.evaluate(FOREIGN, allowed))

    def close(self) -> None:
        self.context.close()


def usable(*, without: str = "", longest: int = 10_000) -> list[str]:
    """The attacks that hold none of these signs."""
    return [one for one in PAGES.values() if not set(one) & set(without) and len(one) <= longest]


def chunks(strings: Sequence[str], count: int, between: str = " ") -> list[str]:
    """All strings in so many, one behind the other."""
    return [between.join(strings[at::count]) for at in range(count)]
