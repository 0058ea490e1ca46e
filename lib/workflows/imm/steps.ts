/** The steps of a round. Each leaves its files in the folder of the round and gives what the report says of it. */

import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Checkpoint, openCheckpoint, resolveModel } from '../../checkpoint/index.js'
import { importanceOf } from '../../compare/analyze.js'
import { type Example, readExamples } from '../../data/index.js'
import type { Engine } from '../../engine/engine.js'
import { evaluate as evaluateModel } from '../../eval/evaluate.js'
import { generate as generateTexts } from '../../generation/generate.js'
import { merge } from '../../merge/merge.js'
import type { RecipeInput } from '../../merge/recipe/index.js'
import { train } from '../../training/train.js'
import { messageOf, misuse, throwIfAborted, WeightsmithError } from '../../util/errors.js'
import type { ProgressEvent } from '../../util/progress.js'
import { isRight } from './check.js'
import { collapseOf, type ImmCollapse } from './collapse.js'
import { runCommand } from './command.js'
import type { Completion, Sampling, Settings, Trainer } from './config.js'

export interface ImmAccuracy {
  data: string
  value: number
}

export interface ImmEvaluation {
  id: ImmAccuracy[]
  ood: ImmAccuracy[]
  /** Means over the sets; null where there is none. */
  idMean: number | null
  oodMean: number | null
  /** On the held-out set. */
  valid?: number
  collapse?: { id?: ImmCollapse; ood?: ImmCollapse }
}

export interface ImmFilteredSamples {
  generated: number
  /** That passed the check, and of these the different ones. */
  right: number
  kept: number
}

/** What all steps of a run share. */
export interface Run {
  engine: Engine
  settings: Settings
  /** The folder of M0. */
  original: string
  signal: AbortSignal
  onProgress: (event: ProgressEvent) => void
}

const lineOf = (value: object) => `${JSON.stringify(value)}\n`

/** What a model says to the questions. */
export async function generateStep(run: Run, model: string, round: number, folder: string): Promise<number> {
  const { settings, signal } = run
  const { generate, questions } = settings
  const out = join(folder, 'generated.jsonl')
  if (typeof generate === 'function') {
    const completions = await generate({ model, questions, round, signal })
    await writeFile(out, completions.map(lineOf).join(''))
  } else if (generate.command !== undefined) {
    const log = join(folder, 'generate.log')
    const places = { model, questions, out }
    await runCommand('generate', generate.command, { places, folder: settings.folder, log, signal })
  } else {
    const examples = await readExamples(questions, settings.limit)
    const sampling = { samples: 3, temperature: 0.7, ...generate }
    const completions = await draw(run, model, examples, sampling, settings.seed + round)
    await writeFile(out, completions.map(lineOf).join(''))
  }
  return (await readCompletions(out)).length
}

/** The lines that pass the check, each once, as data for the trainer. */
export async function filterStep({ settings, signal }: Run, folder: string): Promise<ImmFilteredSamples> {
  const { filter } = settings
  const completions = await readCompletions(join(folder, 'generated.jsonl'))
  let right: Completion[] = []
  if (typeof filter === 'function') {
    for (const one of completions) if (await filter(one)) right.push(one)
  } else if (filter.command !== undefined) {
    const [data, out] = [join(folder, 'generated.jsonl'), join(folder, 'kept.jsonl')]
    const log = join(folder, 'filter.log')
    await runCommand('filter', filter.command, { places: { data, out }, folder: settings.folder, log, signal })
    right = await readCompletions(out)
  } else {
    right = completions.filter(({ text, answer }) => isRight(text, answer, filter.check, filter.pattern))
  }
  const lines = new Set(right.map(({ prompt, text }) => lineOf({ prompt, answer: text })))
  if (lines.size === 0) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `Nothing is left to train on: none of the ${completions.length} texts in ${folder} passes the filter. Look at generated.jsonl there.`,
      { file: folder },
    )
  }
  await writeFile(join(folder, 'data.jsonl'), [...lines].join(''))
  return { generated: completions.length, right: right.length, kept: lines.size }
}

/** The model that the trainer makes of another one and the data; checked against the original. */
export async function trainStep(run: Run, model: string, round: number, folder: string): Promise<string> {
  const { settings, signal, engine, original } = run
  const [data, out] = [join(folder, 'data.jsonl'), join(folder, 'trained')]
  await rm(out, { recursive: true, force: true })
  if (typeof settings.train === 'function') await settings.train({ model, data, out, round, signal })
  else if (settings.train.command === undefined) await learn(run, settings.train, { model, data, out, round, folder })
  else {
    const log = join(folder, 'train.log')
    await runCommand('train', settings.train.command, {
      places: { model, data, out },
      folder: settings.folder,
      log,
      signal,
    })
  }
  throwIfAborted(signal, 'The run')
  const [base, trained] = await engine.use(async ({ addon }) => {
    const openTrained = openCheckpoint(addon, out, out).catch((cause: unknown) => {
      const message = `The trainer of round ${round} has left no model in ${out}: ${messageOf(cause)}`
      throw new WeightsmithError('ERR_WEIGHTSMITH_COMMAND', message, { cause, file: out })
    })
    return Promise.all([openCheckpoint(addon, original, original), openTrained])
  })
  refuseOther(base, trained, round)
  return out
}

/** Trains the model on the data; an adapter is folded in. What an interrupted run has left goes on. */
async function learn(
  { engine, settings, signal, onProgress }: Run,
  { method = 'full', ...options }: Trainer,
  { model, data, out, round, folder }: { model: string; data: string; out: string; round: number; folder: string },
): Promise<void> {
  const to = method === 'full' ? { out } : { out: join(folder, 'adapter'), fold: out }
  const log = join(folder, 'train.jsonl')
  const common = { seed: settings.seed + round, overwrite: true, resume: true, signal, onProgress }
  await train(engine, model, { ...options, ...to, method, data, log, ...common })
}

/**
 * Throws ERR_WEIGHTSMITH_MISSING_TENSOR or ERR_WEIGHTSMITH_SHAPE_MISMATCH where a trained model is another one than the
 * original.
 */
function refuseOther(base: Checkpoint, trained: Checkpoint, round: number): void {
  for (const { name, shape } of base.tensors.values()) {
    const found = trained.tensors.get(name)
    const where = `The model that was trained in round ${round}, ${trained.path},`
    if (found === undefined) {
      const message = `${where} has no ${name}, which the original has.`
      throw new WeightsmithError('ERR_WEIGHTSMITH_MISSING_TENSOR', message, { tensor: name })
    }
    if (found.shape.join() !== shape.join()) {
      const message = `${where} has ${name} of shape [${found.shape.join(', ')}], but the original has [${shape.join(', ')}].`
      throw new WeightsmithError('ERR_WEIGHTSMITH_SHAPE_MISMATCH', message, { tensor: name })
    }
  }
}

/** M0 and the trained model (with `history: all`, those of all rounds) as one. */
export async function mergeStep(run: Run, trained: readonly string[], folder: string): Promise<string> {
  const { engine, settings, signal } = run
  const out = join(folder, 'merged')
  const recipe = await recipeOf(run, trained)
  await writeFile(join(folder, 'recipe.json'), `${JSON.stringify(recipe, null, 2)}\n`)
  const options = { out, overwrite: true, seed: settings.seed, folder: settings.folder, signal }
  await merge(engine, recipe, options)
  return out
}

async function recipeOf(run: Run, trained: readonly string[]): Promise<RecipeInput> {
  const { original: base, settings } = run
  const { recipe, dtype = 'float32', importance, pretrained, ...parameters } = settings.merge
  const improved = trained.at(-1) ?? base
  if (recipe !== undefined) {
    const text = JSON.stringify({ dtype, ...recipe }, (_, value: unknown) =>
      value === '{base}' ? base : value === '{improved}' ? improved : value,
    )
    return JSON.parse(text) as RecipeInput
  }
  if (importance !== undefined) return weighted(run, improved, dtype)
  return {
    merge_method: 'imm',
    base_model: base,
    models: trained.map((model) => ({ model })),
    parameters: {
      ...parameters,
      ...(pretrained === undefined ? {} : { pretrained: await resolveModel(pretrained, settings.folder) }),
    },
    dtype,
  }
}

/** IMM's merge with a share of its own for each layer: our extension. */
async function weighted(
  { engine, original, settings, signal }: Run,
  improved: string,
  dtype: string,
): Promise<RecipeInput> {
  const { alpha = 0.5, p = 0.2, rescale = true, importance } = settings.merge
  const { beta = 0, data = '' } = importance ?? {}
  const [first] = await importanceOf(engine, original, { data, signal })
  const values = first?.values ?? []
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length) || 1
  const weight = values.map((value, layer) => ({
    filter: `layers.${layer}.`,
    value: Math.min(1, Math.max(0, alpha * (1 + (beta * (value - mean)) / deviation))),
  }))
  return {
    merge_method: 'dare_linear',
    base_model: original,
    models: [{ model: improved, parameters: { weight: [...weight, { value: alpha }], density: 1 - p } }],
    parameters: { rescale: rescale ? 'expectation' : 'none' },
    dtype,
  }
}

/** Accuracies of a model, and with `whole` the signs of collapse. */
export async function evaluateStep(run: Run, model: string, whole: boolean): Promise<ImmEvaluation> {
  const { id, ood, valid, collapse = {} } = run.settings.evaluate
  const files = [...id, ...ood, ...(valid === undefined ? [] : [valid])]
  const values = await accuracies(run, model, files)
  const of = (sets: readonly string[]) => sets.map((data) => ({ data, value: values.get(data) ?? 0 }))
  const mean = (sets: readonly string[]) =>
    sets.length === 0 ? null : sets.reduce((sum, data) => sum + (values.get(data) ?? 0), 0) / sets.length
  const evaluation: ImmEvaluation = { id: of(id), ood: of(ood), idMean: mean(id), oodMean: mean(ood) }
  if (valid !== undefined) evaluation.valid = values.get(valid) ?? 0
  const { samples = 4, temperature = 0.8, limit = 50 } = collapse
  if (!whole || samples < 2) return evaluation
  const signs = async (sets: readonly string[]) => {
    const completions: Completion[] = []
    for (const file of sets) {
      const sampling = { ...samplingOf(run), samples, temperature }
      completions.push(...(await draw(run, model, await readExamples(file, limit), sampling, run.settings.seed)))
    }
    const { filter } = run.settings
    return typeof filter === 'function'
      ? collapseOf(completions)
      : collapseOf(completions, filter.check, filter.pattern)
  }
  evaluation.collapse = {
    ...(id.length > 0 ? { id: await signs(id) } : {}),
    ...(ood.length > 0 ? { ood: await signs(ood) } : {}),
  }
  return evaluation
}

/** Shares of right greedy answers: exact ones, or those that pass the filter's check. */
async function accuracies(run: Run, model: string, files: readonly string[]): Promise<Map<string, number>> {
  const { engine, settings, signal, onProgress } = run
  const { filter, evaluate } = settings
  const { limit, max_tokens: maxTokens } = evaluate
  const watch = { signal, onProgress }
  const values = new Map<string, number>()
  if (files.length === 0) return values
  if (typeof filter === 'function' || filter.check === undefined || filter.check === 'exact') {
    const options = { data: files, metric: 'exact-match' as const, limit, maxTokens, ...watch }
    const { sets } = await evaluateModel(engine, model, options)
    for (const { data, value } of sets) values.set(data, value)
    return values
  }
  for (const file of files) {
    const completions = await draw(
      run,
      model,
      await readExamples(file, limit),
      { ...samplingOf(run), samples: 1, temperature: 0, max_tokens: maxTokens },
      0,
    )
    const right = completions.filter(({ text, answer }) => isRight(text, answer, filter.check, filter.pattern))
    values.set(file, right.length / completions.length)
  }
  return values
}

function samplingOf({ settings: { generate, evaluate } }: Run): Sampling {
  const own = typeof generate === 'function' ? {} : generate
  return { ...own, ...(evaluate.max_tokens === undefined ? {} : { max_tokens: evaluate.max_tokens }) }
}

async function draw(
  { engine, signal, onProgress }: Run,
  model: string,
  examples: readonly Example[],
  { samples, temperature, top_k, top_p, max_tokens, stop, chat }: Sampling,
  seed: number,
): Promise<Completion[]> {
  const prompts = examples.map(({ prompt }) => prompt)
  const options = { samples, temperature, topK: top_k, topP: top_p, maxTokens: max_tokens, stop, chat, seed, signal }
  const { continuations } = await generateTexts(engine, model, prompts, {
    ...options,
    onProgress,
  })
  return continuations.map(({ prompt, sample, text }) => {
    const { prompt: asked = '', answer = '' } = examples[prompt] ?? {}
    return { prompt: asked, answer, sample, text }
  })
}

async function readCompletions(file: string): Promise<Completion[]> {
  const text = await readFile(file, 'utf8').catch((cause: unknown) => {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_COMMAND',
      `There is no ${file}, which the command should have written.`,
      {
        cause,
        file,
      },
    )
  })
  return text.split('\n').flatMap((line, i) => {
    if (line.trim() === '') return []
    try {
      const { prompt, answer, text: said, sample = 0 } = JSON.parse(line) as Partial<Completion>
      if ([prompt, answer, said].every((value) => typeof value === 'string')) {
        return [{ prompt, answer, text: said, sample } as Completion]
      }
    } catch {
      // It is said below.
    }
    const message = `Line ${i + 1} of ${file} should be an object with the texts "prompt", "answer" and "text".`
    throw misuse(message, { file })
  })
}
