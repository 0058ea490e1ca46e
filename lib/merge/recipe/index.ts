/** Recipes: what to merge, and how. */

export type { Module } from './modules.js'
export { checkRecipe, loadRecipe, modelsOf, type Recipe, type RecipeInput, statisticsOf } from './recipe.js'
export { type JsonSchema, recipeSchema } from './schema.js'
export type { Merge, Slice, Source } from './sources.js'
export type { TokenizerPolicy, TokenRule, TokenSource } from './tokenizer.js'
export { evaluate, type FilteredValue, type Parameters, type ParameterValue } from './values.js'
