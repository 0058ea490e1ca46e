"""Files of NumPy with arrays and dicts, as the pickle protocols 2 to 5 have them, and their contents as JSON.

python test/peers/make_npy.py test/goldens/training/stage1.safetensors writes test/peers/npy. The masks and biases of
that file become one like dp_selection_strategy.npy of AmoebaLLM's release. Needs numpy and safetensors.
"""
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

folder = Path(__file__).parent / "npy"
folder.mkdir(exist_ok=True)


def save(name: str, value: object, protocol: int) -> None:
    """As np.save does, which chooses its protocol itself."""
    array = np.empty((), dtype=object)
    array[()] = value
    with open(folder / name, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        pickle.dump(array, file, protocol=protocol)


cube = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
objects = np.empty((2, 3), dtype=object)
objects[:] = [[1, "two", None], [True, 4.5, b"\x00\xff"]]
arrays = {
    "float64": cube / 7,
    "float32 big-endian": np.array([1.5, -2.25, 1e-30], dtype=">f4"),
    "float16": np.array([1.5, -2, 6e-8, np.inf, 65504], dtype=np.float16),
    "int64 big-endian": np.array([[-5, 2**40]], dtype=">i8"),
    "uint16": np.array([0, 65535], dtype=np.uint16),
    "bool": np.array([True, False, True]),
    "fortran": np.asfortranarray(cube[0]),
    "fortran big-endian": np.asfortranarray(cube[1].astype(">f8")),
    "axes moved": cube.transpose(1, 2, 0),
    "every second": np.arange(10)[::2],
    "empty": np.zeros((0, 3), dtype=np.float32),
    "zero dimensions": np.array(2.5),
    "objects": objects,
    "objects in fortran order": np.asfortranarray(objects),
}
scalars = {"float64": np.float64(0.1), "int32": np.int32(-7), "bool": np.bool_(True), "float32": np.float32(0.5)}
plain = {1: "int", 0.875: "float", "text": "ü ✓", "none": None, "large": 2**70, "negative": -(2**40), "list": [1, [2, (3, 4)]]}


def described(value: object) -> object:
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype.newbyteorder("=")), "shape": value.shape, "values": [described(v) for v in value.flatten()]}
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return f"{value}n"
    return "Infinity" if value == float("inf") else value


everything = {"arrays": arrays, "scalars": scalars, "plain": plain}
for protocol in (2, 3, 4, 5):
    save(f"everything-{protocol}.npy", everything, protocol)
# What NumPy 1 writes differs in the names of its modules, which protocol 2 has as lines of text.
(folder / "everything-numpy1.npy").write_bytes((folder / "everything-2.npy").read_bytes().replace(b"numpy._core", b"numpy.core"))
for name in ("float64", "float32 big-endian", "float16", "bool", "fortran", "zero dimensions", "empty"):
    np.save(folder / f"plain-{name.replace(' ', '-')}.npy", arrays[name])
expected = {
    "arrays": {name: described(array) for name, array in arrays.items()},
    "scalars": {name: described(value) for name, value in scalars.items()},
    "plain": {str(key): described(value) for key, value in plain.items()},
}
(folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/weightsmith-was-executed",)


for protocol in (2, 3, 4, 5):
    save(f"hostile-{protocol}.npy", {"strategy": Hostile()}, protocol)

stage1 = load_file(sys.argv[1])
ratios = {1: "1", 0.875: "7_8", 0.75: "3_4", 0.625: "5_8"}
layers, heads, size = 8, 2, 32
blocks = {8 - kept: mask for kept, mask in ((7, [1, 1, 1, 1, 1, 0, 1, 1]), (6, [1, 1, 1, 1, 1, 0, 0, 1]), (5, [1, 1, 1, 1, 0, 0, 0, 1]))}
masks: dict[str, object] = {}
biases: dict[str, object] = {}
for layer in range(layers):
    for kind, part, parent in (("groups", "o_proj", "self_attn"), ("neurons", "down_proj", "mlp")):
        units = {r: stage1[f"{kind}/{key}"][layer].astype(bool) for r, key in ratios.items()}
        rows = {"q_proj": 2 * size, "k_proj": size, "v_proj": size} if parent == "self_attn" else {"gate_proj": 1, "up_proj": 1}
        for name, repeats in rows.items():
            module = f"base_model.model.model.layers.{layer}.{parent}.{name}"
            masks[module] = {r: np.repeat(kept, repeats) for r, kept in units.items()}
            biases[module] = None
        module = f"base_model.model.model.layers.{layer}.{parent}.{part}"
        masks[module] = None
        biases[module] = {r: stage1[f"bias_{part.split('_')[0]}/{key}"][layer] for r, key in ratios.items()}
strategy = {
    "strategy": {m: np.array(mask, dtype=np.float64) for m, mask in blocks.items()},
    "metric": {m: 0.5 - m / 10 for m in blocks},
    "width_mask": masks,
    "bias": biases,
}
np.save(folder / "dp_selection_strategy.npy", strategy, allow_pickle=True)
