/**
 * Where the values of some ops lie when a gradient is taken of them. A forward pass writes activations over each other;
 * the gradient of an op may need what it read. So an activation whose value is needed later is left where it is, and
 * what is written next under its name goes elsewhere: to its next version.
 */

import { keptBy, type OpSpec, readBy, tensorsOfOp, writtenBy } from '../ops/index.js'

/** An op, and which version of each activation it reads and writes. */
export interface TapeStep {
  op: OpSpec
  /** Versions that it reads; one that it changes in place has been copied already. */
  before: ReadonlyMap<string, string>
  /** The version that it writes. */
  after: string
  /** The version to be copied to `after` before the op changes it in place. */
  copied?: string
  /** Whether what it writes depends on what is trained, so that a gradient comes back to it. */
  learns: boolean
  /** Activations among those it reads that depend on what is trained. */
  wanted: ReadonlySet<string>
}

export interface Tape {
  steps: TapeStep[]
  /** Versions of activations, `name#number`, and their widths. */
  versions: ReadonlyMap<string, number>
  /** The version of the residual stream behind the last op. */
  output: string
  /** Whether what is in the residual stream at the beginning is still there at the end. */
  keepsInput: boolean
}

/** The residual stream as the first op reads it. */
export const tapeInput = 'x#0'

/**
 * The tape of some ops. `widths`: of activations. `learns`: whether a tensor is trained, or has an adapter that is.
 * `inputLearns`: whether the residual stream depends on what is trained before the first op.
 */
export function tapeOf(
  ops: readonly OpSpec[],
  widths: Readonly<Record<string, number>>,
  learns: (tensor: string) => boolean,
  inputLearns: boolean,
): Tape {
  const current = new Map([['x', tapeInput]])
  const count = new Map([['x', 1]])
  const versions = new Map([[tapeInput, widths.x ?? 0]])
  const kept = new Set<string>()
  const learned = new Set(inputLearns ? ['x'] : [])
  const steps = ops.map((op): TapeStep => {
    const reads = readBy(op)
    const writes = writtenBy(op)
    const wanted = new Set(reads.filter((name) => learned.has(name)))
    const stepLearns = wanted.size > 0 || tensorsOfOp(op).some(learns)
    const keeps = stepLearns ? keptBy(op, learns) : []
    const before = new Map(reads.map((name) => [name, current.get(name) ?? `${name}#0`]))
    for (const name of keeps) {
      const version = before.get(name)
      if (version !== undefined) kept.add(version)
    }
    const last = current.get(writes)
    const after = last !== undefined && !kept.has(last) ? last : `${writes}#${count.get(writes) ?? 0}`
    if (after !== last) count.set(writes, (count.get(writes) ?? 0) + 1)
    versions.set(after, widths[writes] ?? 0)
    current.set(writes, after)
    if (keeps.includes(writes) && !reads.includes(writes)) kept.add(after)
    if (stepLearns) learned.add(writes)
    else learned.delete(writes)
    const copied = reads.includes(writes) && after !== last ? last : undefined
    return { op, before, after, learns: stepLearns, wanted, ...(copied !== undefined && { copied }) }
  })
  return {
    steps,
    versions,
    output: current.get('x') ?? tapeInput,
    keepsInput: steps.every(({ after }) => after !== tapeInput),
  }
}
