"""The floor: the least time of a training step, whose work is done at the rates of libraries.

The rates are those of peers/library_rates.py on the same device. Work is counted as little as the
mathematics allows (docs/method.md, "Near and far"), for one rank, in bfloat16:

  products    all of them, one after the other
  attention   cuDNN's causal forward and backward times the share of the (query, key) pairs that are
              needed. In mode switch the forward needs all pairs, since both branches of all tokens
              are asked for; with sampling, those of the tokens that look far or are drawn. The
              backward needs the pairs of the branch taken.
  bytes       every operation between products reads its operands once and writes its results once;
              clipping reads the gradients, AdamW reads and writes masters and both moments

What a step computes twice (train.recompute) and sends to other ranks is not in the floor.
Operations take no time but for their bytes, and nothing overlaps, so that a step can be faster than
its floor where it joins operations, or where its own kernels are faster than the libraries'.
"""

from dataclasses import dataclass
from pathlib import Path

from peers.llama_config import read_config

# Of attention.far_sampling in bench_step's runs: a token that is not far already is drawn with
# probability max(MINIMUM, SCALE p (1 - p)).
MINIMUM, SCALE = 0.02, 0.5
ELEMENT_BYTES = 2  # of bfloat16


@dataclass(frozen=True)
class StepShape:
    layers: int
    width: int
    query_width: int  # of all heads together
    key_width: int
    ffn_width: int
    vocabulary: int
    tied: bool
    sequence_length: int
    batch: int
    window: int

    @property
    def tokens(self) -> int:
        return self.batch * self.sequence_length

    @property
    def parameters(self) -> int:
        attention = 2 * self.width * (self.query_width + self.key_width)
        layer = attention + 3 * self.width * self.ffn_width
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.layers * layer + embeddings

    @property
    def window_pairs(self) -> float:
        """Of all causal (query, key) pairs, those within the window."""
        s, w = self.sequence_length, min(self.window, self.sequence_length)
        return (s * w - w * (w - 1) / 2) / (s * (s + 1) / 2)


def read_shape(config: Path, sequence_length: int, batch: int, window: int) -> StepShape:
    model = read_config(config)
    return StepShape(
        layers=model["num_hidden_layers"],
        width=model["hidden_size"],
        query_width=model["num_attention_heads"] * model["head_dim"],
        key_width=model["num_key_value_heads"] * model["head_dim"],
        ffn_width=model["intermediate_size"],
        vocabulary=model["vocab_size"],
        tied=model["tie_word_embeddings"],
        sequence_length=sequence_length,
        batch=batch,
        window=window,
    )


def needed_pairs(shape: StepShape, far: float) -> float:
    """Of all causal pairs, those of a forward or backward where a share `far` looks at all keys."""
    return far + (1 - far) * shape.window_pairs


def step_bytes(shape: StepShape, with_choice: bool) -> float:
    # Forward and backward, with the addition to the stream that the norm reads. The trainer adds in
    # the product before it, which saves a pass.
    norms = (2 * shape.layers + 1) * 8 * shape.width
    rotary = 4 * (shape.query_width + shape.key_width)
    swiglu = 8 * shape.ffn_width
    difference = 2 * shape.query_width if with_choice else 0  # of the branches: router's gradient
    logits = 2 * shape.vocabulary
    passes = norms + shape.layers * (rotary + swiglu + difference) + logits
    optimizer = 4 + (4 + 8 + 16 + ELEMENT_BYTES)  # norm; gradient, master, moments, compute copy
    return ELEMENT_BYTES * passes * shape.tokens + optimizer * shape.parameters


def floor_seconds(shape: StepShape, rates: dict, mode: str, ratio: float) -> float:
    """`ratio` of the tokens take full attention; mode "sampled" is switch with far sampling."""
    drawn = max(MINIMUM, SCALE * ratio * (1 - ratio))
    looking_far = {"switch": 1.0, "sampled": ratio + (1 - ratio) * drawn}.get(mode, ratio)
    forward = needed_pairs(shape, looking_far) * rates["attention_forward_seconds"]
    backward = needed_pairs(shape, ratio) * rates["attention_backward_seconds"]
    with_choice = mode in ("switch", "sampled")
    return (
        rates["products_seconds"]
        + shape.layers * (forward + backward)
        + step_bytes(shape, with_choice) / rates["bytes_per_second"]
    )
