"""Pages as trees and as the words that are read out."""

import re
from xml.etree import ElementTree


def parsed(page):
    """What our pages write is well-formed, as XML is, which HTML need not be."""
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def text_of(page):
    return " ".join(" ".join(parsed(page).find("body").itertext()).split())


def heading_levels(page):
    return [int(found.tag[1]) for found in parsed(page).iter() if re.fullmatch("h[1-6]", found.tag)]
