"""The config.json of a Llama, with what may be left out of it, and the linear maps it stands for."""

import argparse
import json


def foreign_part(config):
    """What the model has and a Llama has not, or nothing. Scaled RoPE is only other angles."""
    model_type = config.get("model_type")
    if model_type not in ("llama", "mistral"):
        return f"model_type {model_type!r}"
    if model_type == "mistral" and config.get("sliding_window", 4096):  # transformers' default
        return "a sliding_window"
    return next((key for key in ("attention_bias", "mlp_bias") if config.get(key)), None)


def read_config(path):
    """Also the type of a command line's option. Refuses what the peers would measure as a Llama."""
    with open(path) as file:
        config = json.load(file)
    part = foreign_part(config)
    if part:
        raise argparse.ArgumentTypeError(
            f"{path} has {part}, and the peers and the floor are those of a plain Llama."
        )
    config.setdefault("rms_norm_eps", 1e-5)
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    config.setdefault("tie_word_embeddings", False)
    if "rope_theta" not in config:
        config["rope_theta"] = config.get("rope_parameters", {}).get("rope_theta", 10000.0)
    if not config.get("head_dim"):
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    return config


def add_shape_options(parser):
    """What all peers of a training step are measured at: config (read), lengths, device."""
    add = parser.add_argument
    add(
        "--config",
        type=read_config,
        required=True,
        default=argparse.SUPPRESS,
        help="config.json of a Llama",
    )
    add("--sequence-length", type=int, default=4096, help="tokens of a sample")
    add("--batch", type=int, default=8, help="sequences a step")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="where it runs")


def linear_maps(config):
    """(inputs, outputs) of the linear maps of all layers, and of the head."""
    d, f = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    layer = [(d, q + 2 * kv), (q, d), (d, 2 * f), (f, d)]
    return layer * config["num_hidden_layers"], (d, config["vocab_size"])
