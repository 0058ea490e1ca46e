/** Single weights of all linears of the layers become zeros. */

import { inputsOf } from '../architectures/index.js'
import type { Content } from '../checkpoint/index.js'
import type { Scores } from '../score/index.js'
import type { Choice, Decision, Subject } from './decision.js'
import { type Products, productsOf, sparseGptTensor } from './sparsegpt.js'
import { checkSparsity, parsePattern, sparseTensor } from './weights.js'

export async function pruneWeights(subject: Subject, options: Choice): Promise<Decision> {
  const { host, checkpoint, spec } = subject
  const scores = subject.scores as Scores
  const pattern = options.pattern === undefined ? undefined : parsePattern(options.pattern)
  const sparsity = { share: options.sparsity ?? 0.5, pattern }
  const tensors = new Map<string, Content>()
  let removed = 0
  /** Of linears that share an input, which are written close to each other: the last two are kept. */
  const known = new Map<string, Promise<Products>>()
  const products = (first: string): Promise<Products> => {
    const found = known.get(first) ?? scores.read(`gram/${first}`).then((gram) => productsOf(host.addon, gram))
    known.delete(first)
    known.set(first, found)
    for (const [old] of [...known].slice(0, -2)) known.delete(old)
    return found
  }
  const shared = spec.language.layers.flatMap((layer) => inputsOf(layer))
  for (const [name, first] of shared.flatMap((names) => names.map((name) => [name, names[0] ?? name] as const))) {
    const tensor = checkpoint.tensors.get(name)
    if (tensor === undefined) continue
    checkSparsity(sparsity, tensor)
    const needs = (kind: string, owner: string) => scores.read(`${kind}/${owner}`)
    const norms = options.method === 'wanda' ? await needs('norm', name) : undefined
    if (options.method === 'sparsegpt') {
      if (scores.tensors.has(`gram/${first}`) !== true) await needs('gram', first)
      tensors.set(
        name,
        sparseGptTensor(host, checkpoint, tensor, sparsity, () => products(first)),
      )
    } else tensors.set(name, sparseTensor(host, checkpoint, tensor, sparsity, norms))
    const [rows = 0, columns = 0] = tensor.shape
    removed +=
      pattern !== undefined
        ? (rows * columns * (pattern.of - pattern.stay)) / pattern.of
        : options.method === 'wanda'
          ? rows * Math.floor(sparsity.share * columns)
          : rows * columns - Math.floor((1 - sparsity.share) * rows * columns)
  }
  const what = pattern === undefined ? `a share of ${sparsity.share}` : `all but ${pattern.stay} of each ${pattern.of}`
  return {
    tensors,
    config: undefined,
    removed,
    about: `Weights with the least scores by ${options.method} are zeros${options.method === 'sparsegpt' ? ', and others make up for them' : ''}: ${what} in every linear of the layers.`,
    notes: [],
  }
}
