/** Training data: files become ids with what of them is to be predicted, and nothing is lost without a word. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from '@jest/globals'
import { type ChatMessage, openTokenizer, readRecords, type Tokenizer } from '../lib/data/index.js'
import { readRows } from '../lib/data/parquet.js'
import { decodeRows } from '../lib/data/parquet_rows.js'
import { readTrainingData, type TrainingDataOptions, type TrainingFile } from '../lib/training/index.js'
import { uniform } from './random.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('training-data')
type Checkpoint = Parameters<typeof openTokenizer>[0]
const base = { path: 'demo/models/base', name: 'base', config: {} } as Checkpoint
const spec = { vocabulary: 128, context: 128 }

/** A file of lines, or of what is given as it is. */
function data(content: readonly object[] | string | Buffer, ending = 'jsonl'): string {
  const file = `${fresh('data')}.${ending}`
  writeFileSync(
    file,
    typeof content === 'string' || Buffer.isBuffer(content)
      ? content
      : content.map((line) => JSON.stringify(line)).join('\n'),
  )
  return file
}

async function records(file: string, columns = ['messages', 'prompt', 'answer', 'text']) {
  const all = []
  for await (const record of readRecords(file, columns)) all.push(record)
  return all
}

function read(
  content: readonly object[] | TrainingFile[],
  options?: TrainingDataOptions,
  subject = spec,
  checkpoint = base,
) {
  const given = content as (object & { file?: string })[]
  const list = given[0]?.file === undefined ? [{ file: data(given) }] : (given as TrainingFile[])
  return readTrainingData({ spec: subject, checkpoint }, list, options)
}

/** Texts of the ids that are predicted and of all ids, of every example. */
let tokenizer: Tokenizer
beforeAll(async () => {
  tokenizer = await openTokenizer(base)
})
const [bos, eos] = [1, 2]
const said = ({ ids, targets }: { ids: number[]; targets: Uint8Array }) => ids.filter((_, i) => targets[i] === 1)
const textsOf = ({ sources }: Awaited<ReturnType<typeof read>>) =>
  sources.flatMap(({ examples }) => examples.map((one) => [tokenizer.decode(one.ids), tokenizer.decode(said(one))]))

describe('a file of records', () => {
  const parquet = (name: string) => `test/goldens/training/${name}.parquet`
  const wanted = [
    { prompt: '49+45=', answer: '94' },
    { prompt: 's:graph=', answer: 'aghpr' },
    { prompt: 'größe 日本=', answer: '😀' },
    { prompt: 'r:abc=' },
    ...Array.from({ length: 36 }, (_, i) => ({ prompt: `${i + 5}+1=`, answer: `${i + 6}` })),
  ]

  test.each(['none', 'snappy', 'gzip', 'zstd', 'brotli', 'lz4', 'v2'])(
    'of Parquet has the rows that pyarrow wrote: %s',
    async (name) => {
      const all = await records(parquet(name))
      expect(all.map(({ values }) => values)).toEqual(wanted)
      expect(all[39]!.where).toBe(`Row 40 of ${parquet(name)}`)
    },
  )

  test('of Parquet has conversations as lists of objects, without values that are not there', async () => {
    const [first, second] = await records(parquet('messages'))
    expect(first!.values).toEqual({
      messages: [
        { role: 'user', content: 'a?' },
        { role: 'assistant', content: 'b', name: 'x' },
      ],
    })
    expect((second!.values.messages as object[]).length).toBe(5)
  })

  test('is a line each, or an array where a .json file begins with a bracket', async () => {
    const lines = [{ text: 'a' }, { text: 'b\u2028c', prompt: null }]
    const text = lines.map((line) => JSON.stringify(line)).join('\r\n\n')
    const values = [{ text: 'a' }, { text: 'b\u2028c' }]
    for (const file of [data(text), data(`\uFEFF${text}\n`), data(text, 'json')]) {
      expect(await records(file)).toEqual([
        { values: values[0], where: `Line 1 of ${file}` },
        { values: values[1], where: `Line 3 of ${file}` },
      ])
    }
    const array = data(`\n ${JSON.stringify(lines, null, 1)}`, 'json')
    expect((await records(array)).map(({ where }) => where)).toEqual([`Record 1 of ${array}`, `Record 2 of ${array}`])
  })

  test('is read whole where it is longer than a part of it', async () => {
    const long = 'ä'.repeat(100_000)
    const file = data([{ text: long }, { text: 'b' }, { text: `${long}c` }])
    expect((await records(file)).map(({ values }) => values.text)).toEqual([long, 'b', `${long}c`])
  })

  test.each([
    ['a line that is not JSON', 'jsonl', '{"text": "a"}\n{"text": ', /^Line 2 of \S+ is not JSON: .+\.$/],
    ['a line that is no object', 'jsonl', '\n["a"]', /^Line 2 of \S+ should be an object\.$/],
    ['an array that is not JSON', 'json', '[{"text": "a"}', /^\S+ is not JSON: .+\.$/],
    ['an array of texts', 'json', '[{}, "a"]', /^Record 2 of \S+ should be an object\.$/],
  ])('is refused for %s', async (_, ending, content, message) => {
    const problem = { code: 'ERR_WEIGHTSMITH_ARGUMENT', message: expect.stringMatching(message) }
    await expect(records(data(content, ending))).rejects.toMatchObject(problem)
  })

  test('is refused where it is missing, a folder, or has no column that is asked for', async () => {
    await expect(records('none.jsonl')).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_NOT_FOUND' })
    await expect(records('none.parquet')).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_NOT_FOUND' })
    await expect(records('test')).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_IO_READ' })
    await expect(records(parquet('none'), ['text', 'messages'])).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_FORMAT',
      message: `${parquet('none')} cannot be read as Parquet: it has none of the columns text, messages.`,
    })
  })
})

describe('a file of Parquet that is not valid', () => {
  const bytes = (name: string) => readFileSync(`test/goldens/training/${name}.parquet`)
  const refused = async (rows: AsyncIterable<unknown>) => {
    try {
      for await (const _ of rows);
      return false
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_WEIGHTSMITH_FORMAT' })
      return true
    }
  }

  test.each(['none', 'snappy', 'zstd', 'messages'])(
    'is read or refused, whatever bytes of it are wrong: %s',
    async (name) => {
      const random = uniform(name.length)
      const at = (count: number) => Math.floor(random() * count)
      const file = data('', 'parquet')
      const whole = bytes(name)
      let count = 0
      for (let i = 0; i < 120; i++) {
        const wrong = Buffer.from(whole)
        // The metadata is at the end.
        for (let k = at(3); k >= 0; k--) wrong[at(4) > 0 ? whole.length - 1 - at(900) : at(whole.length)] = at(256)
        writeFileSync(file, i % 5 === 0 ? wrong.subarray(0, at(whole.length)) : wrong)
        if (await refused(decodeRows(file, ['prompt', 'answer', 'messages']))) count++
      }
      expect(count).toBeGreaterThan(50)
      expect(count).toBeLessThan(120)
    },
  )

  test('is refused where a group of rows has a column twice, or names bytes that are not there', async () => {
    const twice = bytes('none')
    twice.write('prompt', twice.lastIndexOf('answer'))
    // Where answers begin: 210, and what is far beyond the end, in as many bytes.
    const beyond = bytes('v2')
    beyond.writeUInt16LE(0x7ffe, beyond.lastIndexOf(Buffer.from([0xa4, 0x03])))
    for (const [wrong, message] of [
      [twice, /cannot be read as Parquet: a group of its rows has other columns than its schema/],
      [beyond, /cannot be read as Parquet: it ends before byte 8340, which it names/],
    ] as const) {
      const problem = { code: 'ERR_WEIGHTSMITH_FORMAT', message: expect.stringMatching(message) }
      await expect(records(data(wrong, 'parquet'), ['answer'])).rejects.toMatchObject(problem)
    }
  })

  test('is given up where it makes the decoder count without an end', async () => {
    const wrong = bytes('v2')
    ;[wrong[22], wrong[85]] = [0o241, 0o274]
    const problem = { code: 'ERR_WEIGHTSMITH_FORMAT', message: expect.stringMatching(/takes more than 0.5 s/) }
    await expect(readRows(data(wrong, 'parquet'), ['prompt'], 0.5).next()).rejects.toMatchObject(problem)
  })
})

describe('an example', () => {
  test('of prompt and answer predicts the answer and its end', async () => {
    const { sources, reports } = await read([
      { prompt: '49+45=', answer: '94' },
      { question: 'is it?', answer: 'no' },
    ])
    const [first, second] = sources[0]!.examples
    expect(first!.ids).toEqual([bos, ...tokenizer.prompt('49+45=94').slice(1), eos])
    expect(said(first!)).toEqual([...tokenizer.prompt('94').slice(1), eos])
    expect(tokenizer.decode(second!.ids)).toBe('USER:is it?\nASSISTANT: no'.replaceAll(/[A-Z\n]/g, ''))
    expect(tokenizer.decode(said(second!))).toBe(' no')
    expect(reports).toMatchObject([
      { records: 2, examples: 2, tokens: first!.ids.length + second!.ids.length, targets: 7 },
    ])
    expect(reports[0]!.sha256).toMatch(/^[0-9a-f]{64}$/)
  })

  test('of an instruction is put as Alpaca puts it', async () => {
    const folder = fresh('model')
    mkdirSync(folder, { recursive: true })
    // Bytes as tokens, so that a text comes back as it was.
    const set = JSON.parse(readFileSync('test/peers/tokenizers/tokenizers.json', 'utf8')).sets[0]
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify({ ...set.definition, ...set.cases.words.parts }))
    const bytes = { path: folder, name: 'it', config: { eos_token_id: 2 } } as unknown as Checkpoint
    const text = await openTokenizer(bytes)
    const lines = [
      { instruction: 'Say no.', input: 'Yes', output: 'No', text: 'of the same' },
      { instruction: 'Say no.', input: '', output: 'No' },
    ]
    const { sources } = await read(lines, { maxLength: 1000 }, { vocabulary: 400, context: 1000 }, bytes)
    const [first, second] = sources[0]!.examples
    const prompt =
      'Below is an instruction that describes a task, paired with an input that provides further context. Write a ' +
      'response that appropriately completes the request.\n\n### Instruction:\nSay no.\n\n### Input:\nYes\n\n### Response:'
    expect(text.decode(first!.ids)).toBe(`${prompt}No`)
    expect([text.decode(said(first!)), said(first!).at(-1)]).toEqual(['No', 2])
    expect(text.decode(second!.ids)).toBe(
      'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n' +
        '### Instruction:\nSay no.\n\n### Response:No',
    )
  })

  test('of a text predicts all but its first id, and goes on in another example where it is long', async () => {
    const { sources, reports } = await read([{ text: 'abc' }, { text: '0123456789' }], { maxLength: 5 })
    const { examples } = sources[0]!
    expect(textsOf(await read([{ text: 'abc' }]))).toEqual([['abc', 'abc']])
    expect(examples.map((one) => tokenizer.decode(one.ids))).toEqual(['abc', '0123', '34567', '789'])
    expect(examples.map((one) => tokenizer.decode(said(one)))).toEqual(['abc', '0123', '4567', '89'])
    expect(examples.map(({ where }) => where.replace(/ of [^,]+/, ''))).toEqual([
      'Line 1',
      'Line 2, part 1',
      'Line 2, part 2',
      'Line 2, part 3',
    ])
    expect(reports).toMatchObject([{ records: 2, examples: 4, targets: 13 }])
    expect(reports[0]!.truncated).toBeUndefined()
  })

  test('predicts all but its first id where all is asked for', async () => {
    const { sources, reports } = await read([{ prompt: '1+1=', answer: '2' }], { loss: 'all' })
    const [one] = sources[0]!.examples
    expect(said(one!)).toEqual(one!.ids.slice(1))
    expect(reports[0]!.targets).toBe(6)
  })

  test('that is too long loses its end, and one without an answer is left out: both are named', async () => {
    const lines = [
      { prompt: '1+1=', answer: '2' },
      { prompt: '1+1=', answer: '0002' },
      { prompt: 'abcdefgh=', answer: '2' },
      { prompt: 'x', answer: '' },
      { text: '' },
      { prompt: '1+1=', answer: '0003' },
    ]
    const file = data(lines)
    const { sources, reports, maxLength } = await read([{ file }], { maxLength: 8 })
    expect(textsOf({ sources, reports, maxLength })).toEqual([
      ['1+1=2', '2'],
      ['1+1=000', '000'],
      ['1+1=000', '000'],
    ])
    expect(sources[0]!.examples[1]!.ids).not.toContain(eos)
    expect(reports[0]).toMatchObject({
      records: 6,
      examples: 3,
      truncated: { count: 2, first: `Line 2 of ${file}` },
      cutOff: { count: 1, first: `Line 3 of ${file}` },
      empty: { count: 2, first: `Line 4 of ${file}` },
    })
  })

  test('is cut at the context of the model, and at 2,048 tokens, where nothing is said', async () => {
    expect((await read([{ text: 'a' }])).maxLength).toBe(128)
    expect((await read([{ text: 'a' }], {}, { vocabulary: 128, context: 8192 })).maxLength).toBe(2048)
  })

  test('comes from several files, each with its share and its report', async () => {
    const list = [
      { file: data([{ text: 'a' }]), share: 3 },
      { file: data([{ text: 'b' }, { text: 'c' }]), share: 1 },
    ]
    const { sources, reports } = await read(list)
    expect(sources.map(({ share, examples }) => [share, examples.length])).toEqual([
      [3, 1],
      [1, 2],
    ])
    expect(reports.map(({ file }) => file)).toEqual(list.map(({ file }) => file))
  })

  test('of several files needs a share for all of them or for none, which is said before any is read', async () => {
    const problem = { message: expect.stringMatching(/Of 2 files of data 1 have a share/) }
    await expect(read([{ file: 'none', share: 1 }, { file: 'none' }])).rejects.toMatchObject(problem)
  })

  test.each([
    ['neither form', { input: 'a' }, /^Line 2 of \S+ should have "messages", .+ or "text"\.$/],
    ['a prompt alone', { prompt: 'a' }, /^Line 2 of \S+ should be an object with the texts "prompt" and "answer"/],
    ['an instruction alone', { instruction: 'a' }, /texts "instruction" and "output"/],
    ['an input that is no text', { instruction: 'a', output: 'b', input: 3 }, /texts "instruction" and "output"/],
    ['a text that is none', { text: 3 }, /should have "messages"/],
    ['messages without contents', { messages: [{ role: 'user' }] }, /texts "role" and "content" for its "messages"/],
    ['no messages', { messages: [] }, /texts "role" and "content" for its "messages"/],
    ['tools', { messages: [{ role: 'user', content: 'a' }], tools: [{}] }, /has tools/],
    ['an image', { prompt: 'a', answer: 'b', image: 'c.png' }, /has an image/],
    [
      'a model without a chat template',
      { messages: [{ role: 'user', content: 'a' }] },
      /^Line 2 of \S+: .+ no chat template/,
    ],
  ])('is refused for %s', async (_, line, message) => {
    const problem = { code: 'ERR_WEIGHTSMITH_ARGUMENT', message: expect.stringMatching(message) }
    await expect(read([{ text: 'a' }, line])).rejects.toMatchObject(problem)
  })

  test('is refused with ids beyond the vocabulary', async () => {
    await expect(read([{ text: 'a' }], {}, { vocabulary: 4, context: 128 })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message: expect.stringMatching(/^Line 1 of \S+ has the id \d+, but base knows 0 to 3/),
    })
  })

  test('is refused with a place for an image', async () => {
    const llava = { ...spec, vision: { token: 14 } } as unknown as typeof spec
    const wrong = { message: expect.stringMatching(/has a place for an image/) }
    expect(tokenizer.prompt('a')).toContain(14)
    await expect(read([{ text: 'a' }], {}, llava)).rejects.toMatchObject(wrong)
  })

  test.each([
    [{ loss: 'some' as 'all' }, /the loss of examples/],
    [{ maxLength: 1 }, /the length of examples/],
    [{ maxLength: 129 }, /2 to the context of base, 128/],
    [{ maxLength: 2.5 }, /the length of examples/],
  ])('is not read with %j', async (options, message) => {
    const problem = { code: 'ERR_WEIGHTSMITH_ARGUMENT', message: expect.stringMatching(message) }
    await expect(read([{ text: 'a' }], options)).rejects.toMatchObject(problem)
  })

  test('is needed: a file without one that is left says why', async () => {
    const file = data([{ prompt: 'abc', answer: '' }, { prompt: 'abcdefgh', answer: 'b' }, { text: '' }])
    await expect(read([{ file }], { maxLength: 4 })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message:
        `${file} has no example to train on: of 3 records, 2 with nothing to predict (first: Line 1 of ${file}) and 1 ` +
        `whose answer begins after 4 tokens (first: Line 2 of ${file}).`,
    })
    const empty = data('\n')
    await expect(read([{ file: empty }])).rejects.toMatchObject({ message: `${empty} has no examples.` })
    await expect(readTrainingData({ spec, checkpoint: base }, [])).rejects.toMatchObject({ message: /no data/ })
  })
})

describe('a conversation', () => {
  interface Golden {
    more: string[]
    marked: Record<string, string>
    plain: Record<string, string>
    cases: { tokenizer: string; kind: string; messages: ChatMessage[]; ids: number[]; said: number[] }[]
  }
  const golden = JSON.parse(readFileSync('test/goldens/training/chat.json', 'utf8')) as Golden
  const { sets } = JSON.parse(readFileSync('test/peers/tokenizers/tokenizers.json', 'utf8'))

  function open(name: string, template: string): Checkpoint {
    const folder = fresh('model')
    mkdirSync(folder, { recursive: true })
    // biome-ignore lint/suspicious/noExplicitAny: a file of another program
    const { definition, cases } = sets.find((set: any) => name in set.cases)
    const tokens = definition.added_tokens
    const first = Object.keys(definition.model.vocab).length
    const more = golden.more.map((content, i) => ({ ...tokens[0], id: first + i, content }))
    const whole = { ...definition, ...cases[name].parts, added_tokens: [...tokens, ...more] }
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(whole))
    const settings = { bos_token: '<s>', eos_token: '</s>', chat_template: template }
    writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(settings))
    return { path: folder, name: 'it', config: { eos_token_id: 2 } } as unknown as Checkpoint
  }
  const readChat = (checkpoint: Checkpoint, messages: readonly ChatMessage[]) =>
    read([{ messages }], { maxLength: 400 }, { vocabulary: 402, context: 400 }, checkpoint)

  const titled = golden.cases.map((one) => ({ ...one, turns: one.messages.length }))
  test.each(titled)('of $turns, $kind, $tokenizer, predicts what transformers says', async (one) => {
    for (const template of [golden.marked[one.kind]!, golden.plain[one.kind]!]) {
      const { sources } = await readChat(open(one.tokenizer, template), one.messages)
      const [example] = sources[0]!.examples
      expect(example!.ids).toEqual(one.ids)
      expect([...example!.targets]).toEqual(one.said)
    }
  })

  const talk = (...contents: string[]) =>
    contents.map((content, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', content }))

  test('of a template that drops what was thought before is refused, unless what is said is marked', async () => {
    const of = (begin: string, end: string) =>
      '{% for m in messages %}{% if m.role == "assistant" %}A:' +
      `${begin}{% if loop.last %}<think></think>{% endif %}{{ m.content + eos_token }}${end}` +
      '{% else %}U:{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}'
    const plain = open('words', of('', ''))
    const { sources } = await readChat(plain, talk('a', 'b'))
    expect(sources[0]!.examples).toHaveLength(1)
    await expect(readChat(plain, talk('a', 'b', 'c', 'd'))).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_FORMAT',
      message: expect.stringMatching(/^Line 1 of \S+: The chat template of it cannot be used: .* message 2 of 4 /),
    })
    const marked = open('words', of('{% generation %}', '{% endgeneration %}'))
    const text = await openTokenizer(marked)
    const [one] = (await readChat(marked, talk('a', 'b', 'c', 'd'))).sources[0]!.examples
    expect(text.decode(one!.ids)).toBe('U:aA:bU:cA:<think></think>d')
    expect(text.decode(said(one!))).toBe('b<think></think>d')
  })

  test('of a template that begins an answer otherwise than the conversation does is refused', async () => {
    const template =
      '{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<think>{% endif %}'
    const problem = { code: 'ERR_WEIGHTSMITH_FORMAT', message: expect.stringMatching(/is not what the whole/) }
    await expect(readChat(open('words', template), talk('a', 'b'))).rejects.toMatchObject(problem)
  })

  test('with a mark where none should be is refused', async () => {
    const template = '{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}'
    const problem = { code: 'ERR_WEIGHTSMITH_FORMAT', message: expect.stringMatching(/what it marks as generated/) }
    await expect(readChat(open('words', template), talk('a', '\u{f5a71}\u{f5a72}'))).rejects.toMatchObject(problem)
  })

  test('in which the assistant says nothing is left out', async () => {
    const lines = [{ messages: talk('a', 'b') }, { messages: talk('a') }, { messages: talk('a', '') }]
    const file = data(lines)
    const subject = { vocabulary: 402, context: 400 }
    const { reports } = await read([{ file }], {}, subject, open('words', golden.plain.chatml!))
    expect(reports[0]).toMatchObject({ records: 3, examples: 1, empty: { count: 2, first: `Line 2 of ${file}` } })
  })

  test('of rows of Parquet is read as that of lines', async () => {
    const checkpoint = open('words', golden.plain.chatml!)
    const subject = { vocabulary: 402, context: 400 }
    const file = 'test/goldens/training/messages.parquet'
    const lines = (await records(file)).map(({ values }) => values)
    const [rows, same] = [await read([{ file }], {}, subject, checkpoint), await read(lines, {}, subject, checkpoint)]
    const plain = ({ sources }: typeof rows) => sources[0]!.examples.map(({ ids, targets }) => ({ ids, targets }))
    expect(plain(rows)).toEqual(plain(same))
    expect(rows.reports[0]).toMatchObject({ records: 2, examples: 2 })
  })
})

describe('reading', () => {
  const lines = Array.from({ length: 600 }, (_, i) => ({ prompt: `${i}+1=`, answer: `${i + 1}` }))
  const forms = {
    jsonl: lines.map((line) => `${JSON.stringify(line)}\n`).join(''),
    json: `\n ${JSON.stringify(lines)}`,
    'lines.json': `\n${lines.map((line) => JSON.stringify(line)).join('\n')}`,
  }

  test.each(Object.entries(forms))(
    'of a pipe and of a file, %s, gives the hash of what was read',
    async (form, text) => {
      const pipe = `${fresh('pipe')}.${form}`
      execFileSync('mkfifo', [pipe])
      const writing = writeFile(pipe, text)
      const [piped, plain] = [await read([{ file: pipe }]), await read([{ file: data(text, form) }])]
      await writing
      expect(piped.sources[0]!.examples.map(({ ids }) => ids)).toEqual(plain.sources[0]!.examples.map(({ ids }) => ids))
      const sha256 = createHash('sha256').update(text).digest('hex')
      for (const { reports } of [piped, plain]) expect(reports[0]).toMatchObject({ records: 600, sha256 })
    },
  )

  test('says how far it is, and ends where it is told to', async () => {
    const file = data(forms.json, 'json')
    const heard: number[] = []
    await read([{ file }], { onProgress: ({ done, unit }) => heard.push(done) && expect(unit).toBe('examples') })
    expect(heard).toEqual([256, 512])
    const stop = new AbortController()
    const code = { code: 'ERR_WEIGHTSMITH_ABORTED' }
    const seen: number[] = []
    const onProgress = ({ done }: { done: number }) => {
      seen.push(done)
      stop.abort()
    }
    await expect(read([{ file }], { signal: stop.signal, onProgress })).rejects.toMatchObject(code)
    expect(seen).toEqual([256])
    await expect(read([{ file }], { signal: stop.signal })).rejects.toMatchObject(code)
  })
})
