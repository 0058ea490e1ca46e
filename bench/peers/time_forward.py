"""Prints the seconds of prefill and of decode of a LLaMA by transformers on the CPU, as JSON; loading is not counted."""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM

path, tokens, steps, runs = sys.argv[1], *map(int, sys.argv[2:])
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
ids = (torch.arange(tokens) * 7 % model.config.vocab_size)[None]
prefill, decode = [], []
with torch.inference_mode():
    for _ in range(runs + 1):
        start = time.perf_counter()
        out = model(ids, use_cache=True)
        prefill.append(time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(steps):
            best = out.logits[:, -1:].argmax(-1)
            out = model(best, past_key_values=out.past_key_values, use_cache=True)
        decode.append(time.perf_counter() - start)
# The first run warms up.
print(json.dumps({"prefill": sorted(prefill[1:]), "decode": sorted(decode[1:])}))
