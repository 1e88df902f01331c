"""A page as tests look at it: its text, links, forms and landmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})


@dataclass
class Element:
    """One element with its attributes and its text."""

    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """Parsed HTML. `broken` lists end tags that end nothing and elements that never end."""

    html: str
    elements: list[Element] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[Element] = []
        self.feed(self.html)
        self.broken += [element.tag for element in self._open]

    def __hash__(self) -> int:
        return id(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        self.handle_data(" ")
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1].tag != tag:
            self.broken.append(f"/{tag}")
            return
        self._open.pop()
        self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        """All elements with this tag."""
        return [element for element in self.elements if element.tag == tag]

    @property
    def text(self) -> str:
        """What the page says, with single spaces."""
        return " ".join(self.all("main")[0].text.split())

    @property
    def links(self) -> list[str]:
        """Where the page's own links lead, without fragments."""
        found = [element.attributes.get("href", "").partition("#")[0] for element in self.all("a")]
        return [link for link in dict.fromkeys(found) if link]

    @property
    def mark(self) -> str:
        """What its forms send along."""
        return next(e.attributes["value"] for e in self.all("input") if e.attributes.get("name") == "mark")
