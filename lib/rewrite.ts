/**
 * One checkpoint with some of its tensors changed, as a folder of its own: staged and published as a merge is, with its
 * config and tokenizer, a model card and a manifest. Bytes move; nothing is computed.
 */

import { createHash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { basename, join } from 'node:path'
import {
  adapterOf,
  auxiliaryFiles,
  type Checkpoint,
  type Content,
  checkDisk,
  checkOutput,
  configText,
  cutTensor,
  describeInputs,
  fileEntry,
  isStorable,
  largestAuxiliary,
  layOut,
  type Manifest,
  manifestName,
  manifestText,
  plainCard,
  readSmall,
  refuseChanged,
  Stage,
  torchName,
} from './checkpoint/index.js'
import type { Host } from './engine.js'
import { codeOf, messageOf, WeightsmithError } from './errors.js'
import { version } from './version.js'

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
  files?: { name: string; data: string }[]
  seed?: number
  /** Largest size of a file, in bytes. Defaults to 5e9. */
  shardSize?: number
  overwrite?: boolean | undefined
  sync?: boolean
  signal?: AbortSignal | undefined
  onProgress?: ((done: number, total: number) => void) | undefined
}

export interface Rewritten {
  out: string
  files: Manifest['outputs']
  /** Of weights. */
  bytes: number
}

/** Writes the checkpoint as it is to be. Until all of it is on disk nothing has the final name. */
export async function rewrite(
  { addon, device }: Pick<Host, 'addon' | 'device'>,
  checkpoint: Checkpoint,
  options: RewriteOptions,
): Promise<Rewritten> {
  const { out, overwrite = false, sync = true, signal, seed = 0, recipe } = options
  const target = await checkOutput(out, [checkpoint], { overwrite })
  const contents = new Map<string, Content>()
  for (const [name, tensor] of checkpoint.tensors) {
    const content = options.tensors.get(name)
    if (content !== null) contents.set(name, content ?? cutTensor(checkpoint, tensor))
  }
  for (const [name, content] of options.tensors) if (content !== null) contents.set(name, content)
  const described = [...contents].map(([name, { dtype, shape, size }]) => ({ name, dtype, shape, bytes: size }))
  const layout = layOut(described, options.shardSize ?? 5e9)
  await checkDisk(target, layout.bytes)

  const stage = await Stage.create(addon, target, { sync, resume: false, overwrite })
  try {
    const files: Manifest['outputs'] = []
    let done = 0
    for (const [number, { name, size, header }] of layout.files.entries()) {
      const own = described
        .map((tensor) => ({ ...tensor, place: layout.places.get(tensor.name) }))
        .filter(({ place }) => place?.file === number)
        .sort((a, b) => (a.place?.offset ?? 0) - (b.place?.offset ?? 0))
      const sink = await Sink.open(join(stage.folder, name))
      try {
        await sink.write(header)
        for (const tensor of own) {
          for await (const bytes of contents.get(tensor.name)?.bytes() ?? []) {
            throwIfAborted(signal)
            await sink.write(bytes)
            done += bytes.length
            options.onProgress?.(done, layout.bytes)
          }
        }
        files.push({ name, size, sha256: await sink.finish(size, sync) })
      } finally {
        await sink.close()
      }
    }
    const write = async (name: string, data: string | Uint8Array) => {
      await stage.write(name, data)
      files.push(fileEntry(name, data))
    }
    if (layout.index !== undefined) await write('model.safetensors.index.json', layout.index)
    const config = options.config ?? checkpoint.config
    if (config !== undefined) await write('config.json', await configText(config, checkpoint))
    for (const { from, name } of await auxiliaryFiles(checkpoint, checkpoint.folder)) {
      await write(name, await readSmall(from, largestAuxiliary))
    }
    for (const { name, data } of options.files ?? []) await write(name, data)
    await write(
      'README.md',
      plainCard(basename(target), { model: checkpoint.name, about: options.about, recipe, version }),
    )
    const inputs = await describeInputs(addon, new Map([[checkpoint.name, checkpoint]]), false)
    const about = { recipe, seed, dtype: mostly(described), adapter: adapterOf(device), inputs, outputs: files }
    await stage.write(manifestName, manifestText(about))
    await refuseChanged([checkpoint])
    throwIfAborted(signal)
    await stage.publish()
    await stage.finish()
    return { out: target, files, bytes: layout.bytes }
  } catch (error) {
    await stage.fail(error)
    throw error
  }
}

/** The type that most weights have, by PyTorch's name. */
function mostly(tensors: readonly { dtype: string; shape: number[] }[]): string {
  const sums = new Map<string, number>()
  for (const { dtype, shape } of tensors) {
    if (!isStorable(dtype)) continue
    sums.set(dtype, shape.reduce((product, size) => product * size, 1) + (sums.get(dtype) ?? 0))
  }
  const [most = 'F32'] = [...sums].sort((a, b) => b[1] - a[1])[0] ?? []
  return isStorable(most) ? torchName(most) : most
}

/** A file that is hashed while it is written. */
class Sink {
  private readonly hash = createHash('sha256')
  private written = 0
  private closed = false

  private constructor(
    private readonly path: string,
    private readonly file: FileHandle,
  ) {}

  static async open(path: string): Promise<Sink> {
    try {
      return new Sink(path, await open(path, 'w'))
    } catch (cause) {
      throw writeFailed(path, cause)
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.hash.update(bytes)
    try {
      for (let done = 0; done < bytes.length; ) {
        done += (await this.file.write(bytes, done, bytes.length - done, this.written + done)).bytesWritten
      }
    } catch (cause) {
      throw writeFailed(this.path, cause)
    }
    this.written += bytes.length
  }

  /** The SHA-256 of what was written. */
  async finish(size: number, sync: boolean): Promise<string> {
    if (this.written !== size) {
      throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${this.path} has ${this.written} bytes, not ${size}.`)
    }
    try {
      if (sync) await this.file.sync()
    } catch (cause) {
      throw writeFailed(this.path, cause)
    }
    await this.close()
    return this.hash.digest('hex')
  }

  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    await this.file.close()
  }
}

function writeFailed(path: string, cause: unknown): WeightsmithError {
  const full = codeOf(cause) === 'ENOSPC' || codeOf(cause) === 'EDQUOT'
  return new WeightsmithError(
    full ? 'ERR_WEIGHTSMITH_DISK_FULL' : 'ERR_WEIGHTSMITH_IO_WRITE',
    `${path} cannot be written: ${messageOf(cause)}.`,
    { cause, file: path },
  )
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return
  throw new WeightsmithError('ERR_WEIGHTSMITH_ABORTED', 'The writing was aborted.', { cause: signal.reason })
}
