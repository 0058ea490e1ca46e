/**
 * The JSON Schema of a recipe, for editors that complete and check YAML. It is derived from the registry of methods
 * and, through the types below, from the keys of a recipe: a key without an entry here does not compile. It says what
 * one file can show; what depends on the models (names, layers, shapes) is checked when the recipe is read.
 */

import { ignoredParameters, type Method, methods, type ParameterSpec } from '../methods/index.js'
import { dtypeNames, ignoredKeys, type RecipeInput } from './recipe.js'

/** A JSON Schema, or a part of one. */
export interface JsonSchema {
  [keyword: string]: unknown
}

type Level = 'top' | 'slice' | 'model'
type ModelInput = NonNullable<RecipeInput['models']>[number]
type SliceInput = NonNullable<RecipeInput['slices']>[number]
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
    type: 'object',
    properties: {
      ...topKeys,
      ...Object.fromEntries([...ignoredKeys].map((key) => [key, { description: 'Changes nothing' }])),
    },
    required: ['merge_method'],
    additionalProperties: false,
    oneOf: [{ required: ['models'] }, { required: ['slices'] }],
    allOf: [...methods.values()].map(ofMethod),
  }
}

const topKeys: Record<keyof RecipeInput, JsonSchema> = {
  merge_method: {
    description: 'How the models are merged',
    oneOf: [...methods.values()].map(({ name, about }) => ({ const: name, description: `${about}.` })),
  },
  base_model: { ...modelName, description: 'Model that differences are taken from' },
  models: {
    type: 'array',
    minItems: 1,
    description: 'The models, whole',
    items: object<ModelInput>({ model: modelName, parameters: {} }, ['model']),
  },
  slices: {
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
              parameters: {},
            },
            ['model', 'layer_range'],
          ),
        },
        parameters: {},
      },
      ['sources'],
    ),
  },
  parameters: { description: 'Parameters of the method, for all models and layers' },
  dtype: { ...dtype, description: 'Type of the result, unless out_dtype is given' },
  out_dtype: { ...dtype, description: 'Type of the result' },
  tokenizer_source: { ...modelName, description: 'base, none, or one of the models' },
}

function object<T>(properties: Record<keyof T & string, JsonSchema>, required: (keyof T & string)[]): JsonSchema {
  return { type: 'object', properties, required, additionalProperties: false }
}

/** What holds where a method is chosen: a base or none, and its own parameters at every level. */
function ofMethod(method: Method): JsonSchema {
  const at = (level: Level) => parameters(method, level)
  const entries = (level: Level, more: Record<string, JsonSchema> = {}) => ({
    items: { properties: { parameters: at(level), ...more } },
  })
  return {
    if: { properties: { merge_method: { const: method.name } }, required: ['merge_method'] },
    // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
    then: {
      ...(method.needsBase ? { required: ['base_model'] } : {}),
      properties: {
        parameters: at('top'),
        models: entries('model'),
        slices: entries('slice', { sources: entries('model') }),
      },
    },
  }
}

/** As in the check: what is one for all models is not given a model, and models and histories only at top level. */
function parameters(method: Method, level: Level): JsonSchema {
  const known = method.parameters.filter(({ name, scope, type }) => {
    if (level === 'model' && scope === 'global') return false
    return level === 'top' || (type !== 'model' && name !== 'history')
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
