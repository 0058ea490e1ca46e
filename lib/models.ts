/** Opens what a recipe names: checkpoints, with their vocabularies where the recipe matches tokens, and adapters. */

import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { type Checkpoint, openAdapter, openCheckpoint, readVocabulary } from './checkpoint/index.js'
import { WeightsmithError } from './errors.js'
import type { NativeAddon } from './native/border.js'
import { isVocabulary, withAdapter } from './plan/index.js'
import { modelsOf, type Recipe, resolveModel } from './recipe/index.js'

type Reader = Pick<NativeAddon, 'readHeader' | 'readIndex'>

/** Each model once, by its name in the recipe; two names of one folder share a checkpoint. */
export async function openModels(addon: Reader, recipe: Recipe): Promise<Map<string, Checkpoint>> {
  const recipes = [...recipe.stages.values(), recipe, ...recipe.sweep.map((point) => point.recipe)]
  const names = new Set(recipes.flatMap(modelsOf).filter((name) => !recipe.stages.has(name)))
  const vocabularies = recipes.some(({ tokenizer }) => tokenizer.explicit && tokenizer.source !== 'none')
  const byPath = new Map<string, Checkpoint>()
  const openOne = async (name: string): Promise<Checkpoint> => {
    const path = await resolveModel(name, recipe.folder)
    const known = byPath.get(path)
    if (known !== undefined) return known
    const checkpoint = await openCheckpoint(addon, path, name)
    const { folder } = checkpoint
    const tables = vocabularies && [...checkpoint.tensors.keys()].some(isVocabulary)
    const vocabulary = tables && folder !== undefined ? await readVocabulary(folder) : undefined
    const opened = vocabulary === undefined ? checkpoint : { ...checkpoint, vocabulary }
    byPath.set(path, opened)
    return opened
  }
  const opened = new Map<string, Checkpoint>()
  for (const name of names) {
    const parts = await splitAdapter(name, recipe.folder)
    if (parts === undefined) {
      opened.set(name, await openOne(name))
      continue
    }
    if (recipe.stages.has(parts.model)) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_RECIPE',
        `The recipe puts the adapter ${parts.adapter} on the stage ${parts.model}, but only stored models can have one; ` +
          'put it on the models of the stage.',
      )
    }
    const adapter = await openAdapter(addon, await resolveModel(parts.adapter, recipe.folder), name)
    opened.set(name, withAdapter(name, await openOne(parts.model), adapter))
  }
  return opened
}

/** `model+adapter`, unless there is a folder with a plus in its name. */
async function splitAdapter(name: string, folder: string): Promise<{ model: string; adapter: string } | undefined> {
  const at = name.lastIndexOf('+')
  if (at <= 0 || at === name.length - 1) return undefined
  const exists = await stat(resolve(folder, name)).then(
    () => true,
    () => false,
  )
  return exists ? undefined : { model: name.slice(0, at), adapter: name.slice(at + 1) }
}
