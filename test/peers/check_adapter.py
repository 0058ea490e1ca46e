"""PEFT loads an adapter that Weightsmith has written, and gets the updates of the adapters that it was made of.

python test/peers/check_adapter.py MODEL WRITTEN ADAPTER=WEIGHT... compares what WRITTEN changes in MODEL with the
weighted sum of what the others change. It fails where a key is missing or left over, where other tensors change, and
where a tensor is further off than 1e-5 of its norm (the limit can be given as --limit).
"""
import argparse

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def updates(base: str, path: str, strict: bool = False) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model = PeftModel.from_pretrained(model, path)
    stored = load_file(f"{path}/adapter_model.safetensors")
    result = set_peft_model_state_dict(model, stored)
    missing = [key for key in result.missing_keys if "lora_" in key or "modules_to_save" in key]
    count = sum("lora_" in name for name, _ in model.named_parameters())
    if strict:
        assert not missing and not result.unexpected_keys, (missing, result.unexpected_keys)
        assert count == sum("lora_" in name for name in stored), "PEFT has other factors than the file"
    after = model.merge_and_unload().state_dict()
    return {name: after[name] - old for name, old in before.items() if not torch.equal(after[name], old)}


parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("written")
parser.add_argument("adapters", nargs="+")
parser.add_argument("--limit", type=float, default=1e-5)
options = parser.parse_args()

want: dict[str, torch.Tensor] = {}
for adapter in options.adapters:
    path, _, weight = adapter.rpartition("=")
    for name, update in updates(options.model, path).items():
        want[name] = want.get(name, 0) + float(weight) * update
got = updates(options.model, options.written, strict=True)
assert got.keys() == want.keys(), got.keys() ^ want.keys()
off = {name: ((got[name] - want[name]).norm() / want[name].norm()).item() for name in got}
worst = max(off, key=off.get)
print(f"{len(off)} tensors change, {worst} is off most: by {off[worst]:.2e} of its norm.")
assert off[worst] <= options.limit
