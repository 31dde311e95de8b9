"""The option `--map`: characters that are replaced on their way, under the names that tio gives them."""

import argparse
import re
from collections.abc import Iterable

CR, LF, BS, DEL = b"\r", b"\n", b"\x08", b"\x7f"

_RECEIVED = {
    "ICRNL": (CR, LF),
    "ICRCRNL": (CR, CR + LF),
    "IGNCR": (CR, b""),
    "INLCR": (LF, CR),
    "INLCRNL": (LF, CR + LF),
}
_SENT = {
    "OCRNL": (CR, LF),
    "OIGNCR": (CR, b""),
    "ONLCRNL": (LF, CR + LF),
    "ODELBS": (DEL, BS),
}

FLAGS = (*_RECEIVED, *_SENT)
"""All that `--map` takes."""

HELP = """\
--map FLAG[,FLAG...], as tio has them; I is what comes from the device, O what goes to it:
  ICRNL    CR to LF       ICRCRNL  CR to CR LF    IGNCR    drop CR
  INLCR    LF to CR       INLCRNL  LF to CR LF
  OCRNL    CR to LF       ONLCRNL  LF to CR LF    OIGNCR   drop CR        ODELBS   DEL to BS
"""


def flags(text: str) -> list[str]:
    """The flags in a list with commas, in capitals: a type for argparse.

    Raises:
        argparse.ArgumentTypeError: for one that there is not.
    """
    found = [flag.strip().upper() for flag in text.split(",")]
    unknown = [flag for flag in found if flag not in FLAGS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0] or 'nothing'} is no mapping: allowed are {', '.join(FLAGS)}")
    return found


class Mapping:
    """Replaces characters.

    Args:
        pairs: each a byte, and what takes its place.
    """

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._table = dict(pairs)
        self._pattern = re.compile(b"[" + re.escape(b"".join(self._table)) + b"]") if self._table else None

    def feed(self, data: bytes) -> bytes:
        """The data with its characters replaced."""
        return data if self._pattern is None else self._pattern.sub(lambda match: self._table[match[0]], data)


def mappings(given: Iterable[str]) -> tuple[Mapping, Mapping]:
    """What is done to what comes from the device, and to what goes to it.

    Args:
        given: flags.

    Raises:
        ValueError: two of them say different things of one character.
    """
    wanted = list(dict.fromkeys(given))
    return _mapping(_RECEIVED, wanted), _mapping(_SENT, wanted)


def _mapping(known: dict[str, tuple[bytes, bytes]], wanted: list[str]) -> Mapping:
    by_character: dict[bytes, str] = {}
    for flag in wanted:
        if flag not in known:
            continue
        character = known[flag][0]
        if character in by_character:
            raise ValueError(f"--map {by_character[character]} and {flag} contradict each other")
        by_character[character] = flag
    return Mapping(known[flag] for flag in by_character.values())
