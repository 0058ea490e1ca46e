/**
 * Writes an adapter as PEFT saves one, so that PEFT loads it with no key missing and none left over. Unless it was
 * trained with a scale of its own, factors are stored so that the scale of every module is 1: alpha is the rank, module
 * by module where ranks differ, and use_rslora is off. Then a reader that does not know the patterns of ranks and
 * alphas, and takes alpha / r of the whole adapter, has the right scale too.
 */

import { basename, isAbsolute, join } from 'node:path'
import { stringify } from 'yaml'
import {
  type Checkpoint,
  type Content,
  checkDisk,
  checkOutput,
  describeInputs,
  deviceOf,
  fileEntry,
  inputsOf,
  layOut,
  type Manifest,
  manifestName,
  manifestText,
  refuseChanged,
  Sink,
  Stage,
} from '../checkpoint/index.js'
import { adapterConfigName, peftPrefix } from '../checkpoint/open.js'
import { mostly } from '../checkpoint/rewrite.js'
import type { StoreDType } from '../native/border.js'
import type { Host } from '../native/host.js'
import { version } from '../native/version.js'
import { misuse, throwIfAborted, WeightsmithError } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import { type Factors, stored } from './factors.js'

/** One adapted matrix: the weight of its module becomes W + B A. */
export interface AdaptedModule {
  /** Its name in the base model, such as `model.layers.0.self_attn.q_proj`. */
  module: string
  /** At least 1. */
  rank: number
  /** Rows of B, and columns of A. */
  outputs: number
  inputs: number
  /** A table of tokens: its weight is the transpose of B A, so `inputs` are tokens. */
  embedding?: boolean | undefined
  /** The table itself, where the adapter carries it. */
  below?: Content | undefined
  /** A [rank, inputs] and B [outputs, rank]; asked for once, when they are written. */
  factors(): Promise<Factors> | Factors
  /** Its number among the experts of its module, in a mixture. */
  expert?: number | undefined
  /** Lengths of the rows of the adapted weight [outputs], where it is a DoRA; of all modules or of none. */
  magnitude?: (() => Promise<Float32Array<ArrayBuffer>>) | undefined
}

export interface NewAdapter {
  modules: readonly AdaptedModule[]
  /** Tensors that replace those of the base, by their names there: all tensors of each of their modules. */
  whole?: ReadonlyMap<string, Content> | undefined
  /** Linears of the base store their weights as [in, out] (`fan_in_fan_out`). Defaults to false. */
  turned?: boolean | undefined
  /** The scale of an adapter whose modules have one rank: alpha / rank, or alpha / √rank. Defaults to a scale of 1. */
  scaling?: { alpha: number; rslora: boolean } | undefined
  /**
   * What a mixture of experts has beside its factors, which PEFT knows nothing of: tensors by name, keys of the config.
   */
  mixture?: { tensors: ReadonlyMap<string, Content>; config: Readonly<Record<string, unknown>> } | undefined
  /** The base model, as the config is to name it. */
  base?: string | undefined
  /** Defaults to `CAUSAL_LM`. */
  task?: string | undefined
}

export interface SaveAdapterOptions {
  /** The folder to write. */
  out: string
  /** How A and B are stored, rounded once. Defaults to `F32`. */
  dtype?: StoreDType | undefined
  overwrite?: boolean | undefined
  /** Wait until all is on disk before the folder gets its name. Defaults to true. */
  sync?: boolean | undefined
  /** What the adapter is made from. */
  inputs: readonly Checkpoint[]
  /** How it came about: verb and options, for the manifest and the card. */
  recipe: Record<string, unknown>
  /** What the card says under its title, in a paragraph. */
  about: string
  seed?: number | undefined
  signal?: AbortSignal | undefined
  /** Bytes written. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface SavedAdapter {
  out: string
  files: Manifest['outputs']
  /** Of the file of tensors. */
  bytesWritten: number
}

const weightsName = 'adapter_model.safetensors'
const what = 'The writing of the adapter'

/**
 * Writes adapter_config.json and adapter_model.safetensors, a card and a manifest. Until all of it is on disk nothing
 * has the final name. Throws ERR_WEIGHTSMITH_OUTPUT_EXISTS, _OUTPUT_INSIDE_INPUT, _DISK_FULL or _BUSY before the first
 * byte, ERR_WEIGHTSMITH_NON_FINITE where a factor is NaN or infinite as it would be stored, and
 * ERR_WEIGHTSMITH_ARGUMENT for an adapter that PEFT could not load.
 */
export async function saveAdapter(host: Host, adapter: NewAdapter, options: SaveAdapterOptions): Promise<SavedAdapter> {
  const { dtype = 'F32', overwrite = false, sync = true, inputs, recipe, seed = 0, signal, onProgress } = options
  const { addon, device } = host
  const config = configOf(adapter)
  const { tensors, file, order } = layOutAdapter(host, adapter, dtype, signal)
  const target = await checkOutput(options.out, [...inputs], { overwrite })
  await checkDisk(target, file.size)
  const run = () => ({
    verb: 'adapter',
    facts: { 'version of Weightsmith': version, recipe },
    inputs: inputsOf(inputs),
  })
  const stage = await Stage.create(addon, target, { sync, overwrite, resume: false, noted: false, run })
  try {
    const files: Manifest['outputs'] = []
    const sink = await Sink.open(join(stage.folder, weightsName))
    try {
      await sink.write(file.header)
      let done = file.header.length
      for (const name of order) {
        for await (const bytes of tensors.get(name)?.bytes() ?? []) {
          throwIfAborted(signal, what)
          await sink.write(bytes)
          done += bytes.length
          onProgress?.({ phase: 'write', done, total: file.size, unit: 'bytes', item: name })
        }
      }
      files.push({ name: weightsName, size: file.size, sha256: await sink.finish(file.size, sync) })
    } finally {
      await sink.close()
    }
    const write = async (name: string, data: string) => {
      await stage.write(name, data)
      files.push(fileEntry(name, data))
    }
    await write(adapterConfigName, `${JSON.stringify(config, null, 2)}\n`)
    await write('README.md', cardOf(basename(target), adapter, options))
    const named = new Map(inputs.map((input) => [input.name, input]))
    const described = await describeInputs(addon, named, false)
    const types = mostly([...tensors.values()])
    const about = { recipe, seed, dtype: types, device: deviceOf(device), inputs: described, outputs: files }
    await stage.write(manifestName, manifestText(about))
    await refuseChanged(inputs)
    throwIfAborted(signal, what)
    await stage.publish()
    await stage.finish()
    return { out: target, files, bytesWritten: file.size }
  } catch (error) {
    await stage.fail(error)
    throw error
  }
}

type Shaped = Omit<AdaptedModule, 'factors'>

/** Bytes of the file of tensors that an adapter would have. */
export function adapterBytes(
  adapter: { modules: readonly Shaped[]; whole?: NewAdapter['whole'] },
  dtype: StoreDType,
): number {
  return layOutFile(contentsOf(adapter, dtype, () => Promise.resolve([]))).file.size
}

/** The tensors by their names in the file, and the names in the order of their bytes. */
function layOutAdapter(host: Host, adapter: NewAdapter, dtype: StoreDType, signal: AbortSignal | undefined) {
  const tensors = contentsOf(
    adapter,
    dtype,
    async (module) => {
      throwIfAborted(signal, what)
      const { a, b } = await module.factors()
      const { rank, inputs, outputs } = module
      if (a.length !== rank * inputs || b.length !== outputs * rank) {
        throw new WeightsmithError(
          'ERR_WEIGHTSMITH_INTERNAL',
          `The factors of ${module.module} have ${a.length} and ${b.length} elements, not ${rank} x ${inputs} and ` +
            `${outputs} x ${rank}.`,
        )
      }
      return stored(host, [a, b], dtype, module.module, signal)
    },
    (module, lengths) => stored(host, [lengths], dtype, module.module, signal),
  )
  return { tensors, ...layOutFile(tensors) }
}

function layOutFile(tensors: ReadonlyMap<string, Content>) {
  const described = [...tensors].map(([name, { dtype, shape, size }]) => ({ name, dtype, shape, bytes: size }))
  const { files, places } = layOut(described, Number.POSITIVE_INFINITY)
  const [file] = files
  if (file === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'The adapter has no file.')
  const at = (name: string) => places.get(name)?.offset ?? 0
  return { file, order: [...tensors.keys()].sort((x, y) => at(x) - at(y)) }
}

/** The tensors of the file by name; `encoded` gives A and B of a module as they are stored. */
function contentsOf<M extends Shaped>(
  {
    modules,
    whole = new Map(),
    mixture,
  }: { modules: readonly M[]; whole?: NewAdapter['whole']; mixture?: NewAdapter['mixture'] },
  dtype: StoreDType,
  encoded: (module: M) => Promise<Uint8Array[]>,
  encodedLengths: (module: M, lengths: Float32Array<ArrayBuffer>) => Promise<Uint8Array[]> = () => Promise.resolve([]),
): Map<string, Content> {
  const size = dtype === 'F32' ? 4 : 2
  const tensors = new Map<string, Content>()
  for (const module of modules) {
    const { rank, inputs, outputs } = module
    // A and B follow each other in the file, so a pair is held only while it is written.
    let pair: Promise<Uint8Array[]> | undefined
    const side = (index: 0 | 1, shape: [number, number]): Content => ({
      dtype,
      shape,
      size: shape[0] * shape[1] * size,
      async *bytes() {
        pair ??= encoded(module)
        const bytes = (await pair)[index]
        if (index === 1) pair = undefined
        if (bytes !== undefined) yield bytes
      },
    })
    const key = peftPrefix + module.module
    const of = module.expert === undefined ? '' : `.${module.expert}`
    const [a, b] = module.embedding
      ? ['lora_embedding_A', 'lora_embedding_B']
      : [`lora_A${of}.weight`, `lora_B${of}.weight`]
    tensors.set(`${key}.${a}`, side(0, [rank, inputs]))
    tensors.set(`${key}.${b}`, side(1, [outputs, rank]))
    const { magnitude } = module
    if (magnitude !== undefined) {
      tensors.set(`${key}.lora_magnitude_vector`, {
        ...{ dtype, shape: [outputs], size: outputs * size },
        async *bytes() {
          yield* await encodedLengths(module, await magnitude())
        },
      })
    }
    if (module.below !== undefined) tensors.set(`${key}.base_layer.weight`, module.below)
  }
  for (const [name, content] of whole) tensors.set(peftPrefix + name, content)
  for (const [name, content] of mixture?.tensors ?? []) tensors.set(name, content)
  return tensors
}

/** adapter_config.json, with the keys in order, as PEFT has them. */
function configOf({
  modules,
  whole,
  turned = false,
  scaling,
  mixture,
  base,
  task = 'CAUSAL_LM',
}: NewAdapter): Record<string, unknown> {
  if (modules.length === 0) throw misuse('The adapter would have no factors, and PEFT loads none without.')
  const names = [...new Set(modules.map(({ module }) => module))]
  const known = new Set<string>()
  for (const { module, expert } of modules) {
    const name = expert === undefined ? module : `expert ${expert} of ${module}`
    if (known.has(name)) throw misuse(`The adapter has ${name} twice.`)
    known.add(name)
  }
  const saved = [...new Set([...(whole?.keys() ?? [])].map((name) => name.replace(/\.[^.]+$/, '')))].sort()
  for (const name of saved) {
    const clash = names.find((module) => module === name || module.startsWith(`${name}.`))
    if (clash === undefined) continue
    throw misuse(`The adapter has ${clash} as factors and ${name} whole, and PEFT takes one of the two.`)
  }
  for (const { module, rank } of modules) {
    if (!Number.isSafeInteger(rank) || rank < 1) throw misuse(`The adapter has rank ${rank} for ${module}.`)
  }
  const rank = modules.reduce((most, module) => Math.max(most, module.rank), 1)
  const patterns = patternsOf(modules, rank)
  return {
    alpha_pattern: patterns,
    base_model_name_or_path: base ?? null,
    bias: 'none',
    fan_in_fan_out: turned,
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: scaling?.alpha ?? rank,
    lora_dropout: 0,
    modules_to_save: saved.length > 0 ? saved : null,
    peft_type: 'LORA',
    r: rank,
    rank_pattern: patterns,
    target_modules: [...names].sort(),
    task_type: task,
    use_dora: modules.some(({ magnitude }) => magnitude !== undefined),
    use_rslora: scaling?.rslora ?? false,
    ...mixture?.config,
  }
}

/**
 * Ranks other than that of the adapter. A key is a regular expression for a whole name or its end, and the first that
 * matches decides; a plain name suits older readers too, but where another module ends in it, it is bound to the
 * start.
 */
function patternsOf(modules: readonly AdaptedModule[], rank: number): Record<string, number> {
  // a dot of a key stands for any character
  const plain = (name: string) => name.replaceAll('_', '.')
  const ends = new Map<string, number>()
  for (const { module } of modules) {
    const parts = plain(module).split('.')
    for (let i = 0; i < parts.length; i++) {
      const end = parts.slice(i).join('.')
      ends.set(end, 1 + (ends.get(end) ?? 0))
    }
  }
  const keyOf = (name: string) =>
    /^[\w.]+$/.test(name) && ends.get(plain(name)) === 1 ? name : `^${name.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')}`
  const others = modules.filter((module) => module.rank !== rank)
  return Object.fromEntries(others.map((module) => [keyOf(module.module), module.rank]))
}

/** The model card. */
function cardOf(title: string, { base }: NewAdapter, { about, recipe }: SaveAdapterOptions): string {
  const shown = base !== undefined && isAbsolute(base) ? basename(base) : base
  const front = {
    ...(shown === undefined ? {} : { base_model: shown }),
    library_name: 'peft',
    tags: ['lora', 'weightsmith'],
  }
  return `---
${stringify(front)}---
# ${title}

Made by weightsmith ${version}. ${about}

\`\`\`yaml
${stringify(recipe)}\`\`\`
`
}
