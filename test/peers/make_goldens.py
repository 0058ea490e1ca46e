"""Golden files of other mergers, so that equality with them is tested without installing them.

Makes four small Llama checkpoints, runs mergekit (its API, on the CPU, in float32), PEFT's merge functions and the
published reading of TIES on them, and writes the checkpoints, the results and `goldens.json` beside this file. See
README.md. Only data is kept; nothing of those projects' code.
"""

import json
import logging
import os
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from peft.utils import merge_utils
from safetensors.torch import load_file, save_file

GOLDENS = Path(__file__).parent / "goldens"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 13,
    "intermediate_size": 3,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "vocab_size": 158,  # 2,054 elements in the embedding: more than one block of 2,048
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
# Largest |got - golden|, as a share of |golden| + the largest |input|: a few roundings of f32 for sums, and more of
# them where the peer computes angles and norms in f32.
SUM = 1e-6
ANGLE = 2e-6
SHORT = 2e-5  # angles of rows and columns, short vectors that may be nearly parallel


def shapes(vocabulary, layers):
    h, f, q = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]  # one head
    yield "model.embed_tokens.weight", (vocabulary, h)
    for i in range(layers):
        layer = f"model.layers.{i}."
        for part, shape in {
            "input_layernorm": (h,),
            "mlp.down_proj": (h, f),
            "mlp.gate_proj": (f, h),
            "mlp.up_proj": (f, h),
            "post_attention_layernorm": (h,),
            "self_attn.k_proj": (q, h),
            "self_attn.o_proj": (h, q),
            "self_attn.q_proj": (q, h),
            "self_attn.v_proj": (q, h),
        }.items():
            yield f"{layer}{part}.weight", shape
    yield "model.norm.weight", (h,)


def make_models():
    """base, two models that change most entries (by equal and opposite amounts here and there), one that is close."""
    rng = np.random.default_rng(20240607)
    models = {name: {} for name in ("base", "m1", "m2", "m3")}
    for name, shape in shapes(CONFIG["vocab_size"], CONFIG["num_hidden_layers"]):
        base = rng.normal(0, 0.05, shape) + (1 if "norm" in name else 0)
        coarse = rng.random(shape) < 0.06  # on a grid, so that differences tie and cancel exactly
        base = np.where(coarse, np.round(base * 64) / 64, base).astype(np.float32)
        base[rng.random(shape) < 0.01] = 0
        models["base"][name] = base
        for model, sigma, changed in (("m1", 0.02, 0.75), ("m2", 0.03, 0.7), ("m3", 0.0004, 1)):
            step = rng.normal(0, sigma, shape)
            if sigma > 0.001:
                step = np.where(coarse, np.sign(step) / 64, step)
            step = np.where(rng.random(shape) < changed, step, 0)
            models[model][name] = (base + step.astype(np.float32)).astype(np.float32)
    write_models(models, CONFIG)


def make_edges():
    """edge, edge1 and edge2: a tensor each for what formulas stumble over."""
    rng = np.random.default_rng(7)
    models = {name: {} for name in ("edge", "edge1", "edge2")}
    for name, shape in shapes(5, 1):
        part = name.split(".")[-2]
        base, one, two = (rng.normal(0, scale, shape) for scale in (0.05, 0.02, 0.03))
        signs = np.sign(rng.normal(0, 1, shape))
        signs.flat[64:] = 0
        if part == "input_layernorm":  # nothing changes
            one, two = 0 * one, 0 * two
        elif part == "post_attention_layernorm":  # nothing there at all
            base, one, two = 0 * base, 0 * one, 0 * two
        elif part == "q_proj":  # opposite changes, on a grid so that they cancel exactly
            base, one = np.round(base * 256) / 256, np.round(one * 256) / 256
            two = -one
        elif part == "k_proj":  # opposite models of length 2, no base
            base, one, two = 0 * base, signs / 4, -signs / 4
        elif part == "v_proj":  # parallel models
            base, one, two = signs / 4, signs / 4, signs / 2
        elif part == "o_proj":  # changes about as small as the constants of some formulas
            one, two = one / 2000, two / 2000
        elif part == "gate_proj":  # one element each
            one[1:], one[0, 1:], two[:2], two[2, :-1] = 0, 0, 0, 0
        elif part == "up_proj":
            base, one, two = base * 1e5, one * 1e5, two * 1e5
        elif part == "down_proj":
            base, one, two = base * 1e-12, one * 1e-12, two * 1e-12
        base = base.astype(np.float32)
        for model, change in (("edge", 0), ("edge1", one), ("edge2", two)):
            models[model][name] = (base + np.float32(change)).astype(np.float32)
    write_models(models, CONFIG | {"vocab_size": 5, "num_hidden_layers": 1})


def write_models(models, config):
    for model, tensors in models.items():
        folder = GOLDENS / "models" / model
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file({k: torch.from_numpy(v) for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def model(name, **parameters):
    return {"model": f"models/{name}", **({"parameters": parameters} if parameters else {})}


def source(name, layers, **parameters):
    return {"model": f"models/{name}", "layer_range": list(layers), **({"parameters": parameters} if parameters else {})}


cases = []


def case(name, method, models=None, base="base", tolerance=SUM, slices=None, cuts=None, note=None, differs=None, **parameters):
    """`cuts(model, magnitudes)`: ranks at which the method cuts; elements that tie there are counted."""
    recipe = {"merge_method": method}
    if base:
        recipe["base_model"] = f"models/{base}"
    recipe["slices" if slices else "models"] = slices or models
    if parameters:
        recipe["parameters"] = {k.rstrip("_"): v for k, v in parameters.items()}
    recipe["dtype"] = "float32"
    entry = {"name": name, "method": method, "peer": f"mergekit {version('mergekit')}", "recipe": recipe}
    entry["tolerance"] = tolerance
    if note:
        entry["note"] = note
    if differs:
        entry["differs"] = differs
    cases.append((entry, cuts, None))
    return entry


def list_cases():
    pair = lambda **p: [model("m1", **p), model("m2", **p)]
    three = lambda a, b, c, **p: [model("m1", weight=a, **p), model("m2", weight=b, **p), model("m3", weight=c, **p)]
    two = lambda a, b, **p: [model("m1", weight=a, **p), model("m2", weight=b, **p)]

    case("linear", "linear", two(0.5, 0.5), None)
    case("linear-three", "linear", three(1, 2, 0.7), None)
    case("linear-sum", "linear", three(0.5, 0.3, 0.4), None, normalize=False)
    case("linear-negative", "linear", two(1.5, -0.25), None)
    case("linear-precedence", "linear", [model("base"), model("m1", weight=0.2), model("m2", weight=[
        {"filter": "self_attn", "value": 0.9}, {"filter": "mlp", "value": 0.4}])], None, weight=0.3,
        note="a model's value goes before the recipe's; where no filter hits, the recipe's value holds")
    case("linear-gradient", "linear", [model("m1", weight=[0, 1]), model("m2", weight=[1, 0.1, 0.8, 0])], None)
    case("slerp", "slerp", [model("base"), model("m2")], tolerance=ANGLE, t=0.3)
    case("slerp-near", "slerp", [model("base"), model("m3")], tolerance=ANGLE, t=0.6,
        note="closer than the threshold: linear interpolation")
    case("slerp-filters", "slerp", [model("base"), model("m1")], tolerance=ANGLE, t=[
        {"filter": "self_attn", "value": [0.2, 0.8]}, {"filter": "mlp", "value": [1, 0.4, 0.7, 0]}, {"value": 0.5}])
    case("slerp-slices", "slerp", tolerance=ANGLE, t=0.25, slices=[
        {"sources": [source("base", (0, 1)), source("m1", (1, 2))]},
        {"sources": [source("base", (1, 2)), source("m1", (0, 1))], "parameters": {"t": 0.75}}])
    case("nuslerp", "nuslerp", two(0.3, 0.6), None, ANGLE)
    case("nuslerp-columns", "nuslerp", two(1, 0.5), None, SHORT, nuslerp_flatten=False)
    case("nuslerp-rows", "nuslerp", two(1, 0.5), None, SHORT, nuslerp_flatten=False, nuslerp_row_wise=True)
    case("nuslerp-base", "nuslerp", two(0.4, 0.8), tolerance=ANGLE)
    case("nuslerp-base-columns", "nuslerp", two(0.4, 0.8), tolerance=SHORT, nuslerp_flatten=False)
    case("nuslerp-base-rows", "nuslerp", two(0.4, 0.8), tolerance=SHORT, nuslerp_flatten=False, nuslerp_row_wise=True)
    case("multislerp", "multislerp", three(1, 2, 0.5), None, ANGLE)
    case("multislerp-sum", "multislerp", two(0.5, 0.7), None, ANGLE, normalize_weights=False)
    case("multislerp-base", "multislerp", three(1, 1, 1), tolerance=ANGLE)
    case("multislerp-eps", "multislerp", two(1, 1), None, ANGLE, eps=0.01,
        differs="it adds eps to a tangent that is zero, which shortens the result to cos(eps) of its length")
    case("karcher", "karcher", [model("m1"), model("m2"), model("base")], None, ANGLE)
    case("karcher-one-step", "karcher", pair(), None, ANGLE, max_iter=1)
    case("karcher-tol", "karcher", [model("m1"), model("m2"), model("m3")], None, ANGLE, tol=0.01, max_iter=50)
    case("task_arithmetic", "task_arithmetic", three(0.5, 0.25, 1))
    case("task_arithmetic-negation", "task_arithmetic", [model("m1", weight=-1)])
    case("task_arithmetic-normalize", "task_arithmetic", two(0.9, 0.4), normalize=True)
    case("task_arithmetic-cancel", "task_arithmetic", two(0.5, -0.5), normalize=True,
        note="weights that add up to zero are not normalized")
    case("task_arithmetic-lambda", "task_arithmetic", [model("base"), *two(0.6, -0.3)], lambda_=1.5, int8_mask=True)
    case("passthrough", "passthrough", [model("m2")], None, 0)
    case("passthrough-scale", "passthrough", [model("m1", scale=[
        {"filter": "o_proj", "value": 0}, {"filter": "down_proj", "value": [0.5, 0.25]}, {"value": 1}])], None)
    case("passthrough-layers", "passthrough", base=None, tolerance=0, slices=[
        {"sources": [source("m1", (0, 2))]}, {"sources": [source("m2", (0, 1))]}, {"sources": [source("m2", (0, 2))]}])
    case("linear-slices", "linear", base=None, slices=[
        {"sources": [source("m1", (0, 1), weight=0.3), source("m2", (1, 2), weight=0.7)]},
        {"sources": [source("m2", (0, 2), weight=[0.2, 0.8]), source("m1", (0, 2), weight=1)]}])

    top = lambda density: lambda n: [int(density * n)]
    case("ties", "ties", two(1, 1, density=0.5), cuts=top(0.5))
    case("ties-three", "ties", three(1, 0.5, 0.25, density=0.3), cuts=top(0.3))
    case("ties-cut", "ties", two(0.5, 0.5, density=0.43), cuts=top(0.43), note="magnitudes tie at the cut")
    case("ties-sum", "ties", two(0.6, 0.4, density=0.7), cuts=top(0.7), normalize=False, lambda_=0.8, int8_mask=True)
    case("ties-negative", "ties", two(1, -0.5, density=0.8), cuts=top(0.8))
    case("ties-all", "ties", three(1, 1, 1))
    case("ties-rescale", "ties", two(1, 1, density=0.4), cuts=top(0.4), rescale=True)
    case("ties-sparse", "ties", two(1, 1, density=0.01), cuts=top(0.01),
        differs="it keeps one entry where int(density * n) is 0")
    case("dare_linear", "dare_linear", two(0.5, 0.7, density=1), lambda_=1.2)
    case("dare_linear-normalize", "dare_linear", two(0.5, 0.7), normalize=True, note="density is 1 by default")
    case("dare_ties", "dare_ties", two(0.5, 0.7, density=1))
    case("dare_ties-normalize", "dare_ties", three(0.5, 0.7, 1), normalize=True, rescale=False)

    crumbs = lambda density, gamma: lambda n: [int(gamma * n), int(gamma * n) + int(density * n)]
    case("breadcrumbs", "breadcrumbs", two(0.7, 0.5, density=0.6, gamma=0.05), cuts=crumbs(0.6, 0.05))
    case("breadcrumbs-default", "breadcrumbs", two(1, 1, density=0.9), cuts=crumbs(0.9, 0.01), lambda_=0.5)
    case("breadcrumbs-magnitude", "breadcrumbs", two(1, 0.5, density=0.4, gamma=0), cuts=crumbs(0.4, 0))
    case("breadcrumbs-narrow", "breadcrumbs", two(1, 0.5, density=0.9, gamma=0.3), cuts=lambda n: [n - int(0.9 * n)],
        note="gamma gives way where it would leave fewer than the density asks for")
    case("breadcrumbs-rescale", "breadcrumbs", two(1, 0.5, density=0.5, gamma=0.1), cuts=crumbs(0.5, 0.1), rescale=True)
    case("breadcrumbs-normalize", "breadcrumbs", two(1, 0.5, density=0.5, gamma=0.02), cuts=crumbs(0.5, 0.02),
        normalize=True)
    case("breadcrumbs_ties", "breadcrumbs_ties", three(1, 0.5, 2, density=0.6, gamma=0.1), cuts=crumbs(0.6, 0.1))
    case("breadcrumbs_ties-normalize", "breadcrumbs_ties", two(1, 0.5, density=0.5, gamma=0.05),
        cuts=crumbs(0.5, 0.05), normalize=True, lambda_=1.3)
    random = "random: only a density of 1 can be compared"
    case("della", "della", two(1, 0.5, density=1), note=random)
    case("della-sum", "della", two(0.5, 0.25, density=1), normalize=False, lambda_=1.4, note=random)
    case("della_linear", "della_linear", two(1, 0.5, density=1), note=random)
    case("della_linear-normalize", "della_linear", three(1, 0.5, 1, density=1), normalize=True, note=random)
    case("sce", "sce", [model("m1"), model("m2"), model("m3")])
    case("sce-half", "sce", [model("m1"), model("m2"), model("m3")], cuts="variance", select_topk=0.5, int8_mask=True)
    case("sce-tenth", "sce", pair(), cuts="variance", select_topk=0.1)
    case("model_stock", "model_stock", [model("m1"), model("m2"), model("m3")], tolerance=ANGLE)
    case("model_stock-two", "model_stock", pair(), tolerance=ANGLE)
    case("model_stock-filters", "model_stock", [model("m1"), model("m2"), model("m3")], tolerance=ANGLE, filter_wise=True)
    case("ram", "ram", [model("m1"), model("m2"), model("m3")])
    case("ram-epsilon", "ram", [model("m1"), model("m2"), model("m3")], epsilon=0.01)
    case("ramplus_tl", "ramplus_tl", [model("m1"), model("m2")])
    case("ramplus_tl-rates", "ramplus_tl", [model("m1"), model("m2"), model("m3")], epsilon=0.005, r=0.5, alpha=0.9)
    case("nearswap", "nearswap", [model("base"), model("m1")], t=0.002)
    case("nearswap-gradient", "nearswap", [model("base"), model("m2")], t=[0.001, 0.02])
    case("arcee_fusion", "arcee_fusion", [model("base"), model("m1")], cuts="importance")
    list_edge_cases(top, crumbs)
    list_peft_cases(two, three, top)


def list_edge_cases(top, crumbs):
    plain = [model("edge1"), model("edge2")]
    weighted = lambda **p: [model("edge1", weight=0.5, **p), model("edge2", weight=0.25, **p)]
    case("edge-slerp", "slerp", [model("edge"), model("edge2")], "edge", t=0.4)
    case("edge-nuslerp", "nuslerp", weighted(), None)
    case("edge-nuslerp-base", "nuslerp", weighted(), "edge",
        differs="its norms in float32 miss that two differences are exactly opposite, and it divides by their sine")
    case("edge-multislerp", "multislerp", weighted(), None)
    case("edge-karcher", "karcher", plain, None, differs="it makes a tensor zero whose lengths are below tol, instead of the mean")
    case("edge-ties", "ties", weighted(density=0.5), "edge", cuts=top(0.5))
    case("edge-breadcrumbs", "breadcrumbs", weighted(density=0.5, gamma=0.1), "edge", cuts=crumbs(0.5, 0.1))
    case("edge-sce", "sce", plain, "edge", cuts="variance", select_topk=0.5)
    case("edge-model_stock", "model_stock", plain, "edge", ANGLE)
    case("edge-ram", "ram", plain, "edge")
    case("edge-ramplus_tl", "ramplus_tl", plain, "edge")
    case("edge-nearswap", "nearswap", [model("edge"), model("edge1")], "edge", t=1e-5)
    case("edge-arcee_fusion", "arcee_fusion", [model("edge"), model("edge1")], "edge", cuts="importance",
        differs="its divergence of two nearly equal rows is rounding error, and with it the importance of their entries")


def list_peft_cases(two, three, top):
    def add(name, method, models, run, cuts, peer=f"peft {version('peft')}", **parameters):
        entry = case(name, method, models, cuts=cuts, **parameters)
        entry["peer"] = peer
        cases[-1] = (entry, cuts, run)

    def peft(function, *arguments):
        return lambda base, deltas: {k: b + function([d[k] for d in deltas], *arguments) for k, b in base.items()}

    ones = torch.tensor([1.0, 1.0])
    add("peft-ties", "ties", two(1, 1, density=0.5), peft(merge_utils.ties, ones, 0.5), top(0.5), consensus="peft")
    add("peft-ties-weights", "ties", three(0.5, 1, 2, density=0.6),
        peft(merge_utils.ties, torch.tensor([0.5, 1.0, 2.0]), 0.6), top(0.6), consensus="peft")
    add("peft-magnitude-prune", "breadcrumbs", two(1, 0.5, density=0.6, gamma=0),
        peft(merge_utils.magnitude_prune, torch.tensor([1.0, 0.5]), 0.6), top(0.6))
    add("peft-task-arithmetic", "task_arithmetic", two(1, 0.5),
        peft(merge_utils.task_arithmetic, torch.tensor([1.0, 0.5])), None)
    add("peft-dare-linear", "dare_linear", two(1, 0.5, density=1),
        peft(merge_utils.dare_linear, torch.tensor([1.0, 0.5]), 1.0), None, rescale="expectation")
    add("peft-ties-frequency", "ties", three(0.5, 1, 2, density=0.4),
        peft(merge_utils.ties, torch.tensor([0.5, 1.0, 2.0]), 0.4, "frequency"), top(0.4), consensus="peft",
        majority_sign_method="frequency")
    paper = "arXiv 2306.01708, its published code's reading"
    add("ties-reference", "ties", two(1, 1, density=0.5), published_ties(0.5, 1), 0.5, paper,
        consensus="reference", scope="model")
    add("ties-reference-lambda", "ties", three(1, 1, 1, density=0.2), published_ties(0.2, 0.7), 0.2, paper,
        consensus="reference", scope="model", lambda_=0.7)


def published_ties(density, scale):
    """Trim over the whole model, elect signs by the sum (zero: the majority of all signs), mean of those that agree."""

    def run(base, deltas):
        flat = torch.stack([torch.cat([d[k].flatten() for k in base]) for d in deltas])
        kept = torch.zeros_like(flat)
        for row, out in zip(flat, kept):
            out.copy_(torch.where(row.abs() >= published_cut(row, density), row, 0))
        signs = kept.sum(0).sign()
        signs[signs == 0] = signs.sum().sign()
        chosen = torch.where(torch.where(signs > 0, kept > 0, kept < 0), kept, 0)
        merged = chosen.sum(0) / (chosen != 0).sum(0).clamp(min=1)
        result, at = {}, 0
        for k, b in base.items():
            result[k] = b + scale * merged[at : at + b.numel()].reshape(b.shape)
            at += b.numel()
        return result

    return run


def published_cut(flat, density):
    """The last magnitude that goes where int(density * n) stay; the published code keeps it (and all equal ones) too."""
    return flat.abs().kthvalue(flat.numel() - int(density * flat.numel())).values


def tied(entry, cuts, inputs):
    """Elements a tensor whose fate is open, because they tie (or nearly) with the last one that is kept."""
    base = inputs[entry["recipe"]["base_model"].split("/")[1]]
    used = [m["model"].split("/")[1] for m in entry["recipe"]["models"]]
    deltas = [{k: inputs[m][k] - b for k, b in base.items()} for m in used if inputs[m] is not base]
    counts = {}

    def at_rank(magnitudes, rank, band=0.0):
        order = magnitudes.flatten().sort(descending=True).values
        if not 0 < rank < order.numel() or order[rank - 1] == 0:
            return torch.zeros_like(magnitudes, dtype=torch.bool)
        cut, below = order[rank - 1], order[rank]
        near = (magnitudes - cut).abs() <= band * cut
        return near if below >= cut * (1 - band) else torch.zeros_like(near)

    for k, b in base.items():
        open_ = torch.zeros(b.shape, dtype=torch.bool)
        if isinstance(cuts, float):  # one cut for the whole model
            for d in deltas:
                open_ |= d[k].abs() == published_cut(torch.cat([x.flatten() for x in d.values()]), cuts)
        elif cuts == "variance":
            variance = torch.stack([d[k] for d in deltas]).double().var(0, unbiased=False)
            rank = int(variance.count_nonzero() * entry["recipe"]["parameters"]["select_topk"])
            open_ |= at_rank(variance, rank, 1e-5)
        elif cuts == "importance":
            p, q = (torch.softmax(x[k].double(), -1) + 1e-8 for x in (inputs[used[-1]], base))
            scores = (deltas[0][k].double().abs() * (p * (p / q).log()).sum(-1, keepdim=True)).abs()
            order = scores.flatten().sort().values
            q1, q2, q3 = (order[int(f * (order.numel() - 1))] for f in (0.25, 0.5, 0.75))
            threshold = q2 + 1.5 * (q3 - q1)
            open_ |= (scores - threshold).abs() <= 2e-3 * threshold
        else:
            for d in deltas:
                for rank in cuts(b.numel()):
                    open_ |= at_rank(d[k].abs(), rank)
        if open_.any():
            counts[k] = int(open_.sum())
    return counts


def main():
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    shutil.rmtree(GOLDENS, ignore_errors=True)
    (GOLDENS / "outputs").mkdir(parents=True)
    make_models()
    make_edges()
    list_cases()
    os.chdir(GOLDENS)
    inputs = {name: load_file(f"models/{name}/model.safetensors") for name in os.listdir("models")}
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, clone_tensors=True)
    written = []
    for entry, cuts, run in cases:
        recipe = entry["recipe"]
        if run is None:
            with tempfile.TemporaryDirectory() as out:
                run_merge(MergeConfiguration.model_validate(recipe), out, options)
                result = load_file(next(Path(out).glob("*.safetensors")))
        else:
            used = [m["model"].split("/")[1] for m in recipe["models"]]
            deltas = [{k: inputs[m][k] - b for k, b in inputs["base"].items()} for m in used]
            result = run(inputs["base"], deltas)
        if cuts:
            counts = tied(entry, cuts, inputs)
            entry["cut"] = True
            if counts:
                entry["tied"] = counts
        save_file({k: v.contiguous() for k, v in result.items()}, f"outputs/{entry['name']}.safetensors")
        written.append(entry)
        print(entry["name"])
    Path("goldens.json").write_text(json.dumps({"cases": written}, indent=1) + "\n")


main()
