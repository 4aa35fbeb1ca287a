"""Measures the training step, and on request the PyTorch peer in the same call on the same device.

    scripts/bench_step --sequence-length 4K --batch 8 --peer full two_branch
    scripts/bench_step --sequence-length 32K --batch 1 --mode switch sampled full --ratio 0.13 \\
        --peer full --output docs/benchmarks/step-32k-{mode}.json
    scripts/bench_step --profile                                   # and where the time goes
    scripts/bench_step --batch 2 -- --train.recompute=layer        # the rest goes to swiattn-train

Trains a randomly initialised model of the given shape on random tokens in every mode that is named
(sampled: switch with far sampling), takes medians over the later steps of metrics.jsonl, prints a
table and writes a JSON card for each. Profiled steps come after the measured ones. Needs
scripts/build.
"""

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "benchmarks/peers/compiled_pytorch.py"
# Behind the measured steps: one that already runs with the tracing on, and those that are profiled.
PROFILE_WARMUP = 1
PROFILED = 3
KERNELS = 15  # in the card, the longest of them
MODES = ("switch", "sampled", "full", "window")
EOS = 2  # never drawn, so that every sample is one document, as it is for the peer


def binary_quantity(text: str) -> int:
    """4096 and 4K are the same."""
    units = {"K": 1 << 10, "M": 1 << 20}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=ROOT / "configs/models/paper-1b.json")
    parser.add_argument("--sequence-length", type=binary_quantity, default=4096)
    parser.add_argument("--batch", type=int, default=8, help="sequences a step and rank")
    parser.add_argument("--window", type=binary_quantity, default=1024)
    parser.add_argument("--mode", choices=MODES, nargs="+", default=["switch"])
    parser.add_argument(
        "--ratio", type=float, nargs="+", help="random routing at these full ratios"
    )
    parser.add_argument("--steps", type=int, default=15, help="measured, after the warm-up")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=1, help="more than one: through mpirun")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--peer", choices=("full", "two_branch"), nargs="+", default=[])
    parser.add_argument("--peer-cuda-graph", action="store_true", help="the peer's step as a graph")
    parser.add_argument("--profile", action="store_true", help="say where the time goes, too")
    parser.add_argument("--output", help="where the card goes; {mode} and {ratio} are filled in")
    parser.add_argument("--commit", help="for the card, where the sources are not in a git clone")
    parser.add_argument("--programs", type=Path, default=ROOT / "build/bin")
    parser.add_argument("rest", nargs="*", metavar="-- --section.key=value")
    arguments = parser.parse_args()
    if arguments.output:
        outputs = {run.fill_in(arguments.output) for run in runs_of(arguments)}
        if len(outputs) < len(runs_of(arguments)):
            parser.error(
                "several runs would write the same card: put {mode} or {ratio} in --output."
            )
    return arguments


@dataclass(frozen=True)
class Run:
    """One of the trainings that are measured."""

    mode: str
    ratio: float | None = None

    def fill_in(self, output: str) -> Path:
        return Path(output.replace("{mode}", self.mode).replace("{ratio}", str(self.ratio)))

    def attention(self) -> dict:
        sampled = self.mode == "sampled"
        return {"mode": "switch" if sampled else self.mode} | (
            {"far_sampling": {"enabled": True}} if sampled else {}
        )


def runs_of(arguments: argparse.Namespace) -> list[Run]:
    runs = []
    for mode in arguments.mode:
        ratios = arguments.ratio if mode in ("switch", "sampled") else None
        runs += [Run(mode, ratio) for ratio in ratios or [None]]
    return runs


def write_random_shard(prefix: Path, vocabulary: int, tokens: int) -> None:
    import numpy

    kind = numpy.uint16 if vocabulary <= 1 << 16 else numpy.uint32
    draw = numpy.random.default_rng(1234).integers(EOS + 1, vocabulary, tokens, dtype=kind)
    draw.tofile(f"{prefix}.bin")
    side = {"eos_id": EOS, "token_type": "u16" if kind is numpy.uint16 else "u32"}
    Path(f"{prefix}.json").write_text(json.dumps(side))


def measured_steps(arguments: argparse.Namespace) -> int:
    return arguments.warmup + arguments.steps


def all_steps(arguments: argparse.Namespace) -> int:
    profiled = PROFILE_WARMUP + PROFILED if arguments.profile else 0
    return measured_steps(arguments) + profiled


def run_config(arguments: argparse.Namespace, run: Run, folder: Path) -> str:
    steps = all_steps(arguments)
    first_profiled = measured_steps(arguments) + PROFILE_WARMUP + 1
    profile = {"start": first_profiled, "steps": PROFILED} if arguments.profile else None
    fixed = run.ratio is not None  # a random gate has no router that could be regularized
    routing = {"gate": "random", "ratio": run.ratio} if fixed else {}
    sections = {
        "run": {"folder": str(folder / "run")},
        "model": {"init_from": None, "architecture": str(arguments.config.resolve())},
        "attention": run.attention() | {"window": arguments.window},
        "router": routing,
        "regularizer": {"kind": "none"} if fixed else {},
        "data": {
            "sequence_length": arguments.sequence_length,
            "sources": [{"path": str(folder / "random.bin")}],
        },
        "train": {
            "steps": steps,
            "global_batch": arguments.batch * arguments.ranks,
            "micro_batch": arguments.batch,
        },
        "schedule": {"kind": "constant", "warmup": 0},
        "checkpoint": {"every": 1000 * steps, "export_at_end": False},
        "log": {"routing_every": 1000 * steps, "tensorboard": False, "profile": profile},
    }
    return "".join(f"{name}: {json.dumps(keys)}\n" for name, keys in sections.items() if keys)


def measure_trainer(arguments: argparse.Namespace, run: Run, folder: Path) -> dict:
    vocabulary = json.loads(arguments.config.read_text())["vocab_size"]
    sequences = arguments.batch * arguments.ranks * all_steps(arguments)
    write_random_shard(folder / "random", vocabulary, sequences * arguments.sequence_length + 1)
    (folder / "config.yaml").write_text(run_config(arguments, run, folder))
    command = [str(arguments.programs / "swiattn-train"), "--config", str(folder / "config.yaml")]
    command += ["--device", arguments.device, *arguments.rest]
    if arguments.ranks > 1:
        command = ["mpirun", "-np", str(arguments.ranks), *command]
    root_may_run_mpi = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    result = subprocess.run(command, stdout=sys.stderr, env={**os.environ, **root_may_run_mpi})
    if result.returncode != 0:
        sys.exit(f"error: swiattn-train ended with exit code {result.returncode}.")
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    later = steps[arguments.warmup : measured_steps(arguments)]

    def median(key):
        values = [record[key] for record in later if record.get(key) is not None]
        return statistics.median(values) if values else None

    keys = ("tokens_per_second", "mfu", "memory_gib", "full_ratio", "step_seconds", "data_seconds")
    measured = {key: median(key) for key in keys}
    measured["first_step_seconds"] = steps[0]["step_seconds"]
    return measured | (read_profile(folder / "run/profile") if arguments.profile else {})


def read_profile(folder: Path) -> dict:
    path = folder / "kernels.json"
    if not path.exists():
        sys.exit("error: swiattn-train left no profile; its messages above say why.")
    profile = json.loads(path.read_text())
    idle = {"name": "idle", "share": profile["idle_share"]}
    phases = profile["phases"] + ([idle] if profile["on_gpu"] else [])
    kernels = profile["kernels"][:KERNELS]
    for kernel in kernels:
        del kernel["full_name"]
    return {"phases": phases, "kernels": kernels}


def measure_peer(arguments: argparse.Namespace, mode: str) -> dict:
    options = {
        "config": arguments.config,
        "sequence-length": arguments.sequence_length,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "window": arguments.window,
        "mode": mode,
        "device": arguments.device,
    }
    command = [sys.executable, str(PEER)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    if arguments.peer_cuda_graph:
        command.append("--cuda-graph")
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"error: the peer in mode {mode} ended with exit code {result.returncode}.")
    return json.loads(result.stdout.splitlines()[-1])


def first_line(*command: str) -> str | None:
    """What a command says first; nothing when it fails or is not here."""
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return result.stdout.splitlines()[0] if result.returncode == 0 and result.stdout else None


def commit() -> str:
    head = first_line("git", "rev-parse", "HEAD")
    if head and first_line("git", "status", "--porcelain"):
        head += " with changes"
    return head or "unknown"


def torch_version() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def make_card(
    arguments: argparse.Namespace, run: Run, trainer: dict, peers: dict[str, dict]
) -> dict:
    per_rank = trainer["tokens_per_second"] / arguments.ranks
    gpu = first_line("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    card = {
        "device": (gpu if arguments.device == "cuda" else None) or "cpu",
        "ranks": arguments.ranks,
        "torch": torch_version(),
        "commit": arguments.commit or commit(),
        "config": arguments.config.name,
        "sequence_length": arguments.sequence_length,
        "batch": arguments.batch,
        "window": arguments.window,
        "mode": run.mode,
        "options": arguments.rest,
        "steps": arguments.steps,
        **trainer,
        "tokens_per_second_per_rank": per_rank,
    }
    for mode, peer in peers.items():
        card[f"peer_{mode}_tokens_per_second"] = peer["tokens_per_second"]
        card[f"ratio_to_peer_{mode}"] = per_rank / peer["tokens_per_second"]
        card[f"peer_{mode}_mfu"] = peer["mfu"]
        card[f"peer_{mode}_memory_gib"] = peer["memory_gib"]
        card["peer_cuda_graph"] = arguments.peer_cuda_graph
    return card


def print_table(cards: list[dict], peers: dict[str, dict]) -> None:
    def row(name, rate, mfu, memory, seconds, ratios):
        percent = "-" if mfu is None else f"{100 * mfu:.1f} %"
        gib = "-" if memory is None else f"{memory:.1f}"
        over = "".join(f"{ratio:>17.3f}" for ratio in ratios)
        print(f"{name:<26}{rate:>12,.0f}{percent:>10}{gib:>9}{seconds:>11.4f}{over}")

    first = cards[0]
    print(f"{first['device']}, {first['config']}, {first['sequence_length']} x {first['batch']}")
    over = "".join(f"{'over ' + mode:>17}" for mode in peers)
    print(f"{'':<26}{'tok/s a rank':>12}{'MFU':>10}{'GiB':>9}{'s a step':>11}{over}")
    for card in cards:
        name = f"swiattn {card['mode']}, ratio {card['full_ratio']:.2f}"
        rate = card["tokens_per_second_per_rank"]
        ratios = [card[f"ratio_to_peer_{mode}"] for mode in peers]
        row(name, rate, card["mfu"], card["memory_gib"], card["step_seconds"], ratios)
    for mode, peer in peers.items():
        figures = [peer[key] for key in ("tokens_per_second", "mfu", "memory_gib")]
        row(f"peer {mode}", *figures, peer["step_seconds_median"], [])


def print_profile(card: dict) -> None:
    print("phases of a step")
    for phase in card["phases"]:
        print(f"  {phase['name']:<16}{100 * phase['share']:>6.1f} %")
    columns = f"{'calls':>9}{'us each':>11}{'ms a step':>11}{'share':>9}"
    print(f"  {'the longest kernels':<80}{columns}")
    for kernel in card["kernels"]:
        numbers = f"{kernel['calls']:>9.1f}{kernel['mean_microseconds']:>11.1f}"
        numbers += f"{kernel['milliseconds']:>11.3f}{100 * kernel['share']:>7.1f} %"
        print(f"  {kernel['name']:<80}{numbers}")


def main() -> None:
    arguments = parse_arguments()
    if not (arguments.programs / "swiattn-train").exists():
        sys.exit(f"error: no swiattn-train in {arguments.programs}: run scripts/build first.")
    measured = {}
    for run in runs_of(arguments):
        with tempfile.TemporaryDirectory(prefix="swiattn-bench-") as folder:
            measured[run] = measure_trainer(arguments, run, Path(folder))
    peers = {mode: measure_peer(arguments, mode) for mode in arguments.peer}
    cards = {run: make_card(arguments, run, trainer, peers) for run, trainer in measured.items()}
    print_table(list(cards.values()), peers)
    for run, card in cards.items():
        if arguments.profile:
            print_profile(card)
        if arguments.output:
            output = run.fill_in(arguments.output)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(card, indent=2) + "\n")
            print(f"card: {output}")


if __name__ == "__main__":
    main()
