#!/usr/bin/env python3
"""The trainer to beat: the same training step, written in PyTorch for speed.

torch.compile of the embedding, each block, the final norm and the loss, cuDNN attention, bfloat16
autocast over float32 weights, a cross entropy that never holds all logits, no recomputation, fused
AdamW that clips gradients while it reads them, random tokens. With --cuda-graph the whole step is
one graph, which small models need; --autotune lets the compiler time more kernels. Modes:

  full        causal attention, the base's own continual pretraining
  two_branch  both branches of Switch Attention under autograd: cuDNN for the full one and
              FlexAttention for the window, a straight-through gate per token, the adaptive
              regularizer

Prints one line of JSON. `mfu` counts causal attention once, in both modes.
"""

import argparse
import contextlib
import json
import statistics
import time

import torch
import torch.nn.functional as F
from device_time import seconds_of_calls
from llama_config import add_shape_options
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

# Dense, by part of the GPU's name; the first that fits counts. As in src/parallel/device.cpp.
PEAK_BF16_FLOPS = (
    ("H200 NVL", 835e12),
    ("H200", 989.4e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989.4e12),
    ("H800", 989.4e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
    ("A6000", 155e12),
)
LOSS_CHUNK_TOKENS = 8192
MAX_GRADIENT_NORM = 1.0
GAMMA, EPS, ALPHA = 1e-3, 0.1, 100.0  # the paper's regularizer


class RmsNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        x32 = x.float()
        scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return (x32 * scale * self.weight).to(x.dtype)


class Embedding(nn.Embedding):
    """Rows in bfloat16, which is what the blocks read, of a table in float32."""

    def forward(self, tokens):
        return F.embedding(tokens, self.weight).bfloat16()


def rotate(x, cos, sin):
    """RoPE in the rotate-half layout. x [B, S, H, D], cos and sin [S, D/2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class WindowAttention:
    """Causal attention to the last `window` keys: FlexAttention, or a dense mask on the CPU."""

    def __init__(self, window, length, device):
        def visible(batch, head, query, key):
            return (query >= key) & (query - key < window)

        self.on_gpu = device.type == "cuda"
        if self.on_gpu:
            self.mask = create_block_mask(visible, None, None, length, length, device=device)
        else:
            index = torch.arange(length)
            self.mask = visible(None, None, index[:, None], index[None, :])

    def __call__(self, q, k, v):
        if self.on_gpu:
            return flex_attention(q, k, v, block_mask=self.mask, enable_gqa=True)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, enable_gqa=True)


class Block(nn.Module):
    def __init__(self, config, attend_window):
        super().__init__()
        width, self.head_dim = config["hidden_size"], config["head_dim"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        rows = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.norm = RmsNorm(width, config["rms_norm_eps"])
        self.qkv = nn.Linear(width, rows, bias=False)
        self.output = nn.Linear(self.heads * self.head_dim, width, bias=False)
        self.ffn_norm = RmsNorm(width, config["rms_norm_eps"])
        self.gate_up = nn.Linear(width, 2 * config["intermediate_size"], bias=False)
        self.down = nn.Linear(config["intermediate_size"], width, bias=False)
        self.attend_window = attend_window
        if attend_window:
            self.router = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, x, cos, sin):
        """x [B, S, width] → the same, and (two_branch) router logits and disagreement [B, S]."""
        batch, length, _ = x.shape
        h = self.norm(x)
        qkv = self.qkv(h).view(batch, length, -1, self.head_dim)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        # Rotated as they lie: attention's output lies as q does, so that the reshape below is a view.
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        logit = disagreement = None
        if self.attend_window:
            near = self.attend_window(q, k, v)
            logit = (h.float() * self.router).sum(-1)
            difference = (attended.detach().float() - near.detach().float()).square()
            disagreement = difference.mean(dim=(1, 3))
            p = torch.sigmoid(logit)
            gate = (logit > 0).float() + p - p.detach()
            gate = gate[:, None, :, None].to(attended.dtype)
            attended = gate * attended + (1 - gate) * near
        x = x + self.output(attended.transpose(1, 2).reshape(batch, length, -1))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up), logit, disagreement


class Transformer(nn.Module):
    def __init__(self, config, length, attend_window):
        super().__init__()
        width, head_dim = config["hidden_size"], config["head_dim"]
        layers = config["num_hidden_layers"]
        self.embedding = Embedding(config["vocab_size"], width)
        self.blocks = nn.ModuleList(Block(config, attend_window) for _ in range(layers))
        self.norm = RmsNorm(width, config["rms_norm_eps"])
        self.head = nn.Linear(width, config["vocab_size"], bias=False)
        if config["tie_word_embeddings"]:
            self.head.weight = self.embedding.weight
        exponents = torch.arange(0, head_dim, 2).float() / head_dim
        angles = torch.outer(torch.arange(length).float(), config["rope_theta"] ** -exponents)
        self.register_buffer("cos", angles.cos().bfloat16())
        self.register_buffer("sin", angles.sin().bfloat16())
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens):
        x = self.embedding(tokens)
        routing = []
        for block in self.blocks:
            x, logit, disagreement = block(x, self.cos, self.sin)
            routing.append((logit, disagreement))
        return self.norm(x), routing


def chunk_loss(logits, targets, total):
    """Per-token NLL of a chunk, and the gradient of the mean loss with respect to its logits."""
    log_p = F.log_softmax(logits.float(), dim=-1)
    nll = -log_p.gather(1, targets[:, None])[:, 0]
    gradient = log_p.exp()
    gradient = gradient - F.one_hot(targets, logits.shape[1])
    return nll, (gradient / total).to(logits.dtype)


class LinearCrossEntropy(torch.autograd.Function):
    """Head and loss chunk by chunk; gradients are made on the way, so no logits are kept."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, chunk_loss_function):
        low = weight.to(hidden.dtype)
        nll = torch.empty(len(targets), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight)
        for begin in range(0, len(targets), LOSS_CHUNK_TOKENS):
            part = slice(begin, begin + LOSS_CHUNK_TOKENS)
            logits = hidden[part] @ low.T
            nll[part], gradient = chunk_loss_function(logits, targets[part], len(targets))
            torch.mm(gradient, low, out=grad_hidden[part])
            grad_weight += gradient.T @ hidden[part]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(nll)
        return nll.mean(), nll

    @staticmethod
    def backward(ctx, grad_loss, _):
        # The loss enters the total with factor 1: what was computed is the gradient.
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden, grad_weight, None, None


def regularizer(routing, nll):
    total = 0.0
    for logit, disagreement in routing:
        gamma = GAMMA / (EPS + nll + ALPHA * disagreement.flatten())
        total = total + (gamma * F.softplus(logit.flatten())).mean()
    return total / len(routing)


def compile_parts(model, mode):
    """Compiles what the step runs and returns its loss and regularizer, compiled as well."""
    for part in (model.embedding, *model.blocks, model.norm):
        part.compile(fullgraph=True, dynamic=False, mode=mode)
    return (torch.compile(f, dynamic=False, mode=mode) for f in (chunk_loss, regularizer))


def clip_in_optimizer(optimizer, parameters):
    """Has the next step clip the gradients' norm, or be skipped where that is not finite.

    The fused update divides each gradient by `grad_scale` as it reads it, writes the quotient back
    and does nothing where `found_inf` is 1. clip_grad_norm_ would write them as well, but read all
    of them once more.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters], foreach=True)
    optimizer.grad_scale = (norm / MAX_GRADIENT_NORM).clamp(min=1.0)
    optimizer.found_inf = 1.0 - norm.isfinite().float()


def captured(step):
    """The step as one CUDA graph, which draws new tokens whenever it is replayed, and the bytes of
    the GPU that the step has needed with what the graph keeps to itself."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # as recording does
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    memory = allocated + torch.cuda.memory_reserved() - reserved

    def replay():
        graph.replay()
        return loss

    return replay, memory


def train(arguments, config, device):
    on_gpu = device.type == "cuda"
    torch.manual_seed(1234)
    window = None
    if arguments.mode == "two_branch":
        window = WindowAttention(arguments.window, arguments.sequence_length, device)
    with device:
        model = Transformer(config, arguments.sequence_length, window)
    loss_function, regularize = chunk_loss, regularizer
    if on_gpu:
        compiler_mode = "max-autotune-no-cudagraphs" if arguments.autotune else None
        loss_function, regularize = compile_parts(model, compiler_mode)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=1e-4,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.1,
        fused=True,
        capturable=arguments.cuda_graph,
    )
    shape = (arguments.batch, arguments.sequence_length + 1)

    def step():
        tokens = torch.randint(config["vocab_size"], shape, device=device)
        attention = sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if on_gpu else contextlib.nullcontext()
        with attention, torch.autocast(device.type, torch.bfloat16):
            hidden, routing = model(tokens[:, :-1])
        loss, nll = LinearCrossEntropy.apply(
            hidden.flatten(0, 1), model.head.weight, tokens[:, 1:].flatten(), loss_function
        )
        total = loss + regularize(routing, nll) if window else loss
        total.backward()
        clip_in_optimizer(optimizer, parameters)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    started = time.perf_counter()
    first_loss = step().item()
    start_seconds = time.perf_counter() - started
    memory = None
    if arguments.cuda_graph:
        step, memory = captured(step)
    losses = []
    steps = arguments.warmup + arguments.steps
    seconds = seconds_of_calls(lambda: losses.append(step()), device, steps)
    if device.type == "cuda" and memory is None:
        memory = torch.cuda.max_memory_allocated()
    return model, {
        "step_seconds": seconds[arguments.warmup :],
        "first_step_seconds": start_seconds,
        "first_loss": first_loss,
        "last_loss": losses[-1].item(),
        "memory_gib": None if memory is None else memory / 2**30,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_shape_options(parser)
    add = parser.add_argument
    add("--steps", type=int, default=10, help="measured, after the warm-up")
    add("--warmup", type=int, default=5, help="steps before them, which do not count")
    add("--mode", choices=("full", "two_branch"), default="full", help="of attention")
    add("--window", type=int, default=1024, help="keys that the local branch sees")
    add("--cuda-graph", action="store_true", help="the step as one CUDA graph")
    add("--autotune", action="store_true", help="compile with max-autotune-no-cudagraphs")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    config = arguments.config
    model, measured = train(arguments, config, device)

    parameters = sum(p.numel() for p in model.parameters())
    pairs = (arguments.sequence_length + 1) / 2  # visible keys of a token, on average
    attention = config["num_attention_heads"] * config["head_dim"] * config["num_hidden_layers"]
    tied = model.head.weight is model.embedding.weight
    multiplied = parameters - (0 if tied else model.embedding.weight.numel())
    flops_per_token = 6 * multiplied + 12 * attention * pairs
    median = statistics.median(measured["step_seconds"])
    rate = arguments.batch * arguments.sequence_length / median
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    peak = next((flops for part, flops in PEAK_BF16_FLOPS if part in name), None)
    report = {
        "peer": "compiled_pytorch",
        "mode": arguments.mode,
        "cuda_graph": arguments.cuda_graph,
        "autotune": arguments.autotune,
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "sequence_length": arguments.sequence_length,
        "batch": arguments.batch,
        "parameters": parameters,
        "tokens_per_second": rate,
        "mfu": rate * flops_per_token / peak if peak else None,
        "step_seconds_median": median,
        **measured,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
