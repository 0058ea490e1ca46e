/** Opens what a recipe names: checkpoints, with their vocabularies where the recipe matches tokens, and adapters. */

import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { type Checkpoint, openCheckpoint, readVocabulary, resolveModel } from '../checkpoint/index.js'
import { type Adapter, openAdapter } from '../lora/index.js'
import type { NativeAddon } from '../native/border.js'
import { WeightsmithError } from '../util/errors.js'
import { isVocabulary, withAdapter } from './plan/index.js'
import { modelsOf, type Recipe, statisticsOf } from './recipe/index.js'

export type Reader = Pick<NativeAddon, 'readHeader' | 'readIndex' | 'adapterStart'>

/** A model with adapters, which are added in their order. */
export interface AdaptedModel {
  model: string
  /** By name, or opened. */
  adapters: { adapter: string | Adapter; weight?: number }[]
  /** See `AdapterUse`. */
  untie?: boolean
  resize?: boolean
}

/** By the names that a recipe has for them. */
export type AdaptedModels = ReadonlyMap<string, AdaptedModel>

/** Checkpoints kept; what was asked for longest ago goes first. */
const most = 256

/** Models by the names that recipes give them, each opened once, however many recipes ask for it. */
export class Models {
  private readonly paths = new Map<string, Promise<string>>()
  private readonly opened = new Map<string, Promise<Checkpoint>>()
  private readonly adapters = new Map<string, Promise<Adapter>>()
  private readonly bases = new Map<string, Checkpoint>()

  /** `adapted`: models that are no `model+adapter` by their names, by these names. */
  constructor(
    private readonly addon: Reader,
    private readonly adapted: AdaptedModels = new Map(),
  ) {}

  /** Every model of a recipe, by its name there; two names of one folder share a checkpoint. */
  async open(recipe: Recipe): Promise<Map<string, Checkpoint>> {
    const recipes = [...recipe.stages.values(), recipe, ...recipe.sweep.map((point) => point.recipe)]
    const named = recipes.flatMap((one) => [...modelsOf(one), ...statisticsOf(one)])
    const names = new Set(named.filter((name) => !recipe.stages.has(name)))
    const vocabularies = recipes.some(({ tokenizer }) => tokenizer.explicit && tokenizer.source !== 'none')
    const opened = new Map<string, Checkpoint>()
    for (const name of names) {
      const parts = this.adapted.get(name) ?? (await splitAdapters(name, recipe.folder))
      if (parts === undefined) {
        opened.set(name, await this.openOne(name, recipe.folder, vocabularies))
        continue
      }
      if (recipe.stages.has(parts.model)) {
        throw new WeightsmithError(
          'ERR_WEIGHTSMITH_RECIPE',
          `The recipe puts the adapter ${nameOf(parts)} on the stage ${parts.model}, but only stored models can have one; ` +
            'put it on the models of the stage.',
        )
      }
      opened.set(name, await this.openAdapted(name, parts, recipe.folder, vocabularies))
    }
    for (const { tokenizer } of recipes) {
      const { source } = tokenizer
      if (['base', 'union', 'none'].includes(source) || opened.has(source) || recipe.stages.has(source)) continue
      opened.set(source, await this.openTokenizer(source, recipe.folder))
    }
    return opened
  }

  /** The stored model of the one that was given with its adapters, if it is the only one that has been opened. */
  get base(): Checkpoint | undefined {
    const [name] = this.adapted.keys()
    return this.opened.size === 1 && name !== undefined ? this.bases.get(name) : undefined
  }

  /** A model of which only the tokenizer is wanted; it need not have weights. */
  private async openTokenizer(name: string, folder: string): Promise<Checkpoint> {
    const path = await this.resolve(name, folder)
    const vocabulary = await readVocabulary(path)
    if (vocabulary === undefined) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_NOT_FOUND',
        `The recipe takes the tokenizer of ${name}, but its folder ${path} has no tokenizer.json.`,
        { file: path },
      )
    }
    return { name, path, folder: path, files: [], tensors: new Map(), stacks: new Map(), vocabulary }
  }

  private async openAdapted(
    name: string,
    { model, adapters, untie = false, resize = true }: AdaptedModel,
    folder: string,
    vocabularies: boolean,
  ): Promise<Checkpoint> {
    let checkpoint = await this.openOne(model, folder, vocabularies)
    this.bases.set(name, checkpoint)
    for (const { adapter, weight = 1 } of adapters) {
      const opened = typeof adapter === 'string' ? await this.openAdapter(adapter, name, folder) : adapter
      checkpoint = await withAdapter(this.addon, name, checkpoint, { adapter: opened, weight, untie, resize })
    }
    return checkpoint
  }

  private async openAdapter(adapter: string, name: string, folder: string): Promise<Adapter> {
    const path = await this.resolve(adapter, folder)
    return once(this.adapters, path, () => openAdapter(this.addon, path, name))
  }

  private resolve(name: string, folder: string): Promise<string> {
    return once(this.paths, `${folder}\0${name}`, () => resolveModel(name, folder))
  }

  private async openOne(name: string, folder: string, vocabularies: boolean): Promise<Checkpoint> {
    const path = await this.resolve(name, folder)
    return once(this.opened, `${path}\0${vocabularies}`, async () => {
      const checkpoint = await openCheckpoint(this.addon, path, name)
      const tables = vocabularies && [...checkpoint.tensors.keys()].some(isVocabulary)
      const vocabulary = tables && checkpoint.folder !== undefined ? await readVocabulary(checkpoint.folder) : undefined
      return vocabulary === undefined ? checkpoint : { ...checkpoint, vocabulary }
    })
  }
}

const nameOf = ({ adapters: [first] }: AdaptedModel) =>
  typeof first?.adapter === 'object' ? first.adapter.checkpoint.path : first?.adapter

function once<T>(known: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> {
  const value = known.get(key) ?? make()
  known.delete(key)
  known.set(key, value)
  for (const oldest of known.keys()) {
    if (known.size <= most) break
    known.delete(oldest)
  }
  return value
}

/** `model+adapter`, with further adapters behind it, unless there is a folder with a plus in its name. */
export async function splitAdapters(name: string, folder: string): Promise<AdaptedModel | undefined> {
  const at = name.lastIndexOf('+')
  if (at <= 0 || at === name.length - 1) return undefined
  const exists = await stat(resolve(folder, name)).then(
    () => true,
    () => false,
  )
  if (exists) return undefined
  const [model, last] = [name.slice(0, at), { adapter: name.slice(at + 1) }]
  const inner = await splitAdapters(model, folder)
  return inner === undefined ? { model, adapters: [last] } : { ...inner, adapters: [...inner.adapters, last] }
}
