"""Prints the seconds that mergekit's merge of a recipe takes, its imports and start-up not counted."""

import sys
import time

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

recipe, out = sys.argv[1:]
with open(recipe, encoding="utf-8") as file:
    config = MergeConfiguration.model_validate(yaml.safe_load(file))
start = time.perf_counter()
run_merge(config, out, MergeOptions(copy_tokenizer=False, quiet=True))
print(time.perf_counter() - start)
