#!/usr/bin/env python3
"""The tokenizer to beat: Hugging Face's `tokenizers` library (Rust) on the documents of a .jsonl.

Times encode_batch and encode_batch_fast (without offsets), nothing else: no reading, no writing.
Prints one line of JSON with the seconds of each and a hash of all ids, an eos after each document.
"""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

BATCH = 512  # documents: enough for every thread, and few enough for their results to fit memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json")
    parser.add_argument("--documents", type=Path, required=True, help=".jsonl with a key text")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--eos-id", type=int, required=True)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)  # read when the library starts
    import numpy
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(arguments.tokenizer))
    with arguments.documents.open(encoding="utf-8") as lines:
        documents = [json.loads(line)["text"] for line in lines]
    result = {"version": tokenizers.__version__, "tokens": 0}
    for method in ("encode_batch", "encode_batch_fast"):
        encode = getattr(tokenizer, method)
        seconds, tokens, digest = 0.0, 0, hashlib.sha256()
        for first in range(0, len(documents), BATCH):
            batch = documents[first : first + BATCH]
            start = time.perf_counter()
            encodings = encode(batch, add_special_tokens=False)
            seconds += time.perf_counter() - start
            for encoding in encodings:
                ids = numpy.array([*encoding.ids, arguments.eos_id], dtype=numpy.int32)
                digest.update(ids.tobytes())
                tokens += len(ids)
        result[f"{method}_seconds"] = seconds
        result["tokens"] = tokens
        result["ids_sha256"] = digest.hexdigest()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
