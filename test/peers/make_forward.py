"""Golden numbers of forward passes by transformers, so that families of models are tested without installing it.

Makes tiny models of every family from a rule that tests know too (`fill`), runs them in float32 on the CPU and writes
their hidden states and logits beside this file. See README.md. Only data is kept.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlavaForConditionalGeneration

OUT = Path(__file__).parent / "forward"
SMALL = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
OPT = {
    "vocab_size": 40,
    "hidden_size": 24,
    "ffn_dim": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}
LENGTH = 14


def causal(model_type, architecture, base=SMALL, **more):
    return {"model_type": model_type, "architectures": [architecture], **base, **more}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES = {
    "llama-biases-linear": causal(
        "llama", "LlamaForCausalLM", attention_bias=True, mlp_bias=True, rope_scaling={"rope_type": "linear", "factor": 2.5}
    ),
    "llama-dynamic": causal(
        "llama", "LlamaForCausalLM", max_position_embeddings=8, rope_scaling={"rope_type": "dynamic", "factor": 3.0}
    ),
    "mistral": causal("mistral", "MistralForCausalLM", head_dim=10, sliding_window=5),
    "qwen2-yarn": causal("qwen2", "Qwen2ForCausalLM", rope_scaling=YARN),
    "qwen3-windows": causal(
        "qwen3",
        "Qwen3ForCausalLM",
        head_dim=8,
        use_sliding_window=True,
        sliding_window=3,
        max_window_layers=1,
        tie_word_embeddings=True,
    ),
    # The types of layers go first: by the other keys the second layer alone would have a window.
    "qwen2-layer-types": causal(
        "qwen2",
        "Qwen2ForCausalLM",
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "gemma": causal("gemma", "GemmaForCausalLM", head_dim=8, hidden_activation="gelu_pytorch_tanh"),
    "opt": causal("opt", "OPTForCausalLM", OPT, word_embed_proj_dim=24),
    "opt-post-norm": causal(
        "opt", "OPTForCausalLM", OPT, word_embed_proj_dim=12, do_layer_norm_before=False, activation_function="gelu"
    ),
    "llava-full": {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "image_token_index": 39,
        "vision_feature_layer": 1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": False,
        "text_config": causal("qwen2", "Qwen2ForCausalLM"),
        # Two patches a side, and two pixels that are in none.
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 12,
            "intermediate_size": 18,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 10,
            "patch_size": 4,
            "hidden_act": "gelu",
        },
    },
}

# Kinds of scaling at the size of real models: name, config, length of the sequence.
ROTARY = {
    "yarn": ({**SMALL, "head_dim": 128, "max_position_embeddings": 32768, "rope_theta": 1000000.0,
              "rope_scaling": {**YARN, "original_max_position_embeddings": 32768}}, 9),
    "yarn-factors": ({**SMALL, "head_dim": 64, "max_position_embeddings": 163840,
                      "rope_scaling": {**YARN, "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 24,
                                       "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}}, 9),
    "dynamic": ({**SMALL, "head_dim": 128, "max_position_embeddings": 2048,
                 "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 3001),
    "llama3": ({**SMALL, "head_dim": 128, "max_position_embeddings": 131072, "rope_theta": 500000.0,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                 "original_max_position_embeddings": 8192}}, 9),
}  # fmt: skip


def fill(name, shape):
    """Numbers in [-0.25, 0.25) from a hash of name and index; weights of norms lie around 1."""
    hashed = 2166136261
    for byte in name.encode():
        hashed = ((hashed ^ byte) * 16777619) & 0xFFFFFFFF
    x = (np.arange(int(np.prod(shape)), dtype=np.uint64) * 0x9E3779B1 + hashed) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    value = (x ^ (x >> 16)).astype(np.float64) / 2**33 - 0.25
    if len(shape) == 1 and "norm" in name and name.endswith("weight"):
        value += 1
    return value.reshape(shape).astype(np.float32)


def filled(model):
    state = {name: torch.from_numpy(fill(name, tuple(tensor.shape))) for name, tensor in model.state_dict().items()}
    tied = getattr(model.config, "tie_word_embeddings", False) or model.config.model_type in ("opt", "gemma")
    if tied:
        table = next(name for name in state if name.endswith("embed_tokens.weight"))
        state["lm_head.weight"] = state[table]
    model.load_state_dict(state)
    return model.eval()


def rotary(config, length):
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    embedding = LlamaRotaryEmbedding(LlamaConfig(**config))
    embedding(torch.zeros(1, 1, 1), torch.arange(length)[None])
    return {"frequencies": embedding.inv_freq.double().tolist(), "factor": float(embedding.attention_scaling)}


def main():
    tensors, cases = {}, {}
    torch.manual_seed(0)
    for name, config in CASES.items():
        ids = [(7 * i * i + 3 * i + 5) % 39 for i in range(LENGTH)]
        read = AutoConfig.for_model(**config)
        more, images = {}, None
        if name.startswith("llava"):
            model = filled(LlavaForConditionalGeneration._from_config(read, attn_implementation="eager"))
            images = torch.from_numpy(fill("image", (1, 3, 10, 10)))
            more["pixel_values"] = images
            # With the class token an image has 5 rows.
            expanded = [id for i, id in enumerate(ids) for id in ([39] * 5 if i == 3 else [id])]
            ids[3] = 39
        else:
            model = filled(AutoModelForCausalLM.from_config(read, attn_implementation="eager"))
            expanded = ids
        with torch.no_grad():
            result = model(input_ids=torch.tensor([expanded]), output_hidden_states=True, use_cache=False, **more)
        tensors[f"{name}/logits"] = result.logits[0].numpy()
        for i, hidden in enumerate(result.hidden_states[:-1]):
            tensors[f"{name}/hidden/{i}"] = hidden[0].numpy()
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        if "lm_head.weight" in shapes and model.get_output_embeddings().weight is model.get_input_embeddings().weight:
            del shapes["lm_head.weight"]
        cases[name] = {"config": config, "ids": ids, "tensors": shapes}
    angles = {name: {"config": config, "length": length, **rotary(config, length)} for name, (config, length) in ROTARY.items()}
    OUT.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, OUT / "forward.safetensors")
    (OUT / "forward.json").write_text(json.dumps({"cases": cases, "rotary": angles}, indent=1) + "\n")


if __name__ == "__main__":
    main()
