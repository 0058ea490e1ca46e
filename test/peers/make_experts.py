"""Golden folds of adapters on experts: tiny bases like Mixtral, Qwen3-MoE and GPT-OSS, adapters with target_parameters, and
what PEFT makes of the two. See README.md. Only data is kept.

A base is stored as its authors published it, and, where transformers stacks experts in memory, as that stack too
(`-stacked`). The expected weights of both are those of one model.
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

OUT = Path(__file__).parent / "experts"
SHARED = {
    "vocab_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
CASES = {
    "mixtral": {**SHARED, "model_type": "mixtral", "intermediate_size": 12, "num_local_experts": 3},
    "qwen3-moe": {**SHARED, "model_type": "qwen3_moe", "intermediate_size": 12, "moe_intermediate_size": 12, "num_experts": 3},
    # as in the published models, experts of down_proj are square
    "gpt-oss": {**SHARED, "model_type": "gpt_oss", "intermediate_size": 16, "num_local_experts": 3, "layer_types": ["full_attention"]},
}  # fmt: skip
ROUTER = {"gpt-oss": "mlp.router.weight"}
STACKED = ["mixtral", "qwen3-moe"]


def waves(model, pick=lambda name: True):
    """Fills parameters with numbers of a fixed rule, different in each."""
    with torch.no_grad():
        for seed, (name, p) in enumerate(model.named_parameters()):
            if pick(name):
                at = torch.arange(p.numel(), dtype=torch.float64)
                p.copy_((0.3 * torch.sin(at * (seed + 1.3) + seed)).reshape(p.shape))


def stored(model, folder, stacked):
    """What save_pretrained writes, with nothing but weights and config."""
    model.save_pretrained(folder, save_original_format=not stacked)
    return load_file(folder / "model.safetensors")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    for name, config in CASES.items():
        forms = [False, True] if name in STACKED else [False]
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager").float()
        waves(model)
        folders = [OUT / (f"{name}-stacked" if stacked else name) for stacked in forms]
        for folder, stacked in zip(folders, forms):
            stored(model, folder / "base", stacked)
            (folder / "base/generation_config.json").unlink(missing_ok=True)
        settings = LoraConfig(
            r=2,
            lora_alpha=3,
            target_modules=["q_proj"],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj", ROUTER.get(name, "mlp.gate.weight")],
            rank_pattern={"mlp.experts.gate_up_proj": 3},
            alpha_pattern={r"experts\.down_proj": 5},
        )
        adapted = get_peft_model(model, settings)
        waves(adapted, lambda key: "lora_" in key)
        adapted.save_pretrained(OUT / f"{name}-adapter")
        (OUT / f"{name}-adapter/README.md").unlink()
        merged = adapted.merge_and_unload()
        for folder, stacked in zip(folders, forms):
            base = load_file(folder / "base/model.safetensors")
            tensors = stored(merged, folder / "merged", stacked)
            shutil.rmtree(folder / "merged")
            changed = {key: value for key, value in tensors.items() if not torch.equal(value, base[key])}
            assert tensors.keys() == base.keys()
            save_file(changed, folder / "merged.safetensors")
            (folder / "case.json").write_text(json.dumps({"adapter": f"{name}-adapter"}) + "\n")


main()
