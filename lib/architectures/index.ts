/** From a checkpoint's config to the model that can be run, by the architecture it names. */

import { WeightsmithError } from '../util/errors.js'
import type { Architecture, Config, ModelSpec } from './architecture.js'
import { llama, traits } from './llama.js'
import { llava } from './llava.js'
import { opt } from './opt.js'

export type { Activation, Attention, OpSpec, Rotary } from '../runtime/ops/index.js'
export type { Layer, ModelSpec, Stack, Units, Vision } from './architecture.js'
export { type Widths, withBiases, withWidths } from './change.js'
export { inputsOf } from './inputs.js'

const architectures: ReadonlyMap<string, Architecture> = new Map<string, Architecture>([
  ...Object.keys(traits).map((architecture): [string, Architecture] => [architecture, llama]),
  ['OPTForCausalLM', opt],
  ['LlavaForConditionalGeneration', llava],
])

/** Shapes of the tensors that a checkpoint has. */
type Shapes = ReadonlyMap<string, { shape: readonly number[] }>

/**
 * What the config describes, compared with the tensors there are. Throws ERR_WEIGHTSMITH_ARGUMENT for an architecture
 * that is not known, ERR_WEIGHTSMITH_MISSING_TENSOR or ERR_WEIGHTSMITH_SHAPE_MISMATCH for tensors that do not fit.
 */
export function modelSpec(config: Config | undefined, tensors: Shapes, name: string): ModelSpec {
  const spec = describe(config, tensors, name)
  const absent = [...spec.tensors.keys()].filter((tensor) => !tensors.has(tensor))
  if (absent.length > 0) {
    const more = absent.length > 3 ? ` and ${absent.length - 3} more` : ''
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_MISSING_TENSOR',
      `The model ${name} has no ${absent.slice(0, 3).join(', ')}${more}, which ${spec.architecture} needs.`,
      { tensor: absent[0] },
    )
  }
  for (const [tensor, want] of spec.tensors) {
    const shape = tensors.get(tensor)?.shape ?? []
    if (shape.join() !== want.join()) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
        `The tensor ${tensor} of ${name} has the shape [${shape.join(', ')}], but its config says [${want.join(', ')}].`,
        { tensor },
      )
    }
  }
  return spec
}

/** What the config describes, whatever tensors there are. */
export function describe(config: Config | undefined, tensors: Shapes, name: string): ModelSpec {
  const found = config?.architectures
  const named = Array.isArray(found) ? String(found[0]) : undefined
  // A model saved without its head (LlamaModel); one whose head is the embedding has lost nothing.
  const whole = named?.replace(/Model$/, 'ForCausalLM')
  const architecture = whole !== undefined && architectures.has(whole) ? whole : named
  const build = architectures.get(architecture ?? '')
  if (config === undefined || architecture === undefined || build === undefined) {
    const what =
      architecture === undefined ? 'has a config that names no architecture' : `has the architecture ${architecture}`
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `The model ${name} ${what}; what can be run is ${[...architectures.keys()].join(', ')}.`,
    )
  }
  return build(config, { name, architecture, has: (tensor) => tensors.has(tensor) })
}
