"""All scenarios: importing their modules enters them in the registry, in the order in which they run."""

from . import command, lines
from .registry import SCENARIOS

__all__ = ["SCENARIOS", "command", "lines"]
