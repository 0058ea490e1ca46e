/** Sequences as the tokens of a pass: ids, and rows of images where an id stands for one. */

import type { ModelSpec } from '../architectures/index.js'
import { WeightsmithError } from '../util/errors.js'
import type { PackedToken } from './forward_pass.js'
import type { ImagePixels } from './patches.js'

/** Ids, or ids among which the id of an image stands for each of some images. */
export type TokenSequence = ArrayLike<number> | { ids: ArrayLike<number>; images: readonly ImagePixels[] }

interface Subject {
  spec: ModelSpec
  /** For messages. */
  name: string
}

/** Tokens that ids become: each stands for one, but the id of an image for all rows of its features. */
export function rowsOf({ vision }: Pick<ModelSpec, 'vision'>, ids: readonly number[]): number {
  if (vision === undefined) return ids.length
  const each = vision.stack.attention.sequenceLength - vision.skipped
  return ids.reduce((sum, id) => sum + (id === vision.token ? each : 1), 0)
}

/** See `Model.pack`. */
export function pack({ spec, name }: Subject, sequences: readonly TokenSequence[]): PackedToken[] {
  const { vocabulary, context, vision } = spec
  let start = 0
  return sequences.flatMap((sequence, index) => {
    const ids = Array.from('ids' in sequence ? sequence.ids : sequence)
    const wrong = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabulary) && id !== vision?.token)
    if (wrong !== undefined) {
      throw argument(`Sequence ${index} has the id ${wrong}, but ${name} knows 0 to ${vocabulary - 1}.`)
    }
    if (ids.length === 0) throw argument(`Sequence ${index} is empty.`)
    const items = expand({ spec, name }, ids, 'ids' in sequence ? sequence.images : [], index)
    if (items.length > context) {
      throw argument(`Sequence ${index} has ${items.length} tokens, but the context of ${name} has ${context}.`)
    }
    const tokens = items.map((item, i) => {
      const next = items[i + 1]
      return { ...item, start, row: start + i, target: next?.image === undefined ? next?.id : undefined }
    })
    start += items.length
    return tokens
  })
}

/** Ids, with the rows of an image's features in the place of its id. */
function expand(
  { spec, name }: Subject,
  ids: number[],
  images: readonly ImagePixels[],
  index: number,
): Pick<PackedToken, 'id' | 'image'>[] {
  const { vision } = spec
  const places = vision === undefined ? 0 : ids.filter((id) => id === vision.token).length
  if (places !== images.length) {
    throw argument(`Sequence ${index} has places for ${places} images, but ${images.length} are given.`)
  }
  if (vision === undefined) return ids.map((id) => ({ id }))
  const values = vision.channels * vision.size ** 2
  const odd = images.find(({ length }) => length !== values)
  if (odd !== undefined) {
    throw argument(
      `An image of sequence ${index} has ${odd.length} values, but ${name} sees ${vision.channels} ` +
        `channels of ${vision.size} x ${vision.size} pixels.`,
    )
  }
  const waiting = [...images]
  const length = vision.stack.attention.sequenceLength - vision.skipped
  return ids.flatMap((id) => {
    const pixels = id === vision.token ? waiting.shift() : undefined
    return pixels === undefined ? [{ id }] : Array.from({ length }, (_, row) => ({ id, image: { pixels, row } }))
  })
}

function argument(message: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', message)
}
