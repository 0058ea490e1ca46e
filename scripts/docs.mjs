/**
 * Writes the reference pages under docs/ from the registries, so that a method or an error code is described once,
 * where it is defined. A test fails when a page is stale; `npm run docs` brings it up to date.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { combinations } from '../dist/esm/adapters/combine.js'
import { mixtures } from '../dist/esm/adapters/mix.js'
import { makeProgram } from '../dist/esm/cli/program.js'
import { errors, methods, pruneMethods, scoreMethods } from '../dist/esm/index.js'
import * as kinds from '../dist/esm/lora/kinds.js'
import { root } from './sources.mjs'

/** A cell of a table holds no bar that is not text. */
const cell = (text) => String(text).replaceAll('|', '\\|')

function table(head, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

function values({ type, values, min, max, aliases }) {
  const also = aliases ? ` (also ${[...aliases].map(([from, to]) => `${from} for ${to}`).join(', ')})` : ''
  if (type === 'model') return 'a model'
  if (values) return cell(values.map((value) => `\`${value}\``).join(', ') + also)
  if (type === 'boolean') return `true, false${also}`
  if (min !== undefined && max !== undefined) return `${min} to ${max}${also}`
  if (min !== undefined) return `${min} or more${also}`
  if (max !== undefined) return `up to ${max}${also}`
  return `a number${also}`
}

function byDefault(spec) {
  if (spec.default !== undefined) return `\`${spec.default}\``
  return spec.optional ? 'none' : 'required'
}

const scopes = { model: 'each model', global: 'all models' }
const determinism = {
  exact: 'exact: the same bytes on every device, tile size and shard size',
  tolerance: 'within a tolerance: devices may differ in the last digits',
}

function inputs({ needsBase, models: { min, max } }) {
  const count = min === max ? String(min) : `${min} to ${max}`
  const base = needsBase === 'optional' ? 'a base if there is one, and ' : needsBase ? 'a base and ' : ''
  return `${base}${count} model${max === 1 ? '' : 's'}`
}

function methodSection(method) {
  const { name, about, formula, source, differences, parameters } = method
  const rows = parameters.map((spec) => [
    `\`${spec.name}\``,
    scopes[spec.scope],
    values(spec),
    byDefault(spec),
    cell(spec.about),
  ])
  return [
    `## \`${name}\``,
    `${about}.`,
    `\`\`\`text\n${formula.replaceAll('; ', ';\n')}\n\`\`\``,
    [
      `- Inputs: ${inputs(method)}`,
      `- Source: ${source}`,
      `- Determinism: ${determinism[method.determinism]}`,
      ...(differences === undefined ? [] : [`- Differences from mergekit: ${differences}`]),
    ].join('\n'),
    rows.length > 0 ? table(['parameter', 'given for', 'values', 'default', 'meaning'], rows) : 'It has no parameters.',
  ].join('\n\n')
}

function methodsPage() {
  const list = [...methods.values()]
  const link = ({ name }) => `[\`${name}\`](#${name})`
  const without = list.filter(({ needsBase }) => needsBase === false)
  const [baseless, alone] = [
    without.filter(({ models }) => models.max > 1),
    without.filter(({ models }) => models.max === 1),
  ]
  return [
    '<!-- Written by scripts/docs.mjs from lib/merge/methods; change it there. -->',
    '# Merge methods',
    'B is the base (`base_model`), Mᵢ are the models, dᵢ = Mᵢ - B, and wᵢ is the `weight` of model i. Every formula is ' +
      'applied tensor by tensor, in float32, and the result is rounded once to the output type. A parameter is a number, a ' +
      'gradient over the layers or a list of filters. It may be given at every level of the recipe; the level nearest to ' +
      'the model wins.',
    `The base need not be listed among the models. Methods without a base take a \`base_model\` that is not among \`models\` as one ` +
      `more model, with the parameters of the recipe, as mergekit does: ${baseless.map(link).join(', ')}. In \`slices\`, and for ` +
      `methods of a single model (${alone.map(link).join(', ')}), it only gives config and tokenizer, and a note says so.`,
    'Tensors that are not floating point (indices, masks) are copied and must be the same in all models. A quantised model ' +
      '(GPTQ, AWQ, bitsandbytes, FP8 with scales, MXFP4 …) can only be copied whole. If one model ties its head to its ' +
      'embedding, by its config or by default of its class, and another has a head of its own, the embedding is used as its ' +
      '`lm_head`; the output is then untied, and its config says so.',
    table(
      ['method', 'inputs', 'what it does'],
      list.map((method) => [link(method), inputs(method), cell(method.about)]),
    ),
    ...list.map(methodSection),
  ].join('\n\n')
}

function errorsPage() {
  return [
    '<!-- Written by scripts/docs.mjs from lib/util/errors.ts; change it there. -->',
    '# Errors',
    'Every error is a `WeightsmithError` with one of these codes; the codes are stable. Its message is a sentence with ' +
      'names and figures. `file` and `tensor` name what it is about, and `cause` holds the underlying error, if there is ' +
      'one. On the command line the code follows the message, and `--json` prints ' +
      '`{ "error": { "code": …, "message": … } }`.',
    table(
      ['code', 'meaning', 'what to do'],
      Object.entries(errors).map(([code, { meaning, remedy }]) => [`\`${code}\``, cell(meaning), cell(remedy)]),
    ),
  ].join('\n\n')
}

const removed = {
  weights: 'single weights (`--sparsity`, `--pattern`)',
  widths: 'heads and neurons (`--keep-ratio`, `--allocation`)',
  blocks: 'blocks (`--remove`)',
}

function pruningPage() {
  return [
    '<!-- Written by scripts/docs.mjs from lib/score and lib/prune; change it there. -->',
    '# Scores and pruning',
    'A score file holds statistics, not decisions: named float32 tensors, and metadata with a fingerprint of the model, the ' +
      'data, the methods and their parameters. `prune` can apply any sparsity from them without running the model again, and ' +
      'refuses the scores of another model. `W` is the weight of a linear layer, `W_oj` its entry for output o and input j, ' +
      'and `X` its input with one row per token. Sums over groups of tokens are combined in float64, in the order of the data.',
    '## Methods of `score`',
    table(
      ['method', 'what it measures', 'tensors of the file', 'source'],
      [...scoreMethods.values()].map(({ name, about, formula, source }) => [
        `\`${name}\``,
        cell(about),
        cell(formula),
        source,
      ]),
    ),
    '## Methods of `prune`',
    table(
      ['method', 'what is removed', 'which of them', 'needs', 'source'],
      Object.entries(pruneMethods).map(([name, { goes: kind, about, scores, source }]) => [
        `\`${name}\``,
        removed[kind],
        cell(about),
        scores === undefined ? 'nothing' : `\`score --methods ${scores}\``,
        source,
      ]),
    ),
    '## What is written',
    [
      '- `masked` (default): the same shapes with zeros, which loads wherever the original model loads. A removed block has ' +
        'zeros in the weights of what it adds to the residual stream.',
      '- `compact` with the same widths in all layers (`--allocation uniform`, `wanda-sp`), or with blocks removed: the config uses ' +
        'its usual keys, so transformers, vLLM and others load it. Query heads are removed with their KV group.',
      '- `compact` with different widths per layer (`--allocation global`, the default of `flap`): the config has them as ' +
        '`per_layer_config`. Weightsmith runs such a model. transformers (5.23) knows that key, but not for LLaMA, Mistral, ' +
        'Qwen and Gemma, and refuses it; vLLM and others do not load it.',
      '- Masked and compact results have the same logits except for rounding. `flap` needs a place for its biases, which LLaMA ' +
        'and OPT have (`attention_bias`, `mlp_bias`); for other models use `--no-bias`.',
    ].join('\n'),
  ].join('\n\n')
}

function verbSection(verb) {
  const words = verb.registeredArguments.map((argument) => argument.name())
  const names = verb.registeredArguments.map((argument) => [`\`<${argument.name()}>\``, cell(argument.description)])
  const options = verb.options.map(({ flags, description, defaultValue, mandatory, argChoices, envVar }) => [
    `\`${flags}\``,
    cell(
      description +
        (argChoices === undefined ? '' : `: ${argChoices.join(', ')}`) +
        (mandatory ? ' (required)' : '') +
        (defaultValue === undefined || description.includes('(default') ? '' : ` (default: ${defaultValue})`) +
        (envVar === undefined ? '' : ` (${envVar})`),
    ),
  ])
  return [
    `### \`lora ${verb.name()}\``,
    `${verb.description()}:`,
    `\`\`\`text\nweightsmith lora ${[verb.name(), ...words.map((word) => `<${word}>`)].join(' ')} [options]\n\`\`\``,
    table(['argument or option', 'what it is'], [...names, ...options]),
  ].join('\n\n')
}

function loraPage() {
  const lora = makeProgram().commands.find((command) => command.name() === 'lora')
  const rows = (entries, name = (key) => `\`${key}\``) => entries.map(([key, about]) => [name(key), cell(about)])
  const config = (field) => (value) => `\`${field}: ${value}\``
  return [
    '<!-- Written by scripts/docs.mjs from lib/cli, lib/adapters and lib/lora/kinds.ts; change it there. -->',
    '# LoRA: verbs, and what they take',
    '[guide/lora.md](guide/lora.md) shows how they are used. W is the weight of a module, B [outputs, r] and A [r, inputs] are ' +
      'its factors, s is the scale, w the weight of an adapter and g its gate.',
    '## What can be folded',
    'A model with an adapter is W + s (B A), each module with its own rank and alpha, in `lora fold`, in recipes ' +
      "(`base+adapter`) and wherever a model is run. Keys of PEFT's `adapter_config.json`, and `fine_tune_type` of mlx-lm:",
    table(
      ['key', 'what becomes of a weight'],
      [
        ...rows(Object.entries(kinds.takenFields)),
        ...rows(Object.entries(kinds.biases), config('bias')),
        ...rows(
          Object.entries(kinds.starts).map(([name, { about }]) => [name, about]),
          config('init_lora_weights'),
        ),
        ...rows(Object.entries(kinds.mlxTypes), config('fine_tune_type')),
      ],
    ),
    '## What is refused',
    'With ERR_WEIGHTSMITH_FORMAT and these words. A quantised model has to be converted to float16 or bfloat16 first.',
    table(
      ['adapter', 'because it is one'],
      [
        ...rows(Object.entries(kinds.refusedTypes), config('peft_type')),
        ...rows(Object.entries(kinds.refusedFields)),
        ['any other key that is set', kinds.otherField],
        ['any other `init_lora_weights`', kinds.otherStart],
        ...kinds.otherPrograms.map(([, program]) => [`a file of ${program}`, kinds.otherProgram]),
      ],
    ),
    '## Methods of `lora combine`',
    table(['`--method`', "what a module's update becomes"], rows(Object.entries(combinations))),
    '## Readings of `lora mix`',
    table(['`--mix`', "what a module's update becomes"], rows(Object.entries(mixtures))),
    '## Verbs',
    ...lora.commands.filter((command) => command.name() !== 'help').map(verbSection),
  ].join('\n\n')
}

/** The pages by path, as they should be. */
export function pages() {
  return {
    'docs/methods.md': `${methodsPage()}\n`,
    'docs/pruning.md': `${pruningPage()}\n`,
    'docs/errors.md': `${errorsPage()}\n`,
    'docs/lora.md': `${loraPage()}\n`,
  }
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  for (const [path, text] of Object.entries(pages())) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
}
