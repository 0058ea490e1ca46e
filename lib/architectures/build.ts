/** What architectures share: fields of a config, tensors as they are named, and the refusal of what cannot be run. */

import type { Activation, OpSpec } from '../runtime/ops/index.js'
import { WeightsmithError } from '../util/errors.js'
import type { Config, Subject } from './architecture.js'

/** The kernel of attention keeps so many elements of a head in registers. */
const mostHeadSize = 256

/** Numbers of a config by name. Throws ERR_WEIGHTSMITH_FORMAT with every one that is not there. */
export function numbersOf<Key extends string>(
  config: Config,
  keys: readonly Key[],
  subject: Subject,
): Record<Key, number> {
  const absent = keys.filter((key) => typeof config[key] !== 'number')
  if (absent.length > 0) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_FORMAT',
      `The config of ${subject.name} has no number for ${absent.join(', ')}, without which ${subject.architecture} ` +
        'cannot be run.',
    )
  }
  return Object.fromEntries(keys.map((key) => [key, config[key]])) as Record<Key, number>
}

/** Of what could be missing, what is. */
export function missed(what: (string | false)[]): string[] {
  return what.filter((one) => one !== false)
}

/** ERR_WEIGHTSMITH_ARGUMENT with all that is missing here and the model needs. */
export function refusal(missing: string[], { name }: Subject): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_ARGUMENT',
    `The model ${name} cannot be run: what it needs and is missing here is ${missing.join(', ')}.`,
  )
}

/** Names in configs; those of transformers. */
const activations: Readonly<Record<string, Activation>> = {
  silu: 'silu',
  swish: 'silu',
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_fast: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  quick_gelu: 'quick_gelu',
  relu: 'relu',
}

export function activationOf(name: unknown): Activation | undefined {
  return Object.hasOwn(activations, String(name)) ? activations[String(name)] : undefined
}

/** What heads of attention would need that is not there. */
export function headsMissing({
  heads,
  numKvHeads,
  size,
  rotary,
}: Record<'heads' | 'numKvHeads' | 'size', number> & { rotary: boolean }) {
  const fits = Number.isInteger(size) && size <= mostHeadSize && (!rotary || size % 2 === 0)
  return [
    !fits && `heads of ${size} elements`,
    !Number.isInteger(heads / numKvHeads) && `${heads} query heads on ${numKvHeads} KV heads`,
  ]
}

/** Collects the tensors that ops name. */
export class Tensors {
  readonly shapes = new Map<string, readonly number[]>()

  add(key: string, ...shape: number[]): string {
    this.shapes.set(key, shape)
    return key
  }

  /** `key.weight`, and `key.bias` where there is one. */
  linear(key: string, x: string, y: string, [out, from]: [number, number], bias: boolean): OpSpec {
    const weight = this.add(`${key}.weight`, out, from)
    return { op: 'linear', x, y, weight, ...(bias ? { bias: this.add(`${key}.bias`, out) } : {}) }
  }

  /** LayerNorm with weight and bias. */
  layerNorm(key: string, x: string, y: string, width: number, eps: number): OpSpec {
    const weight = this.add(`${key}.weight`, width)
    return { op: 'norm', x, y, weight, bias: this.add(`${key}.bias`, width), eps, centered: true }
  }

  /** RMSNorm; `more`: see the op. */
  rmsNorm(
    key: string,
    x: string,
    y: string,
    width: number,
    eps: number,
    more: { plus?: number; heads?: number } = {},
  ): OpSpec {
    return { op: 'norm', x, y, weight: this.add(`${key}.weight`, width), eps, ...more }
  }
}

/** Rows of `parent.key` for units, by the rows that a unit has of each; with the biases that there are. */
export function rowsOf(parent: string, sizes: Readonly<Record<string, number>>, bias: boolean) {
  return Object.entries(sizes).flatMap(([key, size]) =>
    ['weight', ...(bias ? ['bias'] : [])].map((kind) => ({ tensor: `${parent}.${key}.${kind}`, size })),
  )
}
