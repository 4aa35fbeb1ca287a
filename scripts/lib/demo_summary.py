#!/usr/bin/env python3
"""Says in ten lines what scripts/demo did, from what the programs left behind.

demo_summary.py BASE_FULL BASE_WINDOW HYBRID ROUTING METRICS WINDOW
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
    base, window_only, hybrid, routing = (read(path) for path in sys.argv[1:5])
    lines = Path(sys.argv[5]).read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "train"]
    window = sys.argv[6]
    seconds = sum(record["step_seconds"] for record in steps)
    ratios = routing["full_ratio_by_layer"]
    first, last = steps[0]["full_ratio"], steps[-1]["full_ratio"]
    print(
        f"SmolLM2-135M-Instruct was trained for {len(steps)} steps ({steps[-1]['tokens']:,} tokens, "
        f"{seconds / 60:.1f} minutes), interrupted by SIGTERM and resumed.\n"
        f"Perplexity on Pride and Prejudice, which it was not trained on ({base['tokens']:,} tokens):\n"
        f"  base, full attention                 {base['perplexity']:8.2f}\n"
        f"  base, window of {window + ',':<6} untrained     {window_only['perplexity']:8.2f}\n"
        f"  hybrid, {100 * hybrid['full_ratio']:3.0f} % of tokens full        "
        f"{hybrid['perplexity']:8.2f}\n"
        f"Full attention was chosen by {100 * first:.0f} % of tokens at step 1, "
        f"{100 * last:.0f} % at step {len(steps)}.\n"
        f"By layer: [{''.join(map(bar, ratios))}], {100 * min(ratios):.0f} to "
        f"{100 * max(ratios):.0f} %.\n"
        "The hybrid is a Hugging Face folder: runs/demo/hybrid. The curves: runs/demo/report.html.\n"
        "Talk to it: build/bin/swiattn-eval generate --model runs/demo/hybrid --prompt 'It is a truth'\n"
        "Next: your model and text in a copy of configs/demo-cpu.yaml; docs/demo.md says which keys."
    )


if __name__ == "__main__":
    main()
