"""transformers loads shapes that Weightsmith has cut, and says the same of a compact shape as of the masked one.

python test/peers/check_cut.py COMPACT MASKED LINES loads both folders, compares their logits on the lines of a .jsonl
file with prompts and answers, and prints the mean loss of answers, which amoeba cut prints with --data. It fails where
a weight is missing or left over, and where a logit is further off than 1e-5 of the largest.
"""
import argparse
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("compact")
parser.add_argument("masked")
parser.add_argument("lines")
parser.add_argument("--limit", type=float, default=1e-5)
options = parser.parse_args()


def load(path: str):
    model, info = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


tokenizer = AutoTokenizer.from_pretrained(options.compact)
models = [load(options.compact), load(options.masked)]
worst, total, tokens = 0.0, 0.0, 0
for line in open(options.lines):
    entry = json.loads(line)
    prompt = tokenizer(entry["prompt"])["input_ids"]
    ids = tokenizer(entry["prompt"] + entry["answer"])["input_ids"] + [models[0].config.eos_token_id]
    with torch.no_grad():
        one, other = (model(torch.tensor([ids])).logits[0] for model in models)
    worst = max(worst, ((one - other).abs().max() / other.abs().max()).item())
    loss = torch.nn.functional.cross_entropy(one[:-1], torch.tensor(ids[1:]), reduction="none")
    total += loss[len(prompt) - 1 :].sum().item()
    tokens += len(ids) - len(prompt)
print(f"logits differ by {worst:.1e} of the largest; loss of answers {total / tokens:.4f}")
assert worst <= options.limit
