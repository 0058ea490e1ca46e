/** What a merge says of itself: of its plan before the run, of its outputs after it. */

import { resolve } from 'node:path'
import { isStorable, type Stage, torchName } from '../checkpoint/index.js'
import type { NativeReport } from '../native/border.js'
import { WeightsmithError } from '../util/errors.js'
import type { MergePlan } from './plan/index.js'
import type { Target } from './prepare.js'
import type { Recipe } from './recipe/index.js'

export interface MergeReport {
  out: string
  method: string
  determinism: 'exact' | 'tolerance'
  seed: number
  /** Type of most weights, by PyTorch's name. */
  dtype: string
  tensors: { total: number; computed: number; copied: number }
  parameters: number
  files: { name: string; size: number; sha256?: string }[]
  /** Of the inputs, by this run. */
  bytesRead: number
  /** Of the files of weights, with what an earlier run had written of them. */
  bytesWritten: number
  /** What was accepted and changes nothing, and what was decided on the way. */
  notes: string[]
  /** Tensors with NaN or infinite values that were computed, and how many. */
  nonFinite: { tensor: string; count: number }[]
  /** Weights that adapters changed on their way to the output; absent where none did. */
  adapted?: AdaptedTensor[]
  tiles: number
  /** Tensors that an earlier run had finished, whose inputs were not read again. */
  resumed: number
  device: string
  milliseconds: number
  /**
   * Of `milliseconds`: `run` from the first read to the last write, and how long each of its stages was busy; they
   * overlap.
   */
  timings: { run: number } & Omit<NativeReport['time'], 'total'>
  /**
   * The outputs of a sweep, each in a folder of `out`; `files`, `bytesWritten` and `nonFinite` above are of all of
   * them.
   */
  sweep?: SweepReport[]
}

/** What adapters changed of a weight, as it is stored. */
export interface AdaptedTensor {
  tensor: string
  elements: number
  /** Elements that are stored as something else than those of the base. */
  changed: number
  /** Elements that adapters change by so little that the rounding gives back what the base has. */
  swallowed: number
}

/** What the report says of the run, whatever came out. */
export type RunReport = Pick<MergeReport, 'bytesRead' | 'tiles' | 'resumed' | 'device' | 'timings'>

/** One output of a sweep. */
export interface SweepReport
  extends Pick<
    MergeReport,
    'out' | 'tensors' | 'parameters' | 'files' | 'bytesWritten' | 'notes' | 'nonFinite' | 'adapted'
  > {
  /** Name of its folder: `t=0.1`. */
  label: string
}

/** An output whose files are written. */
export interface StagedOutput extends Target, Pick<MergeReport, 'files' | 'nonFinite' | 'adapted'> {
  stage: Stage
}

export interface MergePlanRow {
  tensor: string
  dtype: string
  shape: number[]
  file: string
  /** Kernels in order; empty for a copy of bytes. */
  kernels: string[]
  inputs: string[]
  coefficients: number[]
}

/** Of one output, or of all outputs of a sweep. */
export function summary(
  outputs: (Target | StagedOutput)[],
  out: string,
  seed: number,
): Omit<MergeReport, keyof RunReport | 'milliseconds'> {
  const reports = outputs.map((output) => describeOutput(output))
  const [first] = outputs
  const [report] = reports
  if (first === undefined || report === undefined) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'A merge has no output.')
  }
  const { method } = first.recipe
  const common = {
    method: method.name,
    determinism: determinismOf(first.recipe),
    seed,
    dtype: typeName(first.plan),
  }
  if (first.label === undefined) {
    const { label: _, ...only } = report
    return { ...common, ...only }
  }
  const { label: _, ...shared } = report
  return {
    ...common,
    ...shared,
    out: resolve(out),
    files: reports.flatMap(({ label = '', files }) =>
      files.map((file) => ({ ...file, name: `${label}/${file.name}` })),
    ),
    bytesWritten: reports.reduce((sum, { bytesWritten }) => sum + bytesWritten, 0),
    notes: [...new Set(reports.flatMap(({ notes }) => notes))],
    nonFinite: reports.flatMap(({ nonFinite }) => nonFinite),
    sweep: reports,
  }
}

function describeOutput(output: Target | StagedOutput): SweepReport {
  const { label, plan, target } = output
  const copied = plan.tensors.filter((tensor) => tensor.program === undefined).length
  const files = 'files' in output ? output.files : plan.layout.files.map(({ name, size }) => ({ name, size }))
  return {
    label: label ?? '',
    out: target,
    tensors: { total: plan.tensors.length, computed: plan.tensors.length - copied, copied },
    parameters: plan.tensors.reduce((sum, tensor) => sum + tensor.elements, 0),
    files,
    bytesWritten: plan.layout.bytes,
    notes: plan.notes,
    nonFinite: 'nonFinite' in output ? output.nonFinite : [],
    ...('adapted' in output && output.adapted !== undefined ? { adapted: output.adapted } : {}),
  }
}

/** Exact only where every part of it is. */
export function determinismOf(recipe: Recipe): 'exact' | 'tolerance' {
  const merges = [
    recipe,
    ...recipe.modules,
    ...[...recipe.stages.values()].flatMap((stage) => [stage, ...stage.modules]),
  ]
  return merges.every(({ method }) => method.determinism === 'exact') ? 'exact' : 'tolerance'
}

/** What would be done, tensor by tensor. */
export function planRows(plan: MergePlan, label?: string): MergePlanRow[] {
  return plan.tensors.map(({ name, dtype, shape, program, origins, coefficients }) => {
    const file = plan.layout.files[plan.layout.places.get(name)?.file ?? 0]?.name ?? ''
    return {
      tensor: name,
      dtype,
      shape,
      file: label === undefined ? file : `${label}/${file}`,
      kernels: program?.kernels.map(({ kernel }) => kernel) ?? [],
      inputs: origins.map(({ checkpoint, tensor }) => `${checkpoint.name}:${tensor.name}`),
      coefficients,
    }
  })
}

/** The type of most weights, by PyTorch's name. */
export function typeName({ dtype, tensors }: MergePlan): string {
  return dtype !== undefined && isStorable(dtype) ? torchName(dtype) : (tensors[0]?.dtype ?? 'float32')
}
