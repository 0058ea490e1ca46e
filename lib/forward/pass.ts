/** One pass of a model whose weights are on the device: its images, then its tokens, through the stacks of the spec. */

import type { ModelSpec, Vision } from '../families/index.js'
import type { NativeDevice, NativeDispatch, NativeWork } from '../native/border.js'
import { noTarget } from './kernels.js'
import type { Buffers, Program } from './program.js'

/** One token of a pass. */
export interface Token {
  id: number
  /** First row of its sequence in the cache, and its own. */
  start: number
  row: number
  /** The id whose loss is asked for. */
  target?: number | undefined
  /** It stands for a row of an image's features, `id` for the image. Images that are one object are encoded once a pass. */
  image?: { pixels: Pixels; row: number } | undefined
}

/** A normalised image, [channels, height, width] of the size that the model sees. */
export type Pixels = Float32Array

export interface Wanted {
  logits?: boolean
  /** The residual stream before the first block and after every block, and what the head is applied to. */
  hidden?: boolean
}

export interface Pass {
  /** −log of the probability of every token's target; 0 where there is none. */
  nll: Float32Array
  /** The id of each token's largest logit. */
  best: Uint32Array
  /** Rows of the vocabulary's size. */
  logits?: Float32Array
  hidden?: Float32Array[]
  normed?: Float32Array
  /** Of the images in their order: the tower's residual stream, rows of every image together, and its features. */
  images?: { hidden: Float32Array[]; features: Float32Array }
}

export async function runPass(
  { device, resident, buffers }: { device: NativeDevice; resident: number; buffers: Buffers },
  spec: ModelSpec,
  tokens: readonly Token[],
  wanted: Wanted,
): Promise<Pass> {
  const work = new Work(device, resident)
  /** A stack from its embedding on; `final` comes after `depth` layers, and the others are only run to be looked at. */
  const through = async (program: Program, rows: number, depth: number, embed: NativeDispatch[]) => {
    const hidden: Float32Array[] = []
    const look = async () => {
      if (wanted.hidden) hidden.push(await work.activation(program, 'x', rows))
    }
    const layers = async (from: number, to: number) => {
      for (let index = from; index < to; index++) {
        work.add(program.layer(index, rows))
        await look()
      }
    }
    work.add(embed)
    await look()
    await layers(0, depth)
    work.add(program.final(rows))
    if (wanted.hidden) await layers(depth, program.stack.layers.length)
    return hidden
  }

  const images = new Set(tokens.flatMap(({ image }) => (image === undefined ? [] : [image.pixels])))
  const { language, vision } = buffers
  const seen = vision && spec.vision && images.size > 0 ? { program: vision, ...spec.vision } : undefined
  let features: Pass['images']
  if (seen !== undefined) {
    const { program } = seen
    const rows = images.size * seen.stack.attention.both
    work.write(program.tokens, imageTokens(images.size, seen))
    work.write(program.activation(seen.patches), patchesOf([...images], seen))
    const hidden = await through(program, rows, seen.layers, program.embed(rows))
    if (wanted.hidden) features = { hidden, features: await work.activation(program, seen.features, rows) }
  }

  const rows = tokens.length
  const order = new Map([...images].map((pixels, i) => [pixels, i]))
  /** What stands for a row of an image has an id past the vocabulary: its row among all features. */
  const idOf = ({ id, image }: Token) => {
    if (image === undefined || seen === undefined) return id
    return spec.vocabulary + (order.get(image.pixels) ?? 0) * seen.stack.attention.both + seen.skipped + image.row
  }
  const words = tokens.flatMap((token) => [idOf(token), token.start, token.row, token.target ?? noTarget])
  work.write(language.tokens, Uint32Array.from(words))
  const longest = tokens.reduce((most, { start, row }) => Math.max(most, row + 1 - start), 0)
  const angles = language.turn(longest)
  if (angles !== undefined) work.write(language.angles, angles)
  const embed = [...language.embed(rows), ...(seen === undefined ? [] : buffers.splice(rows))]
  const hidden = await through(language, rows, language.stack.layers.length, embed)
  const normed = wanted.hidden ? await work.activation(language, spec.head.x, rows) : undefined

  const logits = wanted.logits ? new Float32Array(rows * spec.vocabulary) : undefined
  for (let from = 0; from < rows; from += buffers.headRows) {
    const part = Math.min(buffers.headRows, rows - from)
    work.add(buffers.head(from, part))
    if (logits === undefined) continue
    const [bytes] = await work.read([buffers.logits, part * spec.vocabulary])
    logits.set(new Float32Array(bytes ?? []), from * spec.vocabulary)
  }
  const [nll, best] = await work.read([buffers.nll, rows], [buffers.best, rows])
  return {
    nll: new Float32Array(nll ?? []),
    best: new Uint32Array(best ?? []),
    ...(logits === undefined ? {} : { logits }),
    ...(normed === undefined ? {} : { hidden, normed }),
    ...(features === undefined ? {} : { images: features }),
  }
}

/** Writes and dispatches that come together until something is read. */
class Work {
  private writes: NativeWork['writes'] = []
  private dispatches: NativeDispatch[] = []

  constructor(
    private readonly device: NativeDevice,
    private readonly resident: number,
  ) {}

  write(buffer: number, { buffer: memory }: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>): void {
    this.writes.push({ buffer, offset: 0, memory: new Uint8Array(memory) })
  }

  add(dispatches: NativeDispatch[]): void {
    this.dispatches.push(...dispatches)
  }

  /** Runs them, and gives the first words of some buffers. */
  async read(...wants: [buffer: number, words: number][]): Promise<ArrayBuffer[]> {
    const reads = wants.map(([buffer, count]) => ({ buffer, offset: 0, bytes: 4 * count }))
    const { writes, dispatches } = this
    this.writes = []
    this.dispatches = []
    const results = await this.device.dispatch(this.resident, { writes, dispatches, reads })
    return results.map(({ buffer }) => buffer as ArrayBuffer)
  }

  async activation(program: Program, name: string, rows: number): Promise<Float32Array> {
    const [bytes] = await this.read([program.activation(name), rows * (program.stack.activations[name] ?? 0)])
    return new Float32Array(bytes ?? [])
  }
}

/** Every image is a sequence of its own. */
function imageTokens(count: number, { stack }: Vision): Uint32Array<ArrayBuffer> {
  const { both } = stack.attention
  return Uint32Array.from(
    Array.from({ length: count * both }, (_, row) => [0, row - (row % both), row, noTarget]).flat(),
  )
}

/** A row [channels, patch, patch] a patch; the rows that are no patches are 0. */
function patchesOf(images: readonly Pixels[], { stack, size, patch, patches }: Vision): Float32Array<ArrayBuffer> {
  const width = stack.activations[patches] ?? 0
  const { both } = stack.attention
  const side = Math.floor(size / patch)
  const others = both - side ** 2
  const result = new Float32Array(images.length * both * width)
  for (const [i, pixels] of images.entries()) {
    for (let row = others; row < both; row++) {
      const [top, left] = [Math.floor((row - others) / side) * patch, ((row - others) % side) * patch]
      let at = (i * both + row) * width
      for (let line = 0; line < width / patch; line++, at += patch) {
        const [channel, y] = [Math.floor(line / patch), line % patch]
        const from = (channel * size + top + y) * size + left
        result.set(pixels.subarray(from, from + patch), at)
      }
    }
  }
  return result
}
