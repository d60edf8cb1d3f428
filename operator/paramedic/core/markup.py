"""Hostile text made plain for what shows it: nothing in it is markup, a link or a mention any more."""

import html as _html
import re

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_~[]<>#|!"})
_MEANS_MORE = re.compile(
    r"@|(?<!\bs3)(?<!\bec2):(?=/)|(?<=\bmailto):|(?<=\btel):|www\d{0,3}\.|&(?=#?\w+;)", re.IGNORECASE
)
_TO_FULL_WIDTH = 0xFEE0


def plain(text: str) -> str:
    """As it is."""
    return text


def html(text: str) -> str:
    """For HTML, also inside of an attribute."""
    return _html.escape(text)


def markdown(text: str) -> str:
    """For Markdown, as Mattermost and Teams show it. What is no markup and means more all the same has no backslash
    there: the @ of a mention, the : of ``https://`` and the . of ``www.`` (bare addresses become links), the & of
    ``&commat;``. Their full-width twins stand for them, which look alike. (``s3:`` and ``ec2:``, where
    evidence is, nobody links.)
    """
    return _MEANS_MORE.sub(_full_width, text).translate(_MARKDOWN)


def _full_width(found: re.Match[str]) -> str:
    return found[0][:-1] + chr(ord(found[0][-1]) + _TO_FULL_WIDTH)
