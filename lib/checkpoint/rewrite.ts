/**
 * One checkpoint with some of its tensors changed, as a folder of its own: staged and published as a merge is, with its
 * config and tokenizer, a model card and a manifest. Bytes move; nothing is computed.
 */

import { basename, join } from 'node:path'
import type { Host } from '../native/host.js'
import { version } from '../native/version.js'
import { parseBytes } from '../util/bytes.js'
import { throwIfAborted, WeightsmithError } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import {
  auxiliaryFiles,
  type Checkpoint,
  type Content,
  checkDisk,
  checkOutput,
  configText,
  cutTensor,
  describeInputs,
  deviceOf,
  fileEntry,
  inputsOf,
  isStorable,
  largestAuxiliary,
  layOut,
  type Manifest,
  manifestName,
  manifestText,
  type OutputLayout,
  plainCard,
  readSmall,
  refuseChanged,
  Sink,
  Stage,
  soundProgress,
  torchName,
} from './index.js'
import { digest, type InputFile } from './resume/index.js'

export interface RewriteOptions {
  out: string
  /** Tensors that differ from those of the checkpoint, or are new; null: left out. All others are copied. */
  tensors: ReadonlyMap<string, Content | null>
  /** The output's config. Defaults to that of the checkpoint. */
  config?: Record<string, unknown> | undefined
  /** How it came about: verb and options, for the manifest and the card. */
  recipe: Record<string, unknown>
  /** What the card says under its title, in a paragraph. */
  about: string
  /** Files beside the weights. */
  files?: { name: string; data: string | Uint8Array }[]
  seed?: number
  /** Largest size of a file, in bytes. Defaults to 5e9. */
  shardSize?: number
  overwrite?: boolean | undefined
  sync?: boolean
  /** Continue what an earlier run of the same kind has left; where there is nothing, start from scratch. */
  resume?: boolean | undefined
  /**
   * Bytes between two notes that `resume` goes on from, which are 2 s apart at most; smaller outputs are begun again.
   * Without it no note is taken, and a run that ends early leaves nothing.
   */
  journalEvery?: number | string | undefined
  /** Files that decide about the tensors beside the checkpoint. */
  reads?: readonly InputFile[] | undefined
  signal?: AbortSignal | undefined
  /** Bytes written. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface Rewritten {
  out: string
  files: Manifest['outputs']
  /** Of the files of weights, with what an earlier run had written of them. */
  bytesWritten: number
  /** Tensors that an earlier run had finished. */
  resumed: number
}

const noteMilliseconds = 2000

/** Writes the checkpoint as it is to be. Until all of it is on disk nothing has the final name. */
export async function rewrite(
  { addon, device }: Pick<Host, 'addon' | 'device'>,
  checkpoint: Checkpoint,
  options: RewriteOptions,
): Promise<Rewritten> {
  const { out, overwrite = false, sync = true, signal, seed = 0, recipe, shardSize = 5e9 } = options
  const { resume = false, journalEvery } = options
  const target = await checkOutput(out, [checkpoint], { overwrite, resume })
  const { contents, described, layout } = layOutRewrite(checkpoint, options)
  await checkDisk(target, layout.bytes)
  const config = options.config ?? checkpoint.config
  const dtype = mostly(described)

  const every = journalEvery === undefined ? Infinity : parseBytes(journalEvery, 'bytes between two notes')
  const noted = layout.bytes > every
  const run = () => ({
    verb: 'rewrite',
    facts: { 'version of Weightsmith': version, recipe, seed, type: dtype, 'shard size': shardSize },
    inputs: [...inputsOf([checkpoint]), ...(options.reads ?? [])],
    plan: digest([described, config]),
  })
  const stage = await Stage.create(addon, target, { sync, overwrite, resume, noted, run })
  try {
    const names = layout.files.map(({ name }) => name)
    const before = stage.resumed ? await soundProgress(stage.point?.done, stage.folder, names) : undefined
    const files: Manifest['outputs'] = before?.files ?? []
    const finished = files.length
    let resumed = before?.tensors ?? 0
    let done = 0
    let latest = { bytes: 0, time: performance.now() }
    for (const [number, { name, size, header }] of layout.files.entries()) {
      const own = described
        .map((tensor) => ({ ...tensor, place: layout.places.get(tensor.name) }))
        .filter(({ place }) => place?.file === number)
        .sort((a, b) => (a.place?.offset ?? 0) - (b.place?.offset ?? 0))
      const sizes = own.reduce((sum, { bytes }) => sum + bytes, 0)
      if (number < finished) {
        resumed += own.length
        done += sizes
        continue
      }
      const kept = number === finished && before !== undefined ? before : { tensors: 0, bytes: 0 }
      const sink = await Sink.open(join(stage.folder, name), kept.bytes)
      try {
        let end = kept.bytes
        const put = async (bytes: Uint8Array) => {
          await sink.write(bytes)
          end += bytes.length
        }
        if (kept.bytes === 0) await put(header)
        for (const [i, tensor] of own.entries()) {
          if (i < kept.tensors) {
            done += tensor.bytes
            continue
          }
          for await (const bytes of contents.get(tensor.name)?.bytes() ?? []) {
            throwIfAborted(signal, 'The writing')
            await put(bytes)
            done += bytes.length
            options.onProgress?.({ phase: 'write', done, total: layout.bytes, unit: 'bytes', item: tensor.name })
          }
          const now = performance.now()
          if (!noted || (done - latest.bytes < every && now - latest.time < noteMilliseconds)) continue
          await sink.sync()
          await stage.point?.save({ files, tensors: i + 1, bytes: end })
          latest = { bytes: done, time: now }
        }
        files.push({ name, size, sha256: await sink.finish(size, sync) })
      } finally {
        await sink.close()
      }
    }
    await writeBeside({ addon, device }, stage, checkpoint, {
      ...{ config, recipe, seed, about: options.about, target, layout, dtype, files },
      extra: options.files,
    })
    await refuseChanged([checkpoint])
    throwIfAborted(signal, 'The writing')
    await stage.publish()
    await stage.finish()
    return { out: target, files, bytesWritten: layout.bytes, resumed }
  } catch (error) {
    const partial = await stage.fail(error)
    if (partial !== undefined && error instanceof WeightsmithError) error.partial = partial
    throw error
  }
}

/** What stands beside the weights: index, config, tokenizer, files of the caller, card and manifest. */
export async function writeBeside(
  { addon, device }: Pick<Host, 'addon' | 'device'>,
  stage: Stage,
  checkpoint: Checkpoint,
  about: Pick<RewriteOptions, 'config' | 'recipe' | 'about' | 'seed'> & {
    target: string
    layout: Pick<OutputLayout, 'index'>
    /** PyTorch's name of the type of most weights. */
    dtype: string
    /** The files of weights; what is written is added. */
    files: Manifest['outputs']
    /** Files of the caller. */
    extra?: RewriteOptions['files']
    /** What the front matter of the card has beside what all cards have. */
    front?: Record<string, unknown>
    /** What was read. Defaults to the checkpoint. */
    inputs?: readonly Checkpoint[]
  },
): Promise<void> {
  const { target, layout, config, recipe, seed = 0, dtype, files, extra = [], front } = about
  const { inputs: read = [checkpoint] } = about
  const write = async (name: string, data: string | Uint8Array) => {
    await stage.write(name, data)
    files.push(fileEntry(name, data))
  }
  if (layout.index !== undefined) await write('model.safetensors.index.json', layout.index)
  if (config !== undefined) await write('config.json', await configText(config, checkpoint))
  for (const { from, name } of await auxiliaryFiles(checkpoint, checkpoint.folder)) {
    await write(name, await readSmall(from, largestAuxiliary))
  }
  for (const { name, data } of extra) await write(name, data)
  await write(
    'README.md',
    plainCard(basename(target), { model: checkpoint.name, about: about.about, recipe, version, front }),
  )
  const inputs = await describeInputs(addon, new Map(read.map((one) => [one.name, one])), false)
  await stage.write(
    manifestName,
    manifestText({ recipe, seed, dtype, device: deviceOf(device), inputs, outputs: files }),
  )
}

/** What the files of weights will hold, and where. */
export function layOutRewrite(
  checkpoint: Checkpoint,
  { tensors, shardSize = 5e9 }: Pick<RewriteOptions, 'tensors' | 'shardSize'>,
) {
  const contents = new Map<string, Content>()
  for (const [name, tensor] of checkpoint.tensors) {
    const content = tensors.get(name)
    if (content !== null) contents.set(name, content ?? cutTensor(checkpoint, tensor))
  }
  for (const [name, content] of tensors) if (content !== null) contents.set(name, content)
  const described = [...contents].map(([name, { dtype, shape, size }]) => ({ name, dtype, shape, bytes: size }))
  return { contents, described, layout: layOut(described, shardSize) }
}

/** The type that most weights have, by PyTorch's name. */
export function mostly(tensors: readonly { dtype: string; shape: number[] }[]): string {
  const sums = new Map<string, number>()
  for (const { dtype, shape } of tensors) {
    if (!isStorable(dtype)) continue
    sums.set(dtype, shape.reduce((product, size) => product * size, 1) + (sums.get(dtype) ?? 0))
  }
  const [most = 'F32'] = [...sums].sort((a, b) => b[1] - a[1])[0] ?? []
  return isStorable(most) ? torchName(most) : most
}
