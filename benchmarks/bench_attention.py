"""Measures attention alone at one shape: our pieces, their errors, and PyTorch's kernels.

    scripts/bench_attention --length 32K
    scripts/bench_attention --length 4K --batch 8 --ratio 0.05 0.13 0.5 --output card.json

Times every piece of `attention.backend: fused` and of `library` (build/benchmarks/attention_pieces)
and, in the same call on the same GPU, cuDNN's and FlashAttention-2's causal attention and
FlexAttention with the window and with the same full ratio. Prints microseconds, TFLOP/s of the
visible pairs and the ratio to cuDNN full, then the errors against float64. Needs scripts/build.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bench_step import binary_quantity, commit, first_line, torch_version

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "benchmarks/peers/torch_attention.py"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=binary_quantity, default=32768, help="of a sequence")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--window", type=binary_quantity, default=1024)
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.13])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--no-peers", action="store_true", help="our pieces alone")
    parser.add_argument("--output", type=Path, help="where the card goes")
    parser.add_argument("--commit", help="for the card, where the sources are not in a git clone")
    parser.add_argument("--program", type=Path, default=ROOT / "build/benchmarks/attention_pieces")
    return parser.parse_args()


def run(command: list[str]) -> list[dict]:
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"error: {Path(command[0]).name} ended with exit code {result.returncode}.")
    return [json.loads(line) for line in result.stdout.splitlines()]


def shape_options(arguments: argparse.Namespace) -> list[str]:
    names = ("batch", "length", "heads", "kv_heads", "head_dim", "window", "repeats")
    options = []
    for name in names:
        options += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
    return [*options, "--ratio", *map(str, arguments.ratio)]


def print_table(card: dict) -> None:
    shape = f"{card['batch']} x {card['length']}, {card['heads']}/{card['kv_heads']} heads of"
    print(f"{card['device']}, {shape} {card['head_dim']}, window {card['window']}")
    print(f"{'':<34}{'full ratio':>11}{'us':>10}{'TFLOP/s':>9}{'x cuDNN full':>14}")
    full = {"forward": None, "backward": None}
    for line in card["pieces"]:
        if line["piece"].startswith("cudnn full"):
            full[line["piece"].split()[-1]] = line["microseconds"]
    for line in card["pieces"]:
        base = full[line["piece"].split()[-1]]
        ratio = f"{base / line['microseconds']:.2f}" if base else ""
        share = "" if line.get("ratio") is None else f"{line['ratio']:.2f}"
        name = f"{line['backend']} {line['piece']}"
        numbers = f"{line['microseconds']:>10.0f}{line['tflops']:>9.0f}"
        print(f"{name:<34}{share:>11}{numbers}{ratio:>14}")
    print("relative errors against float64")
    for line in card["errors"]:
        parts = ", ".join(f"{key} {line[key]:.1e}" for key in ("out", "dq", "dk", "dv"))
        print(f"{line['backend']:<34}{line['ratio']:>11.2f}  {parts}")


def main() -> None:
    arguments = parse_arguments()
    if not arguments.program.exists():
        sys.exit(f"error: no {arguments.program}: run scripts/build with CUDA first.")
    flags = ["--errors", *(["--deterministic"] if arguments.deterministic else [])]
    lines = run([str(arguments.program), *shape_options(arguments), *flags])
    peers = []
    if not arguments.no_peers:
        peers = run([sys.executable, str(PEER), *shape_options(arguments)])
    card = {
        "device": first_line("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "torch": torch_version(),
        "commit": arguments.commit or commit(),
        "batch": arguments.batch,
        "length": arguments.length,
        "heads": arguments.heads,
        "kv_heads": arguments.kv_heads,
        "head_dim": arguments.head_dim,
        "window": arguments.window,
        "deterministic": arguments.deterministic,
        "pieces": [x for x in lines if x["piece"] != "errors"] + peers,
        "errors": [x for x in lines if x["piece"] == "errors"],
    }
    print_table(card)
    if arguments.output:
        arguments.output.write_text(json.dumps(card, indent=2) + "\n")
        print(f"card: {arguments.output}")


if __name__ == "__main__":
    main()
