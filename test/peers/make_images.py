"""Golden pixels of images by transformers' CLIPImageProcessor with Pillow. See README.md."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from transformers import CLIPImageProcessorPil

OUT = Path(__file__).parent / "images"
CLIP = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}
SETTINGS = {
    "shrunk": {**CLIP, "size": {"shortest_edge": 13}, "crop_size": {"height": 12, "width": 12}},
    "grown": {**CLIP, "size": {"height": 50, "width": 50}, "do_center_crop": False, "resample": 2},
    "lanczos": {**CLIP, "size": {"shortest_edge": 20}, "crop_size": {"height": 20, "width": 20}, "resample": 1, "do_normalize": False},
}


def pictures():
    """Waves, edges and noise; sides that no filter divides."""
    noise = np.random.default_rng(7)
    y, x = np.mgrid[0:37, 0:61]
    waves = np.stack([np.sin(x / 3) * 127 + 128, (x * y) % 256, noise.integers(0, 256, x.shape)], 2).astype(np.uint8)
    yield "wide.png", Image.fromarray(waves)
    alpha = np.dstack([waves[:, :30], (x[:, :30] * 8).astype(np.uint8)])
    yield "alpha.png", Image.fromarray(alpha)
    yield "grey.png", Image.fromarray(waves[..., 1])
    yield "palette.png", Image.fromarray(waves).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    yield "photo.jpg", Image.fromarray(waves).resize((40, 55), Image.Resampling.BICUBIC)


OUT.mkdir(exist_ok=True)
tensors = {}
for name, picture in pictures():
    picture.save(OUT / name, **({"quality": 90} if name.endswith("jpg") else {"optimize": True}))
    for kind, settings in SETTINGS.items():
        rest = {key: value for key, value in settings.items() if key != "image_processor_type"}
        pixels = CLIPImageProcessorPil(**rest)(Image.open(OUT / name), return_tensors="np")["pixel_values"][0]
        tensors[f"{name}/{kind}"] = np.ascontiguousarray(pixels, dtype=np.float32)
save_file(tensors, OUT / "pixels.safetensors")
# Cyan, magenta, yellow and black as Pillow turns them into bytes of red, green and blue.
y, x = np.mgrid[0:16, 0:16]
inks = np.stack([x * 16, y * 16, (x + y) * 8, np.where(x < 8, 0, y * 10)], -1).astype(np.uint8)
Image.fromarray(inks, "CMYK").save(OUT / "cmyk.jpg", quality=95)
(OUT / "cmyk.json").write_text(json.dumps(np.asarray(Image.open(OUT / "cmyk.jpg").convert("RGB")).ravel().tolist()) + "\n")
(OUT / "settings.json").write_text(json.dumps(SETTINGS, indent=2) + "\n")
