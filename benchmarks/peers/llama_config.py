"""The config.json of a Llama, with what may be left out of it."""

import json


def read_config(path):
    with open(path) as file:
        config = json.load(file)
    config.setdefault("rms_norm_eps", 1e-5)
    if "rope_theta" not in config:
        config["rope_theta"] = config.get("rope_parameters", {}).get("rope_theta", 10000.0)
    if not config.get("head_dim"):
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    return config
