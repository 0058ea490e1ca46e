/** The model card: what the output is made of, for people and for model hubs. */

import { basename, isAbsolute } from 'node:path'
import { stringify } from 'yaml'
import type { Recipe } from '../recipe/index.js'

export function modelCard(
  title: string,
  { recipe, models, seed, version }: { recipe: Recipe; models: string[]; seed: number; version: string },
): string {
  const shown = (model: string) => (isAbsolute(model) ? basename(model) : model)
  const front = stringify({
    base_model: models.map(shown),
    library_name: 'transformers',
    tags: ['merge', 'weightsmith'],
  })
  const { method } = recipe
  return `---
${front}---
# ${title}

Made by weightsmith ${version} with the merge method \`${method.name}\` (${method.source}) and seed ${seed}.

## Models

${models.map((m) => `- ${shown(m)}${m === recipe.base ? ' (base)' : ''}`).join('\n')}

## Recipe

\`\`\`yaml
${stringify(recipe.input)}\`\`\`
`
}
