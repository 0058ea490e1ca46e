/** What training leaves: the adapter as PEFT saves one, or the checkpoint with the tensors that were trained. */

import { saveAdapter } from '../adapters/index.js'
import { type Checkpoint, type Content, isStorable, torchName } from '../checkpoint/index.js'
import { rewrite } from '../checkpoint/rewrite.js'
import type { StoreDType } from '../native/border.js'
import type { Host } from '../native/host.js'
import { factorNames, type TrainableModel } from '../runtime/index.js'
import { WeightsmithError } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import { allFinite } from './finite.js'
import type { AdapterStart } from './start.js'

export interface OutputOptions {
  out: string
  recipe: Record<string, unknown>
  about: string
  seed: number
  overwrite: boolean
  signal?: AbortSignal | undefined
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface Written {
  out: string
  bytesWritten: number
}

/** Writes the adapter. One scale for all of it is kept; of several, each is multiplied into its B. */
export async function writeAdapter(
  host: Host,
  model: TrainableModel,
  adapters: readonly Omit<AdapterStart, 'a' | 'b' | 'magnitude'>[],
  { dtype, rslora, ...options }: OutputOptions & { dtype: StoreDType; rslora: boolean },
): Promise<Written> {
  const [first] = adapters
  if (first === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'The adapter has no modules.')
  const uniform = adapters.every(({ rank, scale }) => rank === first.rank && scale === first.scale)
  const alpha = first.scale * (rslora ? Math.sqrt(first.rank) : first.rank)
  const modules = adapters.map(({ weight, rank, scale, dora }) => {
    const [outputs = 0, inputs = 0] = model.spec.tensors.get(weight) ?? []
    const names = factorNames(weight)
    return {
      ...{ module: weight.replace(/\.weight$/, ''), rank, outputs, inputs },
      factors: async () => {
        const b = await model.read(names.b)
        return { a: await model.read(names.a), b: uniform ? b : b.map((value) => value * scale) }
      },
      ...(dora && { magnitude: () => model.read(names.magnitude) }),
    }
  })
  const { checkpoint } = model
  const adapter = { modules, base: checkpoint.name, ...(uniform && { scaling: { alpha: tidy(alpha), rslora } }) }
  return saveAdapter(host, adapter, { ...options, dtype, inputs: [checkpoint] })
}

/** 32 for 31.999999999999996, which √r leaves. */
function tidy(value: number): number {
  const near = Math.round(value * 1e6) / 1e6
  return Math.abs(near - value) < 1e-9 * value ? near : value
}

/** Writes the checkpoint, each tensor in its own type. Throws ERR_WEIGHTSMITH_NON_FINITE where a type is too narrow. */
export function writeCheckpoint(
  host: Host,
  model: TrainableModel,
  checkpoint: Checkpoint,
  options: OutputOptions,
): Promise<Written> {
  const tensors = new Map(
    model.learned.map((name): [string, Content] => {
      const tensor = checkpoint.tensors.get(name)
      if (tensor === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `There is no tensor ${name}.`)
      const { dtype, shape, begin, end } = tensor
      return [
        name,
        {
          ...{ dtype, shape: [...shape], size: end - begin },
          async *bytes() {
            const bytes = await model.stored(name)
            if (isStorable(dtype) && !allFinite(bytes, dtype)) throw overflown(name, dtype)
            yield bytes
          },
        },
      ]
    }),
  )
  return rewrite(host, checkpoint, { ...options, tensors })
}

function overflown(tensor: string, dtype: StoreDType): WeightsmithError {
  const message = `${tensor} has values that ${torchName(dtype)} does not hold after training; nothing was written.`
  return new WeightsmithError('ERR_WEIGHTSMITH_NON_FINITE', message, { tensor })
}
