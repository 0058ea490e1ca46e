/**
 * Text in and out of models is as tokenizers and transformers have it, and answers are cut as lm-evaluation-harness
 * cuts them.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from '@jest/globals'
import { openTokenizer, type Tokenizer } from '../lib/data/index.js'
import { StreamingDetokenizer } from '../lib/generation/detokenizer.js'

interface Case {
  parts: Record<string, unknown>
  ids: number[][]
  /** Of the ids, without special ones. */
  texts: string[]
  /** Ids of prompt and answer; null where the prompt alone has others than in the whole. */
  pairs: ([number[], number[]] | null)[]
}
type Definition = Record<string, unknown> & { model: { vocab: Record<string, number> } }

const goldens = JSON.parse(readFileSync(join(process.cwd(), 'test/peers/tokenizers/tokenizers.json'), 'utf8')) as {
  texts: string[]
  pairs: [string, string][]
  sets: { definition: Definition; cases: Record<string, Case> }[]
}
const cases = goldens.sets.flatMap(({ definition, cases }) =>
  Object.entries(cases).map(([name, one]) => ({ name, ...one, definition: { ...definition, ...one.parts } })),
)
const definitionOf = (name: string) => cases.find((one) => one.name === name)!.definition

const root = mkdtempSync(join(tmpdir(), 'weightsmith-text-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

let folders = 0
function open(definition: object, settings: object = {}, files: Record<string, string> = {}): Promise<Tokenizer> {
  const folder = join(root, String(folders++))
  mkdirSync(folder)
  const all = {
    'tokenizer.json': JSON.stringify(definition),
    'tokenizer_config.json': JSON.stringify(settings),
    ...files,
  }
  for (const [name, content] of Object.entries(all)) writeFileSync(join(folder, name), content)
  return openTokenizer({ path: folder, name: 'it', config: {} } as Parameters<typeof openTokenizer>[0])
}

describe.each(cases)('a tokenizer with $name', ({ name, definition, ids, texts, pairs }) => {
  test('gives the ids of tokenizers, and their text', async () => {
    const text = await open(definition)
    for (const [i, given] of goldens.texts.entries()) {
      expect([given, ...text.prompt(given)]).toEqual([given, ...ids[i]!])
      // tokenizers drops every space of a first token, not only the one that was put there.
      const lossy = name.startsWith('metaspace') && !name.includes('never')
      const shown = (value: string) => (lossy ? value.replaceAll(' ', '') : value)
      expect(shown(text.decode(ids[i]!))).toBe(shown(texts[i]!))
    }
  })

  test('cuts an answer where its prompt ends in the text of both', async () => {
    const text = await open(definition)
    for (const [i, [prompt, answer]] of goldens.pairs.entries()) {
      const pair = text.pair(prompt, answer)
      expect([...pair.prompt, ...pair.answer]).toEqual(text.prompt(prompt + answer))
      const want = pairs[i]
      if (want) expect([prompt, answer, pair]).toEqual([prompt, answer, { prompt: want[0], answer: want[1] }])
      // All of an answer is in it, and what the prompt alone has there too is not.
      else expect(text.prompt(prompt.trimEnd()).slice(0, pair.prompt.length + 1)).not.toEqual(pair.prompt)
    }
  })
})

describe('text', () => {
  test('keeps spaces before punctuation, whatever the settings of the tokenizer say', async () => {
    for (const settings of [{}, { clean_up_tokenization_spaces: true }, { clean_up_tokenization_spaces: false }]) {
      const text = await open(definitionOf('words'), settings)
      const given = "a , b ? c ! don 't do n't foo !== bar ..."
      expect(text.decode(text.prompt(given))).toBe(given)
    }
  })

  test('that goes on after other ids keeps the space that begins it', async () => {
    const text = await open(definitionOf('llama 2'))
    const [prompt, said] = [text.prompt('k'), text.pair('k', ' q r').answer]
    expect(text.decode(said)).toBe('q r')
    expect(text.decode(said, prompt)).toBe(' q r')
    // After nothing but special ids it begins the text.
    expect(text.decode(said, text.prompt(''))).toBe('q r')
    const bytes = await open(definitionOf('words'))
    expect(bytes.decode(bytes.pair('😀', ' x').answer, bytes.prompt('😀'))).toBe(' x')
  })

  test('of ids that are of no token is empty, as in a vocabulary that is padded', async () => {
    const text = await open(definitionOf('words'))
    const ids = text.prompt('a b')
    expect(text.decode([9999, ...ids, 9998])).toBe('a b')
    expect(text.decode([9999])).toBe('')
  })

  test('leaves out of an answer what the tokenizer puts after a text', async () => {
    const [special, plain] = [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }]
    const post_processor = {
      type: 'TemplateProcessing',
      single: [special, plain, special],
      pair: [],
      special_tokens: {},
    }
    const text = await open({ ...definitionOf('words'), post_processor })
    const ids = text.prompt('a b c')
    expect(ids.at(-1)).toBe(ids[0])
    expect(text.pair('a b', ' c')).toEqual({ prompt: ids.slice(0, -2), answer: ids.slice(-2, -1) })
    expect(text.pair('a b', '')).toEqual({ prompt: ids.slice(0, -2), answer: [] })
  })

  test('that a vocabulary of words does not know has the id that its model names, or is refused', async () => {
    const model = { type: 'WordLevel', vocab: { a: 0, '?': 1 }, unk_token: '?' }
    const pre_tokenizer = { type: 'WhitespaceSplit' }
    const definition = { model, pre_tokenizer, added_tokens: [], normalizer: null, post_processor: null, decoder: null }
    expect((await open(definition)).prompt('a b a')).toEqual([0, 1, 0])
    const without = await open({ ...definition, model: { type: 'WordLevel', vocab: { a: 0 } } })
    expect(() => without.prompt('a b')).toThrow(/has no id for "b"/)
    await expect(
      open({ ...definition, pre_tokenizer: { type: 'Split', pattern: { String: 'a' }, behavior: 'Thrown' } }),
    ).rejects.toThrow(/cannot be split with the behavior "Thrown"/)
  })

  test('of a chat follows the template in a file of its own before that of the settings', async () => {
    const settings = { chat_template: 'a {{ messages[0].content }}' }
    const messages = [{ role: 'user', content: 'x' }]
    const both = await open(definitionOf('words'), settings, { 'chat_template.jinja': 'b {{ messages[0].content }}' })
    expect(both.decode(both.chat(messages))).toBe('b x')
    const one = await open(definitionOf('words'), settings)
    expect(one.decode(one.chat(messages))).toBe('a x')
  })
})

describe('a streaming detokenizer', () => {
  const at = { prompt: 0, sample: 0 }

  test.each(cases)('of $name emits the text of all tokens, in pieces', async ({ definition }) => {
    const tokenizer = await open(definition)
    for (const given of goldens.texts) {
      const [prompt, ids] = [tokenizer.prompt('a'), tokenizer.prompt(given)]
      const pieces: string[] = []
      const detokenizer = new StreamingDetokenizer(tokenizer.decode, () => prompt, {
        stop: ['never said'],
        onText: (piece) => pieces.push(piece),
      })
      for (const i of ids.keys()) expect(detokenizer.push(ids.slice(0, i + 1), at)).toBe(false)
      const { text, stopped } = detokenizer.finish(ids, at)
      expect([text, stopped]).toEqual([tokenizer.decode(ids, prompt), false])
      expect(pieces.join('')).toBe(text)
    }
  })

  test('decodes a token once as it comes, and once at the end', () => {
    let decoded = 0
    const decode = (ids: readonly number[]) => {
      decoded += ids.length
      return 'x'.repeat(ids.length)
    }
    const detokenizer = new StreamingDetokenizer(decode, () => [], { stop: ['y'] })
    const ids = Array.from({ length: 1000 }, (_, i) => i)
    for (const i of ids.keys()) detokenizer.push(ids.slice(0, i + 1), at)
    expect(detokenizer.finish(ids, at).text).toHaveLength(1000)
    expect(decoded).toBe(2000)
  })

  test('holds back what may begin a stop text, over tokens and characters', () => {
    const words = ['a', 'b', '\ufffd', 'c', 'a', 'b', 'c']
    const pieces: string[] = []
    const decode = (ids: readonly number[]) =>
      ids
        .map((id) => words[id])
        .join('')
        .replace('\ufffdc', 'é')
    const detokenizer = new StreamingDetokenizer(decode, () => [], {
      stop: ['abc'],
      onText: (piece) => pieces.push(piece),
    })
    const ids = [...words.keys()]
    expect(ids.map((i) => detokenizer.push(ids.slice(0, i + 1), at))).toEqual([...Array(6).fill(false), true])
    // 'a' once 'abé' cannot be its beginning; then all but the last two characters.
    expect(pieces.join('')).toBe('abé')
    expect(detokenizer.finish(ids, at)).toEqual({ text: 'abé', stopped: true })
    expect(pieces.join('')).toBe('abé')
  })
})
