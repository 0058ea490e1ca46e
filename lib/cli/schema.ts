/** `weightsmith schema`. */

import type { Command } from 'commander'
import { recipeSchema } from '../merge/recipe/index.js'
import { json } from './options.js'
import { print, verb } from './verb.js'

export function addSchema(program: Command): void {
  verb(
    program,
    'schema',
    'print the JSON Schema of recipes, for completion and checks in editors',
    'weightsmith schema > recipe.schema.json',
  )
    .addOption(json())
    .action(() => print(recipeSchema(), String, { json: true }))
}
