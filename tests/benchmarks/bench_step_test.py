"""Of scripts/bench_step (benchmarks/bench_step.py): what it runs, and its cards of invented runs."""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import bench_step  # noqa: E402
import step_floor  # noqa: E402
from bench_step import Floor, Peer, Run  # noqa: E402

PAPER = ROOT / "configs/models/paper-1b.json"


def parse(*options):
    with mock.patch.object(sys, "argv", ["bench_step.py", *options]):
        return bench_step.parse_arguments()


def bench_of(*options):
    facts = {"gpu_name": "a GPU", "versions": {"torch": "2"}, "provenance": {"commit": "c0ffee"}}
    with contextlib.ExitStack() as stack:
        for name, fact in facts.items():
            stack.enter_context(mock.patch.object(bench_step, name, return_value=fact))
        return bench_step.Bench(parse(*options))


def trainer_turn(*steps):
    """Of (tokens per second, full ratio) pairs."""
    records = [
        {"tokens_per_second": rate, "full_ratio": ratio, "step_seconds": 1.0, "mfu": None}
        for rate, ratio in steps
    ]
    return {"steps": records, "first_step_seconds": 9.0, "profile": {}}


def rates(products, forward, backward, bytes_per_second):
    return {
        "products_seconds": products,
        "attention_forward_seconds": forward,
        "attention_backward_seconds": backward,
        "bytes_per_second": bytes_per_second,
    }


def peer_turn(*step_seconds):
    """Of 100 tokens a step."""
    median = sorted(step_seconds)[len(step_seconds) // 2]
    return {
        "tokens_per_second": 100 / median,
        "mfu": None,
        "memory_gib": 1.0,
        "step_seconds_median": median,
        "step_seconds": list(step_seconds),
    }


class BenchStepTest(unittest.TestCase):
    def test_the_floor_of_a_card_is_that_of_medians_over_rounds_and_of_one_rank(self):
        bench = bench_of("--ranks", "2", "--sequence-length", "4K", "--batch", "8", "--floor")
        bench.turns = {
            Run("switch"): [
                trainer_turn((900.0, 0.1), (1000.0, 0.2)),
                trainer_turn((3000.0, 0.2), (1000.0, 0.9)),
            ],
            Floor(): [
                rates(0.5, 0.01, 0.02, 3e12),
                rates(0.1, 0.05, 0.04, 1e12),
                rates(0.3, 0.03, 0.09, 2e12),
            ],
        }
        (card,) = bench.cards().values()
        shape = step_floor.read_shape(PAPER, 4096, 8, 1024)
        medians = rates(0.3, 0.03, 0.04, 2e12)
        floor = 8 * 4096 / step_floor.floor_seconds(shape, medians, "switch", 0.2)
        self.assertEqual(card["library_rates"], medians)
        self.assertEqual(card["full_ratio"], 0.2)
        self.assertEqual(card["tokens_per_second"], 1000.0)
        self.assertEqual(card["tokens_per_second_per_rank"], 500.0)
        self.assertEqual(card["floor_tokens_per_second"], floor)
        self.assertEqual(card["ratio_to_floor"], 500.0 / floor)
        self.assertEqual(card["rounds"], 2)

    def test_without_rates_a_card_has_no_floor(self):
        bench = bench_of()
        bench.turns = {Run("full"): [trainer_turn((100.0, 1.0))]}
        (card,) = bench.cards().values()
        self.assertNotIn("ratio_to_floor", card)

    def test_sampling_by_a_router_has_no_floor_and_at_random_has(self):
        bench = bench_of("--floor")
        turns = [trainer_turn((100.0, 0.13))]
        bench.turns = {
            Run("sampled"): turns,
            Run("sampled", 0.13): turns,
            Floor(): [rates(1, 1, 1, 1e12)],
        }
        by_router, at_random = bench.cards().values()
        self.assertNotIn("ratio_to_floor", by_router)
        self.assertNotIn("library_rates", by_router)
        self.assertIn("ratio_to_floor", at_random)
        with contextlib.redirect_stdout(io.StringIO()) as table:
            bench_step.print_table([by_router | {"memory_gib": 1}, at_random], {})
        self.assertIn("of the floor", table.getvalue())

    def test_the_peer_counts_with_the_median_of_all_rounds(self):
        bench = bench_of("--ranks", "2")
        bench.turns = {
            Run("full"): [trainer_turn((100.0, 1.0))],
            Peer("full"): [peer_turn(1.0, 2.0, 3.0), peer_turn(4.0, 5.0, 6.0)],
        }
        (card,) = bench.cards().values()
        self.assertAlmostEqual(card["peer_full_tokens_per_second"], 100 / 3.5)
        self.assertAlmostEqual(card["ratio_to_peer_full"], 50 / (100 / 3.5))

    def test_a_floor_and_keys_that_change_its_work_exclude_each_other(self):
        free = ("--numerics.deterministic=false", "--log.every=5", "--attention.backend=library")
        rest = [*free, "--train.recompute=layer"]
        self.assertEqual(parse("--floor", "--", *rest).rest, rest)
        for option in (
            "--model.compute=float32",
            "--attention.window=64",
            "--attention.far_sampling={enabled: true}",
            "--router.gate=top_k",
            "--optimizer.moments=bfloat16",
            "--train.freeze=['*']",
            "--train.micro_batch=1",
            "--data.mask_documents=false",
        ):
            self.assertEqual(parse("--", option).rest, [option])
            with contextlib.redirect_stderr(io.StringIO()) as error, self.assertRaises(SystemExit):
                parse("--floor", "--", free[0], option)
            self.assertIn(option, error.getvalue())

    def test_peers_and_floor_refuse_what_is_no_llama(self):
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.json"
            config.write_text(json.dumps({"model_type": "qwen3", "vocab_size": 8}))
            self.assertEqual(parse("--config", str(config)).vocabulary, 8)
            for options in (["--floor"], ["--peer", "full"]):
                with contextlib.redirect_stderr(io.StringIO()) as error:
                    with self.assertRaises(SystemExit):
                        parse("--config", str(config), *options)
                self.assertIn("model_type 'qwen3'", error.getvalue())

    def test_runs_sample_as_the_floor_counts(self):
        text = bench_step.run_config(parse(), Run("sampled", 0.13), Path("folder"))
        sections = dict(line.split(": ", 1) for line in text.splitlines())
        attention = json.loads(sections["attention"])
        minimum, scale = step_floor.MINIMUM, step_floor.SCALE
        sampling = {"enabled": True, "minimum": minimum, "scale": scale}
        self.assertEqual(attention, {"mode": "switch", "far_sampling": sampling, "window": 1024})
        for mode in ("switch", "full", "window"):
            self.assertEqual(Run(mode).attention(), {"mode": mode})

    def test_neither_profiled_steps_nor_the_two_before_them_are_measured(self):
        arguments = parse("--profile", "--warmup", "2", "--steps", "7")
        text = bench_step.run_config(arguments, Run("full"), Path("folder"))
        sections = dict(line.split(": ", 1) for line in text.splitlines())
        self.assertEqual(json.loads(sections["log"])["profile"], {"start": 12, "steps": 3})
        self.assertEqual(json.loads(sections["train"])["steps"], 14)


if __name__ == "__main__":
    unittest.main()
