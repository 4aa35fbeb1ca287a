"""Of the floor of a step (benchmarks/step_floor.py): its counts, against counting one by one."""

import sys
import unittest
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from step_floor import floor_seconds, needed_pairs, read_shape, step_bytes  # noqa: E402

RATES = {
    "products_seconds": 3.0,
    "attention_forward_seconds": 0.5,
    "attention_backward_seconds": 1.0,
    "bytes_per_second": 1e12,
}


def paper(length=64, batch=3, window=16, on_gpu=True):
    return read_shape(ROOT / "configs/models/paper-1b.json", length, batch, window, on_gpu)


def share_of_pairs(length, window, far_tokens):
    """With full attention for `far_tokens`, averaged over all tokens that these may be."""
    pairs = [(i, j) for i in range(length) for j in range(i + 1)]
    near = sum(i - j < window for i, j in pairs)
    return (far_tokens * len(pairs) + (1 - far_tokens) * near) / len(pairs)


class StepFloorTest(unittest.TestCase):
    def test_parameters_are_those_of_the_products_and_tables(self):
        # 22 layers of width 2048, 16/8 heads of 128, FFN 5632, two tables of 32,000 rows.
        layer = 2048 * (2048 + 1024 + 1024) + 2048 * 2048 + 3 * 2048 * 5632
        self.assertEqual(paper().parameters, 22 * layer + 2 * 32000 * 2048)
        tied = replace(paper(), tied=True)
        self.assertEqual(paper().parameters - tied.parameters, 32000 * 2048)

    def test_pairs(self):
        for length, window in ((1, 1), (7, 3), (64, 1), (64, 63), (64, 64), (64, 1000)):
            for far in (0.0, 0.13, 1.0):
                shape = paper(length=length, window=window)
                expected = share_of_pairs(length, window, far)
                self.assertAlmostEqual(needed_pairs(shape, far), expected, msg=f"{length} {window}")

    def test_work_of_each_mode(self):
        shape = replace(paper(), layers=10)
        r, near = 0.25, shape.window_pairs
        taken = r + (1 - r) * near
        both = r + (1 - r) * 0.5 * r * (1 - r)

        def expected(forward, backward, with_choice):
            return 3.0 + 10 * (0.5 * forward + backward) + step_bytes(shape, with_choice) / 1e12

        for mode, ratio, seconds in (
            ("full", 1.0, expected(1.0, 1.0, False)),
            ("window", 0.0, expected(near, near, False)),
            ("switch", r, expected(1.0, taken, True)),
            ("sampled", r, expected(both + (1 - both) * near, taken, True)),
        ):
            self.assertAlmostEqual(floor_seconds(shape, RATES, mode, ratio), seconds, msg=mode)

    def test_bytes_grow_with_tokens_and_parameters(self):
        shape = replace(paper(), layers=1)
        more = replace(shape, batch=2 * shape.batch)
        # A token of a layer: norms 3 x 8 x 2048, rotary 4 x 3072, SwiGLU 8 x 5632, logits 2 x 32000.
        token = 2 * (24 * 2048 + 4 * 3072 + 8 * 5632 + 2 * 32000)
        self.assertEqual(step_bytes(more, False) - step_bytes(shape, False), token * shape.tokens)
        self.assertEqual(step_bytes(shape, False) - token * shape.tokens, 34 * shape.parameters)
        difference = step_bytes(shape, True) - step_bytes(shape, False)
        self.assertEqual(difference, 2 * 2 * 2048 * shape.tokens)
        on_cpu = replace(shape, element_bytes=4)
        expected = 2 * token * shape.tokens + 32 * shape.parameters
        self.assertEqual(step_bytes(on_cpu, False), expected)


if __name__ == "__main__":
    unittest.main()
