"""Hostile text made plain for what shows it: nothing in it is markup, a link or a mention any more."""

import html as _html

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_~[]<>#|!"})
_FULL_WIDTH_AT = "\uff20"


def plain(text: str) -> str:
    """As it is."""
    return text


def html(text: str) -> str:
    """For HTML, also inside of an attribute."""
    return _html.escape(text)


def markdown(text: str) -> str:
    """For Markdown, as Mattermost and Teams show it; the @ that would mention somebody becomes a full-width one."""
    return text.translate(_MARKDOWN).replace("@", _FULL_WIDTH_AT)
