"""Measures attention alone at one shape: our pieces, their errors, and PyTorch's kernels.

    scripts/bench_attention --length 32K
    scripts/bench_attention --length 4K --batch 8 --ratio 0.05 0.13 0.5 --output card.json
    scripts/bench_attention --rounds 2                             # ours, peers; peers, ours

Times every piece of `attention.backend: fused` and of `library` (build/benchmarks/attention_pieces)
and, in the same call on the same GPU, cuDNN's and FlashAttention-2's causal attention and
FlexAttention with the window and with the same full ratio. Prints microseconds, TFLOP/s of the
visible pairs and the ratios to full attention by cuDNN and FlashAttention-2, then the errors
against float64. With --rounds all is measured by turns, in the opposite order every other round,
and the medians over the rounds count. Where a peer fails, the rest is printed and in the card, and
the exit code is 1. Needs scripts/build.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

from card import gpu_name, provenance, versions, write_card
from command_line import at_least, binary_quantity, make_parser

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "benchmarks/peers/torch_attention.py"
BACKENDS = ("fused", "library")


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("scripts/bench_attention", __doc__)
    add = parser.add_argument
    program = ROOT / "build/benchmarks/attention_pieces"
    add("--length", type=binary_quantity, default=32768, help="of a sequence")
    add("--batch", type=at_least(1), default=1, help="sequences")
    add("--heads", type=at_least(1), default=16, help="of queries")
    add("--kv-heads", type=at_least(1), default=8, help="of keys and values")
    add("--head-dim", type=at_least(1), default=128, help="width of a head")
    add("--window", type=binary_quantity, default=1024, help="keys that the local branch sees")
    add("--ratio", type=float, nargs="+", default=[0.13], help="share of rows with full attention")
    add("--repeats", type=at_least(1), default=20, help="the median of them counts")
    add("--rounds", type=at_least(1), default=1, help="times that everything is measured, by turns")
    add("--deterministic", action="store_true", help="backward passes that repeat their bits")
    add("--peer-autotune", action="store_true", help="FlexAttention compiled with max-autotune")
    add("--no-peers", action="store_true", help="our pieces alone")
    add("--output", type=Path, help="where the card goes")
    add("--commit", help="for the card, where the sources are not in a git clone")
    add("--program", type=Path, default=program, help="what times our pieces")
    return parser.parse_args()


def shape_options(arguments: argparse.Namespace) -> list[str]:
    names = ("batch", "length", "heads", "kv_heads", "head_dim", "window", "repeats")
    options = []
    for name in names:
        options += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
    return [*options, "--ratio", *map(str, arguments.ratio)]


def our_command(arguments: argparse.Namespace, turn: int) -> list[str]:
    """The errors are the same in all rounds."""
    backends = BACKENDS if turn % 2 == 0 else reversed(BACKENDS)
    flags = [*(["--errors"] if turn == 0 else []), "--backend", *backends]
    flags += ["--deterministic"] if arguments.deterministic else []
    return [str(arguments.program), *shape_options(arguments), *flags]


def peers_command(arguments: argparse.Namespace) -> list[str]:
    flags = ["--autotune"] if arguments.peer_autotune else []
    return [sys.executable, str(PEER), *shape_options(arguments), *flags]


def run(command: list[str]) -> tuple[list[dict], bool]:
    """The objects that a program printed, and whether it ended well."""
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        name = next(Path(part).name for part in command if part != sys.executable)
        print(f"error: {name} ended with exit code {result.returncode}.", file=sys.stderr)
    return [json.loads(line) for line in result.stdout.splitlines()], result.returncode == 0


def medians_of_turns(turns: list[list[dict]]) -> list[dict]:
    """One line for each backend, piece and ratio, in the order of their first measurement."""
    measured = {}
    for line in itertools.chain.from_iterable(turns):
        key = (line["backend"], line["piece"], line.get("ratio"))
        measured.setdefault(key, []).append(line)
    return [median_of_lines(lines) for lines in measured.values()]


def median_of_lines(lines: list[dict]) -> dict:
    microseconds = statistics.median(line["microseconds"] for line in lines)
    first = lines[0]
    tflops = first["tflops"] * first["microseconds"] / microseconds
    return {**first, "microseconds": microseconds, "tflops": tflops}


def add_ratios(pieces: list[dict]) -> list[dict]:
    """How many times faster each is than full attention of the libraries in the same direction."""
    microseconds = {line["piece"]: line["microseconds"] for line in pieces}
    for line in pieces:
        for name in ("cudnn", "flash"):
            full = microseconds.get(f"{name} full {line['piece'].split()[-1]}")
            line[f"ratio_to_{name}_full"] = full and full / line["microseconds"]
    return pieces


class Bench:
    """What was measured so far, and its card."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        script = "scripts/bench_attention"
        self.known = {"device": gpu_name(), **versions(), **provenance(script, arguments.commit)}
        self.turns: dict[str, list[list[dict]]] = {"ours": [], "peers": []}
        self.failed: set[str] = set()

    def card(self) -> dict:
        names = ("batch", "length", "heads", "kv_heads", "head_dim", "window", "repeats")
        lines = [line for turn in self.turns["ours"] for line in turn]
        pieces = [line for line in lines if line["piece"] != "errors"]
        return {
            **self.known,
            **{name: getattr(self.arguments, name) for name in names},
            "rounds": len(self.turns["ours"]),
            "deterministic": self.arguments.deterministic,
            "peer_autotune": self.arguments.peer_autotune,
            "pieces": add_ratios(medians_of_turns([pieces, *self.turns["peers"]])),
            "errors": [line for line in lines if line["piece"] == "errors"],
        }

    def measure(self, what: str, turn: int) -> None:
        """One turn; then writes the card. What failed once is not tried again."""
        if what in self.failed:
            return
        ours = what == "ours"
        command = our_command(self.arguments, turn) if ours else peers_command(self.arguments)
        lines, ended_well = run(command)
        if not ended_well:
            self.failed.add(what)
            if ours:
                return
        self.turns[what].append(lines)  # of the peers, those before the one that failed
        if self.arguments.output:
            write_card(self.arguments.output, self.card())


def print_table(card: dict) -> None:
    shape = f"{card['batch']} x {card['length']}, {card['heads']}/{card['kv_heads']} heads of"
    print(f"{card['device']}, {shape} {card['head_dim']}, window {card['window']}")
    columns = f"{'x cuDNN full':>14}{'x FA2 full':>12}"
    print(f"{'':<34}{'full ratio':>11}{'us':>10}{'TFLOP/s':>9}{columns}")
    for line in card["pieces"]:
        ratios = ""
        for name, width in (("cudnn", 14), ("flash", 12)):
            ratio = line[f"ratio_to_{name}_full"]
            ratios += f"{ratio:>{width}.2f}" if ratio else ""
        share = "" if line.get("ratio") is None else f"{line['ratio']:.2f}"
        name = f"{line['backend']} {line['piece']}"
        numbers = f"{line['microseconds']:>10.0f}{line['tflops']:>9.0f}"
        print(f"{name:<34}{share:>11}{numbers}{ratios}")
    print("relative errors against float64")
    for line in card["errors"]:
        parts = ", ".join(f"{key} {line[key]:.1e}" for key in ("out", "dq", "dk", "dv"))
        print(f"{line['backend']:<34}{line['ratio']:>11.2f}  {parts}")


def main() -> None:
    arguments = parse_arguments()
    if not arguments.program.exists():
        sys.exit(f"error: no {arguments.program}: run scripts/build with CUDA first.")
    bench = Bench(arguments)
    order = ["ours"] if arguments.no_peers else ["ours", "peers"]
    for turn in range(arguments.rounds):
        for what in order if turn % 2 == 0 else reversed(order):
            if what == "ours" or bench.turns["ours"]:
                bench.measure(what, turn)
    if not bench.turns["ours"]:
        sys.exit("error: none of our pieces could be measured.")
    print_table(bench.card())
    if arguments.output:
        print(f"card: {arguments.output}")
    if bench.failed:
        sys.exit(f"error: not measured to the end: {', '.join(sorted(bench.failed))}.")


if __name__ == "__main__":
    main()
