"""Measures `swiattn-data tokenize` against Hugging Face's `tokenizers` library in the same call.

    scripts/bench_data
    scripts/bench_data --megabytes 400 --threads 8 --output docs/benchmarks/tokenize.json

The text is the novels of data/books, repeated with random misspellings so that no cache of words
sees the same text twice. Both get the same documents, threads and cores. Ours is timed from the
first byte read to the shard on disk, the library for encode_batch alone. Both must give the same
ids. Then measures how fast the batch stream reads that shard, shuffled. Prints a table and writes a
JSON card. Needs scripts/build and scripts/setup demo.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from card import processor_name, provenance, write_card
from command_line import at_least, make_parser

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "benchmarks/peers/tokenizers_library.py"
DEPENDENCIES = Path(os.environ.get("SWIATTN_DEPS") or Path.home() / ".cache/swiattn")
DEMO_MODEL = DEPENDENCIES / "models/SmolLM2-135M-Instruct"
DOCUMENT_BYTES = 16384
STREAM_LENGTHS = (4096, 32768)
MISSPELT = 0.02  # of the letters: a word in ten


def parse_arguments() -> argparse.Namespace:
    parser = make_parser("scripts/bench_data", __doc__)
    add = parser.add_argument
    cores = len(os.sched_getaffinity(0))
    add("--tokenizer", type=Path, default=DEMO_MODEL, help="a Hugging Face folder")
    add("--megabytes", type=float, default=100, help="of text")
    add("--threads", type=at_least(1), default=cores, help="and cores, for each of the two")
    add("--repeats", type=at_least(1), default=3, help="the median of them counts")
    add("--output", type=Path, help="where the card goes")
    add("--commit", help="for the card, where the sources are not in a git clone")
    add("--programs", type=Path, default=ROOT / "build/bin", help="where swiattn-data is")
    return parser.parse_args()


def read_books() -> bytes:
    books = sorted((ROOT / "data/books").glob("*.txt.zst"))
    return b"".join(
        subprocess.run(["zstd", "-dc", book], check=True, capture_output=True).stdout
        for book in books
    )


def write_documents(path: Path, size: int) -> int:
    """Writes about `size` bytes of text and returns how many they are exactly."""
    original = numpy.frombuffer(read_books(), dtype=numpy.uint8)
    letters = numpy.flatnonzero((original >= ord("a")) & (original <= ord("z")))
    generator = numpy.random.default_rng(1234)
    written = 0
    with path.open("w", encoding="utf-8") as lines:
        while written < size:
            text = original.copy()
            wrong = generator.choice(letters, int(MISSPELT * len(letters)), replace=False)
            text[wrong] = generator.integers(ord("a"), ord("z") + 1, len(wrong))
            for first in range(0, min(len(text), size - written), DOCUMENT_BYTES):
                document = text[first : first + DOCUMENT_BYTES].tobytes().decode(errors="ignore")
                lines.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
                written += len(document.encode())
    return written


def run_json(command: list, cores: set[int]) -> dict:
    result = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if result.returncode != 0:
        sys.exit(f"error: {command[0]} ended with exit code {result.returncode}.")
    return json.loads(result.stdout.splitlines()[-1])


def hash_of_shard(prefix: Path) -> str:
    kind = {"u16": numpy.uint16, "i32": numpy.int32}
    side = json.loads(Path(f"{prefix}.json").read_text())
    ids = numpy.fromfile(f"{prefix}.bin", dtype=kind[side["token_type"]])
    return hashlib.sha256(ids.astype(numpy.int32).tobytes()).hexdigest()


def stream_tokens_per_second(arguments: argparse.Namespace, shard: Path, length: int) -> float:
    command = [arguments.programs / "swiattn-data", "bench-stream", shard]
    command += ["--sequence-length", length]
    return run_json(command, os.sched_getaffinity(0))["tokens_per_second"]


def measure(arguments: argparse.Namespace, folder: Path) -> dict:
    cores = set(sorted(os.sched_getaffinity(0))[: arguments.threads])
    documents = folder / "documents.jsonl"
    size = write_documents(documents, int(arguments.megabytes * 1e6))
    ours, peers = [], []
    for _ in range(arguments.repeats):
        command = [arguments.programs / "swiattn-data", "tokenize", "--json", documents]
        command += ["--tokenizer", arguments.tokenizer, "--output", folder / "shard"]
        ours.append(run_json([*command, "--workers", arguments.threads], cores))
        command = [sys.executable, PEER, "--tokenizer", arguments.tokenizer / "tokenizer.json"]
        command += ["--documents", documents, "--threads", arguments.threads]
        peers.append(run_json([*command, "--eos-id", ours[-1]["eos_id"]], cores))
    seconds = statistics.median(run["seconds"] for run in ours)
    methods = ("encode_batch", "encode_batch_fast")
    peer = {m: statistics.median(run[f"{m}_seconds"] for run in peers) for m in methods}
    return {
        "device": processor_name(),
        **provenance("scripts/bench_data", arguments.commit),
        "threads": arguments.threads,
        "tokenizer": arguments.tokenizer.name,
        "text_bytes": size,
        "tokens": ours[0]["tokens"],
        "ids_equal": hash_of_shard(folder / "shard") == peers[0]["ids_sha256"],
        "seconds": seconds,
        "megabytes_per_second": size / 1e6 / seconds,
        "tokenizers_version": peers[0]["version"],
        **{f"tokenizers_{m}_megabytes_per_second": size / 1e6 / peer[m] for m in methods},
        "ratio": min(peer.values()) / seconds,
        "stream_tokens_per_second": {
            length: stream_tokens_per_second(arguments, folder / "shard", length)
            for length in STREAM_LENGTHS
        },
    }


def main() -> None:
    arguments = parse_arguments()
    if not (arguments.programs / "swiattn-data").exists():
        sys.exit(f"error: no swiattn-data in {arguments.programs}: run scripts/build first.")
    if not (arguments.tokenizer / "tokenizer.json").exists():
        sys.exit(
            f"error: no tokenizer.json in {arguments.tokenizer}: run scripts/setup demo first."
        )
    folder = Path(tempfile.mkdtemp(prefix="swiattn-bench-"))
    try:
        card = measure(arguments, folder)
    finally:
        shutil.rmtree(folder)
    for name, value in card.items():
        print(f"{name:<50}{value:.2f}" if isinstance(value, float) else f"{name:<50}{value}")
    if arguments.output:
        write_card(arguments.output, card)
        print(f"card: {arguments.output}")
    if not card["ids_equal"]:
        sys.exit("error: the two gave different ids.")


if __name__ == "__main__":
    main()
