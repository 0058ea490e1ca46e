"""Golden ids of small tokenizers by Hugging Face's tokenizers, so that what cuts a text is tested without installing it.

One vocabulary of bytes, one of characters, both learned without any cuts: wherever a text is cut otherwise, other ids come out.
See README.md. Only data is kept.
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers as cut, processors, trainers

OUT = Path(__file__).parent / "tokenizers" / "tokenizers.json"
TEXTS = [
    "", " ", "a", " a", "a ", "  a  b ", "½ ² Ⅷ ① ٣", "x² + ½y", " ٣٤٥", "１２ 12 345", "a1b22c", "²² ²", "Ⅷa aⅧ", "a\u0085b \u0085",
    "a\ufeffb \ufeff", "a\u00a0 b", " \u3000x", "naïve café", "e\u0301é", "日本語 中文12", "मुंबई १२", "😀😀 👨‍👩‍👧", "\n\n x\t\ty \r\n", "don't it's 'S",
    "x ? y : z", "foo !== bar...", "a--b - c", "“hi” ¿qué?", "$5.00 50%", "a_b__c", "▁▁a ▁", "<s>a <s> b</s>", "\x00a",
]  # fmt: skip
PAIRS = [
    ("a b", "x"), ("a b", " x"), ("a b ", "x"), ("a  b\n", "x"), ("", "a"), (" ", "a"), ("x ?", " y : z"), ("don", "'t"), ("naïve", " café ½"),
    ("hello world", " text"), ("hello world", "text"), ("a:", ""), ("a<s>", " b"),
]  # fmt: skip
WORDS = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = cut.ByteLevel(add_prefix_space=False, use_regex=False)
BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]

# By name: what cuts texts.
CUTS = {
    "words": [cut.ByteLevel(add_prefix_space=False)],
    "words after a space": [cut.ByteLevel(add_prefix_space=True)],
    "digits, each alone, then words": [cut.Digits(individual_digits=True), cut.ByteLevel(add_prefix_space=False)],
}
# The same, before they become bytes.
CUTS_OF_TEXT = {
    "digits": [cut.Digits(individual_digits=False)],
    "digits, each alone": [cut.Digits(individual_digits=True)],
    "words by a pattern": [cut.Split(Regex(WORDS), "isolated")],
    "words by a pattern alone": [cut.Split(Regex(WORDS), "removed", invert=True)],
    "whitespace": [cut.Whitespace()],
    "whitespace alone": [cut.WhitespaceSplit()],
    "bert": [cut.BertPreTokenizer()],
    **{f"punctuation, {behavior}": [cut.Punctuation(behavior)] for behavior in BEHAVIORS},
    **{f"a text, {behavior}": [cut.Split("a", behavior)] for behavior in BEHAVIORS},
    **{f"not a pattern, {behavior}": [cut.Split(Regex("[-.]| {2}"), behavior, invert=True)] for behavior in BEHAVIORS},
}


def pair(encode, context, continuation):
    """lm-evaluation-harness 0.4.9, TemplateLM._encode_pair."""
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation, context = context[-spaces:] + continuation, context[:-spaces]
    whole, before = encode(context + continuation).ids, encode(context).ids
    return [before, whole[len(before) :]] if whole[: len(before)] == before else None


def learn(model, special, alphabet=()):
    tokenizer = Tokenizer(model)
    if alphabet:
        tokenizer.pre_tokenizer = BYTES
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet) + 140, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator([text for text in TEXTS if "<s>" not in text] * 2, trainer)
    learned = json.loads(tokenizer.to_str())
    added = [token for token in learned["added_tokens"] if not token["content"].startswith("<0x")]
    return {**learned, "added_tokens": added, "normalizer": None, "pre_tokenizer": None}


def case(definition, **parts):
    tokenizer = Tokenizer.from_str(json.dumps(definition))
    for key, part in parts.items():
        setattr(tokenizer, key, part)
    own = json.loads(tokenizer.to_str())
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    return {
        "parts": {key: own[key] for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder")},
        "ids": ids,
        "texts": [tokenizer.decode(some) for some in ids],
        "pairs": [pair(tokenizer.encode, *one) for one in PAIRS],
    }


def main():
    special = ["<unk>", "<s>", "</s>"]
    of_bytes = learn(models.BPE(), special, cut.ByteLevel.alphabet())
    of_characters = learn(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True), special + [f"<0x{byte:02X}>" for byte in range(256)]
    )
    begin = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    fuse = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    cuts = {**CUTS, **{name: [*some, BYTES] for name, some in CUTS_OF_TEXT.items()}}
    bytes_cases = {
        name: case(of_bytes, pre_tokenizer=cut.Sequence(some), decoder=decoders.ByteLevel()) for name, some in cuts.items()
    }
    character_cases = {
        "llama 2": case(
            of_characters,
            normalizer=normalizers.Sequence(spaces),
            post_processor=begin,
            decoder=decoders.Sequence([*fuse, decoders.Strip(" ", 1, 0)]),
        ),
        "gemma": case(
            of_characters,
            normalizer=spaces[1],
            pre_tokenizer=cut.Split(" ", "merged_with_previous"),
            decoder=decoders.Sequence(fuse),
        ),
        **{
            f"metaspace, {scheme}{', split' if split else ''}": case(
                of_characters,
                pre_tokenizer=cut.Metaspace(prepend_scheme=scheme, split=split),
                decoder=decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme, split=split)]),
            )
            for scheme in ("always", "first", "never")
            for split in (True, False)
        },
    }
    OUT.parent.mkdir(exist_ok=True)
    sets = [{"definition": of_bytes, "cases": bytes_cases}, {"definition": of_characters, "cases": character_cases}]
    OUT.write_text(json.dumps({"texts": TEXTS, "pairs": PAIRS, "sets": sets}, indent=1) + "\n")


main()
