/** The files of an output beside its weights: index, config, tokenizer, card, manifest. */

import { basename } from 'node:path'
import {
  auxiliaryFiles,
  type Checkpoint,
  commonTemplate,
  configText,
  deviceOf,
  editTokenizer,
  fileEntry,
  filesLeft,
  largestAuxiliary,
  type Manifest,
  type ManifestInput,
  manifestName,
  manifestText,
  modelCard,
  outputConfig,
  readSmall,
  type Stage,
} from '../checkpoint/index.js'
import type { NativeDevice } from '../native/border.js'
import { version } from '../native/version.js'
import type { MergeChecksum } from './options.js'
import type { Target } from './prepare.js'
import { typeName } from './report.js'

/** What the files say besides recipe and plan. */
export interface FileFacts {
  device: NativeDevice
  checkpoints: ReadonlyMap<string, Checkpoint>
  inputs: ManifestInput[]
  /** SHA-256 of the files of weights, if asked for. */
  checksums: string[]
  seed: number
  checksum: MergeChecksum
}

/** Writes the files beside the weights; gives all files of the output, the manifest apart. */
export async function writeFiles(
  stage: Stage,
  { recipe, plan, target }: Target,
  { device, checkpoints, inputs, checksums, seed, checksum }: FileFacts,
): Promise<Manifest['outputs']> {
  const files: Manifest['outputs'] = plan.layout.files.map(({ name, size }, i) => {
    const sha256 = checksums[i]
    return sha256 ? { name, size, sha256 } : { name, size }
  })
  const write = async (name: string, data: string | Uint8Array) => {
    await stage.write(name, data)
    files.push(fileEntry(name, data, checksum !== 'none'))
  }
  if (plan.layout.index !== undefined) await write('model.safetensors.index.json', plan.layout.index)
  const { dtype, layers, vocabulary, untied, donor, tokenizer } = plan
  if (donor.config !== undefined) {
    const config = outputConfig(donor.config, { dtype, layers, vocabulary, untied })
    await write('config.json', await configText(config, donor))
  }
  const { extra = [] } = tokenizer ?? {}
  const { chatTemplate } = recipe
  const folders = [...checkpoints.values()].flatMap(({ folder }) => folder ?? [])
  const template = chatTemplate === 'auto' ? await commonTemplate(folders) : chatTemplate
  const copies = await auxiliaryFiles(donor, tokenizer?.folder)
  const left = (await filesLeft(donor, copies)).sort()
  if (left.length > 0) {
    const more = left.length > 5 ? ` and ${left.length - 5} more` : ''
    plan.notes.push(`Not copied from ${donor.name}: ${left.slice(0, 5).join(', ')}${more}.`)
  }
  for (const { from, name } of copies) {
    if (template !== undefined && name.startsWith('chat_template')) continue
    await write(name, editTokenizer(name, await readSmall(from, largestAuxiliary), { extra, template }))
  }
  if (template !== undefined) await write('chat_template.jinja', template)
  else if (chatTemplate !== undefined) plan.notes.push('chat_template: auto changes nothing: no model has a template.')
  const models = [...checkpoints].flatMap(([name, { tensors }]) => (tensors.size > 0 ? [name] : []))
  await write('README.md', modelCard(basename(target), { recipe, models, seed, version }))
  const about = {
    recipe: recipe.input,
    seed,
    dtype: typeName(plan),
    device: deviceOf(device),
    inputs,
    outputs: files,
  }
  await stage.write(manifestName, manifestText(about))
  return files
}
