"""Of what a card says of itself (benchmarks/card.py): the devices; the commit, in a clone."""

import os
import platform
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import card  # noqa: E402


class CardTest(unittest.TestCase):
    def setUp(self):
        """Without what a hook of git tells about the clone that it runs in."""
        others = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment = mock.patch.dict(os.environ, others, clear=True)
        environment.start()
        self.addCleanup(environment.stop)

    def test_a_gpu_is_named_by_torch_and_unknown_where_that_sees_none(self):
        for line, name in (("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"), (None, "unknown")):
            with mock.patch.object(card, "first_line", return_value=line) as asked:
                self.assertEqual(card.gpu_name(), name)
            self.assertEqual(asked.call_args.args, (sys.executable, "-c", card.PRINT_GPU_NAME))

    def test_a_processor_is_named_by_the_system_or_its_kind(self):
        with tempfile.NamedTemporaryFile("w") as facts:
            facts.write("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nmodel name\t: another\n")
            facts.flush()
            self.assertEqual(card.processor_name(Path(facts.name)), "AMD EPYC 7B13")
            facts.truncate(0)
            self.assertEqual(card.processor_name(Path(facts.name)), platform.machine())

    def test_cards_written_since_the_commit_are_no_changes_and_all_else_is(self):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)

            def git(*arguments):
                identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
                command = ["git", *identity, *arguments]
                return subprocess.run(
                    command, cwd=root, check=True, capture_output=True, text=True
                ).stdout.strip()

            with mock.patch.object(card, "ROOT", root):
                self.assertEqual(card.commit(), "unknown")
                git("init")
                tracked = root / "docs/benchmarks/step.json"
                card.write_card(tracked, {"tokens_per_second": 1})
                (root / "source.cpp").write_text("int x;\n")
                git("add", ".")
                git("commit", "--no-gpg-sign", "--message", "first")
                head = git("rev-parse", "HEAD")
                self.assertEqual(card.commit(), head)
                card.write_card(tracked, {"tokens_per_second": 2})
                card.write_card(tracked.with_name("new.json"), {})
                self.assertEqual(card.commit(), head)
                (root / "source.cpp").write_text("int y;\n")
                self.assertEqual(card.commit(), f"{head} with changes")
                git("checkout", "source.cpp")
                (root / "docs/page.md").write_text("new\n")
                self.assertEqual(card.commit(), f"{head} with changes")


if __name__ == "__main__":
    unittest.main()
