/**
 * Lines of a data set as a model takes them: ids of prompts and answers, and images that are read when their turn
 * comes.
 */

import { dirname } from 'node:path'
import type { ModelSpec } from '../architectures/index.js'
import type { Checkpoint } from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import { type Model, rowsOf, type TokenSequence } from '../runtime/index.js'
import { WeightsmithError } from '../util/errors.js'
import { type Example, readExamples, readExamplesAndTexts } from './examples.js'
import { type ImageSource, Images } from './images/index.js'
import type { Pair, Tokenizer } from './tokenizer.js'

export interface Line {
  /** For a line that is a text alone: all of it. */
  prompt: number[]
  answer: number[]
  /** What ends an answer. */
  end: number[]
  /** Of the text, where the line is one alone. */
  bytes?: number | undefined
  image?: ImageSource | undefined
  split?: string | undefined
  /** For messages. */
  where: string
}

/** All ids of a line. */
export function idsOf({ prompt, answer, end }: Line): number[] {
  return [...prompt, ...answer, ...end]
}

/** The examples of a file. */
export async function readLines(file: string, tokenizer: Tokenizer, limit?: number): Promise<Line[]> {
  return (await readExamples(file, limit)).map((example) => lineOf(example, file, tokenizer))
}

/** The examples and texts of a file. A text is what the tokenizer makes of it, and nothing follows. */
export async function readDataLines(file: string, tokenizer: Tokenizer, limit?: number): Promise<Line[]> {
  return (await readExamplesAndTexts(file, limit)).map((item) => {
    if (!('text' in item)) return lineOf(item, file, tokenizer)
    const where = `Line ${item.line} of ${file}`
    return { prompt: tokenizer.prompt(item.text), answer: [], end: [], bytes: Buffer.byteLength(item.text), where }
  })
}

function lineOf({ prompt, answer, image, split, line }: Example, file: string, tokenizer: Tokenizer): Line {
  const where = `Line ${line} of ${file}`
  return { ...pairOf(tokenizer, prompt, answer, where), end: tokenizer.ends.slice(0, 1), image, split, where }
}

/**
 * Ids of a prompt and its answer. Throws ERR_WEIGHTSMITH_ARGUMENT where nothing stands before the answer, whose first
 * id nothing predicts.
 */
export function pairOf(tokenizer: Tokenizer, prompt: string, answer: string, where: string): Pair {
  const pair = tokenizer.pair(prompt, answer)
  if (pair.prompt.length > 0) return pair
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_ARGUMENT',
    `${where} has no token before ${JSON.stringify(answer)}, so that nothing predicts the first one of it; give it a prompt.`,
  )
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT for ids that a model's vocabulary does not have, or more tokens than its context. */
export function checkIds(
  {
    spec,
    checkpoint,
  }: {
    spec: Pick<ModelSpec, 'vocabulary' | 'context' | 'vision'>
    checkpoint: Pick<Checkpoint, 'name'>
  },
  ids: readonly number[],
  where: string,
): void {
  const refuse = (what: string) => {
    throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `${where} ${what}.`)
  }
  const wrong = ids.find((id) => id >= spec.vocabulary && id !== spec.vision?.token)
  if (wrong !== undefined) {
    refuse(
      `has the id ${wrong}, but ${checkpoint.name} knows 0 to ${spec.vocabulary - 1}: its tokenizer is of another model`,
    )
  }
  const length = rowsOf(spec, ids)
  if (length === 0) refuse('has no tokens')
  if (length > spec.context) {
    refuse(`has ${length} tokens, but the context of ${checkpoint.name} has ${spec.context}`)
  }
}

/** Reads the images of a file's lines. */
export class ImageLoader {
  private constructor(private readonly images: Images | undefined) {}

  /**
   * `root`: where images are, the folder of the file if nothing is said. Throws ERR_WEIGHTSMITH_ARGUMENT for a model
   * without a tower.
   */
  static async open(
    engine: Engine,
    { model, checkpoint }: { model: Model; checkpoint: Checkpoint },
    {
      file,
      lines,
      root = dirname(file),
    }: { file: string; lines: readonly Pick<Line, 'image' | 'where'>[]; root?: string | undefined },
  ): Promise<ImageLoader> {
    const seen = lines.find(({ image }) => image !== undefined)
    if (seen === undefined) return new ImageLoader(undefined)
    const { vision } = model.spec
    if (vision === undefined) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_ARGUMENT',
        `${seen.where} has an image, but ${checkpoint.name} is a ${model.spec.architecture}, which sees none.`,
      )
    }
    return new ImageLoader(await engine.use(({ addon }) => Images.open(addon, checkpoint, vision.size, { root })))
  }

  /** Whether no line has an image. */
  get isEmpty(): boolean {
    return this.images === undefined
  }

  /** Ids of a line with its image. Errors say which line it is. */
  async sequence(ids: number[], { image, where }: Pick<Line, 'image' | 'where'>): Promise<TokenSequence> {
    if (image === undefined || this.images === undefined) return ids
    try {
      return { ids, images: [await this.images.pixels(image)] }
    } catch (error) {
      if (!(error instanceof WeightsmithError)) throw error
      throw new WeightsmithError(error.code, `${where}: ${error.message}`, { cause: error, file: error.file })
    }
  }
}
