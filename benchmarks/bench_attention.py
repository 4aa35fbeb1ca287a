"""Measures attention alone at one shape: our pieces, their errors, and PyTorch's kernels.

    scripts/bench_attention --length 32K
    scripts/bench_attention --length 4K --batch 8 --ratio 0.05 0.13 0.5 --output card.json

Times every piece of `attention.backend: fused` and of `library` (build/benchmarks/attention_pieces)
and, in the same call on the same GPU, cuDNN's and FlashAttention-2's causal attention and
FlexAttention with the window and with the same full ratio. Prints microseconds, TFLOP/s of the
visible pairs and the ratios to full attention by cuDNN and FlashAttention-2, then the errors
against float64. Where a peer fails, the rest is printed and in the card, and the exit code is 1.
Needs scripts/build.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from card import gpu_name, provenance, write_card
from command_line import at_least, binary_quantity, make_parser

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "benchmarks/peers/torch_attention.py"


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
    add("--deterministic", action="store_true", help="backward passes that repeat their bits")
    add("--no-peers", action="store_true", help="our pieces alone")
    add("--output", type=Path, help="where the card goes")
    add("--commit", help="for the card, where the sources are not in a git clone")
    add("--program", type=Path, default=program, help="what times our pieces")
    return parser.parse_args()


def run(command: list[str]) -> tuple[list[dict], int]:
    """The objects that a program printed, and its exit code."""
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        name = next(Path(part).name for part in command if part != sys.executable)
        print(f"error: {name} ended with exit code {result.returncode}.", file=sys.stderr)
    return [json.loads(line) for line in result.stdout.splitlines()], result.returncode


def shape_options(arguments: argparse.Namespace) -> list[str]:
    names = ("batch", "length", "heads", "kv_heads", "head_dim", "window", "repeats")
    options = []
    for name in names:
        options += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
    return [*options, "--ratio", *map(str, arguments.ratio)]


def print_table(card: dict) -> None:
    shape = f"{card['batch']} x {card['length']}, {card['heads']}/{card['kv_heads']} heads of"
    print(f"{card['device']}, {shape} {card['head_dim']}, window {card['window']}")
    columns = f"{'x cuDNN full':>14}{'x FA2 full':>12}"
    print(f"{'':<34}{'full ratio':>11}{'us':>10}{'TFLOP/s':>9}{columns}")
    microseconds = {line["piece"]: line["microseconds"] for line in card["pieces"]}
    for line in card["pieces"]:
        direction = line["piece"].split()[-1]
        ratios = ""
        for peer, width in (("cudnn", 14), ("flash", 12)):
            base = microseconds.get(f"{peer} full {direction}")
            ratios += f"{base / line['microseconds']:>{width}.2f}" if base else " " * width
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
    flags = ["--errors", *(["--deterministic"] if arguments.deterministic else [])]
    ours, failed = run([str(arguments.program), *shape_options(arguments), *flags])
    if failed:
        sys.exit(1)
    card = {
        "device": gpu_name(),
        **provenance("scripts/bench_attention", arguments.commit),
        "batch": arguments.batch,
        "length": arguments.length,
        "heads": arguments.heads,
        "kv_heads": arguments.kv_heads,
        "head_dim": arguments.head_dim,
        "window": arguments.window,
        "repeats": arguments.repeats,
        "deterministic": arguments.deterministic,
        "pieces": [x for x in ours if x["piece"] != "errors"],
        "errors": [x for x in ours if x["piece"] == "errors"],
    }
    if arguments.output:
        write_card(arguments.output, card)
    if not arguments.no_peers:
        peers, failed = run([sys.executable, str(PEER), *shape_options(arguments)])
        card["pieces"] += peers
    print_table(card)
    if arguments.output:
        write_card(arguments.output, card)
        print(f"card: {arguments.output}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
