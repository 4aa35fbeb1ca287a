#!/usr/bin/env python3
"""PyTorch's attention kernels at one shape: what swiattn's pieces are compared with.

  cudnn full       causal attention, forward and backward
  flash full       FlashAttention-2, likewise
  flex window      FlexAttention with a sliding window, likewise
  flex routed      FlexAttention forward where each query sees everything or the window as a route
                   says, sorted by route so that its block mask is as sparse as the route allows

Prints a line of JSON for each.
"""

import argparse
import json
import statistics

import torch
import torch.nn.functional as F
from device_time import seconds_of_calls
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def median_microseconds(work, repeats):
    """After three calls that warm up."""
    times = seconds_of_calls(work, torch.device("cuda"), 3 + repeats)
    return 1e6 * statistics.median(times[3:])


class Shape:
    def __init__(self, arguments):
        self.a = arguments
        torch.manual_seed(5)

        def draw(heads):
            shape = (arguments.batch, heads, arguments.length, arguments.head_dim)
            x = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
            return x.requires_grad_()

        self.q, self.k, self.v = draw(arguments.heads), *(draw(arguments.kv_heads) for _ in "kv")
        self.grad = torch.randn_like(self.q)

    def report(self, piece, pairs, forward, ratio=None, backward=True):
        """`pairs` of a sequence; 4 Hq D operations a pair forward, 10 backward."""
        operations = pairs * self.a.batch * self.a.heads * self.a.head_dim
        works = {"forward": (4, lambda: forward(self.q, self.k, self.v))}
        if backward:
            out = forward(self.q, self.k, self.v)
            inputs = (self.q, self.k, self.v)
            works["backward"] = (
                10,
                lambda: torch.autograd.grad(out, inputs, self.grad, retain_graph=True),
            )
        for name, (factor, work) in works.items():
            microseconds = median_microseconds(work, self.a.repeats)
            line = {
                "backend": "pytorch",
                "piece": f"{piece} {name}",
                "batch": self.a.batch,
                "length": self.a.length,
                "heads": self.a.heads,
                "kv_heads": self.a.kv_heads,
                "head_dim": self.a.head_dim,
                "window": self.a.window,
                "microseconds": microseconds,
                "tflops": factor * operations / microseconds / 1e6,
            }
            if ratio is not None:
                line["ratio"] = ratio
            print(json.dumps(line), flush=True)


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def windowed(length, window, compiler_mode):
    def visible(batch, head, query, key):
        return (query >= key) & (query - key < window)

    mask = create_block_mask(visible, None, None, length, length, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False, mode=compiler_mode)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask, enable_gqa=True)


def routed(route, window, compiler_mode):
    """Queries in the order of their route; outputs go back to their places."""
    length = route.shape[0]
    order = torch.argsort(~route, stable=True)

    def visible(batch, head, query, key):
        position = order[query]
        return (position >= key) & (route[position] | (position - key < window))

    mask = create_block_mask(visible, None, None, length, length, device="cuda")

    def attend(q, k, v):
        out = flex_attention(q[:, :, order], k, v, block_mask=mask, enable_gqa=True)
        return torch.empty_like(out).index_copy_(2, order, out)

    return torch.compile(attend, dynamic=False, mode=compiler_mode)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--batch", type=int, default=1, help="sequences")
    add("--length", type=int, default=32768, help="of a sequence")
    add("--heads", type=int, default=16, help="of queries")
    add("--kv-heads", type=int, default=8, help="of keys and values")
    add("--head-dim", type=int, default=128, help="width of a head")
    add("--window", type=int, default=1024, help="keys that a query sees")
    add("--ratio", type=float, nargs="+", default=[0.13], help="share of queries that see all")
    add("--repeats", type=int, default=20, help="the median of them counts")
    add("--autotune", action="store_true", help="compile with max-autotune-no-cudagraphs")
    arguments = parser.parse_args()
    compiler_mode = "max-autotune-no-cudagraphs" if arguments.autotune else None
    length, window = arguments.length, min(arguments.window, arguments.length)
    full_pairs = length * (length + 1) / 2
    near_pairs = window * length - window * (window - 1) / 2

    shape = Shape(arguments)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        shape.report("cudnn full", full_pairs, causal)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        shape.report("flash full", full_pairs, causal)
    shape.report("flex window", near_pairs, windowed(length, window, compiler_mode))
    with torch.no_grad():
        for ratio in arguments.ratio:
            route = torch.rand(length, device="cuda") < ratio
            pairs = ratio * full_pairs + (1 - ratio) * near_pairs
            attend = routed(route, window, compiler_mode)
            shape.report("flex routed", pairs, attend, ratio, backward=False)


if __name__ == "__main__":
    main()
