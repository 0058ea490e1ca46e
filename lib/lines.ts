/** Lines of a data set as a model takes them: ids of prompts and answers, and images that are read when their turn comes. */

import { dirname } from 'node:path'
import type { Checkpoint } from './checkpoint/index.js'
import type { Engine } from './engine.js'
import { WeightsmithError } from './errors.js'
import type { Model, Sequence } from './forward/index.js'
import { type ImageSource, Images } from './images/index.js'
import { readExamples, type Text } from './text.js'

export interface Line {
  prompt: number[]
  answer: number[]
  image?: ImageSource | undefined
  split?: string | undefined
  /** For messages. */
  where: string
}

/** The examples of a file. Prompt and answer are tokenized each on its own. */
export async function readLines(file: string, text: Text, limit?: number): Promise<Line[]> {
  const examples = await readExamples(file, limit)
  return examples.map(({ prompt, answer, image, split, line }) => ({
    prompt: text.prompt(prompt),
    answer: text.answer(answer),
    image,
    split,
    where: `Line ${line} of ${file}`,
  }))
}

/** Reads the images of a file's lines. */
export class Sight {
  private constructor(private readonly images: Images | undefined) {}

  /** `root`: where images are, the folder of the file if nothing is said. Throws ERR_WEIGHTSMITH_ARGUMENT for a model without a tower. */
  static async open(
    engine: Engine,
    { model, checkpoint }: { model: Model; checkpoint: Checkpoint },
    { file, lines, root = dirname(file) }: { file: string; lines: readonly Line[]; root?: string | undefined },
  ): Promise<Sight> {
    const seen = lines.find(({ image }) => image !== undefined)
    if (seen === undefined) return new Sight(undefined)
    const { vision } = model.spec
    if (vision === undefined) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_ARGUMENT',
        `${seen.where} has an image, but ${checkpoint.name} is a ${model.spec.architecture}, which sees none.`,
      )
    }
    return new Sight(await engine.use(({ addon }) => Images.open(addon, checkpoint, vision.size, { root })))
  }

  /** Whether no line has an image. */
  get blind(): boolean {
    return this.images === undefined
  }

  /** Ids of a line with its image. Errors say which line it is. */
  async sequence(ids: number[], { image, where }: Line): Promise<Sequence> {
    if (image === undefined || this.images === undefined) return ids
    try {
      return { ids, images: [await this.images.pixels(image)] }
    } catch (error) {
      if (!(error instanceof WeightsmithError)) throw error
      throw new WeightsmithError(error.code, `${where}: ${error.message}`, { cause: error, file: error.file })
    }
  }
}
