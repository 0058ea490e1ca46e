"""PEFT loads an adapter that `weightsmith train` has written, and gets the loss that training says it has.

python test/peers/check_training.py MODEL ADAPTER HELD_OUT LOSS: HELD_OUT has lines of prompt and answer, LOSS is what
the log says of them after the step that was kept. Fails where PEFT misses a key or finds one too many, and where the mean
loss of answers and of the end after each, in float32, is off by more than 1e-4 of LOSS.
"""
import argparse
import json

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("adapter")
parser.add_argument("held_out")
parser.add_argument("loss", type=float)
options = parser.parse_args()

tokenizer = AutoTokenizer.from_pretrained(options.model)
base = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
model = PeftModel.from_pretrained(base, options.adapter).eval()
stored = load_file(f"{options.adapter}/adapter_model.safetensors")
result = set_peft_model_state_dict(model, stored)
missing = [key for key in result.missing_keys if "lora_" in key]
assert not missing and not result.unexpected_keys, (missing, result.unexpected_keys)
assert sum("lora_" in name for name, _ in model.named_parameters()) == len(stored), "PEFT has other factors than the file"

total, count = 0.0, 0
with torch.no_grad():
    for line in open(options.held_out):
        record = json.loads(line)
        prompt = tokenizer(record["prompt"])["input_ids"]
        ids = tokenizer(record["prompt"] + record["answer"])["input_ids"] + [tokenizer.eos_token_id]
        assert ids[: len(prompt)] == prompt, record
        logits = model(torch.tensor([ids])).logits[0].double()
        losses = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        total += losses[len(prompt) - 1 :].sum().item()
        count += len(ids) - len(prompt)
loss = total / count
off = abs(loss - options.loss) / options.loss
print(f"{len(stored)} tensors load; the loss of {count} ids is {loss:.7f}, off by {off:.1e} of {options.loss:.7f}.")
assert off <= 1e-4
