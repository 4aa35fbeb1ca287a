"""Of scripts/bench_attention (benchmarks/bench_attention.py), with programs that invent figures."""

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
import bench_attention  # noqa: E402


def line(backend, piece, microseconds, ratio=None):
    """Of a piece with 6e6 operations."""
    figures = {"microseconds": microseconds, "tflops": 6.0 / microseconds}
    head = {"backend": backend, "piece": piece}
    return head | figures | ({} if ratio is None else {"ratio": ratio})


ERRORS = {"backend": "fused", "piece": "errors", "ratio": 0.13}
ERRORS |= {key: 1e-3 for key in ("out", "dq", "dk", "dv")}


class Programs:
    """Stands in for bench_attention.run: answers the calls in turn, and keeps them."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.commands = []

    def __call__(self, command):
        self.commands.append(command)
        return self.answers.pop(0)

    def order(self):
        return ["peers" if command[0] == sys.executable else "ours" for command in self.commands]


class BenchAttentionTest(unittest.TestCase):
    def measure(self, programs, *options):
        """The card, if there is one, and what the script ends with: None where all was well."""
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            output = Path(folder) / "card.json"
            arguments = ["--program", __file__, "--output", str(output), "--commit", "c0ffee"]
            stack.enter_context(mock.patch.object(sys, "argv", ["", *arguments, *options]))
            stack.enter_context(mock.patch.object(bench_attention, "run", programs))
            stack.enter_context(mock.patch.object(bench_attention, "gpu_name", lambda: "a GPU"))
            stack.enter_context(mock.patch.object(bench_attention, "versions", dict))
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            end = None
            try:
                bench_attention.main()
            except SystemExit as exit:
                end = exit.code
            return json.loads(output.read_text()) if output.exists() else None, end

    def test_medians_of_each_backend_piece_and_ratio(self):
        ours = [
            ([line("fused", "full forward", t), line("fused", "switch forward", 2 * t, 0.13)], True)
            for t in (10.0, 30.0, 20.0)
        ]
        ours[0][0].append(line("fused", "switch forward", 7.0, 0.5))
        ours[0][0].append(ERRORS)
        peers = [([line("pytorch", "cudnn full forward", t)], True) for t in (3.0, 1.0, 5.0)]
        programs = Programs(ours[0], peers[0], peers[1], ours[1], ours[2], peers[2])
        card, end = self.measure(programs, "--rounds", "3")
        self.assertIsNone(end)
        self.assertEqual(card["device"], "a GPU")
        self.assertEqual(programs.order(), ["ours", "peers", "peers", "ours", "ours", "peers"])
        self.assertEqual(card["rounds"], 3)
        expected = [
            line("fused", "full forward", 20.0),
            line("fused", "switch forward", 40.0, 0.13),
            line("fused", "switch forward", 7.0, 0.5),
            line("pytorch", "cudnn full forward", 3.0),
        ]
        self.assertEqual(len(card["pieces"]), len(expected))
        for found, wanted in zip(card["pieces"], expected):
            self.assertAlmostEqual(found.pop("tflops"), wanted.pop("tflops"))
            self.assertAlmostEqual(found.pop("ratio_to_cudnn_full"), 3.0 / wanted["microseconds"])
            self.assertIsNone(found.pop("ratio_to_flash_full"))  # not measured
            self.assertEqual(found, wanted)
        self.assertEqual(card["errors"], [ERRORS])

    def test_errors_are_taken_once_and_our_backends_take_turns_too(self):
        answer = ([line("fused", "full forward", 1.0)], True)
        programs = Programs(answer, answer)
        self.measure(programs, "--rounds", "2", "--no-peers")
        first, second = (" ".join(command) for command in programs.commands)
        self.assertIn("--errors", first)
        self.assertIn("--backend fused library", first)
        self.assertNotIn("--errors", second)
        self.assertIn("--backend library fused", second)

    def test_peers_are_autotuned_on_request(self):
        answer = ([line("fused", "full forward", 1.0)], True)
        for options, autotunes in (([], False), (["--peer-autotune"], True)):
            programs = Programs(answer, answer)
            card, _ = self.measure(programs, *options)
            self.assertEqual(card["peer_autotune"], autotunes)
            ours, peers = programs.commands
            self.assertNotIn("--autotune", ours)
            self.assertEqual("--autotune" in peers, autotunes)

    def test_a_peer_that_fails_leaves_the_others_and_is_not_tried_again(self):
        ours = ([line("fused", "full forward", 4.0)], True)
        peers = ([line("pytorch", "cudnn full forward", 3.0)], False)
        programs = Programs(ours, peers, ours)
        card, end = self.measure(programs, "--rounds", "2")
        self.assertEqual(programs.order(), ["ours", "peers", "ours"])
        self.assertEqual([piece["backend"] for piece in card["pieces"]], ["fused", "pytorch"])
        self.assertIn("peers", end)

    def test_without_our_pieces_there_is_no_card(self):
        programs = Programs(([line("fused", "full forward", 4.0)], False))
        card, end = self.measure(programs, "--rounds", "2")
        self.assertEqual(programs.order(), ["ours"])
        self.assertIsNone(card)
        self.assertIn("error", end)


if __name__ == "__main__":
    unittest.main()
