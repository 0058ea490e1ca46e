/**
 * Writes the reference pages under docs/ from the registries, so that a method or an error code is described once, where
 * it is defined. A test fails when a page is stale; `npm run docs` brings it up to date.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { errors, methods } from '../dist/esm/index.js'
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

const scopes = { model: 'a model', global: 'all models' }
const determinism = {
  exact: 'exact: the same bytes on every device, tile size and shard size',
  tolerance: 'within a tolerance: devices may differ in the last figures',
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
    rows.length > 0 ? table(['parameter', 'one for', 'values', 'default', 'meaning'], rows) : 'It has no parameters.',
  ].join('\n\n')
}

function methodsPage() {
  const list = [...methods.values()]
  const link = ({ name }) => `[\`${name}\`](#${name})`
  return [
    '<!-- Written by scripts/docs.mjs from lib/methods; change it there. -->',
    '# Merge methods',
    'B is the base (`base_model`), Mᵢ the models, dᵢ = Mᵢ - B and wᵢ the `weight` of model i; every formula is applied ' +
      'tensor by tensor, in float32, and the result is rounded once to the type of the output. A parameter takes a ' +
      'number, a gradient over the layers or a list of filters, at every level of the recipe; what stands nearest to ' +
      'the model wins.',
    table(
      ['method', 'inputs', 'what it does'],
      list.map((method) => [link(method), inputs(method), cell(method.about)]),
    ),
    ...list.map(methodSection),
  ].join('\n\n')
}

function errorsPage() {
  return [
    '<!-- Written by scripts/docs.mjs from lib/errors.ts; change it there. -->',
    '# Errors',
    'Every error is a `WeightsmithError` with one of these codes; the codes are stable. Its message is a sentence with ' +
      'names and figures. Where it is about one, `file` and `tensor` name it, and `cause` holds the error beneath. On ' +
      'the command line the code stands behind the message, and `--json` prints ' +
      '`{ "error": { "code": …, "message": … } }`.',
    table(
      ['code', 'meaning', 'what to do'],
      Object.entries(errors).map(([code, { meaning, remedy }]) => [`\`${code}\``, cell(meaning), cell(remedy)]),
    ),
  ].join('\n\n')
}

/** The pages by path, as they should be. */
export function pages() {
  return { 'docs/methods.md': `${methodsPage()}\n`, 'docs/errors.md': `${errorsPage()}\n` }
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  for (const [path, text] of Object.entries(pages())) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
}
