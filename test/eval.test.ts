/** Evaluation equals golden figures, generation what a pass over the whole sequence would choose; bad data is named. */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type EvalOptions, type EvalReport, evaluate, generate, generateIds, openModel } from 'weightsmith'
import { openTokenizer } from '../lib/data/index.js'
import { checkpointOf } from '../lib/runtime/open_model.js'
import { f32, writeModel } from './checkpoint.js'
import { cli } from './child.js'

const goldens = join(process.cwd(), 'test/goldens')
const calibration = join(goldens, 'tasks/calibration.jsonl')
const base = join(process.cwd(), 'demo/models/base')
const golden = JSON.parse(readFileSync(join(goldens, 'forward.json'), 'utf8')) as {
  prompts: { ids: number[]; greedy: string | null }[]
  calibration: { tokens_predicted: number; nll: Record<string, { all: number; answer: number }> }
}

let engine: Engine
const folder = mkdtempSync(join(tmpdir(), 'weightsmith-eval-'))
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(async () => {
  await engine?.close()
  rmSync(folder, { recursive: true, force: true })
})

function dataset(...lines: unknown[]): string {
  const file = join(folder, 'data.jsonl')
  writeFileSync(file, lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n'))
  return file
}

/** A model that says, after each token of the chain, the next one; `parts` of its tokenizer.json. */
function chain(name: string, vocab: string[], said: string[], parts: object, settings: object = {}): string {
  const [hidden, words] = [16, vocab.length]
  const unit = (columns: number, pairs: [number, number][]) => {
    const matrix = new Float32Array(words * columns)
    for (const [row, column] of pairs) matrix[row * columns + column] = 1
    return f32(matrix, [words, columns])
  }
  const ids = said.map((token) => vocab.indexOf(token))
  const zeros = (...shape: number[]) => f32(new Float32Array(shape.reduce((a, b) => a * b)), shape)
  const layer = (key: string) => `model.layers.0.${key}.weight`
  const tensors = {
    'model.embed_tokens.weight': unit(
      hidden,
      vocab.map((_, i) => [i, i]),
    ),
    'lm_head.weight': unit(
      hidden,
      ids.slice(1).map((id, i) => [id, ids[i]!]),
    ),
    'model.norm.weight': f32(new Float32Array(hidden).fill(1)),
    [layer('input_layernorm')]: f32(new Float32Array(hidden).fill(1)),
    [layer('post_attention_layernorm')]: f32(new Float32Array(hidden).fill(1)),
    ...Object.fromEntries(['q', 'k', 'v', 'o'].map((key) => [layer(`self_attn.${key}_proj`), zeros(hidden, hidden)])),
    ...Object.fromEntries(['gate', 'up'].map((key) => [layer(`mlp.${key}_proj`), zeros(8, hidden)])),
    [layer('mlp.down_proj')]: zeros(hidden, 8),
  }
  const config = {
    architectures: ['LlamaForCausalLM'],
    ...{ hidden_size: hidden, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 1, vocab_size: words },
    ...{ max_position_embeddings: 32, rms_norm_eps: 1e-5, eos_token_id: 1 },
  }
  const path = writeModel(join(folder, name), tensors, config)
  const special = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
  const added_tokens = ['<s>', '</s>'].map((content, id) => ({ id, content, ...special }))
  const model = {
    type: 'BPE',
    vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
    merges: [] as string[],
  }
  for (const token of vocab.slice(2)) if (token.length === 2) model.merges.push([...token].join(' '))
  const tokenizer = { added_tokens, normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null, model }
  writeFileSync(join(path, 'tokenizer.json'), JSON.stringify({ ...tokenizer, ...parts }))
  writeFileSync(join(path, 'tokenizer_config.json'), JSON.stringify(settings))
  return path
}

/** What came out for the one data set of an evaluation. */
async function evaluated(engine: Engine, model: string, options: Omit<EvalOptions, 'dryRun'>) {
  const { sets } = await evaluate(engine, model, options)
  expect(sets).toHaveLength(1)
  return sets[0]!
}

describe('evaluate', () => {
  test('gives the golden loss over all tokens, and over answers alone', async () => {
    const report = await evaluated(engine, base, { data: calibration })
    const want = golden.calibration.nll.base!
    expect(report).toMatchObject({ examples: 64, tokens: golden.calibration.tokens_predicted })
    expect(Math.abs(report.value / want.all - 1)).toBeLessThan(1e-5)
    expect(Math.abs(report.answers! / want.answer - 1)).toBeLessThan(1e-5)
    const { value } = await evaluated(engine, base, { data: calibration, metric: 'ppl' })
    expect(value).toBe(Math.exp(report.value))
  })

  test('passes over a byte order mark before the first line', async () => {
    const lines = readFileSync(calibration, 'utf8').trimEnd().split('\n').slice(0, 2)
    const { value } = await evaluated(engine, base, { data: dataset(...lines) })
    const [first, ...more] = lines
    expect((await evaluated(engine, base, { data: dataset(`\ufeff${first}`, ...more) })).value).toBe(value)
  })

  test('gives the same loss for a model that is larger than the memory', async () => {
    const { value, answers } = await evaluated(engine, base, { data: calibration })
    await using small = await Engine.open({ memory: '2MiB' })
    expect(await evaluated(small, base, { data: calibration })).toMatchObject({ value, answers })
  })

  test('counts exact answers, and an answer that does not end in time as wrong', async () => {
    const data = dataset(
      { prompt: 's:graph=', answer: 'aghpr' },
      { prompt: 's:graph=', answer: 'aghrp' },
      { prompt: 's:graph=', answer: 'aghp' },
      '',
    )
    const report = await evaluated(engine, base, { data, metric: 'exact-match' })
    expect(report).toMatchObject({ examples: 3, value: 1 / 3 })
    expect(report).not.toHaveProperty('answers')
    const short = await evaluated(engine, base, { data, metric: 'exact-match', maxTokens: 5 })
    expect(short.value).toBe(0)
  })

  test('has the golden share of exact answers, over several data sets with the model loaded once', async () => {
    const task = join(process.cwd(), 'demo/tasks/id_test.jsonl')
    const out = join(folder, 'lines.jsonl')
    // As transformers counts in float64; 0.698 of all 500.
    const all = await evaluated(engine, base, { data: [task], metric: 'exact-match', limit: 100 })
    expect(all).toMatchObject({ examples: 100, value: 0.65 })
    const { sets, ...rest } = await evaluate(engine, base, {
      data: [task, task],
      metric: 'exact-match',
      limit: 20,
      out,
    })
    expect(rest).toMatchObject({ model: base, metric: 'exact-match', partitions: 1, bytesReadPerPass: 0, notes: [] })
    expect(sets.map(({ data, examples }) => [data, examples])).toEqual([
      [task, 20],
      [task, 20],
    ])
    const lines = readFileSync(out, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(lines).toHaveLength(40)
    expect(lines.filter(({ right }) => right)).toHaveLength(20 * (sets[0]!.value + sets[1]!.value))
    expect(lines[0]).toEqual({
      data: task,
      example: 1,
      prompt: '785+60=',
      answer: expect.any(String),
      text: expect.any(String),
      ended: true,
      right: expect.any(Boolean),
    })
  })

  test('takes and says spaces before punctuation as they are, whatever the settings of the tokenizer', async () => {
    const vocab = ['<s>', '</s>', 'x', '=', 'a', ' ', ',', 'b', '?', ' ,', ' b', ' ?']
    const said = ['=', 'a', ' ,', ' b', ' ?', '</s>']
    const right = dataset({ prompt: 'x=', answer: 'a , b ?' }, { prompt: 'x=', answer: 'a, b?' })
    for (const [i, settings] of [{}, { clean_up_tokenization_spaces: true }].entries()) {
      const model = chain(`spaces-${i}`, vocab, said, { decoder: { type: 'Fuse' } }, settings)
      const { continuations } = await generate(engine, model, ['x='])
      expect(continuations[0]!.text).toBe('a , b ?')
      expect((await evaluated(engine, model, { data: right, metric: 'exact-match' })).value).toBe(0.5)
    }
  })

  test('takes an answer as it stands after its prompt where the tokenizer puts a space before every text', async () => {
    const vocab = ['<s>', '</s>', '▁', 'x', '=', 'a', 'b', '▁x', '▁a']
    const spaces = [
      { type: 'Prepend', prepend: '▁' },
      { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    ]
    const back = [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'Fuse' },
      { type: 'Strip', content: ' ', start: 1, stop: 0 },
    ]
    const model = chain('prefixed', vocab, ['=', '▁a', 'b', '</s>'], {
      normalizer: { type: 'Sequence', normalizers: spaces },
      decoder: { type: 'Sequence', decoders: back },
    })
    const { continuations } = await generate(engine, model, ['x='])
    expect(continuations[0]!.text).toBe(' ab')
    const data = dataset(
      { prompt: 'x=', answer: ' ab' },
      { prompt: 'x= ', answer: 'ab' },
      { prompt: 'x=', answer: 'ab' },
    )
    // A prompt with the space has "▁" at its end, after which this model says nothing of the kind.
    expect((await evaluated(engine, model, { data, metric: 'exact-match' })).value).toBe(1 / 3)
    const out = join(folder, 'prefixed.jsonl')
    await evaluated(engine, model, { data, out })
    const lines = readFileSync(out, 'utf8').trim().split('\n')
    const found = lines.map((line) => JSON.parse(line) as { answer_tokens: number; answer_nll: number })
    // "▁a", "b" and the end, all the likeliest; the space belongs to the answer in either line. Then "a", after which
    // nothing is likely, "b" and the end.
    expect(found.map((line) => line.answer_tokens)).toEqual([3, 3, 3])
    const likely = Math.log(1 + 8 / Math.exp(4))
    expect(found[0]!.answer_nll / (3 * likely)).toBeCloseTo(1, 3)
    expect(found[1]!.answer_nll).toBe(found[0]!.answer_nll)
    expect(found[2]!.answer_nll / (4 + 2 * likely + Math.log(9))).toBeCloseTo(1, 3)
    const choices = dataset({ prompt: 'x=', choices: ['ab', ' ab'], answer: 1 })
    expect((await evaluated(engine, model, { data: choices, metric: 'choice' })).value).toBe(1)
    const bare = dataset({ prompt: '', answer: 'ab' })
    await expect(evaluate(engine, model, { data: bare })).rejects.toThrow(/Line 1 of .* has no token before "ab"/)
  })

  test('picks the likeliest choice, as it is and a byte', async () => {
    const data = dataset(
      { prompt: 's:graph=', choices: ['aghrp', 'aghpr', 'xghpr'], answer: 'aghpr' },
      { prompt: 's:graph=', choices: ['aghpr', 'aghrp'], answer: 1 },
    )
    const out = join(folder, 'choices.jsonl')
    const report = await evaluated(engine, base, { data, metric: 'choice', out })
    expect(report).toMatchObject({ examples: 2, value: 0.5, normalized: 0.5, tokens: 25 })
    const [first] = readFileSync(out, 'utf8')
      .split('\n')
      .map((line) => line && JSON.parse(line))
    const model = await openModel(engine, base)
    const ids = (text: string) => [
      1,
      ...[...text].map((char) => '0123456789abcdefghijklmnopqrstuvwxyz+-=*/,.:'.indexOf(char) + 4),
    ]
    const { nll } = await model.run(model.pack([ids('s:graph=aghrp')]))
    await model.close()
    const want = nll.subarray(8, 13).reduce((a, b) => a + b, 0)
    expect(Math.abs(first.losses[0] / want - 1)).toBeLessThan(1e-5)
    await expect(
      evaluate(engine, base, { data: dataset({ prompt: 'x', choices: ['a', 'b'], answer: 'c' }), metric: 'choice' }),
    ).rejects.toThrow(/Line 1 of .* none of its 2 choices/)
  })

  test('predicts every id of a text but the first once, in windows where it is longer than the context', async () => {
    const text = 'r:xsoxbyaf=faybxosx'
    // <s>, then an id a character; digits come first, letters after them, and what else there is.
    const own = await openTokenizer(await checkpointOf(engine, base))
    const ids = own.prompt(text)
    expect(ids).toHaveLength(20)
    await using model = await openModel(engine, base)
    const loss = async (begin: number, target: number) => {
      const { logits } = await model.run(model.pack([ids.slice(begin, target)]), { logits: true })
      const row = [...logits!.slice(-64)]
      const top = Math.max(...row)
      return top + Math.log(row.reduce((sum, value) => sum + Math.exp(value - top), 0)) - row[ids[target]!]!
    }
    const data = dataset({ text })
    for (const [window, stride, windows] of [
      // lm-eval's rolling windows of 8: 8 ids, 8 more, and the last 3 after as many as have room.
      [
        8,
        8,
        [
          [0, 1, 8],
          [8, 9, 16],
          [11, 17, 19],
        ],
      ],
      [
        8,
        3,
        [
          [0, 1, 8],
          [3, 9, 11],
          [6, 12, 14],
          [9, 15, 17],
          [11, 18, 19],
        ],
      ],
    ] as const) {
      let want = 0
      for (const [begin, first, last] of windows) {
        for (let target = first; target <= last; target++) want += await loss(begin, target)
      }
      const report = await evaluated(engine, base, { data, window, stride })
      expect(report.tokens).toBe(19)
      expect(Math.abs((19 * report.value) / want - 1)).toBeLessThan(1e-5)
      expect(report.bitsPerByte! / (want / Math.LN2 / 19)).toBeCloseTo(1, 5)
      expect(report).not.toHaveProperty('answers')
    }
    // A text that is longer than the context, beside an answer.
    const mixed = dataset({ text: '1+1='.repeat(200) }, { prompt: '1+1=', answer: '2' })
    expect(await evaluated(engine, base, { data: mixed })).toMatchObject({
      tokens: 800 + 6,
      answers: expect.any(Number),
    })
    await expect(evaluate(engine, base, { data, metric: 'exact-match' })).rejects.toThrow(
      /Line 1 of .* has a "text" alone, but an answer is needed/,
    )
    await expect(evaluate(engine, base, { data, stride: 9, window: 8 })).rejects.toThrow(/stride of 9 .* window of 8/)
    await expect(evaluate(engine, base, { data, window: 257 })).rejects.toThrow(/window of 257 .* 256/)
  })

  test('says what it would take, and runs no data', async () => {
    const out = join(folder, 'dry.jsonl')
    const data = [calibration, calibration]
    const { forecast } = await evaluate(engine, base, { data, metric: 'exact-match', dryRun: true, out })
    const set = { data: calibration, examples: 64, tokens: expect.any(Number), milliseconds: expect.any(Number) }
    expect(forecast).toMatchObject({ metric: 'exact-match', partitions: 1, sets: [set, set] })
    expect(forecast.sets[0]).toEqual(set)
    expect(forecast.milliseconds).toBe(forecast.sets[0]!.milliseconds + forecast.sets[1]!.milliseconds)
    expect(forecast.milliseconds).toBeGreaterThan(0)
    expect(existsSync(out)).toBe(false)
  })

  test('names file and line of data that it cannot use', async () => {
    const refused = (data: string, message: RegExp, code = 'ERR_WEIGHTSMITH_ARGUMENT') =>
      expect(evaluate(engine, base, { data })).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
    const good = { prompt: '1+1=', answer: '2' }
    await refused(dataset(good, '{"prompt": '), /Line 2 of .*data\.jsonl is not JSON/)
    await refused(dataset(good, good, { prompt: 'x' }), /Line 3 of .* "prompt" and "answer"/)
    await refused(dataset('null'), /Line 1/)
    await refused(dataset(good, { text: '' }), /Line 2 of .* text that is not empty/)
    await refused(dataset(''), /has no examples/)
    await refused(join(folder, 'none.jsonl'), /none\.jsonl not found/, 'ERR_WEIGHTSMITH_NOT_FOUND')
    await refused(dataset({ prompt: 'a'.repeat(256), answer: 'b' }), /Line 1 of .*data\.jsonl has 259 tokens.*256/)
    const stop = AbortSignal.abort()
    await expect(evaluate(engine, base, { data: calibration, signal: stop })).rejects.toMatchObject({
      name: 'AbortError',
      code: 'ERR_WEIGHTSMITH_ABORTED',
    })
    await expect(evaluate(engine, base, { data: calibration, metric: 'bleu' as 'nll' })).rejects.toHaveProperty(
      'code',
      'ERR_WEIGHTSMITH_ARGUMENT',
    )
    await expect(evaluate(engine, base, { data: calibration, maxTokens: 0 })).rejects.toHaveProperty(
      'code',
      'ERR_WEIGHTSMITH_ARGUMENT',
    )
  })

  test('wants a tokenizer that can be read', async () => {
    const model = join(folder, 'model')
    cpSync(base, model, { recursive: true })
    writeFileSync(join(model, 'tokenizer.json'), '{')
    await expect(evaluate(engine, model, { data: calibration })).rejects.toHaveProperty(
      'code',
      'ERR_WEIGHTSMITH_FORMAT',
    )
    rmSync(join(model, 'tokenizer.json'))
    await expect(evaluate(engine, model, { data: calibration })).rejects.toHaveProperty(
      'code',
      'ERR_WEIGHTSMITH_NOT_FOUND',
    )
  })

  test('is a verb of the command line', async () => {
    const { code, stdout } = await cli('eval', base, '--data', calibration, '--metric', 'ppl', '--json')
    expect(code).toBe(0)
    const { metric, sets } = JSON.parse(stdout) as EvalReport
    expect(metric).toBe('ppl')
    expect(Math.abs(Math.log(sets[0]!.value) / golden.calibration.nll.base!.all - 1)).toBeLessThan(1e-5)
  })
})

describe('generate', () => {
  test('continues every prompt of a batch as it would alone, whatever the batches', async () => {
    const prompts = golden.prompts.filter(({ greedy }) => greedy !== null)
    const ids = [...prompts, ...prompts].map((prompt) => prompt.ids)
    const options = { maxTokens: 8, eosTokenIds: new Set([2]) }
    const wide = await openModel(engine, join(goldens, 'base-f32'), { batchTokens: 128, cache: 128 })
    const together = await generateIds(wide, ids, options)
    await wide.close()
    const narrow = await openModel(engine, join(goldens, 'base-f32'), { batchTokens: 24, cache: 24 })
    expect(await generateIds(narrow, ids, options)).toEqual(together)
    await narrow.close()
    const digits = '0123456789abcdefghijklmnopqrstuvwxyz'
    const texts = together.map(({ ids: said }) => said.map((id) => digits[id - 4]).join(''))
    expect(texts).toEqual([...prompts, ...prompts].map(({ greedy }) => greedy))
    expect(together.every(({ ended }) => ended)).toBe(true)
  })

  test('draws the same for a seed whatever the batches, and says what was left out', async () => {
    const prompts = ['12+34=', 's:graph=', 'r:tnheeipeu=', 'm:41,7,93,88=']
    const options = { temperature: 1.5, topK: 20, topP: 0.95, seed: 7, samples: 3, maxTokens: 12 }
    const { continuations, tokens } = await generate(engine, base, prompts, options)
    expect(continuations.map(({ prompt, sample }) => [prompt, sample])).toEqual(
      prompts.flatMap((_, prompt) => [0, 1, 2].map((sample) => [prompt, sample])),
    )
    expect(tokens).toBe(continuations.reduce((sum, one) => sum + one.tokens, 0))
    expect(new Set(continuations.slice(0, 3).map(({ text }) => text)).size).toBeGreaterThan(1)
    const one = await Engine.open({ memory: '24MiB' })
    const alone = await generate(one, base, prompts, options)
    await one.close()
    expect(alone.continuations).toEqual(continuations)
    // The second sample copies what the first has left in the cache, and goes on from there as it did.
    const twins = await generate(engine, base, prompts, { samples: 2, maxTokens: 12 })
    const [first, second] = [0, 1].map((k) => twins.continuations.filter(({ sample }) => sample === k))
    expect(second!.map(({ text }) => text)).toEqual(first!.map(({ text }) => text))
    expect(first![1]!.text).toBe('aghpr')
    const other = await generate(engine, base, prompts, { ...options, seed: 8 })
    expect(other.continuations).not.toEqual(continuations)
  })

  test('ends at stop texts, which are no part of what is said or streamed', async () => {
    const pieces: string[] = []
    const options = { stop: ['hp'], onText: (piece: string) => pieces.push(piece) }
    const { continuations } = await generate(engine, base, ['s:graph='], options)
    expect(continuations).toEqual([{ prompt: 0, sample: 0, text: 'ag', tokens: 4, finish: 'stop' }])
    expect(pieces.join('')).toBe('ag')
    const { continuations: short } = await generate(engine, base, ['s:graph='], { maxTokens: 2 })
    expect(short[0]).toMatchObject({ text: 'ag', finish: 'length' })
  })

  test('puts messages into the chat template of the model, and refuses chat where there is none', async () => {
    const model = join(folder, 'chatting')
    cpSync(base, model, { recursive: true })
    const file = join(model, 'tokenizer_config.json')
    const settings = JSON.parse(readFileSync(file, 'utf8'))
    const chat_template =
      "{{ bos_token }}{% for m in messages %}{{ 's:' if m['role'] == 'user' else '' }}{{ m['content'] }}{% endfor %}" +
      '{% if add_generation_prompt %}={% endif %}'
    writeFileSync(file, JSON.stringify({ ...settings, chat_template }))
    const { continuations } = await generate(engine, model, ['graph'], { chat: true })
    expect(continuations[0]).toMatchObject({ text: 'aghpr', finish: 'end' })
    await expect(generate(engine, base, [[{ role: 'user', content: 'graph' }]])).rejects.toThrow(/has no chat template/)
  })

  test('refuses options and prompts that make no sense, and stops when it is told to', async () => {
    const code = 'ERR_WEIGHTSMITH_ARGUMENT'
    for (const options of [
      { temperature: -1 },
      { topP: 0 },
      { topK: 1.5 },
      { samples: 0 },
      { maxTokens: 0 },
      { stop: [''] },
    ]) {
      await expect(generate(engine, base, ['1+1='], options)).rejects.toHaveProperty('code', code)
    }
    await expect(generate(engine, base, [])).rejects.toHaveProperty('code', code)
    await expect(generate(engine, base, ['a'.repeat(300)])).rejects.toThrow(/301 tokens.*256/)
    const signal = AbortSignal.abort()
    await expect(generate(engine, base, ['1+1='], { signal })).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_ABORTED')
  })

  test('says what it would take, and continues nothing', async () => {
    const prompts = ['s:graph=', '1+1=']
    const { forecast } = await generate(engine, base, prompts, { dryRun: true })
    const { continuations: _, tokens: __, ...report } = await generate(engine, base, prompts)
    expect(forecast).toEqual({ ...report, milliseconds: forecast.milliseconds })
    expect(forecast.milliseconds).toBeGreaterThan(0)
    const { stdout } = await cli('generate', base, ...prompts, '--dry-run', '--json')
    expect(JSON.parse(stdout)).toEqual({ forecast: expect.objectContaining({ prompts: 2, promptTokens: 8 + 4 + 2 }) })
  })

  test('is a verb that reads prompts of a file and writes a line for each continuation', async () => {
    const out = join(folder, 'said.jsonl')
    const data = dataset({ prompt: 's:graph=', id: 5 }, { prompt: 'm:41,7,93,88=', id: 6 })
    const { code, stdout } = await cli('generate', base, '--data', data, '--out', out, '--json')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ prompts: 2, continuations: { length: 2 } })
    expect(readFileSync(out, 'utf8')).toBe(
      '{"prompt":"s:graph=","id":5,"sample":0,"text":"aghpr","tokens":5,"finish":"end"}\n' +
        '{"prompt":"m:41,7,93,88=","id":6,"sample":0,"text":"93","tokens":2,"finish":"end"}\n',
    )
    expect((await cli('generate', base, 's:graph=')).stdout).toBe('aghpr\n')
    expect((await cli('generate', base)).code).toBe(2)
  })

  test('stops at the most a continuation may have', async () => {
    const model = await openModel(engine, base, { batchTokens: 32, cache: 32 })
    const [one] = await generateIds(model, [golden.prompts[2]!.ids], { maxTokens: 3, eosTokenIds: new Set([2]) })
    await model.close()
    expect(one).toMatchObject({ ended: false })
    expect(one!.ids).toHaveLength(3)
  })
})
