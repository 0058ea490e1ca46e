/**
 * What is written from the registries: reference pages that may not be stale, and a schema that judges as the check.
 */
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from '@jest/globals'
import { errorCodes, errors, type JsonSchema, methods, recipeSchema, WeightsmithError } from 'weightsmith'
import { checkRecipe } from '../lib/merge/recipe/index.js'
import { cli } from './child.js'

const { pages } = (await import(pathToFileURL(resolve('scripts/docs.mjs')).href)) as {
  pages(): Record<string, string>
}

describe('the reference pages', () => {
  test.each(Object.entries(pages()))(
    '%s is what the registries say; npm run docs brings it up to date',
    (path, text) => {
      expect(readFileSync(path, 'utf8')).toBe(text)
    },
  )

  test('describe every method, parameter and error code', () => {
    const text = Object.values(pages()).join('\n')
    for (const { name, formula, source, parameters } of methods.values()) {
      const section = text.split(`\n## \`${name}\`\n`)[1]?.split('\n## ')[0]
      expect(section).toContain(formula.split('; ')[0])
      expect(section).toContain(source)
      for (const parameter of parameters) expect(section).toContain(`| \`${parameter.name}\` |`)
    }
    for (const code of errorCodes) expect(text).toContain(`| \`${code}\` | ${errors[code].meaning}`)
  })
})

/** The keywords of JSON Schema that the schema uses; anything else is a mistake in it. */
function valid(schema: JsonSchema, value: unknown, root = schema): boolean {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
  const object = isObject ? (value as Record<string, unknown>) : undefined
  const types = (name: unknown) =>
    name === 'object'
      ? isObject
      : name === 'array'
        ? Array.isArray(value)
        : name === 'null'
          ? value === null
          : name === 'integer'
            ? Number.isInteger(value)
            : typeof value === name
  const properties = (schema.properties ?? {}) as Record<string, JsonSchema>
  const some = (list: unknown) => (list as JsonSchema[]).filter((part) => valid(part, value, root)).length
  const checks: Record<string, (argument: never) => boolean> = {
    $schema: () => true,
    title: () => true,
    description: () => true,
    default: () => true,
    type: (names: string | string[]) => [names].flat().some(types),
    enum: (list: unknown[]) => list.includes(value),
    const: (only: unknown) => only === value,
    minimum: (least: number) => typeof value !== 'number' || value >= least,
    maximum: (most: number) => typeof value !== 'number' || value <= most,
    minLength: (least: number) => typeof value !== 'string' || value.length >= least,
    minItems: (least: number) => !Array.isArray(value) || value.length >= least,
    maxItems: (most: number) => !Array.isArray(value) || value.length <= most,
    items: (each: JsonSchema) => !Array.isArray(value) || value.every((item) => valid(each, item, root)),
    required: (names: string[]) => object === undefined || names.every((name) => name in object),
    properties: () =>
      object === undefined ||
      Object.entries(properties).every(([key, part]) => !(key in object) || valid(part, object[key], root)),
    additionalProperties: (others: JsonSchema | false) =>
      object === undefined ||
      Object.entries(object).every(
        ([key, inner]) => key in properties || (others !== false && valid(others, inner, root)),
      ),
    $defs: () => true,
    $ref: (pointer: string) => {
      const steps = pointer.split('/').slice(1)
      return valid(
        steps.reduce((part, step) => part[step] as JsonSchema, root),
        value,
        root,
      )
    },
    not: (other: JsonSchema) => !valid(other, value, root),
    allOf: (list: JsonSchema[]) => some(list) === list.length,
    anyOf: (list: JsonSchema[]) => some(list) > 0,
    oneOf: (list: JsonSchema[]) => some(list) === 1,
    if: (condition: JsonSchema) => !valid(condition, value, root) || valid(schema.then as JsonSchema, value, root),
  }
  return Object.entries(schema).every(([keyword, argument]) => {
    if (keyword === 'then') return true // judged with `if`
    const check = checks[keyword]
    if (check === undefined) throw new Error(`The schema has the unknown keyword ${keyword}.`)
    return check(argument as never)
  })
}

describe('the schema of recipes', () => {
  const models = [{ model: 'a', parameters: { weight: 1 } }, { model: 'b' }]
  const linear = { merge_method: 'linear', models, parameters: { weight: 0.5 } }
  const ties = { merge_method: 'ties', base_model: 'base', models, parameters: { weight: 1, density: [0.1, 0.9] } }
  const slices = [{ sources: [{ model: 'a', layer_range: [0, 2] }], parameters: { scale: 2 } }]
  const sound: [string, unknown][] = [
    ['a mean', linear],
    ['TIES with a gradient', ties],
    ['filters', { ...ties, parameters: { weight: [{ filter: 'mlp', value: [0, 1] }, { value: 1 }] } }],
    ['slices', { merge_method: 'passthrough', slices }],
    ['aliases of a choice', { ...ties, merge_method: 'dare_ties', parameters: { weight: 1, rescale: true } }],
    ['an ignored parameter', { ...ties, parameters: { weight: 1, int8_mask: true } }],
    ['an ignored key', { ...linear, default_vocab_size: 3 }],
    ['stages', { ...linear, models: [{ model: 'first' }], stages: [{ ...linear, name: 'first' }] }],
    ['a sweep', { ...linear, sweep: { normalize: [true, false] } }],
    [
      'modules',
      { ...ties, models: undefined, modules: { text: { models }, vision: { merge_method: 'linear', models } } },
    ],
    ['a tokenizer', { ...linear, tokenizer: { source: 'union', pad_to_multiple_of: 8 } }],
    ['a type', { ...linear, dtype: 'torch.bfloat16' }],
    ['no parameters', { ...linear, parameters: null }],
    [
      'a model for IMM',
      { merge_method: 'imm', base_model: 'm', models, parameters: { pretrained: 'p', history: 'all' } },
    ],
  ]
  const unsound: [string, unknown][] = [
    ['no method', { models }],
    ['an unknown method', { ...linear, merge_method: 'soup' }],
    ['no base where one is needed', { merge_method: 'ties', models, parameters: { weight: 1 } }],
    ['neither models nor slices', { merge_method: 'linear' }],
    ['both models and slices', { ...linear, slices }],
    ['a stage that is none', { ...linear, stages: [{ name: 'first' }] }],
    ['an empty sweep', { ...linear, sweep: { weight: [] } }],
    [
      'a wrong parameter of a module',
      { ...linear, models: undefined, modules: { text: { models, parameters: { wieght: 1 } } } },
    ],
    ['an unknown key', { ...linear, model: 'a' }],
    ['an unknown parameter', { ...linear, parameters: { wieght: 1 } }],
    ['a density above 1', { ...ties, parameters: { weight: 1, density: 1.5 } }],
    ['a text for a number', { ...linear, parameters: { weight: 'much' } }],
    ['an unknown choice', { ...ties, merge_method: 'dare_ties', parameters: { weight: 1, rescale: 'l2' } }],
    ['one model with a parameter of all', { ...ties, models: [{ model: 'a', parameters: { lambda: 1 } }] }],
    [
      'a layer range of three',
      { merge_method: 'passthrough', slices: [{ sources: [{ model: 'a', layer_range: [0, 1, 2] }] }] },
    ],
    ['an unknown type', { ...linear, dtype: 'int8' }],
    ['an empty gradient', { ...ties, parameters: { weight: [] } }],
    ['filters without a value', { ...ties, parameters: { weight: [{ filter: 'mlp' }] } }],
    [
      'a model for IMM at a model',
      { merge_method: 'imm', base_model: 'm', models: [{ model: 'a', parameters: { pretrained: 'p' } }] },
    ],
  ]

  test.each(sound)('takes %s, as the check does', (_, recipe) => {
    expect(() => checkRecipe(recipe, '/')).not.toThrow()
    expect(valid(recipeSchema(), JSON.parse(JSON.stringify(recipe)))).toBe(true)
  })

  test.each(unsound)('refuses %s, as the check does', (_, recipe) => {
    expect(() => checkRecipe(recipe, '/')).toThrow(WeightsmithError)
    expect(valid(recipeSchema(), JSON.parse(JSON.stringify(recipe)))).toBe(false)
  })

  test('is printed by the command line', async () => {
    const { code, stdout } = await cli('schema')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toEqual(JSON.parse(JSON.stringify(recipeSchema())))
  })
})
