/** The float64 references of a backward pass, with which kernels are compared, against differences and goldens. */
import { readFileSync } from 'node:fs'
import { describe, expect, test } from '@jest/globals'
import { readSafetensors, values } from './checkpoint.js'
import { golden } from './goldens.js'
import { math } from './math.js'
import { uniform } from './random.js'
import * as backward from './reference/backward.js'
import * as forward from './reference/forward.js'
import { gates, gatesGradient } from './reference/gates.js'

type Inputs = Record<string, Float64Array>

interface Case {
  says: string
  inputs: Inputs
  forward: (inputs: Inputs) => ArrayLike<number>
  /** Gradients of some of the inputs, by their names. */
  backward: (g: Float64Array, inputs: Inputs) => Inputs
}

/** Numbers of one seed over [-2, 2). */
function numbers(count: number, seed: number): Float64Array {
  const next = uniform(seed)
  return Float64Array.from({ length: count }, () => 4 * next() - 2)
}

/** What differs from the central differences of `sum g y` in each element, as a share of the largest gradient. */
function worst({ inputs, forward, backward }: Case): Record<string, number> {
  const g = numbers(forward(inputs).length, 99)
  const step = 1e-5
  const loss = (moved: Inputs) => {
    const y = forward(moved)
    return g.reduce((total, value, i) => total + value * y[i]!, 0)
  }
  return Object.fromEntries(
    Object.entries(backward(g, inputs)).map(([name, got]) => {
      const input = inputs[name]!
      expect(got.length).toBe(input.length)
      const want = input.map((value, i) => {
        const [up, down] = [step, -step].map((by) => loss({ ...inputs, [name]: input.with(i, value + by) }))
        return (up! - down!) / (2 * step)
      })
      const largest = math.max(...want.map(math.abs))
      expect(largest).toBeGreaterThan(0)
      return [name, math.max(...want.map((value, i) => math.abs(value - got[i]!))) / largest]
    }),
  )
}

const shape: backward.Shape = [4, 5, 3]
const [rows, columns, inner] = shape
const rank = 2
const kinds = Object.keys(forward.activations) as backward.Activation[]
/** Relu has no slope at 0. */
const awayFromZero = (x: Float64Array) => x.map((value) => value + 0.01 * math.sign(value))
const adapter = ({ a, b }: Inputs) => ({ a: a!, b: b!, scale: 0.75, rank })
const heads = { heads: 6, numKvHeads: 2, size: 4 }
/** A sequence of three tokens, one that sees a window of two, and two that see each other. */
const sees = [
  ...[0, 1, 2].map((last) => ({ first: 0, last })),
  ...[3, 4, 5].map((last) => ({ first: math.max(3, last - 1), last })),
  ...[6, 6].map((first) => ({ first, last: 7 })),
]
const ids = [3, 0, 3, 1]
const targets = [2, 0, 4, 2]

/** Every function that gives gradients, with the forward pass that they are of. */
const cases: Record<Exclude<keyof typeof backward, 'adamw' | 'clipFactor' | 'distillationLoss'>, Case[]> = {
  gemmInput: [
    {
      says: 'the rows of a product',
      inputs: { x: numbers(rows * inner, 1), weight: numbers(columns * inner, 2) },
      forward: ({ x, weight }) => forward.gemm(x!, weight!, shape),
      backward: (g, { weight }) => ({ x: backward.gemmInput(g, weight!, shape) }),
    },
  ],
  gemmWeight: [
    {
      says: 'the matrix of a product',
      inputs: { x: numbers(rows * inner, 1), weight: numbers(columns * inner, 2) },
      forward: ({ x, weight }) => forward.gemm(x!, weight!, shape),
      backward: (g, { x }) => ({ weight: backward.gemmWeight(g, x!, shape) }),
    },
  ],
  columnSums: [
    {
      says: 'a bias',
      inputs: { x: numbers(rows * columns, 1), bias: numbers(columns, 2) },
      forward: ({ x, bias }) => x!.map((value, i) => value + bias![i % columns]!),
      backward: (g) => ({ bias: backward.columnSums(g, columns) }),
    },
  ],
  norm: [
    { says: 'RMSNorm', more: {} },
    { says: 'RMSNorm with 1 + weight', more: { plus: 1 } },
    { says: 'LayerNorm', more: { centered: true } },
    { says: 'LayerNorm with weight + 0.5', more: { centered: true, plus: 0.5 } },
  ].map(({ says, more }) => ({
    says,
    // A large eps, so that it counts.
    inputs: { x: numbers(3 * 7, 1).map((value) => value + 1), weight: numbers(7, 2) },
    forward: ({ x, weight }) => forward.norm(x!, weight!, { eps: 0.1, ...more }),
    backward: (g, { x, weight }) => backward.norm(g, x!, weight!, { eps: 0.1, ...more }),
  })),
  rope: [
    {
      says: 'rotated heads',
      inputs: { x: numbers(3 * 2 * 6, 1) },
      forward: ({ x }) => forward.rope(x!, [0, 1, 5], [1, 0.3, 0.01], 2),
      backward: (g) => ({ x: backward.rope(g, [0, 1, 5], [1, 0.3, 0.01], 2) }),
    },
  ],
  attention: [
    {
      says: 'attention with heads that share keys and values',
      inputs: { q: numbers(8 * 24, 1), k: numbers(8 * 8, 2), v: numbers(8 * 8, 3) },
      forward: ({ q, k, v }) => forward.attention({ q: q!, k: k!, v: v! }, sees, heads),
      backward: (g, { q, k, v }) => backward.attention(g, { q: q!, k: k!, v: v! }, sees, heads),
    },
  ],
  activationSlopes: kinds.map((kind) => ({
    says: `${kind} of each number`,
    inputs: { x: awayFromZero(numbers(40, 1)) },
    forward: ({ x }) => x!.map(forward.activations[kind]),
    backward: (g, { x }) => ({ x: x!.map((value, i) => g[i]! * backward.activationSlopes[kind](value)) }),
  })),
  activation: kinds.map((kind) => ({
    says: kind,
    inputs: { x: awayFromZero(numbers(40, 1)) },
    forward: ({ x }) => x!.map(forward.activations[kind]),
    backward: (g, { x }) => ({ x: backward.activation(kind, g, x!) }),
  })),
  glu: kinds.map((kind) => ({
    says: `${kind} in a glu`,
    inputs: { x: awayFromZero(numbers(40, 1)), y: numbers(40, 2) },
    forward: ({ x, y }) => x!.map((value, i) => forward.activations[kind](value) * y![i]!),
    backward: (g, { x, y }) => backward.glu(kind, g, x!, y!),
  })),
  embed: [
    {
      says: 'a table whose rows are taken more than once, or never',
      inputs: { table: numbers(5 * 3, 1) },
      forward: ({ table }) => ids.flatMap((id) => [...table!.subarray(id * 3, id * 3 + 3)].map((value) => 1.5 * value)),
      backward: (g) => ({ table: backward.embed(g, ids, { vocabulary: 5, width: 3, scale: 1.5 }) }),
    },
  ],
  crossEntropy: [
    {
      says: 'logits of the mean cross entropy',
      inputs: { logits: numbers(4 * 5, 1) },
      forward: ({ logits }) => [forward.crossEntropy(logits!, targets).reduce((a, b) => a + b) / 4],
      backward: ([g], { logits }) => ({ logits: backward.crossEntropy(logits!, targets, g! / 4) }),
    },
  ],
  distillation: [
    {
      says: 'logits of a student',
      inputs: { student: numbers(4 * 5, 1), teacher: numbers(4 * 5, 2) },
      forward: ({ student, teacher }) => [backward.distillationLoss(student!, teacher!, 5).reduce((a, b) => a + b) / 4],
      backward: ([g], { student, teacher }) => ({ student: backward.distillation(student!, teacher!, 5, g! / 4) }),
    },
  ],
  lora: [
    {
      says: 'LoRA',
      inputs: { x: numbers(rows * inner, 1), a: numbers(rank * inner, 3), b: numbers(columns * rank, 4) },
      forward: ({ x, ...inputs }) => forward.lora(x!, adapter(inputs), shape),
      backward: (g, { x, ...inputs }) => backward.lora(g, x!, adapter(inputs), shape),
    },
  ],
  dora: [
    {
      says: 'DoRA, its norms held',
      inputs: {
        x: numbers(rows * inner, 1),
        weight: numbers(columns * inner, 2),
        a: numbers(rank * inner, 3),
        b: numbers(columns * rank, 4),
        magnitude: numbers(columns, 5),
      },
      forward: ({ x, weight, magnitude, ...inputs }) =>
        forward.dora(x!, weight!, { ...adapter(inputs), magnitude: magnitude!, norms }, shape),
      backward: (g, { x, weight, magnitude, ...inputs }) =>
        backward.dora(g, x!, weight!, { ...adapter(inputs), magnitude: magnitude! }, shape),
    },
  ],
}
/** Of the DoRA case, where its differences start. */
const norms = forward.doraNorms(cases.dora[0]!.inputs.weight!, adapter(cases.dora[0]!.inputs))

describe.each(Object.entries(cases))('%s is the gradient of', (_, those) => {
  test.each(those.map((each) => [each.says, each] as const))('%s', (_says, each) => {
    for (const [name, error] of Object.entries(worst(each))) {
      if (!(error <= 1e-8)) expect({ name, error }).toBe('within 1e-8')
    }
  })
})

function close(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  expect(got.length).toBe(want.length)
  for (let i = 0; i < want.length; i++) {
    expect(math.abs(got[i]! - want[i]!)).toBeLessThanOrEqual(tolerance * math.abs(want[i]!))
  }
}

describe('attention', () => {
  test('gives zeros where a token sees no key', () => {
    const [q, k, v, g] = [numbers(4, 1), numbers(4, 2), numbers(4, 3), numbers(4, 4)]
    const got = backward.attention(g, { q, k, v }, [{ first: 0, last: -1 }], { heads: 1, numKvHeads: 1, size: 4 })
    for (const values of Object.values(got)) expect([...values]).toEqual([0, 0, 0, 0])
  })
})

describe('slopes of activations', () => {
  test.each(kinds)('%s is flat far below 0 and straight far above', (kind) => {
    const slope = backward.activationSlopes[kind]
    expect(math.abs(slope(-1000))).toBe(0)
    expect(slope(1000)).toBe(1)
  })
})

describe('crossEntropy', () => {
  test('keeps the gradient of a target that is all but certain', () => {
    close(backward.crossEntropy([60, 0, 0], [0], 2), [-4 * math.exp(-60), 2 * math.exp(-60), 2 * math.exp(-60)], 1e-14)
  })
})

describe('distillation', () => {
  test('gives the numbers of an example', () => {
    const [student, teacher] = [
      [1, 1, 0, 0.5, 0, 2],
      [2, 0, -1, 0, 1, 1],
    ]
    close(backward.distillationLoss(student!, teacher!, 3), [0.904005, 1.384037], 1e-6)
    close(
      backward.distillation(student!, teacher!, 3, 1 / 2),
      [-0.210738, 0.154062, 0.056676, 0.004445, -0.161348, 0.156903],
      1e-4,
    )
  })
})

describe('losses of PyTorch', () => {
  interface Losses {
    A: { ids: number[]; first_answer_index: number }[]
    cases: Record<string, { loss: number }>
  }
  const json = (name: string) => JSON.parse(readFileSync(golden(`reasoner/training/${name}.json`), 'utf8'))
  const { A: sequences, cases } = json('losses') as Losses
  const logits = readSafetensors(golden('reasoner/training/losses.safetensors'))
  const width = logits.get('kd/teacher_logits')!.shape[1]!
  let begin = 0
  /** Rows of packed sequences that predict a token of an answer or the end after it, with what they predict. */
  const predicting = sequences.flatMap(({ ids, first_answer_index: first }) => {
    begin += ids.length
    const start = begin - ids.length
    return ids.slice(first).map((target, i) => ({ row: start + first - 1 + i, target }))
  })
  const rows = (x: Float64Array) =>
    Float64Array.from(predicting.flatMap(({ row }) => [...x.subarray(row * width, (row + 1) * width)]))
  const of = (name: string) => rows(values(logits.get(name)!))
  const [teacher, student] = [of('kd/teacher_logits'), of('kd/student_logits')]
  const targets = predicting.map(({ target }) => target)
  const mean = (x: Float64Array) => x.reduce((a, b) => a + b) / x.length

  test('have the gradient of crossEntropy', () => {
    const stored = readSafetensors(golden('reasoner/training/backward.safetensors')).get('A_answer/dlogits')!
    const got = backward.crossEntropy(teacher, targets, 1 / targets.length)
    const want = rows(values(stored))
    const error = math.max(...want.map((value, i) => math.abs(value - got[i]!)))
    expect(error).toBeLessThan(1e-6 * math.max(...want.map(math.abs)))
  })

  test('are those of distillation, alone and with half of the cross entropy', () => {
    const loss = mean(backward.distillationLoss(student, teacher, width))
    const half = (loss + mean(forward.crossEntropy(student, targets))) / 2
    close([loss, half], [cases.kd_ce_form_shifted!.loss, cases.kd_half_ce_shifted!.loss], 1e-6)
  })
})

describe('adamw', () => {
  const settings = { rate: 0.1, beta1: 0.8, beta2: 0.9, eps: 0.01, decay: 0.5 }
  const start = (...p: number[]): backward.AdamwState => ({
    p: Float64Array.from(p),
    m: new Float64Array(p.length),
    v: new Float64Array(p.length),
    step: 0,
  })

  test('decays first, then moves by the rate against the gradient, with eps outside of the root', () => {
    const state = start(1, -2, 0.5)
    backward.adamw(state, [0.5, -1, 0], settings)
    // The first step's corrected moments are g and g^2.
    close(state.p, [0.95 - (0.1 * 0.5) / 0.51, -1.9 + 0.1 / 1.01, 0.475], 1e-14)
    close(state.m, [0.1, -0.2, 0], 1e-14)
    close(state.v, [0.025, 0.1, 0], 1e-14)
    expect(state.step).toBe(1)
  })

  test('gives after three steps what torch.optim.AdamW gives', () => {
    const state = start(1, -2, 0.5)
    for (const g of [
      [0.5, -1, 0],
      [0.25, 1, 0.125],
      [-1, 0.5, 2],
    ]) {
      backward.adamw(state, g, settings)
    }
    close(state.p, [0.7113615772811706, -1.6672810816053056, 0.293023413881519], 1e-14)
    close(state.m, [-0.096, 0.132, 0.42], 1e-14)
    close(state.v, [0.125875, 0.196, 0.40140625], 1e-14)
  })

  test('equals the definition of its moments as weighted means of all gradients', () => {
    const steps = Array.from({ length: 7 }, (_, i) => numbers(3, 20 + i))
    const state = start(...numbers(3, 30))
    const { rate, beta1, beta2, eps, decay } = settings
    const want = numbers(3, 30).map((p, i) =>
      steps.reduce((at, _, step) => {
        const mean = (beta: number, power: number) => {
          const weights = steps.slice(0, step + 1).map((_, s) => beta ** (step - s))
          const total = weights.reduce((a, b) => a + b)
          return weights.reduce((sum, weight, s) => sum + (weight / total) * steps[s]![i]! ** power, 0)
        }
        return at - rate * decay * at - (rate * mean(beta1, 1)) / (math.sqrt(mean(beta2, 2)) + eps)
      }, p),
    )
    for (const g of steps) backward.adamw(state, g, settings)
    close(state.p, want, 1e-13)
  })
})

describe('clipFactor', () => {
  test('brings a norm to the limit, and leaves one below it', () => {
    close([backward.clipFactor(4, 1), backward.clipFactor(0.5, 1), backward.clipFactor(0, 1)], [1 / 4.000001, 1, 1], 0)
    // At the limit itself, 1e-6 counts.
    expect(backward.clipFactor(1, 1)).toBe(1 / 1.000001)
  })
})

describe('gates', () => {
  // Three experts of rank 1, of which two count, worked out by hand and checked by differences.
  const logits = [0.2, 1, -0.5]
  const none = [0, 0, 0]

  test('of clean logits are a softmax of those that count', () => {
    const found = gates(logits, none, none, 2)
    close(found.gates, [0.310026, 0.689974, 0], 3e-6)
    expect(found.counts).toEqual([true, true, false])
    close(gatesGradient(logits, none, none, [0.341954, -0.0659643, 5], 2).logits, [0.0872577, -0.0872577, 0], 3e-6)
  })

  test('have the gradients of central differences, with noise', () => {
    const [spread, noise, g] = [numbers(5, 71), numbers(5, 72), numbers(5, 73)]
    const base = numbers(5, 74)
    const loss = (z: ArrayLike<number>, n: ArrayLike<number>) =>
      gates(z, n, noise, 3).gates.reduce((sum, gate, e) => sum + gate * g[e]!, 0)
    const got = gatesGradient(base, spread, noise, g, 3)
    const step = 1e-6
    const difference = (of: (by: number) => number) => (of(step) - of(-step)) / (2 * step)
    close(
      got.logits,
      got.logits.map((_, e) => difference((by) => loss(base.with(e, base[e]! + by), spread))),
      1e-8,
    )
    close(
      got.spread,
      got.spread.map((_, e) => difference((by) => loss(base, spread.with(e, spread[e]! + by)))),
      1e-8,
    )
  })
})
