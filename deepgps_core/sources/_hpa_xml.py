"""
What the Human Protein Atlas says of one gene's images, read from its XML as a stream.

An entry of the atlas is an XML file of up to tens of megabytes, of which the addresses of the
immunofluorescence images and the cell line of each are a small part. The file comes from the
network: document types and entities (the way of XML bombs) are refused, size and depth are
limited, and memory does not grow with the file, because each element is dropped once read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from deepgps_core.dataset import InputError

try:
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import iterparse
except ImportError:  # the extra that downloads is optional
    raise InputError(
        "reading the atlas's XML needs the package defusedxml; install it with "
        "`pip install 'deepgps-core[fetch]'`."
    ) from None

#: The largest entries have about 30 MB.
MAX_XML_BYTES = 200_000_000
MAX_DEPTH = 40
#: An image's address without color and ending: ``…/58586/1060_C8_6_blue_red_green.jpg`` is of
#: the field ``…/58586/1060_C8_6``; some names carry a suffix (``…_17_cr5af971a263864_blue…``).
_IMAGE = re.compile(r"(https?://\S+/([A-Za-z0-9_.-]+?))(?:_(?:blue|red|green|yellow))+\.jpe?g")
_ANTIBODY = re.compile(r"[A-Za-z0-9-]{1,30}")
_UNIPROT = re.compile(r"[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2}")


@dataclass(frozen=True)
class FieldSource:
    """One field of view: where its channels are, of which antibody and cell line."""

    prefix: str
    name: str
    antibody: str
    cell_line: str
    locations: tuple[str, ...]

    def url(self, color: str) -> str:
        """Return the address of one channel."""
        return f"{self.prefix}_{color}.jpg"


@dataclass
class GeneEntry:
    """What an entry tells: identifiers, and the fields of all its antibodies."""

    gene_id: str = ""
    gene: str = ""
    uniprot: list[str] = field(default_factory=list)
    fields: list[FieldSource] = field(default_factory=list)


def field_of_url(url: str) -> tuple[str, str] | None:
    """
    Return (address without color, name of the field) of an image, None if it is no such address.

    Examples
    --------
    >>> field_of_url("https://images.proteinatlas.org/58586/1060_C8_6_blue_red_green.jpg")
    ('https://images.proteinatlas.org/58586/1060_C8_6', '1060_C8_6')
    >>> field_of_url("https://images.proteinatlas.org/1/1843_B2_17_cr5af971a263864_blue.jpg")[1]
    '1843_B2_17_cr5af971a263864'
    """
    match = _IMAGE.fullmatch(url.strip())
    return (match[1], match[2]) if match and not match[2].startswith(".") else None


def field_id_of(source: FieldSource) -> str:
    """Return the name a field gets in a dataset: antibody and place on the plates."""
    return f"{source.antibody}_{source.name}"


def antibody_of(field_id: str) -> str:
    """
    Return the antibody that a field's name in a dataset begins with (see `field_id_of`).

    Raises
    ------
    ValueError
        If the name is of no field of the atlas.

    Examples
    --------
    >>> antibody_of("HPA012345_1060_C8_6"), antibody_of("CAB002973_57_F11_17_cr5af971a263864")
    ('HPA012345', 'CAB002973')
    """
    antibody, _, name = field_id.partition("_")
    if not _ANTIBODY.fullmatch(antibody) or not name:
        raise ValueError(f"{field_id!r} names no antibody and field of the atlas")
    return antibody


class _Reader:
    """Walks through the stream of elements and keeps what `GeneEntry` holds."""

    def __init__(self) -> None:
        self.entry = GeneEntry()
        self.open: list[Element] = []
        self.antibody = self.cell_line = ""
        self.locations: list[str] = []
        self.urls: dict[str, str] = {}

    def start(self, element: Element) -> None:
        self.open.append(element)
        if element.tag == "antibody":
            self.antibody = element.get("id", "")
            if not _ANTIBODY.fullmatch(self.antibody):
                raise InputError(f"antibody {self.antibody[:30]!r} is no name of the atlas's")
        elif element.tag == "data":
            self.cell_line, self.locations, self.urls = "", [], {}

    def end(self, element: Element) -> None:
        self.open.pop()
        tags = {parent.tag for parent in self.open}
        text = (element.text or "").strip()
        if {"antibody", "cellExpression"} <= tags:
            self._image_element(element.tag, text)
        elif element.tag == "name" and self.open and self.open[-1].tag == "entry":
            self.entry.gene = self.entry.gene or text
        elif element.tag == "identifier" and not self.entry.gene_id:
            self.entry.gene_id = element.get("id", "")
        elif element.tag == "xref" and "identifier" in tags:
            accession = element.get("id", "")
            if element.get("db", "").lower().startswith("uniprot") and _UNIPROT.fullmatch(
                accession
            ):
                self.entry.uniprot.append(accession)
        if self.open:
            self.open[-1].remove(element)

    def _image_element(self, tag: str, text: str) -> None:
        if tag == "cellLine":
            self.cell_line = text
        elif tag == "location":
            self.locations.append(text)
        elif tag == "imageUrl" and (found := field_of_url(text)):
            self.urls[found[0]] = found[1]  # a field is listed once, though its colors vary
        elif tag == "data":
            self.entry.fields += [
                FieldSource(prefix, name, self.antibody, self.cell_line, tuple(self.locations))
                for prefix, name in self.urls.items()
            ]


def read_gene_xml(path: Path | str, *, max_bytes: int = MAX_XML_BYTES) -> GeneEntry:
    """
    Read one gene's entry.

    Returns
    -------
    entry : GeneEntry
        Fields in the order of the file, of all cell lines.

    Raises
    ------
    InputError
        If the file is no XML, declares a document type or entities, or is too large or deep.
    """
    path = Path(path)
    if path.stat().st_size > max_bytes:
        raise InputError(f"{path}: larger than {max_bytes:,} bytes, so no gene's entry; remove it.")
    reader = _Reader()
    try:
        for event, element in iterparse(path, ("start", "end"), forbid_dtd=True):
            if event == "start":
                reader.start(element)
                if len(reader.open) > MAX_DEPTH:
                    raise InputError(f"elements nest over {MAX_DEPTH} deep")
            else:
                reader.end(element)
    except InputError as error:
        raise InputError(f"{path}: {error}; remove it.") from None
    except DefusedXmlException as error:
        raise InputError(
            f"{path}: declares a document type or entities ({type(error).__name__}), which "
            "entries of the atlas do not; remove it."
        ) from None
    except ParseError as error:
        raise InputError(f"{path}: no XML ({error}); remove it and fetch again.") from None
    if not reader.entry.gene_id:
        raise InputError(f"{path}: no entry of the Human Protein Atlas; remove it.")
    return reader.entry
