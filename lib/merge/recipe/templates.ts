/** Built-in chat templates, by mergekit's names. Jinja, as transformers renders it. */

/** Messages as `prefix + content + suffix` by role, and the start of an answer. */
function turns(prefix: string, suffix: string, start: string, begin = ''): string {
  return (
    `${begin}{% for message in messages %}` +
    `{{ ${prefix} + message['content'] + ${JSON.stringify(suffix)} }}` +
    `{% endfor %}{% if add_generation_prompt %}{{ ${JSON.stringify(start)} }}{% endif %}`
  )
}

export const chatTemplates: ReadonlyMap<string, string> = new Map([
  [
    'alpaca',
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}" +
      "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}" +
      "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}" +
      "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}",
  ],
  ['chatml', turns("'<|im_start|>' + message['role'] + '\\n'", '<|im_end|>\n', '<|im_start|>assistant\n')],
  [
    'exaone',
    "{% for message in messages %}{{ '[|' + message['role'] + '|]' + message['content'] }}" +
      "{% if message['role'] != 'user' %}{{ '[|endofturn|]' }}{% endif %}{{ '\\n' }}{% endfor %}" +
      "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}",
  ],
  [
    'llama3',
    turns(
      "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'",
      '<|eot_id|>',
      '<|start_header_id|>assistant<|end_header_id|>\n\n',
      '{{ bos_token }}',
    ),
  ],
  [
    'mistral',
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\\n\\n' %}" +
      "{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}" +
      "{% for message in rest %}{% if message['role'] == 'user' %}" +
      "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}" +
      "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}",
  ],
])
