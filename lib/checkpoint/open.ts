/**
 * Opens a checkpoint: a folder in the Hugging Face layout (one file, or shards with an index) or a single .safetensors
 * file. Headers and index are parsed natively, where hostile bytes are handled; here they are put together. What the
 * shards hold counts: an index that lists less or more is followed in which of two shards a tensor is taken from, and
 * its mistakes are noted.
 */

import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, join, posix } from 'node:path'
import type { NativeAddon, NativeHeader } from '../native/border.js'
import { codeOf, messageOf, WeightsmithError } from '../util/errors.js'
import { parseJson } from '../util/json.js'
import { plural } from '../util/plural.js'
import { inside } from './inside.js'
import { mainStack, stacksOf } from './names.js'
import { type Quantisation, quantisationOf } from './quantised.js'
import { largestConfig, readSmall } from './small.js'
import type { Vocabulary } from './tokenizer.js'

export interface CheckpointTensor {
  name: string
  /** Index into `files`. */
  file: number
  dtype: string
  shape: number[]
  /** Byte offsets from the start of the file. */
  begin: number
  end: number
}

export interface CheckpointFile {
  path: string
  /** Relative to the checkpoint. */
  name: string
  size: number
  modified: number
  /** Which file it is, as long as the system runs. */
  identity: string
  headerHash: string
  /** What it holds, where no file does. */
  memory?: Uint8Array
  /** Computes `memory`, which is zeros before: what only shapes are asked of need not wait for it. */
  fill?: () => Promise<void>
}

export interface Checkpoint {
  /** As the recipe names it. */
  name: string
  path: string
  /** Folder with config and tokenizer; absent for a single file. */
  folder?: string
  files: CheckpointFile[]
  tensors: ReadonlyMap<string, CheckpointTensor>
  config?: Record<string, unknown>
  /** Layers of every stack, and the one of the language model. */
  stacks: ReadonlyMap<string, number>
  stack?: string
  /** Absent: its weights are plain numbers. */
  quantisation?: Quantisation
  /** Absent: there is nothing odd about its files. */
  notes?: string[]
  /** Where it was asked for, and the folder has a tokenizer.json. */
  vocabulary?: Vocabulary
}

type Reader = Pick<NativeAddon, 'readHeader' | 'readIndex'>

/** Levels of a config.json; real ones have three or four. */
const deepestConfig = 32

export const indexName = 'model.safetensors.index.json'

/** What makes a folder an adapter of PEFT, and what all its tensors start with. */
export const adapterConfigName = 'adapter_config.json'
export const peftPrefix = 'base_model.model.'

/** Tensors of adapters, those of other programs too; a file that has no others is no model. */
const ofAdapters = /^base_model\.model\.|(^|[._])lora[._]/

export async function openCheckpoint(addon: Reader, path: string, name = path): Promise<Checkpoint> {
  const info = await statOf(path)
  const folder = info.isDirectory() ? path : undefined
  if (folder === undefined && /\.gguf$/i.test(path)) throw onlyGguf(path, basename(path))
  const layout = folder === undefined ? { names: [basename(path)] } : await findFiles(addon, folder)
  const checkpoint = await openFiles(addon, path, name, layout, folder)
  const names = [...checkpoint.tensors.keys()]
  if (names.length > 0 && names.every((tensor) => ofAdapters.test(tensor))) throw adapterAlone(path)
  return checkpoint
}

/** Opens the files that `layout` names, whatever they hold. */
export async function openFiles(
  addon: Reader,
  path: string,
  name: string,
  layout: FileLayout,
  folder: string | undefined,
): Promise<Checkpoint> {
  const root = folder ?? dirname(path)
  // A single file was named itself, so it may be a link to anywhere.
  const paths = await Promise.all(layout.names.map((file) => (folder === undefined ? path : inside(root, file))))
  const headers = await Promise.all(
    layout.names.map((file, i) => readShard(addon, root, file, paths[i] ?? '', layout.weightMap)),
  )
  const tensors = new Map<string, CheckpointTensor>()
  const unlisted: string[] = []
  for (const [file, { header }] of headers.entries()) {
    for (const tensor of header.tensors) {
      const shard = layout.names[file]
      const listed = layout.weightMap?.get(tensor.name)
      if (layout.weightMap !== undefined && listed !== shard) unlisted.push(tensor.name)
      const twin = tensors.get(tensor.name)
      const named = twin && layout.names[twin.file]
      if (twin !== undefined && listed !== shard && listed !== named) {
        throw indexError(root, `tensor ${tensor.name} is in both ${named} and ${shard}`, tensor.name)
      }
      if (twin === undefined || listed === shard) tensors.set(tensor.name, Object.assign(tensor, { file }))
    }
  }
  const absent = [...(layout.weightMap ?? [])].flatMap(([tensor]) => (tensors.has(tensor) ? [] : [tensor]))
  const notes = [
    ...noteNames(absent, `in the index of ${name}, but not in its shards; what is there is taken`),
    ...noteNames(unlisted, `in shards of ${name} where its index does not list them; the shards count`),
  ]
  const config = folder === undefined ? undefined : await readConfig(folder)
  const stacks = stacksOf(tensors.keys())
  const stack = mainStack(stacks, layerCount(config))
  const quantisation = quantisationOf(tensors, config)
  return {
    name,
    path,
    ...(folder === undefined ? {} : { folder }),
    files: headers.map(({ header, modified, identity }, i) => ({
      path: paths[i] ?? '',
      name: layout.names[i] ?? '',
      size: header.fileSize,
      modified,
      identity,
      headerHash: header.headerHash,
    })),
    tensors,
    ...(config === undefined ? {} : { config }),
    stacks,
    ...(stack === undefined ? {} : { stack }),
    ...(quantisation === undefined ? {} : { quantisation }),
    ...(notes.length > 0 ? { notes } : {}),
  }
}

function noteNames([first, ...more]: string[], what: string): string[] {
  if (first === undefined) return []
  return [
    more.length === 0
      ? `Tensor ${first} is ${what}.`
      : `${plural(1 + more.length, 'tensor')} such as ${first} are ${what}.`,
  ]
}

/** The part of a config that describes the language model. */
export function textConfig(config: Record<string, unknown>): Record<string, unknown> {
  for (const key of ['text_config', 'llm_config', 'language_config']) {
    const inner = config[key]
    if (typeof inner === 'object' && inner !== null && !Array.isArray(inner)) return inner as Record<string, unknown>
  }
  return config
}

const layerKeys = ['num_hidden_layers', 'n_layer', 'n_layers', 'num_layers']

/** The key that holds the number of layers, and the object it is in. */
export function layerKey(
  config: Record<string, unknown>,
): { holder: Record<string, unknown>; key: string } | undefined {
  for (const holder of [textConfig(config), config]) {
    const key = layerKeys.find((k) => typeof holder[k] === 'number')
    if (key !== undefined) return { holder, key }
  }
  return undefined
}

function layerCount(config: Record<string, unknown> | undefined): number | undefined {
  const found = config && layerKey(config)
  return found ? Number(found.holder[found.key]) : undefined
}

export interface FileLayout {
  names: string[]
  weightMap?: Map<string, string>
}

async function findFiles(addon: Reader, folder: string): Promise<FileLayout> {
  const entries = new Set(await readdir(folder).catch((cause) => readFailed(folder, cause)))
  if (entries.has(indexName)) {
    const index = await addon.readIndex(await inside(folder, indexName))
    const weightMap = new Map(Object.entries(index.weightMap))
    for (const [tensor, shard] of weightMap) {
      if (shard === '' || /^[/\\]|^[a-z]:|\\/i.test(shard) || posix.normalize(shard).startsWith('..')) {
        throw indexError(folder, `the file "${shard}" of tensor ${tensor} would leave the folder`, tensor)
      }
    }
    const names = [...new Set(weightMap.values())].sort()
    if (names.length === 0) throw indexError(folder, 'it lists no tensor')
    return { names, weightMap }
  }
  if (entries.has('model.safetensors')) return { names: ['model.safetensors'] }
  if (entries.has(adapterConfigName)) throw adapterAlone(folder)
  const files = [...entries].filter((name) => name.endsWith('.safetensors')).sort()
  if (files.length === 1) return { names: files }
  if (files.length > 1) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_INDEX',
      `The folder ${folder} has ${files.length} safetensors files (${files.slice(0, 3).join(', ')}…), but no ${indexName}.`,
      { file: folder },
    )
  }
  const gguf = [...entries].find((name) => /\.gguf$/i.test(name))
  if (gguf !== undefined) throw onlyGguf(folder, gguf)
  const pickled = [...entries].find((name) => /\.(bin|pth?|ckpt)$/.test(name))
  const hint = pickled === undefined ? '' : ` ${pickled} is not safetensors; convert the checkpoint first.`
  throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `The folder ${folder} has no safetensors file.${hint}`, {
    file: folder,
  })
}

async function readShard(
  addon: Reader,
  root: string,
  name: string,
  path: string,
  weightMap: Map<string, string> | undefined,
): Promise<{ header: NativeHeader; modified: number; identity: string }> {
  if (weightMap !== undefined) {
    const there = await stat(path).catch(() => undefined)
    if (!there?.isFile()) throw indexError(root, `it lists the shard ${name}, which is not there`)
  }
  // Before the header is read: a change after this line is one that the run has to notice.
  const info = await statOf(path)
  const header = await addon.readHeader(path)
  return { header, modified: info.mtimeMs, identity: identityOf(info) }
}

async function readConfig(folder: string): Promise<Record<string, unknown> | undefined> {
  const file = await inside(folder, 'config.json')
  const text = await readSmall(file, largestConfig).catch((error: unknown) => {
    if (codeOf(error) === 'ERR_WEIGHTSMITH_NOT_FOUND') return undefined
    throw error
  })
  if (text === undefined) return undefined
  try {
    const config = parseJson(text.toString('utf8'))
    if (nests(config, deepestConfig)) throw new Error(`it nests more than ${deepestConfig} levels`)
    if (typeof config === 'object' && config !== null && !Array.isArray(config)) {
      return config as Record<string, unknown>
    }
    throw new Error('it is not an object')
  } catch (cause) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is not valid: ${messageOf(cause)}.`, { cause, file })
  }
}

/** Whether `value` has more than `levels` levels of objects and arrays. */
function nests(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some((inner) => nests(inner, levels - 1))
}

async function statOf(path: string) {
  return stat(path).catch((cause) => readFailed(path, cause))
}

function readFailed(path: string, cause: unknown): never {
  if (codeOf(cause) === 'ENOENT') {
    throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `${path} not found.`, { cause, file: path })
  }
  throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${path} cannot be read: ${messageOf(cause)}.`, {
    cause,
    file: path,
  })
}

function adapterAlone(path: string): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_FORMAT',
    `${path} is an adapter, not a model; a recipe takes its folder behind the model it was trained for ("base+adapter"), ` +
      'and what the merge writes is a model.',
    { file: path },
  )
}

function onlyGguf(path: string, name: string): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_FORMAT',
    `${path} has its weights as GGUF (${name}), the format of llama.cpp, which is not read; take the safetensors that it was ` +
      'made from, or turn it back into them (transformers: from_pretrained with gguf_file, then save_pretrained).',
    { file: path },
  )
}

function indexError(folder: string, what: string, tensor?: string): WeightsmithError {
  const file = join(folder, indexName)
  return new WeightsmithError('ERR_WEIGHTSMITH_INDEX', `The index ${file} is not valid: ${what}.`, { file, tensor })
}

/** Which file a name stands for. */
export function identityOf({ dev, ino }: { dev: number; ino: number }): string {
  return `${dev}:${ino}`
}
