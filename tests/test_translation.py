"""README.zh-CN.md says what README.md says: headings, commands, numbers, names and links."""

import re
from collections import Counter

import pytest

from tests.conftest import ROOT

ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")


def sections(text):
    """{number of the section: its text without the blocks of code}; the first is the head."""
    plain = re.sub(r"(?s)```.*?```|(?-s:(?m:^    .*$))", "", text)
    return re.split(r"^## .*$", plain, flags=re.MULTILINE)


def code(text):
    """Blocks of code and of command lines, and the formula at the head."""
    return re.findall(r"(?s:```.*?```)|(?m:^    .+\n)+", text)


def of_prose(section):
    """Numbers and words in code that a translation must have too, as often."""
    spans = re.findall(r"`[^`]+`", section)
    links = re.findall(r"\]\(([^)]+)\)", section)
    rest = re.sub(r"`[^`]+`|\]\([^)]+\)", " ", section)
    numbers = re.findall(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?", rest)
    return {"spans": Counter(spans), "links": Counter(links), "numbers": Counter(numbers)}


def test_headings_are_as_many_and_as_deep():
    levels = [re.findall(r"^#+(?= )", text, re.MULTILINE) for text in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]


def test_code_and_commands_are_the_same():
    assert code(CHINESE) == code(ENGLISH)


@pytest.mark.parametrize("number", range(len(sections(ENGLISH))))
def test_a_section_has_the_same_numbers_names_and_links(number):
    english, chinese = (of_prose(sections(text)[number]) for text in (ENGLISH, CHINESE))
    for links in (english["links"], chinese["links"]):  # each links to the other
        for other in ("README.md", "README.zh-CN.md"):
            links.pop(other, None)
    assert chinese == english


def test_tables_have_the_same_rows():
    rows = [re.findall(r"^\|.*$", text, re.MULTILINE) for text in (ENGLISH, CHINESE)]
    assert [row.count("|") for row in rows[0]] == [row.count("|") for row in rows[1]]
    names = [re.findall(r"^\| `(\w+)`", text, re.MULTILINE) for text in (ENGLISH, CHINESE)]
    assert names[0] == names[1]
