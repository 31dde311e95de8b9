"""Text that came from a device, or from another process, for a log or a terminal."""


def printable(text: str, most: int = 200) -> str:
    """The text with its control characters shown, not obeyed, and cut short after `most` characters.

    A line end could forge a line of a log, an escape sequence could do things to a terminal.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return shown if len(text) <= most else f"{shown}..."
