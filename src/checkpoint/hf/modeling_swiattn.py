"""Switch Attention for transformers: the base architectures with another attention mask.

In each layer a router computes one number s per token from the same normalised hidden state as the
queries. A token with s > 0 attends to all earlier tokens, any other to the last `window` of them, its
own included. All keys and values stay in the cache, since a later token may choose full attention.

The choice is made by an explicit mask, so that generation, padding and caches work as for the base
model, with the attention implementations "sdpa" and "eager". This is the readable form; it computes
every pair and masks it.
"""

import torch
from torch import nn
from transformers import (
    LlamaForCausalLM,
    LlamaModel,
    MistralForCausalLM,
    MistralModel,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3ForCausalLM,
    Qwen3Model,
)
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from .configuration_swiattn import (
    SwiattnLlamaConfig,
    SwiattnMistralConfig,
    SwiattnQwen2Config,
    SwiattnQwen3Config,
)


class SwiattnRouter(nn.Linear):
    """One logit per token, in float32 whatever the model's type, so that all phases decide alike.

    A forward hook on this module sees the logits, [batch, tokens].
    """

    def __init__(self, hidden_size):
        super().__init__(hidden_size, 1, bias=False, dtype=torch.float32)

    def forward(self, hidden_states):
        # A product and a sum, not a matrix product: those may round to TF32.
        return (hidden_states.float() * self.weight.float()).sum(dim=-1)


def layer_attention(config, layer_idx):
    """What the layer (counted from 0) attends to: "full", "window" or "switch"."""
    section = getattr(config, "swiattn", None) or {"mode": "full"}
    mode = section["mode"]
    if mode == "static":
        return "full" if layer_idx + 1 in section["full_layers"] else "window"
    if mode not in ("full", "window", "switch"):
        raise ValueError(
            f"config.json: swiattn.mode is {mode!r}; expected full, window, static or switch."
        )
    if mode == "switch" and section.get("gate", "learned") != "learned":
        raise ValueError(
            f"config.json: swiattn.gate is {section['gate']!r}, a control of the trainer that cannot decode. "
            "Evaluate it with swiattn-eval."
        )
    return mode


class SwiattnAttention:
    """Placed before a base architecture's attention: narrows the mask and leaves the rest to it."""

    def __init__(self, config, layer_idx):
        super().__init__(config, layer_idx)
        self.attends_to = layer_attention(config, layer_idx)
        if self.attends_to != "full":
            self.window = config.swiattn["window"]
        if self.attends_to == "switch":
            self.router = SwiattnRouter(config.hidden_size)

    def forward(
        self,
        hidden_states,
        position_embeddings=None,
        attention_mask=None,
        past_key_values=None,
        **kwargs,
    ):
        if self.attends_to != "full":
            attention_mask = self.narrow(
                attention_mask, hidden_states, past_key_values, kwargs.get("cache_position")
            )
        return super().forward(
            hidden_states=hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            **kwargs,
        )

    def narrow(self, attention_mask, hidden_states, past_key_values, cache_position):
        """The causal mask [B, 1, Tq, Tk] without what each token does not attend to."""
        full = self.router(hidden_states) > 0 if self.attends_to == "switch" else None  # [B, Tq]
        batch, tokens, device = hidden_states.shape[0], hidden_states.shape[1], hidden_states.device
        seen = past_key_values.get_seq_length(self.layer_idx) if past_key_values is not None else 0
        queries = torch.arange(tokens, device=device) + seen
        if attention_mask is not None:
            length = attention_mask.shape[-1]
        elif past_key_values is not None:  # a cache of a fixed size has more keys than were seen
            asked = tokens if cache_position is None else cache_position  # transformers 5, 4
            length = past_key_values.get_mask_sizes(asked, self.layer_idx)[0]
        else:
            length = tokens
        if length <= self.window:
            return attention_mask
        keys = torch.arange(length, device=device)
        allowed = keys > queries[:, None] - self.window  # [Tq, Tk]
        if full is not None:
            allowed = allowed | full[:, None, :, None]  # [B, 1, Tq, Tk]
        if attention_mask is None:
            allowed = allowed & (keys <= queries[:, None])
            return allowed.expand(batch, 1, -1, -1)
        if attention_mask.dtype == torch.bool:
            return attention_mask & allowed
        return attention_mask.masked_fill(~allowed, torch.finfo(attention_mask.dtype).min)


def keep_routers_in_float32(model):
    """Whatever dtype from_pretrained is asked for. Set on the model and not on its class: transformers 4
    refuses to name a module that a model does not have."""
    if any(isinstance(module, SwiattnRouter) for module in model.modules()):
        model._keep_in_fp32_modules_strict = {"router"}


class SwiattnModel:
    """Placed before a base architecture's decoder: gives its layers another attention."""

    attention_class = None
    _supports_flash_attn = False  # they take no mask per token
    _supports_flex_attn = False

    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.layers):
            layer.self_attn = self.attention_class(config, index)
        keep_routers_in_float32(self)
        self.post_init()


class SwiattnForCausalLM:
    """Placed before a base architecture's language model: gives it another decoder."""

    model_class = None
    _supports_flash_attn = False
    _supports_flex_attn = False

    def __init__(self, config):
        PreTrainedModel.__init__(self, config)  # the base class would build its own decoder first
        self.model = self.model_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        keep_routers_in_float32(self)
        self.post_init()


class SwiattnLlamaAttention(SwiattnAttention, LlamaAttention):
    pass


class SwiattnLlamaModel(SwiattnModel, LlamaModel):
    config_class = SwiattnLlamaConfig
    attention_class = SwiattnLlamaAttention


class SwiattnLlamaForCausalLM(SwiattnForCausalLM, LlamaForCausalLM):
    config_class = SwiattnLlamaConfig
    model_class = SwiattnLlamaModel


class SwiattnMistralAttention(SwiattnAttention, MistralAttention):
    pass


class SwiattnMistralModel(SwiattnModel, MistralModel):
    config_class = SwiattnMistralConfig
    attention_class = SwiattnMistralAttention


class SwiattnMistralForCausalLM(SwiattnForCausalLM, MistralForCausalLM):
    config_class = SwiattnMistralConfig
    model_class = SwiattnMistralModel


class SwiattnQwen2Attention(SwiattnAttention, Qwen2Attention):
    pass


class SwiattnQwen2Model(SwiattnModel, Qwen2Model):
    config_class = SwiattnQwen2Config
    attention_class = SwiattnQwen2Attention


class SwiattnQwen2ForCausalLM(SwiattnForCausalLM, Qwen2ForCausalLM):
    config_class = SwiattnQwen2Config
    model_class = SwiattnQwen2Model


class SwiattnQwen3Attention(SwiattnAttention, Qwen3Attention):
    pass


class SwiattnQwen3Model(SwiattnModel, Qwen3Model):
    config_class = SwiattnQwen3Config
    attention_class = SwiattnQwen3Attention


class SwiattnQwen3ForCausalLM(SwiattnForCausalLM, Qwen3ForCausalLM):
    config_class = SwiattnQwen3Config
    model_class = SwiattnQwen3Model
