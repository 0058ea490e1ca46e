"""Golden gradients of adapters with dropout, by PEFT's autograd in float64, for tests of the backward pass.

PEFT draws masks by torch; here its dropout is replaced by one whose mask is that of the engine (kernel dropout), so that
what is compared is what PEFT makes of a mask. DoRA loses elements in the term of its magnitude too. See README.md. Only
data is kept.
"""

import json

import numpy as np
import torch
from make_forward import CASES, fill
from make_gradients import ALPHA, MORE, OUT, RANK, SEQUENCES, TARGETS, build
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file

SHARE, SEED, STEP, MICRO_BATCH = 0.3, 7, 3, 1
# With biases: one that rotates heads, and one of odd sizes.
FAMILIES = ["qwen2-yarn", "opt-odd"]


def philox(counters, key):
    """Words of Philox4x32-10 at counters [n, 4]."""
    c = [counters[:, i].astype(np.uint64) for i in range(4)]
    k = [np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p, q = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(q >> np.uint64(32)) ^ c[1] ^ k[0], q & low, (p >> np.uint64(32)) ^ c[3] ^ k[1], p & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, 1).astype(np.uint32)


class Given(torch.nn.Module):
    """The dropout of a module: its mask for the rows of the sequence that goes through."""

    first = 0

    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward(self, x):
        rows, width = sum(map(len, SEQUENCES)), x.shape[-1]
        count = -(-rows * width // 4)
        counters = np.zeros((count, 4), np.uint32)
        counters[:, 0] = np.arange(count)
        counters[:, 1:] = self.index, STEP, MICRO_BATCH
        stays = philox(counters, SEED).reshape(-1)[: rows * width] >= round(SHARE * 2**32)
        own = stays.reshape(rows, width)[Given.first : Given.first + x.shape[-2]]
        return x * torch.from_numpy(own).double() / (1 - SHARE)


def loss_of(model):
    total, count, Given.first = 0.0, 0, 0
    for ids, targets in zip(SEQUENCES, TARGETS):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        rows = [i for i, target in enumerate(targets) if target]
        wanted = torch.tensor([ids[i] for i in rows])
        total = total + torch.nn.functional.cross_entropy(logits[torch.tensor(rows) - 1], wanted, reduction="sum")
        count += len(rows)
        Given.first += len(ids)
    return total / count


def main():
    tensors, cases = {}, {}
    for name in FAMILIES:
        for kind in ("lora", "dora"):
            model = build(name, {**CASES, **MORE}[name])
            layers = [
                key
                for key, module in model.named_modules()
                if isinstance(module, torch.nn.Linear) and not key.endswith("lm_head")
            ]
            settings = LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules=layers, use_dora=kind == "dora", lora_dropout=SHARE
            )
            adapted = get_peft_model(model, settings).double().eval()
            for index, key in enumerate(layers):
                module = adapted.get_submodule(f"base_model.model.{key}")
                module.lora_dropout["default"] = Given(index)
                module.training = True

            def saved(key):
                short = key.removeprefix("base_model.model.").replace(".default", "")
                return short.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")

            trained = {saved(key): p for key, p in adapted.named_parameters() if p.requires_grad}
            with torch.no_grad():
                for key, p in trained.items():
                    value = torch.from_numpy(fill(key, tuple(p.shape))).double()
                    p.copy_(p.float().double() * (1 + value) if "magnitude" in key else value)
            loss = loss_of(adapted)
            loss.backward()
            cases.setdefault(name, {})[kind] = {"loss": loss.item(), "modules": layers}
            for key, p in trained.items():
                tensors[f"{name}/{kind}/{key}"] = np.ascontiguousarray(p.grad.numpy(), dtype=np.float32)
    save_file(tensors, OUT / "dropout.safetensors")
    settings = {"share": SHARE, "seed": SEED, "step": STEP, "microBatch": MICRO_BATCH}
    (OUT / "dropout.json").write_text(json.dumps({**settings, "cases": cases}, separators=(",", ":")) + "\n")


main()
