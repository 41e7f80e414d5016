"""Readable names for the Complete Journey's product types (pure).

The source abbreviates, and cuts names at 30 characters: `SFT DRNK SNGL SRV BTL CARB (EX`.
A push says "Soft Drink Single Serve Bottle Carbonated".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence, Set

WORDS = {
    "ALLERG": "allergy",
    "ASST": "assorted",
    "BKD": "baked",
    "BRKFST": "breakfast",
    "BTL": "bottle",
    "BTR": "butter",
    "CARB": "carbonated",
    "CATFD": "cat food",
    "CHIX": "chicken",
    "CHICK": "chicken",
    "CHOC": "chocolate",
    "CHOCOCLATE": "chocolate",
    "CLEANG": "cleaning",
    "CNTRL": "control",
    "CRBNTD": "carbonated",
    "CRMD": "creamed",
    "CRYSTL": "crystal",
    "DNR": "dinner",
    "DNRS": "dinners",
    "DRNK": "drink",
    "DRNKS": "drinks",
    "DRNKING": "drinking",
    "DRNKNG": "drinking",
    "DRSNG": "dressing",
    "DSH": "dish",
    "EXTRCT": "extract",
    "FD": "food",
    "FEM": "feminine",
    "FLVRD": "flavored",
    "FRZ": "frozen",
    "FRZN": "frozen",
    "GDS": "goods",
    "GM": "general merchandise",
    "GRND": "ground",
    "HBC": "health & beauty",
    "HYGN": "hygiene",
    "IQF": "individually frozen",
    "IWS": "individually wrapped",
    "JCE": "juice",
    "LIQ": "liquid",
    "LIQS": "liquids",
    "MACH": "machine",
    "MISC": "miscellaneous",
    "MIXS": "mixes",
    "MLK": "milk",
    "MLT": "multi",
    "MNERAL": "mineral",
    "MNRL": "mineral",
    "MW": "microwave",
    "MX": "mix",
    "MXS": "mixes",
    "PCKGD": "packaged",
    "PK": "pack",
    "PKG": "packaged",
    "PKLD": "pickled",
    "PNT": "peanut",
    "PREM": "premium",
    "PREP": "prepared",
    "PWDR": "powder",
    "PWDRS": "powders",
    "REFRIG": "refrigerated",
    "REFRGRATD": "refrigerated",
    "RTS": "ready to serve",
    "SALD": "salad",
    "SAUS": "sausage",
    "SFT": "soft",
    "SGL": "single",
    "SHERBTS": "sherbets",
    "SNDWCH": "sandwich",
    "SNGL": "single",
    "SPECILATY": "specialty",
    "SPLY": "supply",
    "SPRD": "spread",
    "SRV": "serve",
    "SS": "single serve",
    "STK": "stick",
    "SV": "serve",
    "SW": "sweet",
    "SWEETNERS": "sweeteners",
    "TISS": "tissue",
    "TORT": "tortilla",
    "TRSH": "trash",
    "VEG": "vegetable",
    "VEND": "vending",
    "WHL": "whole",
    "WHLSM": "wholesome",
    "WT": "weight",
    "WTR": "water",
    "XL": "extra large",
}
"""Abbreviations of the source, written out."""

SMALL_WORDS = {"and", "or", "of", "on", "the", "with", "to", "in", "for", "not"}
KEPT_UPPER = {"BBQ", "TV", "CD", "DVD", "USDA"}
_BROKEN_PARENTHESIS = re.compile(r"\s*\([^)]*$|\s*\(BULK&BAG\)")
_WORD = re.compile(r"[A-Z][A-Z']*")
CUT_AT = 30
"""The source cuts names after this many characters."""


def readable(name: str, vocabulary: Set[str] = frozenset()) -> str:
    """`name` of the source as a person would write it: abbreviations out, broken parentheses off, title case.

    The last word of a name that fills all 30 characters stays only where `vocabulary` knows it as a whole word.

    >>> readable("FRZN SS PREMIUM ENTREES/DNRS/T")
    'Frozen Single Serve Premium Entrees/Dinners'
    >>> readable("CANDY BARS (SINGLES)(INCLUDING")
    'Candy Bars (Singles)'
    >>> readable("DAIRY CASE 100% PURE JUICE - O")
    'Dairy Case 100% Pure Juice'
    """
    bare = _BROKEN_PARENTHESIS.sub("", _whole_words(name, vocabulary)).strip() or name
    spelled = _WORD.sub(lambda match: _spell(match.group()), bare)
    spelled = re.sub(r"\s*&\s*", " & ", re.sub(r"\s*[:;]\s*|\s+-\s*|-\s+", " – ", spelled))
    spelled = re.sub(r"\s+", " ", spelled).strip(" –/&,.")
    return spelled[:1].upper() + spelled[1:]


def titles(types: Sequence[str], categories: Sequence[str]) -> list[str]:
    """One title per (type, category) pair; where a title says too little alone, its category follows in parentheses.

    That is where the same type name stands in several categories ("PREMIUM" is ice cream, bacon and pasta sauce), or
    is one word that its category does not contain ("LEAN" beef).
    """
    whole = (name for name in (*types, *categories) if len(name) < CUT_AT)
    vocabulary = {word for name in whole for word in _WORD.findall(name) if len(word) > 1} - {"CAR", "INCL", "MAY"}
    names = [readable(name, vocabulary) for name in types]
    shown = [readable(category) for category in categories]
    seen = Counter(names)
    return [
        f"{name} ({category})" if name != category and (seen[name] > 1 or _says_little(name, category)) else name
        for name, category in zip(names, shown, strict=True)
    ]


def slug(name: str) -> str:
    """`name` in lower case, its words joined by hyphens: part of an item's id."""
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))


def _whole_words(name: str, vocabulary: Set[str]) -> str:
    """`name` without what its cut left of its last word."""
    if len(name) < CUT_AT:
        return name
    stem, last = re.fullmatch(r"(.*?)([A-Z']*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
    return name if last in vocabulary else stem


def _spell(word: str) -> str:
    if word in KEPT_UPPER:
        return word
    spelled = WORDS.get(word, word.lower())
    return spelled if spelled in SMALL_WORDS else " ".join(part[:1].upper() + part[1:] for part in spelled.split())


def _says_little(name: str, category: str) -> bool:
    return " " not in name and name.lower()[:4] not in category.lower()
