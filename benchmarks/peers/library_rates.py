#!/usr/bin/env python3
"""How fast libraries do what a training step cannot do without: cuBLAS, cuDNN and a copy.

  products_seconds             all matrix products of a step one after the other: of each layer's
                               linear maps and the head, forward, dL/dx and dL/dW
  attention_forward_seconds    causal attention of one layer
  attention_backward_seconds   likewise
  bytes_per_second             of a large copy, read and written

Each is repeated without a pause for a while, so that a GPU runs at the clock its power allows. All
in bfloat16, which is what the trainer computes in. Prints one line of JSON.
"""

import argparse
import contextlib
import json
import math
import statistics

import torch
import torch.nn.functional as F
from device_time import seconds_of_calls
from llama_config import add_shape_options, linear_maps
from torch.nn.attention import SDPBackend, sdpa_kernel

COPY_BYTES = 1 << 28
SPAN_SECONDS = 5e-3  # between two events, which take some microseconds themselves


def sustained_seconds(work, device, seconds):
    """Of a call: the median of the second half of `seconds` of calls; the first half warms up."""
    work()
    estimate = statistics.median(seconds_of_calls(work, device, 3))
    calls = math.ceil(SPAN_SECONDS / estimate)
    spans = max(6, round(seconds / (calls * estimate)))
    return statistics.median(seconds_of_calls(work, device, spans, calls)[spans // 2 :])


def products(config, tokens, draw):
    """The work of a step's products; operands and results of a shape are shared by all layers.

    They lie as those of nn.Linear: weights are [outputs, inputs].
    """
    maps, head = linear_maps(config)
    operands = {}
    for inputs, outputs in {*maps, head}:
        x, weight, grad = draw(tokens, inputs), draw(outputs, inputs), draw(tokens, outputs)
        results = [torch.empty_like(like) for like in (grad, x, weight)]
        operands[inputs, outputs] = (x, weight, grad, *results)

    def forward(shape):
        x, weight, _, y, _, _ = operands[shape]
        torch.mm(x, weight.t(), out=y)

    def backward(shape):
        x, weight, grad, _, dx, dw = operands[shape]
        torch.mm(grad, weight, out=dx)
        torch.mm(grad.t(), x, out=dw)

    def step():
        for shape in (*maps, head):
            forward(shape)
        for shape in (head, *reversed(maps)):
            backward(shape)

    return step


def attention(config, arguments, draw):
    """The forward and the backward of a layer."""

    def heads(name):
        shape = (arguments.batch, config[name], arguments.sequence_length, config["head_dim"])
        return draw(*shape).requires_grad_()

    q = heads("num_attention_heads")
    k, v = heads("num_key_value_heads"), heads("num_key_value_heads")
    grad = torch.randn_like(q)

    def forward():
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    out = forward()
    return forward, lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_shape_options(parser)
    add = parser.add_argument
    add("--seconds", type=float, default=2.0, help="for which each is repeated")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    config = arguments.config
    torch.manual_seed(1234)

    def draw(*shape):
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    def measure(work):
        return sustained_seconds(work, device, arguments.seconds)

    tokens = arguments.batch * arguments.sequence_length
    report = {"products_seconds": measure(products(config, tokens, draw))}
    on_gpu = device.type == "cuda"
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if on_gpu else contextlib.nullcontext():
        forward, backward = attention(config, arguments, draw)
        report["attention_forward_seconds"] = measure(forward)
        report["attention_backward_seconds"] = measure(backward)
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    report["bytes_per_second"] = 2 * COPY_BYTES / measure(lambda: target.copy_(source))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
