"""Prints the seconds of training steps by PyTorch on the CPU, as JSON: forward, backward, clipping and AdamW in f32, with
the activations of layers computed again (gradient checkpointing). Loading and the first step are not counted."""

import json
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

path, method, sequences, length, runs = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
torch.set_num_threads(2)
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
if method == "lora":
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    model.enable_input_require_grads()
model.gradient_checkpointing_enable()
model.train()
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
ids = (torch.arange(sequences * length) * 7 % model.config.vocab_size).reshape(sequences, length)
times = []
for _ in range(runs + 1):
    start = time.perf_counter()
    model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.perf_counter() - start)
print(json.dumps(sorted(times[1:])))
