/** Recipes: what to merge, and how. */

export { resolveModel } from './models.js'
export {
  checkRecipe,
  loadRecipe,
  parseDType,
  type Recipe,
  type RecipeInput,
  type Slice,
  type Source,
} from './recipe.js'
export { type JsonSchema, recipeSchema } from './schema.js'
export { evaluate, type FilteredValue, type Parameters, type ParameterValue } from './values.js'
