/** The model card: what the output is made of, for people and for model hubs. */

import { basename, isAbsolute } from 'node:path'
import { stringify } from 'yaml'

/** What a card says of a recipe. */
interface Recipe {
  method: { name: string; source: string }
  base?: string | undefined
  /** As it was written. */
  input: object
}

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

/** The card of an output that is one model, changed; `about` says how, in a paragraph. */
export function plainCard(
  title: string,
  of: {
    model: string
    about: string
    recipe: Record<string, unknown>
    version: string
    /** Front matter beside that of all cards, such as the licence. */
    front?: Record<string, unknown> | undefined
  },
): string {
  const model = isAbsolute(of.model) ? basename(of.model) : of.model
  return `---
${stringify({ base_model: [model], library_name: 'transformers', tags: ['weightsmith'], ...of.front })}---
# ${title}

Made by weightsmith ${of.version} from ${model}. ${of.about}

\`\`\`yaml
${stringify(of.recipe)}\`\`\`
`
}
