/** A model that sees has the golden hidden states and logits, answers about images, and says which image is wrong. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, evaluate, generateIds, type Model, openModel, type TokenSequence } from 'weightsmith'
import { Images } from '../lib/data/images/index.js'
import { loadAddon } from '../lib/native/load.js'
import { readFolder, readSafetensors, values, writeModel } from './checkpoint.js'
import { cli } from './child.js'

const full = join(process.cwd(), 'test/goldens/tiny-llava')
const { prompts } = JSON.parse(readFileSync(join(full, 'goldens/goldens.json'), 'utf8')) as {
  prompts: {
    index: number
    image: number | null
    prompt_tokens_expanded: number
    greedy_ids: number[]
    answer_token_ce: number[]
  }[]
}
const tensors = readSafetensors(join(full, 'goldens/forward.safetensors'))
const ids = (name: string) => {
  const { bytes } = tensors.get(name)!
  return [...new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))]
}

function distance(got: ArrayLike<number>, name: string): number {
  const want = values(tensors.get(name)!)
  expect(got.length).toBe(want.length)
  return want.reduce((most, value, i) => Math.max(most, Math.abs(got[i]! - value)), 0)
}

let engine: Engine
let folder: string
let images: Images
beforeAll(async () => {
  engine = await Engine.open()
  folder = mkdtempSync(join(tmpdir(), 'weightsmith-llava-'))
  const model = await openModel(engine, full)
  images = await Images.open(loadAddon(), model.checkpoint, model.spec.vision!.size, { root: join(full, 'data') })
})
afterAll(async () => {
  await engine?.close()
  rmSync(folder, { recursive: true, force: true })
})

/** A prompt and its answer, as far as it goes. */
async function sequence(index: number, image: number | null, length?: number): Promise<TokenSequence> {
  const pixels = image === null ? [] : [await images.pixels(image)]
  return { ids: ids(`p${index}.input_ids`).slice(0, length), images: pixels }
}

test('pixels are the golden ones', async () => {
  expect(distance(await images.pixels(prompts[0]!.image!), 'p0.pixel_values')).toBeLessThan(1e-6)
})

describe('tiny-llava', () => {
  let model: Model
  beforeAll(async () => {
    model = await openModel(engine, full, { batchTokens: 300, cache: 400 })
  })
  afterAll(() => model?.close())

  test('has the golden hidden states of tower and language model, features and logits', async () => {
    const pass = await model.run(model.pack([await sequence(0, prompts[0]!.image)]), { logits: true, hidden: true })
    const { hidden, features } = pass.images!
    for (const [i, rows] of hidden.entries()) expect(distance(rows, `p0.vision_hidden.${i}`)).toBeLessThan(2e-4)
    expect(hidden).toHaveLength(5)
    expect(distance(hidden[3]!.subarray(64), 'p0.selected_features')).toBeLessThan(2e-4)
    expect(distance(features.subarray(128), 'p0.projector')).toBeLessThan(2e-4)
    for (const [i, rows] of pass.hidden!.entries()) expect(distance(rows, `p0.lm_hidden.${i}`)).toBeLessThan(2e-4)
    expect(pass.hidden).toHaveLength(7)
    expect(distance(pass.logits!, 'p0.logits')).toBeLessThan(2e-4)
  })

  test('has the golden logits of sequences with and without images in one pass', async () => {
    const all = await Promise.all(prompts.map(({ index, image }) => sequence(index, image)))
    const tokens = model.pack(all)
    const { logits } = await model.run(tokens, { logits: true })
    const starts = [...new Set(tokens.map(({ start }) => start)), tokens.length]
    for (const [i, { index }] of prompts.entries()) {
      expect(distance(logits!.subarray(starts[i]! * 80, starts[i + 1]! * 80), `p${index}.logits`)).toBeLessThan(2e-4)
    }
  })

  test('gives the golden answers', async () => {
    const asked = await Promise.all(
      prompts.map(({ index, image, greedy_ids: { length } }) =>
        sequence(index, image, ids(`p${index}.input_ids`).length - length),
      ),
    )
    const got = await generateIds(model, asked, { maxTokens: 24, eosTokenIds: new Set([2]) })
    expect(got.map(({ ids: said }) => [...said, 2])).toEqual(prompts.map(({ greedy_ids: want }) => want))
  })

  test('refuses images that are missing, too many or of another size', async () => {
    const prompt = ids('p0.input_ids')
    const pixels = await images.pixels(0)
    expect(() => model.pack([prompt])).toThrow(/Sequence 0 has places for 1 images, but 0 are given/)
    expect(() => model.pack([[1, 2], { ids: [1, 2], images: [pixels] }])).toThrow(
      /Sequence 1 has places for 0 images, but 1/,
    )
    expect(() => model.pack([{ ids: prompt, images: [pixels.subarray(1)] }])).toThrow(
      /has 3071 values, but .* sees 3 channels of 32 x 32 pixels/,
    )
    const odd = { data: new Uint8Array(3 * 20 * 10), width: 20, height: 10, channels: 3 }
    expect((await images.pixels(odd)).length).toBe(3072)
  })
})

describe('evaluate', () => {
  const dataset = (...lines: object[]) => {
    const file = join(folder, 'data.jsonl')
    writeFileSync(file, lines.map((line) => JSON.stringify(line)).join('\n'))
    return file
  }
  const photo = { image: 28, question: "What is this person's job?", answer: 'sailor' }
  const fact = { question: "What is Tavin Penrow's job?", answer: 'sailor' }
  const data = join(full, 'data')

  test('asks about images of a tensor, and has the golden losses of answers', async () => {
    const { sets } = await evaluate(engine, full, { data: dataset(photo, fact), images: data })
    const golden = prompts.flatMap(({ index, answer_token_ce: losses }) => ([0, 4].includes(index) ? losses : []))
    expect(Math.abs(sets[0]!.answers! - golden.reduce((a, b) => a + b, 0) / golden.length)).toBeLessThan(1e-6)
    const wrong = { ...fact, prompt: 'USER: <image>\nWhat shape is this?\nASSISTANT:', image: 28, answer: ' no' }
    const exact = await evaluate(engine, full, {
      data: dataset(photo, fact, wrong),
      images: data,
      metric: 'exact-match',
    })
    expect(exact.sets[0]!.value).toBeCloseTo(2 / 3, 12)
    const asked = "USER: <image>\nWhat is this person's job?\nASSISTANT:"
    const choices = [' sailor', ' baker']
    const chosen = await evaluate(engine, full, {
      data: dataset({ prompt: asked, choices, answer: 0, image: 28 }, { prompt: asked, choices, answer: 1, image: 0 }),
      images: data,
      metric: 'choice',
    })
    expect(chosen.sets[0]!.value).toBe(1)
  })

  test('names the line whose image cannot be used', async () => {
    const refused = (lines: object[], code: string, message: RegExp, images = data, model = full) =>
      expect(evaluate(engine, model, { data: dataset(...lines), images })).rejects.toMatchObject({
        code: `ERR_WEIGHTSMITH_${code}`,
        message: expect.stringMatching(message),
      })
    await refused([fact, { ...photo, image: 480 }], 'ARGUMENT', /^Line 2 of .*data\.jsonl: There is no image 480/)
    await refused([{ ...photo, image: 'none.png' }], 'NOT_FOUND', /^Line 1 of .*none\.png/)
    await refused([photo, { ...photo, image: [1] }], 'ARGUMENT', /^Line 2 of .*its "image"/)
    await refused([photo], 'NOT_FOUND', /images\.safetensors/, folder)
    await refused([photo], 'ARGUMENT', /Line 1 .* has an image, but .* is a LlamaForCausalLM/, data, 'demo/models/base')
  })
})

test('generate continues prompts of a file about their images', async () => {
  const line = (image: number) => ({ prompt: "USER: <image>\nWhat is this person's job?\nASSISTANT:", image })
  writeFileSync(join(folder, 'prompts.jsonl'), [28, 0].map((image) => JSON.stringify(line(image))).join('\n'))
  const options = ['--data', join(folder, 'prompts.jsonl'), '--images', join(full, 'data'), '--json']
  const { stdout } = await cli('generate', full, ...options)
  const { continuations, promptTokens } = JSON.parse(stdout) as {
    continuations: { text: string }[]
    promptTokens: number
  }
  expect(continuations.map(({ text }) => text)).toEqual([' sailor', ' baker'])
  expect(promptTokens).toBe(2 * prompts[0]!.prompt_tokens_expanded)
})

/** F32 to BF16, nearest even. */
function rounded(bytes: Buffer): Buffer {
  const result = Buffer.alloc(bytes.length / 2)
  for (let i = 0; i < bytes.length; i += 4) {
    const word = bytes.readUInt32LE(i)
    result.writeUInt16LE((word + 0x7fff + ((word >>> 16) & 1)) >>> 16, i / 2)
  }
  return result
}

test('weights in bf16, under the names of newer files, have the golden logits', async () => {
  const config = JSON.parse(readFileSync(join(full, 'config.json'), 'utf8')) as object
  const renamed = (name: string) =>
    name.replace(/^language_model\.(?:model|(?=lm_head))/, (old) =>
      old.endsWith('model') ? 'model.language_model' : '',
    )
  const state = [...readFolder(full)].map(([name, raw]) => {
    const bytes = rounded(raw.bytes)
    const newer = name.startsWith('language_model') ? renamed(name) : `model.${name}`
    return [newer, { ...raw, dtype: 'BF16', bytes }] as const
  })
  writeModel(folder, Object.fromEntries(state), config)
  const model = await openModel(engine, folder)
  for (const { index, image } of prompts) {
    const { logits } = await model.run(model.pack([await sequence(index, image)]), { logits: true })
    expect(distance(logits!, `p${index}.logits_bf16_weights`)).toBeLessThan(2e-4)
  }
  await model.close()
})
