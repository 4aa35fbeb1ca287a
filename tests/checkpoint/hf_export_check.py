"""Loads an exported folder with transformers and compares it with stored values.

    python hf_export_check.py EXPORT EXPECTED.safetensors [--plain]

EXPECTED holds input_ids I64 [B, S], logits F32 [B, S, V] and, for a hybrid, route I64 [B, L, S],
computed by tests/fixtures/models/. --plain: load without trust_remote_code. Exit 77: no transformers.
"""

import argparse
import sys

try:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, StaticCache
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

TOLERANCE = 1e-4  # float32 against float64, logits of size 1


class Routes:
    """Records what the routers of a model decide, call by call."""

    def __init__(self, model):
        self.calls = []  # [layer][call]: [B, tokens]
        for layer in model.model.layers:
            if hasattr(layer.self_attn, "router"):
                seen = []
                self.calls.append(seen)
                layer.self_attn.router.register_forward_hook(
                    lambda m, i, s, seen=seen: seen.append(s > 0)
                )

    def take(self):
        """[B, L, tokens of all calls since the last take]."""
        routes = torch.stack([torch.cat(seen, dim=1) for seen in self.calls], dim=1).long()
        for seen in self.calls:
            seen.clear()
        return routes


def check(name, got, expected, tolerance=TOLERANCE):
    difference = (got.float() - expected.float()).abs().max().item()
    print(f"{name}: largest difference {difference:.2e}")
    if not difference <= tolerance:
        sys.exit(f"{name}: {difference} is above {tolerance}")


@torch.no_grad()
def check_forward(model, ids, logits, routes, expected_route):
    check("whole sequences", model(ids).logits, logits)
    if routes:
        check("routes", routes.take(), expected_route, 0)


@torch.no_grad()
def check_cache(model, ids, logits, routes, expected_route, make_cache, name):
    """Prefill of some tokens, then of a few, then token by token gives the same."""
    cache, parts, position = make_cache(), [], 0
    for count in [20, 7] + [1] * (ids.shape[1] - 27):
        out = model(ids[:, position : position + count], past_key_values=cache, use_cache=True)
        cache, position = out.past_key_values, position + count
        parts.append(out.logits)
    check(f"with a {name}", torch.cat(parts, dim=1), logits)
    if routes:
        check("routes", routes.take(), expected_route, 0)


@torch.no_grad()
def check_padding(model, ids, logits, routes):
    """A batch of sequences of other lengths, padded on either side."""
    short, length = 31, ids.shape[1]
    for side in ("left", "right"):
        padded, mask = ids.clone(), torch.ones_like(ids)
        hole = slice(0, length - short) if side == "left" else slice(short, length)
        kept = slice(length - short, length) if side == "left" else slice(0, short)
        padded[1] = 0
        padded[1, kept] = ids[1, :short]
        mask[1, hole] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = model(padded, attention_mask=mask, position_ids=positions).logits
        check(f"padded on the {side}", out[0], logits[0])
        check(f"padded on the {side}", out[1, kept], logits[1, :short])
    if routes:
        routes.take()


@torch.no_grad()
def check_generation(model, ids, routes):
    """Greedy generation with the cache equals greedy choice from whole sequences without it."""
    grown = ids[:, :12]
    for _ in range(20):
        grown = torch.cat([grown, model(grown).logits[:, -1:].argmax(-1)], dim=1)
    made = model.generate(
        ids[:, :12],
        attention_mask=torch.ones_like(ids[:, :12]),
        max_new_tokens=20,
        min_new_tokens=20,
        do_sample=False,
        pad_token_id=0,
    )
    check("generated tokens", made, grown, 0)
    if routes:
        routes.take()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("export")
    parser.add_argument("expected")
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    expected = load_file(arguments.expected)
    ids, logits, route = expected["input_ids"], expected["logits"], expected.get("route")
    remote = not arguments.plain
    for implementation in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_pretrained(
            arguments.export,
            trust_remote_code=remote,
            dtype=torch.float32,
            attn_implementation=implementation,
        )
        assert remote == type(model).__name__.startswith("Swiattn"), type(model)
        print(f"-- {type(model).__name__}, {implementation}")
        routes = Routes(model) if "router.weight" in " ".join(model.state_dict()) else None
        check_forward(model, ids, logits, routes, route)
        check_cache(model, ids, logits, routes, route, lambda: None, "growing cache")
        check_cache(
            model,
            ids,
            logits,
            routes,
            route,
            lambda model=model: StaticCache(config=model.config, max_cache_len=ids.shape[1] + 5),
            "static cache",
        )
        check_padding(model, ids, logits, routes)
        check_generation(model, ids, routes)

    half = AutoModelForCausalLM.from_pretrained(
        arguments.export, trust_remote_code=remote, dtype=torch.bfloat16
    )
    for layer in half.model.layers:
        if hasattr(layer.self_attn, "router"):
            assert layer.self_attn.router.weight.dtype == torch.float32, (
                "the routers stay in float32"
            )
    with torch.no_grad():
        check(
            "in bfloat16, on average",
            (half(ids).logits.float() - logits).abs().mean(),
            torch.tensor(0.0),
            0.5,
        )
    if remote:
        config = AutoConfig.from_pretrained(arguments.export, trust_remote_code=True)
        decoder = AutoModel.from_pretrained(
            arguments.export, trust_remote_code=True, dtype=torch.float32
        )
        assert type(decoder).__name__ == type(half).__name__.replace("ForCausalLM", "Model"), type(
            decoder
        )
        assert config.swiattn["window"] > 0
    print("equal")


if __name__ == "__main__":
    main()
