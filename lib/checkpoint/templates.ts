/** Chat templates that models bring along, where transformers looks for them. */

import { parseJson } from '../util/json.js'
import { inside } from './inside.js'
import { largestConfig, readSmall } from './small.js'

/** The template of a tokenizer's folder, if it has one. */
async function readTemplate(folder: string): Promise<string | undefined> {
  const file = await readText(folder, 'chat_template.jinja')
  if (file !== undefined) return file.trim()
  const text = (await readText(folder, 'tokenizer_config.json')) ?? '{}'
  let config: unknown
  try {
    config = parseJson(text)
  } catch {
    return undefined
  }
  const found =
    typeof config === 'object' && config !== null && 'chat_template' in config ? config.chat_template : undefined
  if (typeof found === 'string') return found.trim()
  if (!Array.isArray(found)) return undefined
  const named = (found as unknown[]).find(
    (entry): entry is { template: string } =>
      typeof entry === 'object' &&
      entry !== null &&
      'name' in entry &&
      entry.name === 'default' &&
      'template' in entry &&
      typeof entry.template === 'string',
  )
  return named?.template.trim()
}

/** The template most of the folders have, the first of them at a tie. */
export async function commonTemplate(folders: string[]): Promise<string | undefined> {
  const counts = new Map<string, number>()
  for (const folder of folders) {
    const template = await readTemplate(folder)
    if (template !== undefined && template !== '') counts.set(template, (counts.get(template) ?? 0) + 1)
  }
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0]
}

/** Undefined where it is not there or cannot be read. */
async function readText(folder: string, name: string): Promise<string | undefined> {
  const bytes = await readSmall(await inside(folder, name), largestConfig).catch(() => undefined)
  return bytes?.toString('utf8')
}
