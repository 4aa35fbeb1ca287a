#!/usr/bin/env python3
"""How fast libraries do what a training step cannot do without: cuBLAS, cuDNN and a copy.

  products_seconds             all matrix products of a step one after the other: of each layer's
                               linear maps and the head, forward, dL/dx and dL/dW
  attention_forward_seconds    causal attention of one layer
  attention_backward_seconds   likewise
  bytes_per_second             of a large copy, read and written

Each is repeated without a pause for a while, so that a GPU runs at the clock its power allows.
Bfloat16 on a GPU and float32 on a CPU, as the trainer computes. Prints one line of JSON.
"""

import argparse
import contextlib
import json
import statistics
import time

import torch
import torch.nn.functional as F
from llama_config import read_config
from torch.nn.attention import SDPBackend, sdpa_kernel

COPY_BYTES = 1 << 28


class Timer:
    def __init__(self, device, seconds):
        self.on_gpu = device.type == "cuda"
        self.seconds = seconds

    def once(self, work):
        if not self.on_gpu:
            begin = time.perf_counter()
            work()
            return time.perf_counter() - begin
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def __call__(self, work):
        """The median of the second half of the repeats; the first warms up."""
        work()
        repeats = max(6, round(self.seconds / self.once(work)))
        times = [self.once(work) for _ in range(repeats)]
        return statistics.median(times[repeats // 2 :])


def linear_maps(config):
    """Inputs x outputs of a layer's products and of the head's."""
    d, f = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    layer = [(d, q + 2 * kv), (q, d), (d, 2 * f), (f, d)]
    return layer * config["num_hidden_layers"], (d, config["vocab_size"])


def products(config, tokens, draw):
    """The work of a step's products; operands and results of a shape are shared by all layers."""
    maps, head = linear_maps(config)
    operands = {}
    for inputs, outputs in {*maps, head}:
        x, weight, grad = draw(tokens, inputs), draw(inputs, outputs), draw(tokens, outputs)
        results = [torch.empty_like(like) for like in (grad, x, weight)]
        operands[inputs, outputs] = (x, weight, grad, *results)

    def forward(shape):
        x, weight, _, y, _, _ = operands[shape]
        torch.mm(x, weight, out=y)

    def backward(shape):
        x, weight, grad, _, dx, dw = operands[shape]
        torch.mm(grad, weight.t(), out=dx)
        torch.mm(x.t(), grad, out=dw)

    def step():
        for shape in (*maps, head):
            forward(shape)
        for shape in (head, *reversed(maps)):
            backward(shape)

    return step


def attention(config, arguments, draw, device):
    """The forward and the backward of a layer."""

    def heads(name):
        shape = (arguments.batch, config[name], arguments.sequence_length, config["head_dim"])
        return draw(*shape).requires_grad_()

    q = heads("num_attention_heads")
    k, v = heads("num_key_value_heads"), heads("num_key_value_heads")
    grad = torch.randn_like(q)
    on_gpu = device.type == "cuda"

    def forward():
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if on_gpu else contextlib.nullcontext():
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    out = forward()
    return forward, lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--config", required=True, default=argparse.SUPPRESS, help="config.json of a Llama")
    add("--sequence-length", type=int, default=4096, help="tokens of a sample")
    add("--batch", type=int, default=8, help="sequences a step")
    add("--seconds", type=float, default=2.0, help="for which each is repeated")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="where it runs")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    config = read_config(arguments.config)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(1234)
    measure = Timer(device, arguments.seconds)

    def draw(*shape):
        return torch.randn(shape, device=device, dtype=dtype)

    tokens = arguments.batch * arguments.sequence_length
    products_seconds = measure(products(config, tokens, draw))
    forward, backward = attention(config, arguments, draw, device)
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    report = {
        "products_seconds": products_seconds,
        "attention_forward_seconds": measure(forward),
        "attention_backward_seconds": measure(backward),
        "bytes_per_second": 2 * COPY_BYTES / measure(lambda: target.copy_(source)),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
