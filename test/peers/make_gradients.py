"""Golden gradients of tiny models of every family, by autograd in float64, for tests of the backward pass.

The models are those of make_forward.py and one more, filled by the same rule. Gradients of the mean cross entropy of some
tokens of two sequences: of all tensors, and of adapters (LoRA and DoRA by PEFT, the base frozen). See README.md. Only data
is kept.
"""

import json
from pathlib import Path

import numpy as np
import torch
from make_forward import CASES, OPT, causal, fill, filled
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlavaForConditionalGeneration

OUT = Path(__file__).parent.parent / "goldens/training/families"
RANK = 3
ALPHA = 6
SEQUENCES = [
    [(7 * i * i + 3 * i + 5) % 39 for i in range(14)],
    [(5 * i * i + i + 2) % 39 for i in range(9)],
]
# What is to be predicted: never the first token, and not every other one.
TARGETS = [[int(i > 0 and i % 4 != 3) for i in range(len(ids))] for ids in SEQUENCES]
MORE = {
    # No size of it is a multiple of 4, and heads have 5 elements.
    "opt-odd": causal(
        "opt", "OPTForCausalLM", {**OPT, "hidden_size": 15, "ffn_dim": 21, "num_attention_heads": 3, "vocab_size": 41},
        word_embed_proj_dim=15,
    ),
}  # fmt: skip


def build(name, config):
    read = AutoConfig.for_model(**config)
    kind = LlavaForConditionalGeneration if name.startswith("llava") else AutoModelForCausalLM
    make = kind._from_config if name.startswith("llava") else kind.from_config
    model = filled(make(read, attn_implementation="eager")).double()
    # An embedding leaves the gradient of what pads out; nothing is padded here.
    model.get_input_embeddings().padding_idx = None
    return model


def loss_of(model):
    total, count = 0.0, 0
    for ids, targets in zip(SEQUENCES, TARGETS):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        assert logits.dtype == torch.float64
        rows = [i for i, target in enumerate(targets) if target]
        wanted = torch.tensor([ids[i] for i in rows])
        picked = logits[torch.tensor(rows) - 1]
        total = total + torch.nn.functional.cross_entropy(picked, wanted, reduction="sum")
        count += len(rows)
    return total / count


def check(model, parameters):
    """The gradient along a random direction is what the loss does there."""
    step = 1e-6
    directions = [torch.randn_like(p) for p in parameters]
    slope = sum((p.grad * d).sum() for p, d in zip(parameters, directions)).item()
    ends = []
    with torch.no_grad():
        for sign in (1, -1):
            for p, d in zip(parameters, directions):
                p += sign * step * d
            ends.append(loss_of(model).item())
            for p, d in zip(parameters, directions):
                p -= sign * step * d
    off = abs((ends[0] - ends[1]) / (2 * step) - slope)
    assert off < 1e-6 * (1 + abs(slope)), (model.config.model_type, off, slope)


def gradients(model, names):
    loss = loss_of(model)
    loss.backward()
    wanted = {names(name): p for name, p in model.named_parameters() if p.requires_grad and names(name)}
    return loss.item(), wanted


def main():
    tensors, cases = {}, {}
    torch.manual_seed(0)
    for name, config in {**CASES, **MORE}.items():
        model = build(name, config)
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        if "lm_head.weight" in shapes and model.get_output_embeddings().weight is model.get_input_embeddings().weight:
            del shapes["lm_head.weight"]
        language = lambda key: key if "vision" not in key and "multi_modal" not in key else None  # noqa: E731
        loss, full = gradients(model, language)
        check(model, list(full.values()))
        found = {"full": loss}
        for key, p in full.items():
            tensors[f"{name}/full/{key}"] = p.grad.numpy()
        layers = [
            key
            for key, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and language(key) and not key.endswith("lm_head")
        ]
        for kind in ("lora", "dora"):
            model = build(name, config)
            settings = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers, use_dora=kind == "dora")
            adapted = get_peft_model(model, settings).double()

            def short(key):
                return key.removeprefix("base_model.model.").replace(".default", "")

            # A magnitude is a parameter that PEFT saves without the end of its name.
            saved = lambda key: short(key).replace("lora_magnitude_vector.weight", "lora_magnitude_vector")  # noqa: E731
            with torch.no_grad():
                for key, p in adapted.named_parameters():
                    if not p.requires_grad:
                        continue
                    value = torch.from_numpy(fill(saved(key), tuple(p.shape))).double()
                    # Row norms, moved by up to a quarter.
                    p.copy_(p.float().double() * (1 + value) if "magnitude" in key else value)
            loss, some = gradients(adapted, saved)
            if kind == "lora":
                check(adapted, list(some.values()))
            found[kind] = loss
            for key, p in some.items():
                tensors[f"{name}/{kind}/{key}"] = p.grad.numpy()
        cases[name] = {"config": config, "tensors": shapes, "loss": found}
    OUT.mkdir(exist_ok=True, parents=True)
    save_file({name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}, OUT / "families.safetensors")
    settings = {"rank": RANK, "alpha": ALPHA, "sequences": SEQUENCES, "targets": TARGETS}
    (OUT / "families.json").write_text(json.dumps({**settings, "cases": cases}, separators=(",", ":")) + "\n")


# The models round to float32 on the way, in norms, softmax and angles.
torch.float32 = torch.float64
torch.Tensor.float = torch.Tensor.double
if __name__ == "__main__":
    main()
