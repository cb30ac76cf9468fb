"""What results are called, where a folder is named and not a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

from ..errors import OSEDiffError
from .files import WRITABLE

SAME = "same"
"""The format of the input, where it can be written; else PNG."""
FIELDS = ("stem", "ext", "folder", "scale", "detail", "color")


@dataclass(frozen=True)
class Naming:
    """How a result is named after its picture.

    suffix: ".png", SAME, or None for PNG. template: the name without its ending, with {stem}, {ext}
    and {folder} of the picture and what `settings` says of the rest of FIELDS; see `check_template`.
    """

    suffix: str | None = None
    template: str = "{stem}"
    settings: Mapping[str, str] = field(default_factory=dict)

    def suffix_of(self, source: Path) -> str:
        """Return the ending of the result of a picture."""
        if self.suffix == SAME:
            return source.suffix.lower() if source.suffix.lower() in WRITABLE else ".png"
        return self.suffix or ".png"

    def of(self, source: Path, stem: str | None = None) -> str:
        """Return the name of the result of a picture; stem: in place of its own."""
        words = {"ext": source.suffix[1:], "folder": source.absolute().parent.name, **self.settings}
        return self.template.format(stem=stem or source.stem, **words) + self.suffix_of(source)


PLAIN = Naming()


def check_template(template: str) -> None:
    """Raise OSEDiffError unless names can be made by a template: of known fields, and in no other folder."""
    try:
        parts = [(name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise OSEDiffError(f"{template} is no template of a name: {error}") from error
    # With a format behind it ({stem:>99999}), a field may be of any length, and hold further fields.
    unknown = [
        name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        for name, spec, conversion in parts
        if name is not None and (name not in FIELDS or spec or conversion)
    ]
    if unknown:
        fields = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise OSEDiffError(f"a name is made of {fields}; {{{unknown[0]}}} is none of them")
    made = template.format(**dict.fromkeys(FIELDS, "x"))
    odd = any(letter in '/\\:*?"<>|' or letter < " " for letter in made)
    if not made.strip(". ") or made.startswith(".") or odd:
        raise OSEDiffError(
            f"{template} makes no name of a file: leave out the folder, and letters like * and :"
        )
