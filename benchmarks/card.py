"""What a card says beside the figures: the device, the versions, the commit and the command."""

import json
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARDS = "docs/benchmarks"
PRINT_VERSIONS = """
import json, torch
cudnn = torch.backends.cudnn.version()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn}))
"""
PRINT_GPU_NAME = "import torch; print(torch.cuda.get_device_name())"


def first_line(*command: str) -> str | None:
    """What a command says first; nothing when it fails or is not here."""
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return result.stdout.splitlines()[0] if result.returncode == 0 and result.stdout else None


def gpu_name() -> str:
    """Of the first GPU that programs see, by the torch that belongs to this Python."""
    return first_line(sys.executable, "-c", PRINT_GPU_NAME) or "unknown"


def processor_name(facts: Path = Path("/proc/cpuinfo")) -> str:
    """The model where the system tells it, as on x86."""
    model = re.search(r"^model name\s*: (.+)$", facts.read_text(), re.MULTILINE)
    return model[1] if model else platform.machine()


def commit() -> str:
    """Cards that were written since do not count as changes."""
    head = first_line("git", "rev-parse", "HEAD")
    if head and first_line("git", "status", "--porcelain", "--", ".", f":(exclude){CARDS}"):
        head += " with changes"
    return head or "unknown"


def versions() -> dict:
    """Of the torch that belongs to this Python, and of what it was built for and loads."""
    line = first_line(sys.executable, "-c", PRINT_VERSIONS)
    return json.loads(line) if line else {"torch": None, "cuda": None, "cudnn": None}


def provenance(script: str, commit_named: str | None) -> dict:
    """`commit_named` stands in where the sources are not in a git clone."""
    command = shlex.join([script, *sys.argv[1:]])
    return {"commit": commit_named or commit(), "command": command}


def write_card(path: Path, card: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(card, indent=2) + "\n")
