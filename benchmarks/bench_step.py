"""Measures the training step, and on request the PyTorch peer in the same call on the same device.

    scripts/bench_step --sequence-length 4K --batch 8 --peer full two_branch
    scripts/bench_step --sequence-length 32K --batch 1 --mode switch sampled full --ratio 0.13 \\
        --peer full --output docs/benchmarks/step-32k-{mode}.json
    scripts/bench_step --rounds 2 --peer full                      # ours, peer; peer, ours
    scripts/bench_step --floor                                     # and the least time of a step
    scripts/bench_step --profile --keep runs/profiled              # and where the time goes
    scripts/bench_step --batch 2 -- --train.recompute=layer        # the rest goes to swiattn-train

Trains a randomly initialised model of the given shape on random tokens in every mode that is named
(sampled: switch with far sampling), takes medians over the later steps of metrics.jsonl, prints a
table and writes a JSON card for each; a card is there as soon as its run is, and grows with each
peer. What fails is named and the rest goes on; the exit code is 1 then. Profiled steps come after
the measured ones. Needs scripts/build.

With --floor the column "of the floor" is the time of the floor divided by the step's time. The
floor is the least time of a step at the rates that libraries reach on the device, one operation
after the other (benchmarks/step_floor.py); above 1 a step joins operations or has faster kernels
than the libraries'. Behind -- only keys that leave the counted work alone may then stand:
numerics.*, log.*, attention.backend and train.recompute, though what is computed twice is not in
the floor.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from card import gpu_name, processor_name, provenance, versions, write_card
from command_line import at_least, binary_quantity, make_parser
from peers.llama_config import read_config
from step_floor import MINIMUM, SCALE, floor_seconds, read_shape

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "benchmarks/peers/compiled_pytorch.py"
LIBRARY_RATES = ROOT / "benchmarks/peers/library_rates.py"
# Behind the measured steps. Before a profile the trainer launches two steps, the second with the
# tracing on, even where it replays CUDA graphs otherwise: neither is a measured one.
PROFILE_WARMUP = 2
PROFILED = 3
KERNELS = 15  # in the card, the longest of them
MODES = ("switch", "sampled", "full", "window")
MEDIANS = ("tokens_per_second", "mfu", "memory_gib", "full_ratio", "step_seconds", "data_seconds")
# Beginnings of keys that a run with --floor may set: the work that the floor counts is the same.
SAME_WORK = ("--numerics.", "--log.", "--attention.backend=", "--train.recompute=")
EOS = 2  # never drawn, so that every sample is one document, as it is for the peer


class MeasurementError(Exception):
    """A sentence without its full stop: a program failed, and the others can go on."""


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("scripts/bench_step", __doc__)
    add = parser.add_argument
    model = ROOT / "configs/models/paper-1b.json"
    add("--config", type=Path, default=model, help="config.json with the model's shape")
    add("--sequence-length", type=binary_quantity, default=4096, help="tokens of a sample")
    add("--batch", type=at_least(1), default=8, help="sequences a step and rank")
    add("--window", type=binary_quantity, default=1024, help="keys that the local branch sees")
    add("--mode", choices=MODES, nargs="+", default=["switch"], help="what is measured")
    gate = parser.add_mutually_exclusive_group().add_argument
    gate(
        "--ratio", type=float, nargs="+", default=[0.13], help="full ratios of a fixed random gate"
    )
    gate("--learned-gate", action="store_true", help="a new router instead, as a run starts with")
    add("--steps", type=at_least(1), default=15, help="measured, after the warm-up")
    add("--warmup", type=at_least(0), default=5, help="steps before them, which do not count")
    add("--rounds", type=at_least(1), default=1, help="times that everything is measured, by turns")
    add("--ranks", type=at_least(1), default=1, help="more than one: through mpirun")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="where all of it runs")
    add("--peer", choices=("full", "two_branch"), nargs="+", default=[], help="and these peers")
    add("--peer-cuda-graph", action="store_true", help="the peer's step as one CUDA graph")
    add("--peer-autotune", action="store_true", help="the peer compiled with max-autotune")
    add("--floor", action="store_true", help="say what part of a step's time the floor is, too")
    add("--profile", action="store_true", help="say where the time goes, too")
    add("--output", help="where the card goes; {mode} and {ratio} are filled in")
    add("--keep", type=Path, help="new folder for the run folders (default: removed after use)")
    add("--commit", help="for the card, where the sources are not in a git clone")
    add("--programs", type=Path, default=ROOT / "build/bin", help="where swiattn-train is")
    add("rest", nargs="*", metavar="-- --section.key=value", help="goes to swiattn-train")
    arguments = parser.parse_args()
    try:
        arguments.vocabulary = int(json.loads(arguments.config.read_text())["vocab_size"])
    except OSError as error:
        parser.error(f"--config: {arguments.config} cannot be read: {error.strerror}.")
    except (ValueError, KeyError, TypeError):
        parser.error(f"--config: {arguments.config} is no model's config.json with a vocab_size.")
    if arguments.peer or arguments.floor:
        try:
            read_config(arguments.config)
        except argparse.ArgumentTypeError as error:
            parser.error(f"--config: {error}")
    if arguments.output:
        outputs = {run.fill_in(arguments.output) for run in runs_of(arguments)}
        if len(outputs) < len(runs_of(arguments)):
            parser.error(
                "several runs would write the same card: put {mode} or {ratio} in --output."
            )
    changing = [option for option in arguments.rest if not option.startswith(SAME_WORK)]
    if arguments.floor and changing:
        parser.error(
            f"--floor counts the work of a step without {changing[0]}: leave one of them out."
        )
    if arguments.keep and arguments.keep.exists():
        parser.error(f"--keep: {arguments.keep} is there already: name a new folder.")
    return arguments


@dataclass(frozen=True)
class Run:
    """One of the trainings that are measured."""

    mode: str
    ratio: float | None = None

    def __str__(self) -> str:
        return f"mode {self.mode}" + ("" if self.ratio is None else f", ratio {self.ratio}")

    def fill_in(self, output: str) -> Path:
        ratio = "" if self.ratio is None else f"{self.ratio:g}"
        return Path(output.replace("{mode}", self.mode).replace("{ratio}", ratio))

    def attention(self) -> dict:
        if self.mode != "sampled":
            return {"mode": self.mode}
        sampling = {"enabled": True, "minimum": MINIMUM, "scale": SCALE}
        return {"mode": "switch", "far_sampling": sampling}


@dataclass(frozen=True)
class Peer:
    """The PyTorch peer in one of its modes."""

    mode: str

    def __str__(self) -> str:
        return f"the peer in mode {self.mode}"


@dataclass(frozen=True)
class Floor:
    """The rates of libraries that the floor follows from (step_floor.py)."""

    def __str__(self) -> str:
        return "the floor"


def runs_of(arguments: argparse.Namespace) -> list[Run]:
    runs = []
    for mode in dict.fromkeys(arguments.mode):
        fixed = mode in ("switch", "sampled") and not arguments.learned_gate
        runs += [Run(mode, ratio) for ratio in (arguments.ratio if fixed else [None])]
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


@contextlib.contextmanager
def working_folder(arguments: argparse.Namespace, run: Run, turn: int) -> Iterator[Path]:
    if not arguments.keep:
        with tempfile.TemporaryDirectory(prefix="swiattn-bench-") as folder:
            yield Path(folder)
        return
    ratio = "" if run.ratio is None else f"-{run.ratio:g}"
    folder = arguments.keep.resolve() / f"{run.mode}{ratio}-{turn + 1}"
    folder.mkdir(parents=True)
    yield folder


def measure_trainer(arguments: argparse.Namespace, run: Run, folder: Path) -> dict:
    """The records of the measured steps, and what is known once a run."""
    sequences = arguments.batch * arguments.ranks * all_steps(arguments)
    tokens = sequences * arguments.sequence_length + 1
    write_random_shard(folder / "random", arguments.vocabulary, tokens)
    (folder / "config.yaml").write_text(run_config(arguments, run, folder))
    command = [str(arguments.programs / "swiattn-train"), "--config", str(folder / "config.yaml")]
    command += ["--device", arguments.device, *arguments.rest]
    if arguments.ranks > 1:
        command = ["mpirun", "-np", str(arguments.ranks), *command]
    root_may_run_mpi = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    result = subprocess.run(command, stdout=sys.stderr, env={**os.environ, **root_may_run_mpi})
    if result.returncode != 0:
        raise MeasurementError(f"swiattn-train ended with exit code {result.returncode} in {run}")
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    if len(steps) < all_steps(arguments):
        done = f"{len(steps)} of {all_steps(arguments)} steps"
        raise MeasurementError(f"swiattn-train stopped after {done} in {run}")
    return {
        "steps": steps[arguments.warmup : measured_steps(arguments)],
        "first_step_seconds": steps[0]["step_seconds"],
        "profile": read_profile(folder / "run/profile") if arguments.profile else {},
    }


def medians_of_runs(turns: list[dict]) -> dict:
    """Medians over the steps of all rounds; the profile is the last one."""
    steps = list(itertools.chain.from_iterable(turn["steps"] for turn in turns))

    def median(key):
        values = [record[key] for record in steps if record.get(key) is not None]
        return statistics.median(values) if values else None

    first = statistics.median(turn["first_step_seconds"] for turn in turns)
    figures = {key: median(key) for key in MEDIANS}
    return {**figures, "first_step_seconds": first, **turns[-1]["profile"]}


def read_profile(folder: Path) -> dict:
    path = folder / "kernels.json"
    if not path.exists():
        raise MeasurementError("swiattn-train left no profile; its messages above say why")
    profile = json.loads(path.read_text())
    idle = {"name": "idle", "share": profile["idle_share"]}
    phases = profile["phases"] + ([idle] if profile["on_gpu"] else [])
    kernels = profile["kernels"][:KERNELS]
    for kernel in kernels:
        del kernel["full_name"]
    return {"phases": phases, "kernels": kernels}


def run_peer(program: Path, what: Peer | Floor, options: dict, flags: list[str]) -> dict:
    command = [sys.executable, str(program), *flags]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise MeasurementError(f"{what} ended with exit code {result.returncode}")
    return json.loads(result.stdout.splitlines()[-1])


def shape_options(arguments: argparse.Namespace) -> dict:
    names = ("config", "sequence_length", "batch", "device")
    return {name.replace("_", "-"): getattr(arguments, name) for name in names}


def measure_peer(arguments: argparse.Namespace, peer: Peer) -> dict:
    names = ("steps", "warmup", "window")
    options = {name: getattr(arguments, name) for name in names} | {"mode": peer.mode}
    flags = ["--cuda-graph"] if arguments.peer_cuda_graph else []
    flags += ["--autotune"] if arguments.peer_autotune else []
    return run_peer(PEER, peer, shape_options(arguments) | options, flags)


def floor_of(arguments: argparse.Namespace, run: Run, rates: dict, ratio: float) -> dict:
    """Unknown where tokens are drawn by what a router says of them."""
    if run.mode == "sampled" and run.ratio is None:
        return {}
    sizes = (arguments.sequence_length, arguments.batch, arguments.window)
    shape = read_shape(arguments.config, *sizes)
    seconds = floor_seconds(shape, rates, run.mode, ratio)
    return {"floor_tokens_per_second": shape.tokens / seconds, "library_rates": rates}


def medians_of_rates(turns: list[dict]) -> dict:
    return {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}


def medians_of_peers(turns: list[dict]) -> dict:
    """The report of the first round, with medians over the steps of all rounds."""
    first = turns[0]
    median = statistics.median(
        itertools.chain.from_iterable(turn["step_seconds"] for turn in turns)
    )
    faster = first["step_seconds_median"] / median
    return {
        "tokens_per_second": first["tokens_per_second"] * faster,
        "mfu": first["mfu"] and first["mfu"] * faster,
        "memory_gib": first["memory_gib"],
        "step_seconds_median": median,
    }


def make_card(
    arguments: argparse.Namespace,
    known: dict,
    run: Run,
    turns: list[dict],
    peers: dict[str, dict],
    rates: dict | None,
) -> dict:
    """`known` is the card's head, which is the same for every run."""
    trainer = medians_of_runs(turns)
    per_rank = trainer["tokens_per_second"] / arguments.ranks
    card = {
        **known,
        "ranks": arguments.ranks,
        "config": arguments.config.name,
        "sequence_length": arguments.sequence_length,
        "batch": arguments.batch,
        "window": arguments.window,
        "mode": run.mode,
        "ratio": run.ratio,
        "options": arguments.rest,
        "warmup": arguments.warmup,
        "steps": arguments.steps,
        "rounds": len(turns),
        **trainer,
        "tokens_per_second_per_rank": per_rank,
    }
    if peers:
        card["peer_cuda_graph"] = arguments.peer_cuda_graph
        card["peer_autotune"] = arguments.peer_autotune
    for mode, peer in peers.items():
        card[f"peer_{mode}_tokens_per_second"] = peer["tokens_per_second"]
        card[f"ratio_to_peer_{mode}"] = per_rank / peer["tokens_per_second"]
        card[f"peer_{mode}_mfu"] = peer["mfu"]
        card[f"peer_{mode}_memory_gib"] = peer["memory_gib"]
    floor = floor_of(arguments, run, rates, card["full_ratio"]) if rates else {}
    if floor:
        card["ratio_to_floor"] = per_rank / floor["floor_tokens_per_second"]
    return card | floor


def print_table(cards: list[dict], peers: dict[str, dict]) -> None:
    def row(name, rate, mfu, memory, seconds, ratios):
        percent = "-" if mfu is None else f"{100 * mfu:.1f} %"
        gib = "-" if memory is None else f"{memory:.1f}"
        over = "".join(f"{ratio:>17.3f}" for ratio in ratios)
        print(f"{name:<26}{rate:>12,.0f}{percent:>10}{gib:>9}{seconds:>11.4f}{over}")

    first = cards[0]
    print(f"{first['device']}, {first['config']}, {first['sequence_length']} x {first['batch']}")
    over = "".join(f"{'over ' + mode:>17}" for mode in peers)
    with_floor = any("ratio_to_floor" in card for card in cards)
    over += f"{'of the floor':>17}" if with_floor else ""
    print(f"{'':<26}{'tok/s a rank':>12}{'MFU':>10}{'GiB':>9}{'s a step':>11}{over}")
    for card in cards:
        name = f"swiattn {card['mode']}, ratio {card['full_ratio']:.2f}"
        rate = card["tokens_per_second_per_rank"]
        ratios = [card[f"ratio_to_peer_{mode}"] for mode in peers]
        ratios += [card["ratio_to_floor"]] if "ratio_to_floor" in card else []
        row(name, rate, card["mfu"], card["memory_gib"], card["step_seconds"], ratios)
    for mode, peer in peers.items():
        figures = [peer[key] for key in ("tokens_per_second", "mfu", "memory_gib")]
        row(f"peer {mode}", *figures, peer["step_seconds_median"], [])


def print_profile(run: Run, card: dict) -> None:
    print(f"phases of a step, {run}")
    for phase in card["phases"]:
        print(f"  {phase['name']:<16}{100 * phase['share']:>6.1f} %")
    columns = f"{'calls':>9}{'us each':>11}{'ms a step':>11}{'share':>9}"
    print(f"  {f'the longest kernels, {run}':<80}{columns}")
    for kernel in card["kernels"]:
        numbers = f"{kernel['calls']:>9.1f}{kernel['mean_microseconds']:>11.1f}"
        numbers += f"{kernel['milliseconds']:>11.3f}{100 * kernel['share']:>7.1f} %"
        print(f"  {kernel['name']:<80}{numbers}")


class Bench:
    """What was measured so far, and its cards."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        device = gpu_name() if arguments.device == "cuda" else processor_name()
        script = "scripts/bench_step"
        self.known = {"device": device, **versions(), **provenance(script, arguments.commit)}
        self.turns: dict[Run | Peer | Floor, list[dict]] = {}
        self.failed: list[Run | Peer | Floor] = []

    def peers(self) -> dict[str, dict]:
        measured = [peer for peer in self.turns if isinstance(peer, Peer)]
        return {peer.mode: medians_of_peers(self.turns[peer]) for peer in measured}

    def cards(self) -> dict[Run, dict]:
        peers = self.peers()
        measured = self.turns.get(Floor())
        rates = medians_of_rates(measured) if measured else None
        return {
            run: make_card(self.arguments, self.known, run, turns, peers, rates)
            for run, turns in self.turns.items()
            if isinstance(run, Run)
        }

    def measure(self, what: Run | Peer | Floor, turn: int) -> None:
        """One turn; then writes the cards. What failed once is not tried again."""
        if what in self.failed:
            return
        try:
            if isinstance(what, Peer):
                figures = measure_peer(self.arguments, what)
            elif isinstance(what, Floor):
                figures = run_peer(LIBRARY_RATES, what, shape_options(self.arguments), [])
            else:
                with working_folder(self.arguments, what, turn) as folder:
                    figures = measure_trainer(self.arguments, what, folder)
        except MeasurementError as error:
            print(f"error: {error}.", file=sys.stderr)
            self.failed.append(what)
            return
        self.turns.setdefault(what, []).append(figures)
        if self.arguments.output:
            for run, card in self.cards().items():
                write_card(run.fill_in(self.arguments.output), card)


def main() -> None:
    arguments = parse_arguments()
    if not (arguments.programs / "swiattn-train").exists():
        sys.exit(f"error: no swiattn-train in {arguments.programs}: run scripts/build first.")
    if not arguments.keep:
        print("Run folders are removed after use; --keep FOLDER keeps them.", file=sys.stderr)
    bench = Bench(arguments)
    order = [*runs_of(arguments), *(Peer(mode) for mode in dict.fromkeys(arguments.peer))]
    order += [Floor()] if arguments.floor else []
    for turn in range(arguments.rounds):
        for what in order if turn % 2 == 0 else reversed(order):
            if bench.cards() or isinstance(what, Run):
                bench.measure(what, turn)
    cards = bench.cards()
    if not cards:
        sys.exit("error: none of our runs could be measured.")
    print_table(list(cards.values()), bench.peers())
    for run, card in cards.items():
        if arguments.profile:
            print_profile(run, card)
        if arguments.output:
            print(f"card: {run.fill_in(arguments.output)}")
    if bench.failed:
        sys.exit(f"error: not measured to the end: {'; '.join(map(str, bench.failed))}.")


if __name__ == "__main__":
    main()
