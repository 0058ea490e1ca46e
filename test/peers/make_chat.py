"""
Ids of conversations and which of them the assistant says, by transformers: python make_chat.py

transformers knows what the assistant says only where a template marks it with {% generation %}, so each template stands
here with such marks; `plain` is the same one without. Tokenizers are those of tokenizers.json. Writes
test/goldens/training/chat.json.
"""
import json
import re
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

here = Path(__file__).resolve().parent
goldens = json.loads((here / "tokenizers/tokenizers.json").read_text())
more = ["<|im_start|>", "<|im_end|>"]

templates = {
    "chatml": (
        "{% for m in messages %}\n"
        "{{ '<|im_start|>' + m.role + '\\n' }}\n"
        "{%- if m.role == 'assistant' %}\n"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}\n"
        "{%- endif %}{{ '\\n' }}\n"
        "{%- endfor %}\n"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "instructions": (
        "{% for m in messages %}"
        "{% if m.role == 'assistant' %}{% generation %}{{ ' ' + m.content + ' ' + eos_token }}{% endgeneration %}"
        "{% elif m.role == 'system' %}{{ bos_token + '<<' + m.content + '>>' }}"
        "{% else %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}{% endif %}"
        "{% endfor %}"
    ),
    "headers": (
        "{%- for m in messages %}\n"
        "    {{- '<|im_start|>' + m.role + '\\n\\n' }}\n"
        "    {%- if m.role == 'assistant' %}\n"
        "        {%- generation %}\n"
        "        {{- m.content | trim + '<|im_end|>' }}\n"
        "        {%- endgeneration %}\n"
        "    {%- else %}\n"
        "        {{- m.content | trim + '<|im_end|>' }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\\n\\n' }}\n"
        "{%- endif %}\n"
    ),
    "names": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'assistant' %}{{ 'ASSISTANT:' }}"
        "{% generation %}{{ ' ' + m.content + eos_token }}{% endgeneration %}"
        "{% else %}{{ m.role.upper() + ': ' + m.content + '\\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
}


def without_marks(template):
    return re.sub(r"(\n +)?\{%-? (end)?generation %\}", "", template)


conversations = [
    [{"role": "user", "content": "the news?"}, {"role": "assistant", "content": "no news"}],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "a b  c"},
        {"role": "assistant", "content": "\nnaïve café 日本\n"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "don't it"},
        {"role": "user", "content": "and?"},
    ],
]
cases = []
for name in ["words", "llama 2"]:
    one = next(s for s in goldens["sets"] if name in s["cases"])
    definition = {**one["definition"], **one["cases"][name]["parts"]}
    known = definition["added_tokens"]
    first = len(definition["model"]["vocab"])
    extra = [{**known[0], "id": first + i, "content": content} for i, content in enumerate(more)]
    text = json.dumps({**definition, "added_tokens": [*known, *extra]})
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), bos_token="<s>", eos_token="</s>")
    for kind, marked in templates.items():
        plain = without_marks(marked)
        for messages in conversations:
            got = tokenizer.apply_chat_template(
                messages, chat_template=marked, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            alone = tokenizer.apply_chat_template(messages, chat_template=plain, tokenize=True, return_dict=True)
            assert alone["input_ids"] == got["input_ids"]
            cases.append(
                {
                    "tokenizer": name,
                    "kind": kind,
                    "messages": messages,
                    "ids": got["input_ids"],
                    "said": got["assistant_masks"],
                }
            )
plain = {kind: without_marks(marked) for kind, marked in templates.items()}
(here.parent / "goldens/training/chat.json").write_text(
    json.dumps({"more": more, "marked": templates, "plain": plain, "cases": cases}, ensure_ascii=False, indent=1) + "\n"
)
