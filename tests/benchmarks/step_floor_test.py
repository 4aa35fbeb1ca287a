"""Of the floor of a step (benchmarks/step_floor.py): its counts, against counting one by one."""

import argparse
import json
import sys
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from peers.llama_config import linear_maps, read_config  # noqa: E402
from step_floor import floor_seconds, needed_pairs, read_shape, step_bytes  # noqa: E402

MODELS = ROOT / "configs/models"
RATES = {
    "products_seconds": 3.0,
    "attention_forward_seconds": 0.5,
    "attention_backward_seconds": 1.0,
    "bytes_per_second": 1e12,
}


def paper(length=64, batch=3, window=16):
    return read_shape(MODELS / "paper-1b.json", length, batch, window)


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

    def test_products_are_those_of_all_parameters_but_a_table_that_is_read_by_rows(self):
        for path in sorted(MODELS.glob("*.json")):
            maps, head = linear_maps(read_config(path))
            shape = read_shape(path, 64, 3, 16)
            rows = 0 if shape.tied else shape.vocabulary * shape.width
            multiplied = sum(inputs * outputs for inputs, outputs in (*maps, head))
            self.assertEqual(multiplied, shape.parameters - rows, msg=path.name)

    def test_products_of_a_layer(self):
        maps, head = linear_maps(read_config(MODELS / "paper-1b.json"))
        layer = [(2048, 4096), (2048, 2048), (2048, 11264), (5632, 2048)]
        self.assertEqual(maps, 22 * layer)
        self.assertEqual(head, (2048, 32000))

    def test_what_a_config_may_leave_out(self):
        config = json.loads((MODELS / "paper-1b.json").read_text())
        for key in ("head_dim", "num_key_value_heads", "tie_word_embeddings"):
            config.pop(key, None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            path.write_text(json.dumps(config))
            shape = read_shape(path, 64, 3, 16)
        self.assertEqual((shape.query_width, shape.key_width), (2048, 2048))
        self.assertFalse(shape.tied)

    def test_only_what_computes_like_a_llama_is_read(self):
        llama = json.loads((MODELS / "paper-1b.json").read_text())
        scaled = {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}
        mistral = {"model_type": "mistral"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.json"
            for change in (scaled, mistral | {"sliding_window": None}):
                path.write_text(json.dumps(llama | change))
                self.assertEqual(read_config(path)["hidden_size"], 2048)
            for change, named in (
                ({"model_type": "qwen2"}, "'qwen2'"),
                ({"model_type": "qwen3"}, "'qwen3'"),
                ({"attention_bias": True}, "attention_bias"),
                ({"mlp_bias": True}, "mlp_bias"),
                (mistral, "sliding_window"),
                (mistral | {"sliding_window": 4096}, "sliding_window"),
            ):
                path.write_text(json.dumps(llama | change))
                with self.assertRaisesRegex(argparse.ArgumentTypeError, named):
                    read_config(path)

    def test_pairs(self):
        for length, window in ((1, 1), (7, 3), (64, 1), (64, 63), (64, 64), (64, 1000)):
            for far in (0.0, 0.13, 1.0):
                shape = paper(length=length, window=window)
                expected = share_of_pairs(length, window, far)
                self.assertAlmostEqual(needed_pairs(shape, far), expected, msg=f"{length} {window}")

    def test_work_of_each_mode(self):
        shape = replace(paper(), layers=10)
        near = shape.window_pairs

        def pairs(far):
            return far + (1 - far) * near

        def expected(forward, backward, with_choice):
            return 3.0 + 10 * (0.5 * forward + backward) + step_bytes(shape, with_choice) / 1e12

        for mode, ratio, seconds in (
            ("full", 1.0, expected(1.0, 1.0, False)),
            ("window", 0.0, expected(near, near, False)),
            ("switch", 0.25, expected(1.0, pairs(0.25), True)),
            # 0.5 x 0.2 x 0.8 = 8 % of the other 80 % are drawn.
            ("sampled", 0.2, expected(pairs(0.2 + 0.8 * 0.08), pairs(0.2), True)),
            # 0.5 x 0.01 x 0.99 is less than the 2 % that are drawn at least, and so at 99 %.
            ("sampled", 0.01, expected(pairs(0.01 + 0.99 * 0.02), pairs(0.01), True)),
            ("sampled", 0.99, expected(pairs(0.99 + 0.01 * 0.02), pairs(0.99), True)),
            ("sampled", 1.0, expected(1.0, 1.0, True)),
        ):
            found = floor_seconds(shape, RATES, mode, ratio)
            self.assertAlmostEqual(found, seconds, places=12, msg=f"{mode} {ratio}")

    def test_bytes_grow_with_tokens_and_parameters(self):
        shape = replace(paper(), layers=1)
        more = replace(shape, batch=2 * shape.batch)
        # A token of a layer: norms 3 x 8 x 2048, rotary 4 x 3072, SwiGLU 8 x 5632, logits 2 x 32000.
        token = 2 * (24 * 2048 + 4 * 3072 + 8 * 5632 + 2 * 32000)
        self.assertEqual(step_bytes(more, False) - step_bytes(shape, False), token * shape.tokens)
        self.assertEqual(step_bytes(shape, False) - token * shape.tokens, 34 * shape.parameters)
        difference = step_bytes(shape, True) - step_bytes(shape, False)
        self.assertEqual(difference, 2 * 2 * 2048 * shape.tokens)


if __name__ == "__main__":
    unittest.main()
