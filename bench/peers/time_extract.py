"""Prints the seconds of torch.svd_lowrank of the difference of two matrices in bf16, as float32, on two threads: one a run.

Reading the files is not counted.
"""

import sys
import time

import torch
from safetensors.torch import load_file

base, tuned, runs = sys.argv[1:]
torch.set_num_threads(2)
(one,), (two,) = (load_file(f"{folder}/model.safetensors").values() for folder in (base, tuned))
difference = two.float() - one.float()
for _ in range(int(runs) + 1):
    start = time.perf_counter()
    torch.svd_lowrank(difference, q=32, niter=2)
    print(time.perf_counter() - start)
