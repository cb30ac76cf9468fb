"""What lies in a picture file beside its pixels: how much of it is read, and what is carried to the result.

Side data never decides whether a picture is restored: what is damaged or too long is left out, with a word.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from .. import limits

# A JPEG segment holds 65535 bytes with its own length and name in them.
LONGEST_SEGMENT = 65000
XMP_NAME, PHOTOSHOP_NAME = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
IPTC_RESOURCE = 0x0404  # of Photoshop's numbered resources
COMMENT = "Comment"
APPENDED = "what is stored beside the picture (gain map, depth map, preview or film)"
# Fields of XMP about the old file: its pixels, its thumbnail, what was appended to it.
STALE = {
    "http://ns.adobe.com/tiff/1.0/": {
        "Orientation",
        "ImageWidth",
        "ImageLength",
        "BitsPerSample",
        "Compression",
    }
    | {"PhotometricInterpretation", "SamplesPerPixel", "PlanarConfiguration", "YCbCrSubSampling"}
    | {"XResolution", "YResolution", "ResolutionUnit"},
    "http://ns.adobe.com/exif/1.0/": {"PixelXDimension", "PixelYDimension", "ColorSpace"},
    "http://ns.adobe.com/xap/1.0/": {"Thumbnails"},
    "http://ns.adobe.com/photoshop/1.0/": {"ICCProfile", "ColorMode"},
}
# Vocabularies that are about appended pictures or the old bytes as a whole.
STALE_VOCABULARIES = {
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/container/item/",
    "http://ns.google.com/photos/1.0/camera/",
    "http://ns.google.com/photos/1.0/depthmap/",
    "http://ns.google.com/photos/1.0/image/",
    "http://ns.adobe.com/xmp/note/",
    "http://ns.apple.com/HDRGainMap/1.0/",
}
TIFF_XMP, TIFF_IPTC = 700, 33723
PROCESSING_SOFTWARE = 0x000B  # of EXIF: what made this file of another, which no camera writes


@dataclass(frozen=True)
class Notes:
    """What a file says beside pixels and EXIF, as far as it is true of a restored picture.

    dpi: dots per inch (across, down) of the upright picture. xmp: a packet. iptc: records. text: pairs of a
    key and a text, as PNG has them. lost: what was there and can be carried to no format. made: how this
    program made a result, an ASCII text; never read from an input.
    """

    dpi: tuple[float, float] | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    text: tuple[tuple[str, str], ...] = ()
    lost: frozenset[str] = field(default_factory=frozenset)
    made: str | None = None


def losses(notes: Notes, exif: bytes | None, kind: str) -> list[str]:
    """Name what a file of this kind ("PNG", "JPEG", ...) will not hold of what the input said."""
    found = sorted(notes.lost)
    if notes.text and (kind != "PNG" if _comment(notes) is None else kind not in ("PNG", "JPEG")):
        found.append("text (such as prompts and workflows)")
    if notes.xmp and (kind == "BMP" or (kind == "JPEG" and len(notes.xmp) > LONGEST_SEGMENT)):
        found.append("XMP")
    if notes.iptc and (
        kind not in ("JPEG", "TIFF") or (kind == "JPEG" and len(notes.iptc) > LONGEST_SEGMENT)
    ):
        found.append("IPTC")
    return found + (["EXIF"] if exif and kind == "BMP" else [])


def _comment(notes: Notes) -> bytes | None:
    """Return the text as a JPEG comment, where it is nothing but one short comment."""
    if len(notes.text) != 1 or notes.text[0][0] != COMMENT:
        return None
    content = notes.text[0][1].encode("utf-8")
    return content if len(content) <= LONGEST_SEGMENT else None


def save_options(notes: Notes, kind: str) -> dict[str, object]:
    """Return what Pillow's encoder of this kind is told, so that the file holds these notes."""
    from PIL import PngImagePlugin

    options: dict[str, object] = {} if notes.dpi is None or kind == "WEBP" else {"dpi": notes.dpi}
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for key, text in notes.text:
            chunks.add_text(key, text)  # type: ignore[no-untyped-call]
        if notes.xmp:
            chunks.add_itxt("XML:com.adobe.xmp", notes.xmp.decode("utf-8"))
        options["pnginfo"] = chunks
    elif kind == "JPEG":
        options["extra"] = _segments(notes)
        options |= {"comment": comment} if (comment := _comment(notes)) else {}
    elif kind == "WEBP" and notes.xmp:
        options["xmp"] = notes.xmp
    return options


def exif_tags(notes: Notes, kind: str) -> dict[int, object]:
    """Return what goes into the EXIF block of a file of this kind, because it has no other place for it."""
    tags: dict[int, object] = {PROCESSING_SOFTWARE: notes.made}
    if kind == "WEBP" and notes.dpi is not None:
        tags |= {0x011A: notes.dpi[0], 0x011B: notes.dpi[1], 0x0128: 2}  # across, down, per inch
    if kind == "TIFF":
        tags |= {TIFF_XMP: notes.xmp, TIFF_IPTC: notes.iptc}
    return {tag: content for tag, content in tags.items() if content}


def _segments(notes: Notes) -> bytes:
    """XMP and IPTC as the segments of a JPEG, where they are not too long for one."""
    content = b""
    if notes.xmp and len(notes.xmp) <= LONGEST_SEGMENT:
        body = XMP_NAME + notes.xmp
        content += b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    if notes.iptc and len(notes.iptc) <= LONGEST_SEGMENT:
        resource = b"8BIM" + struct.pack(">HHI", IPTC_RESOURCE, 0, len(notes.iptc)) + notes.iptc
        body = PHOTOSHOP_NAME + resource + b"\0" * (len(notes.iptc) % 2)
        content += b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    return content


def inflate(content: bytes, longest: int = limits.BLOCK_BYTES) -> bytes:
    """Unpack a zlib stream. Raises ValueError where it is damaged, or longer than `longest` bytes."""
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(content, longest + 1)
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from error
    if len(unpacked) > longest:
        raise ValueError(f"it is longer than {longest >> 20} MiB")
    if not stream.eof:
        raise ValueError("it is cut off")
    return unpacked


def true_xmp(packet: bytes) -> tuple[bytes, int | None]:
    """Return an XMP packet without what is about the old file, and the orientation that it stated, or None.

    Raises ValueError where it cannot be read.
    """
    if len(packet) > limits.XMP_BYTES:
        raise ValueError(f"it is longer than {limits.XMP_BYTES >> 20} MiB")
    if re.search(rb"<!(DOCTYPE|ENTITY)", packet):  # XMP has neither, and entities can unfold to anything
        raise ValueError("it declares entities")
    try:
        root = minidom.parseString(packet.strip(b"\0 \t\r\n")).documentElement
        if root is None:
            raise ValueError("it is empty")
        orientation = _drop_stale(root)
        content = root.toxml()
    except (ExpatError, ValueError, RecursionError) as error:
        raise ValueError(f"it is damaged: {error}") from error
    framed = f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{content}\n<?xpacket end="w"?>'
    return framed.encode(), orientation


def _drop_stale(root: minidom.Element) -> int | None:
    """Take out what is about the old file; return the orientation (1 to 8) among it."""
    elements, orientation = [root], None
    while elements:
        element = elements.pop()
        for attribute in [node for node in element.attributes.values() if _is_stale(node)]:
            orientation = _orientation(attribute, attribute.value) or orientation
            element.removeAttributeNode(attribute)
        for child in [node for node in element.childNodes if isinstance(node, minidom.Element)]:
            if _is_stale(child):
                orientation = _orientation(child, getattr(child.firstChild, "data", "")) or orientation
                element.removeChild(child)
            else:
                elements.append(child)
    return orientation


def _orientation(node: minidom.Attr | minidom.Element, value: str) -> int | None:
    return int(value) if node.localName == "Orientation" and value in tuple("12345678") else None


def _is_stale(node: minidom.Attr | minidom.Element) -> bool:
    space = node.namespaceURI or ""
    return space in STALE_VOCABULARIES or node.localName in STALE.get(space, ())


def photoshop_iptc(resources: bytes) -> bytes | None:
    """Find IPTC's records among Photoshop's resources; None where there are none, or they are damaged."""
    at = 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        number, name = struct.unpack(">HB", resources[at + 4 : at + 7])
        at += 6 + name + 1 + (name + 1) % 2
        (length,) = struct.unpack(">I", resources[at : at + 4].rjust(4, b"\0"))
        content = resources[at + 4 : at + 4 + length]
        if number == IPTC_RESOURCE:
            return content if len(content) == length and content else None
        at += 4 + length + length % 2
    return None
