"""Configurations of models with Switch Attention.

Each is its base architecture's, plus one section `swiattn`:

    mode         "switch": a router decides token by token; "static": the layers in full_layers see
                 everything, the others a window; "window": all layers see a window; "full": none does
    window       keys that the window holds, the query's own included
    full_layers  for "static", counted from 1
    gate         for "switch": "learned" is the only gate that this code can run
    ratio        of the gates "random" and "top_k", which are controls of the trainer
"""

from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config


class SwiattnLlamaConfig(LlamaConfig):
    model_type = "swiattn_llama"


class SwiattnMistralConfig(MistralConfig):
    model_type = "swiattn_mistral"


class SwiattnQwen2Config(Qwen2Config):
    model_type = "swiattn_qwen2"


class SwiattnQwen3Config(Qwen3Config):
    model_type = "swiattn_qwen3"
