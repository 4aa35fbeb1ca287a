"""The config.json of a Llama, with what may be left out of it, and the linear maps it stands for."""

import json


def read_config(path):
    with open(path) as file:
        config = json.load(file)
    config.setdefault("rms_norm_eps", 1e-5)
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    config.setdefault("tie_word_embeddings", False)
    if "rope_theta" not in config:
        config["rope_theta"] = config.get("rope_parameters", {}).get("rope_theta", 10000.0)
    if not config.get("head_dim"):
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    return config


def linear_maps(config):
    """(inputs, outputs) of the linear maps of all layers, and of the head."""
    d, f = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    layer = [(d, q + 2 * kv), (q, d), (d, 2 * f), (f, d)]
    return layer * config["num_hidden_layers"], (d, config["vocab_size"])
