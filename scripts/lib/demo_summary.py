#!/usr/bin/env python3
"""Says in ten lines what scripts/demo did, from what the programs left behind.

demo_summary.py BASE_FULL BASE_WINDOW HYBRID METRICS CONFIG
"""

import json
import sys
from pathlib import Path

BLOCKS = " ▁▂▃▄▅▆▇█"


def read(path: str) -> dict:
    return json.loads(Path(path).read_text())


def bar(share: float) -> str:
    return BLOCKS[round(share * (len(BLOCKS) - 1))]


def main() -> None:
    base, window_only, hybrid = (read(path) for path in sys.argv[1:4])
    run = Path(sys.argv[4]).parent
    lines = Path(sys.argv[4]).read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    config = sys.argv[5]
    stops = (run / "run.log").read_text().count("Resuming after step")
    stopped = {0: "", 1: ", stopped once and resumed"}.get(stops, f", stopped {stops} times")
    seconds = sum(record["step_seconds"] for record in steps)
    ratios = [layer["full_ratio"] for layer in hybrid["layers"]]
    label = f"hybrid, {hybrid['full_ratio']:.0%} of tokens full"
    first, last = steps[0]["full_ratio"], steps[-1]["full_ratio"]
    print(f"""\
SmolLM2-135M-Instruct was trained for {len(steps)} steps ({steps[-1]["tokens"]:,} tokens, \
{seconds / 60:.1f} minutes){stopped}.
Perplexity on {base["tokens"]:,} tokens of Pride and Prejudice, which it was not trained on:
    base, full attention                {base["perplexity"]:8.2f}
    base, bare window, untrained        {window_only["perplexity"]:8.2f}
    {label:<35} {hybrid["perplexity"]:8.2f}
Full attention was chosen by {first:.0%} of tokens at the first step, {last:.0%} at the last.
By layer, from the first: [{"".join(map(bar, ratios))}], {min(ratios):.0%} to {max(ratios):.0%}.
A Hugging Face folder: {run}/hybrid. The curves: {run}/report.html.
Where it looks far: build/bin/swiattn-eval routing --model {run}/hybrid --limit 4K --text FILE
Next: your model and text in a copy of {config}; docs/demo.md says which keys.""")


if __name__ == "__main__":
    main()
