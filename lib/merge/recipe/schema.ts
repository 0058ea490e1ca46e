/**
 * The JSON Schema of a recipe, for editors that complete and check YAML. It is derived from the registry of methods
 * and, through the types below, from the keys of a recipe: a key without an entry here does not compile. It says what
 * one file can show; what depends on the models (names, layers, shapes) is checked when the recipe is read.
 */

import { dtypeNames } from '../../checkpoint/index.js'
import { ignoredParameters, type MergeMethod, methods, type ParameterSpec } from '../methods/index.js'
import { ignoredKeys } from './checks.js'
import type { ModelInput, ModuleInput, RecipeInput, SliceInput } from './recipe.js'
import type { TokenizerInput } from './tokenizer.js'

/** A JSON Schema, or a part of one. */
export interface JsonSchema {
  [keyword: string]: unknown
}

type Level = 'top' | 'slice' | 'model'
type SourceInput = SliceInput['sources'][number]

const modelName = { type: 'string', minLength: 1 }
const layerNumber = { type: 'integer', minimum: 0 }
// The check takes any case; a schema cannot say so.
const dtype = { enum: [...dtypeNames.flatMap((name) => [name, name.toUpperCase(), `torch.${name}`]), null] }

/** Draft 2020-12, as editors take it. */
export function recipeSchema(): JsonSchema {
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    title: 'Recipe of weightsmith',
    ...object<RecipeInput>(topKeys(), ['merge_method']),
    oneOf: [{ required: ['models'] }, { required: ['slices'] }, { required: ['modules'] }],
    allOf: [...methods.values()].map((method) => chosen(method, ofMethod(method))),
    $defs: Object.fromEntries([...methods.values()].flatMap(definitions)),
  }
}

const levels: readonly Level[] = ['top', 'slice', 'model']

/** The parameters of a method at every level, each written once: recipes and modules refer to them. */
function definitions(method: MergeMethod): [string, JsonSchema][] {
  const at = (level: Level) => reference(`${method.name}-${level}`)
  const entries = (level: Level, more: Record<string, JsonSchema> = {}) => ({
    items: { properties: { parameters: at(level), ...more } },
  })
  const all = {
    parameters: at('top'),
    models: entries('model'),
    slices: entries('slice', { sources: entries('model') }),
  }
  return [
    [method.name, { properties: all }],
    ...levels.map((level): [string, JsonSchema] => [`${method.name}-${level}`, parameters(method, level)]),
  ]
}

function reference(name: string): JsonSchema {
  return { $ref: `#/$defs/${name}` }
}

const methodName = {
  description: 'How the models are merged',
  oneOf: [...methods.values()].map(({ name, about }) => ({ const: name, description: `${about}.` })),
}

const prefix = { type: 'string', description: "What the names of the module's tensors start with" }

const models = {
  type: 'array',
  minItems: 1,
  description: 'The models, whole',
  items: object<ModelInput>({ model: modelName, prefix, parameters: {} }, ['model']),
}

const slices = {
  type: 'array',
  minItems: 1,
  description: 'Layers of the output, piece by piece',
  items: object<SliceInput>(
    {
      sources: {
        type: 'array',
        minItems: 1,
        items: object<SourceInput>(
          {
            model: modelName,
            layer_range: {
              type: 'array',
              items: layerNumber,
              minItems: 2,
              maxItems: 2,
              description: 'First layer and the one after the last',
            },
            prefix,
            parameters: {},
          },
          ['model', 'layer_range'],
        ),
      },
      base_model: modelName,
      parameters: {},
    },
    ['sources'],
  ),
}

function topKeys(): Record<keyof RecipeInput, JsonSchema> {
  return {
    merge_method: methodName,
    base_model: {
      ...modelName,
      type: ['string', 'null'],
      description: 'Model that differences are taken from; one more model where the method has no base',
    },
    models,
    slices,
    modules: {
      type: 'object',
      description: 'Parts of the model with models or slices of their own',
      additionalProperties: {
        ...object<ModuleInput>({ merge_method: methodName, prefix, models, slices, parameters: {} }, []),
        allOf: [...methods.values()].map((method) => chosen(method, reference(method.name))),
      },
    },
    parameters: { description: 'Parameters of the method, for all models and layers' },
    dtype: { ...dtype, description: 'Type of the result, unless out_dtype is given' },
    out_dtype: { ...dtype, description: 'Type of the result' },
    tokenizer_source: { ...modelName, description: 'base, union, none, or one of the models' },
    tokenizer: {
      ...object<TokenizerInput>(
        {
          source: { ...modelName, description: 'base, union, none, or one of the models' },
          tokens: { type: ['object', 'null'], description: 'Where the rows of single tokens come from' },
          pad_to_multiple_of: { type: ['integer', 'null'], minimum: 1, maximum: 2 ** 20 },
        },
        [],
      ),
      type: ['object', 'null'],
    },
    chat_template: { type: ['string', 'null'], description: 'auto, a built-in name, or a Jinja template' },
    name: { type: 'string', description: 'How later stages refer to this one' },
    stages: { type: ['array', 'null'], description: 'Earlier stages, each with a name', items: { $ref: '#' } },
    sweep: {
      type: 'object',
      description: 'Parameters with a list of values each: one output for every combination',
      additionalProperties: { type: 'array', minItems: 1 },
    },
  }
}

function object<T>(properties: Record<keyof T & string, JsonSchema>, required: (keyof T & string)[]): JsonSchema {
  const ignored = [...ignoredKeys].map((key) => [key, { description: 'Changes nothing' }])
  const all = { ...properties, ...Object.fromEntries(ignored) }
  return { type: 'object', properties: all, required, additionalProperties: false }
}

/** What holds where an entry chooses the method. */
function chosen({ name }: MergeMethod, schema: JsonSchema): JsonSchema {
  return {
    if: { properties: { merge_method: { const: name } }, required: ['merge_method'] },
    // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
    then: schema,
  }
}

/** A base or none, and the method's own parameters at every level; modules that choose no method take this one. */
function ofMethod(method: MergeMethod): JsonSchema {
  const inherited = {
    if: { not: { required: ['merge_method'] } },
    // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
    then: reference(method.name),
  }
  return {
    ...(method.needsBase === true
      ? { anyOf: ['base_model', 'slices', 'modules'].map((key) => ({ required: [key] })) }
      : {}),
    allOf: [reference(method.name)],
    properties: { modules: { additionalProperties: inherited } },
  }
}

/** As in the check: what is one for all models is not given a model, and models and histories only at top level. */
function parameters(method: MergeMethod, level: Level): JsonSchema {
  const known = method.parameters.filter(({ name, scope, type }) => {
    if (level === 'model' && scope === 'global') return false
    return level === 'top' || !((type === 'model' && scope === 'global') || name === 'history')
  })
  const own = new Set(method.parameters.map(({ name }) => name))
  const ignored = [...ignoredParameters].filter((name) => !own.has(name))
  return {
    type: ['object', 'null'],
    properties: Object.fromEntries([
      ...known.map((spec) => [spec.name, parameter(spec)] as const),
      ...ignored.map((name) => [name, { description: 'Changes nothing with this method' }] as const),
    ]),
    additionalProperties: false,
  }
}

function parameter(spec: ParameterSpec): JsonSchema {
  const { about, type, default: byDefault } = spec
  const described = { description: about, ...(byDefault === undefined ? {} : { default: byDefault }) }
  const one = scalar(spec)
  if (type === 'model') return { ...described, ...one }
  const value = type === 'number' ? { anyOf: [one, gradient(one)] } : one
  const filtered = {
    type: 'object',
    properties: { filter: { type: ['string', 'null'], description: "Part of a tensor's name" }, value },
    required: ['value'],
    additionalProperties: false,
  }
  return {
    ...described,
    anyOf: [one, ...(type === 'number' ? [gradient(one)] : []), { type: 'array', minItems: 1, items: filtered }],
  }
}

/** Straight between its points, from the first layer to the last. */
function gradient(items: JsonSchema): JsonSchema {
  return { type: 'array', minItems: 1, items }
}

function scalar(spec: ParameterSpec): JsonSchema {
  const aliases = [...(spec.aliases?.keys() ?? [])]
  const own = unaliased(spec)
  if (aliases.length === 0) return own
  return 'enum' in own && Array.isArray(own.enum)
    ? { enum: [...own.enum, ...aliases] }
    : { anyOf: [own, { enum: aliases }] }
}

function unaliased({ type, values, min, max }: ParameterSpec): JsonSchema {
  if (type === 'model') return modelName
  if (type === 'choice') return { enum: [...(values ?? [])] }
  if (type === 'boolean') {
    return { enum: [true, false, 1, 0].filter((value) => values === undefined || values.includes(Boolean(value))) }
  }
  const range = { ...(min === undefined ? {} : { minimum: min }), ...(max === undefined ? {} : { maximum: max }) }
  return { type: 'number', ...range }
}
