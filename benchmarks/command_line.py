"""What the command lines of the benchmarks share: their help and their kinds of values."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Ends an option's text with its default, where that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default in (None, False, argparse.SUPPRESS) or default == []:
            return action.help
        if isinstance(default, Path) and default.is_relative_to(ROOT):
            default = default.relative_to(ROOT)
        if isinstance(default, list):
            default = " ".join(map(str, default))
        return f"{action.help} (default: {default})"


def make_parser(script: str, description: str) -> argparse.ArgumentParser:
    """For the program that people start as `script`."""
    return argparse.ArgumentParser(
        prog=script,
        description=description,
        epilog="Relative paths start at the root of the clone.",
        formatter_class=HelpFormatter,
    )


def binary_quantity(text: str) -> int:
    """4096 and 4K are the same."""
    units = {"": 1, "K": 1 << 10, "M": 1 << 20}
    parts = re.fullmatch(r"([1-9][0-9]*)([KM]?)", text)
    if not parts:
        raise argparse.ArgumentTypeError(f"expected a number such as 4096 or 4K, not '{text}'")
    return int(parts[1]) * units[parts[2]]


def at_least(minimum: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text) or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected {minimum} or more, not '{text}'")
        return int(text)

    return whole_number
