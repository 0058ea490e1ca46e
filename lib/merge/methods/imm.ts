/**
 * IMM's merge: the original model M0 (`base_model`) plus alpha times the dropped-out difference of the self-improved
 * model S. With `pretrained`, both M0 and S are differences from it (the literal reading of the published command).
 */

import { dareStep } from './dare.js'
import { type MergeMethod, num } from './method.js'

export const imm: MergeMethod = {
  name: 'imm',
  about: 'Merges the original model with its self-improved successor, with entries of the difference dropped at random',
  formula:
    'B + α drop(M - B) with drop(d) = d / (1 - p) with probability 1 - p, else 0; with pretrained P: ' +
    'P + (1 - α) drop(B - P) + α drop(M - P); with history all, M stands for each model and α is shared among them',
  source: 'arXiv 2503.02103; drop and rescale as in MergeLM',
  differences: 'mergekit has no such method.',
  needsBase: true,
  models: { min: 1, max: 16 },
  parameters: [
    { name: 'alpha', about: 'Weight of the self-improved model', type: 'number', scope: 'global', default: 0.5 },
    {
      name: 'p',
      about: 'Probability that an entry of the difference is dropped',
      type: 'number',
      scope: 'global',
      default: 0.2,
      min: 0,
      max: 1,
    },
    { name: 'rescale', about: 'Divide what is kept by 1 - p', type: 'boolean', scope: 'global', default: true },
    {
      name: 'history',
      about: 'last: the last model listed; all: the mean of all models listed',
      type: 'choice',
      scope: 'global',
      default: 'last',
      values: ['last', 'all'],
    },
    {
      name: 'pretrained',
      about: 'Model from which both the original and the improved one were trained',
      type: 'model',
      scope: 'global',
      optional: true,
    },
  ],
  determinism: 'exact',
  arrange: ({ base, pretrained, models, globals }) => {
    const used = globals.history === 'all' ? models : models.slice(-1)
    return pretrained === undefined ? { bases: [base], models: used } : { bases: [pretrained], models: [base, ...used] }
  },
  step({ global, models, shape }) {
    const alpha = num(global, 'alpha')
    const drop = num(global, 'p')
    const improved = global.pretrained === undefined ? models.length : models.length - 1
    const weights = Array.from({ length: improved }, () => alpha / improved)
    if (global.pretrained !== undefined) weights.unshift(1 - alpha)
    return dareStep({
      shape,
      weights,
      densities: weights.map(() => 1 - drop),
      lambda: 1,
      normalize: false,
      consensus: 'linear',
      rescale: global.rescale === false ? 'none' : 'expectation',
    })
  },
}
