/** Reports as text. `--json` prints the report itself instead. */

import type { DiffReport, DiffStats } from '../diff.js'
import type { DoctorReport } from '../doctor.js'
import type { Adapter } from '../engine.js'
import type { InspectReport } from '../inspect.js'
import type { MergeReport } from '../merge.js'
import type { PruneReport } from '../prune.js'
import type { ScoreReport } from '../score.js'
import type { VerifyReport } from '../verify.js'
import type { BenchReport } from './bench.js'
import { bytes, count, milliseconds, parameters, percent, plural, rate, table } from './format.js'

const shownTensors = 40

export function adapterText({ info, type, backend, driver }: Adapter): string {
  const origin = driver === 'bundled' ? 'bundled driver' : type === 'cpu' ? 'software driver of the system' : type
  return `${info.device} (${[backend, origin].join(', ')})`
}

export function mergeText(report: MergeReport): string {
  const { tensors, run } = report
  const lines = [
    `${report.dryRun ? 'Would write' : 'Wrote'} ${report.out}: ${plural(report.files.length, 'file')}, ` +
      `${bytes(report.bytes)} of weights, ${parameters(report.parameters)} parameters in ${report.dtype}.`,
    `Method ${report.method} with seed ${report.seed}: ${plural(tensors.computed, 'tensor')} computed, ` +
      `${count(tensors.copied)} copied.`,
  ]
  if (run && run.resumed > 0) lines.push(`Went on after ${plural(run.resumed, 'tensor')} of an earlier run.`)
  if (run) {
    const { total, read, compute, write, wait, sync, host } = run.time
    lines.push(
      `Took ${milliseconds(total)} on ${run.adapter}; busy: read ${milliseconds(read)}, compute ${milliseconds(compute)}, ` +
        `host ${milliseconds(host)}, write ${milliseconds(write)}, wait ${milliseconds(wait)}, sync ${milliseconds(sync)}.`,
    )
  }
  if (report.sweep) lines.push(`Outputs: ${report.sweep.map(({ label }) => label).join(', ')}.`)
  if (report.plan) {
    const rows = report.plan
      .slice(0, shownTensors)
      .map((row) => [
        row.tensor,
        row.dtype,
        row.shape.join('x'),
        row.kernels.join(' > ') || 'copy',
        row.coefficients.map((value) => Number(value.toPrecision(4))).join(' '),
      ])
    lines.push('', table(['tensor', 'dtype', 'shape', 'kernels', 'coefficients'], rows))
    if (report.plan.length > rows.length)
      lines.push(`... and ${report.plan.length - rows.length} more (--json has all).`)
  }
  for (const { tensor, count: values } of report.nonFinite) {
    lines.push(`Warning: ${tensor} holds ${plural(values, 'NaN or infinite value')}.`)
  }
  for (const note of report.notes) lines.push(`Note: ${note}`)
  return lines.join('\n')
}

export function inspectText(report: InspectReport): string {
  const lines = [
    `${report.path}: ${parameters(report.parameters)} parameters, ${plural(report.tensors.length, 'tensor')}, ` +
      `${bytes(report.bytes)} in ${plural(report.files.length, 'file')}.`,
    ...report.stacks.map(
      ({ name, layers, main }) => `${name}: ${plural(layers, 'layer')}${main ? '' : ' (not the language model)'}.`,
    ),
    ...(report.tiedEmbeddings ? ['Embeddings are tied.'] : []),
    '',
    table(
      ['dtype', 'tensors', 'parameters', 'bytes'],
      report.dtypes.map((row) => [row.dtype, count(row.tensors), count(row.parameters), bytes(row.bytes)]),
    ),
    '',
    table(
      ['file', 'tensors', 'bytes'],
      report.files.map((file) => [file.name, count(file.tensors), bytes(file.size)]),
    ),
    '',
    table(
      ['tensor', 'dtype', 'shape', 'bytes'],
      report.tensors.slice(0, shownTensors).map((t) => [t.name, t.dtype, t.shape.join('x'), bytes(t.bytes)]),
    ),
  ]
  const more = report.tensors.length - shownTensors
  if (more > 0) lines.push(`... and ${more} more (--json has all).`)
  const { config } = report
  if (config) {
    const shown = Object.entries(config).filter(([, value]) => typeof value !== 'object' || value === null)
    lines.push('', 'config.json', ...shown.map(([key, value]) => `  ${key}: ${String(value)}`))
  }
  return lines.join('\n')
}

const statHead = ['mean |Δ|', '‖Δ‖/‖A‖', '|Δ|>1e-5', 'max |Δ|', 'cosine']

export function statCells(stats: DiffStats): string[] {
  return [
    stats.meanAbs.toExponential(3),
    stats.relative?.toFixed(5) ?? '-',
    percent(stats.changed),
    stats.maxAbs.toExponential(3),
    stats.cosine?.toFixed(6) ?? '-',
  ]
}

export function diffText(report: DiffReport): string {
  const lines = [
    `A = ${report.a}`,
    `B = ${report.b}`,
    `${plural(report.total.tensors, 'tensor')} compared, ${parameters(report.total.parameters)} parameters, in ` +
      `${milliseconds(report.milliseconds)} on ${report.adapter}.`,
    '',
    table(
      ['layer', ...statHead],
      [...report.layers.map((row) => [row.layer, ...statCells(row)]), ['all', ...statCells(report.total)]],
    ),
    '',
    table(
      ['module', ...statHead],
      report.modules.map((row) => [row.module, ...statCells(row)]),
    ),
  ]
  if (report.total.nonFinite > 0) {
    lines.push('', `Warning: ${plural(report.total.nonFinite, 'NaN or infinite element')} left out.`)
  }
  for (const { tensor, reason } of report.skipped.slice(0, shownTensors))
    lines.push(`Not compared: ${tensor} ${reason}.`)
  const more = report.skipped.length - shownTensors
  if (more > 0) lines.push(`... and ${more} more (--json has all).`)
  return lines.join('\n')
}

export function pruneText(report: PruneReport): string {
  const { before, after } = report.parameters
  const rows = (report.units ?? []).map(({ layer, kind, kept, dropped }) => [
    String(layer),
    kind === 'group' ? 'KV groups' : 'neurons',
    count(kept),
    count(dropped.length),
  ])
  return [
    `${report.dryRun ? 'Would prune' : 'Pruned'} ${report.model} by ${report.method}, ${report.layout}: ${parameters(before)} parameters, ` +
      `${parameters(after)} of them stay (${percent(after / before)}).`,
    ...(report.blocks === undefined ? [] : [`Blocks that go: ${report.blocks.join(', ')}.`]),
    ...(rows.length === 0 ? [] : [table(['layer', 'units', 'stay', 'go'], rows)]),
    ...report.notes,
    ...(report.dryRun ? [] : [`${bytes(report.bytes ?? 0)} in ${report.out}, ${milliseconds(report.milliseconds)}.`]),
  ].join('\n')
}

export function scoreText(report: ScoreReport): string {
  const { methods, dryRun, examples, tokens, parts, memory } = report
  const what = `${methods.join(', ')} of ${report.model}, ${plural(report.layers.length, 'layer')}`
  const data = examples === 0 ? '' : ` on ${plural(examples, 'line')} with ${plural(tokens, 'token')}`
  const device = `${parts === 1 ? 'the model' : `${parts} parts of the model in turn, each`} within ${bytes(memory)} of ${report.adapter}`
  return dryRun
    ? `Would measure ${what}${data}: about ${milliseconds(report.milliseconds)}, ${device}; ${bytes(report.bytes)} of scores.`
    : `Measured ${what}${data} in ${milliseconds(report.milliseconds)}, ${device}; ${bytes(report.bytes)} of scores in ${report.out}.`
}

export function verifyText(report: VerifyReport): string {
  const hashed = report.files.filter((file) => file.hashed).length
  return (
    `${report.folder} is as it was written: ${plural(report.files.length, 'file')}, ${hashed} of them checked by SHA-256, ` +
    `${plural(report.tensors, 'tensor')}.`
  )
}

export function doctorText(report: DoctorReport): string {
  const { engine, kernel, disk } = report
  const lines = [
    `weightsmith ${report.version}, Node ${report.node}, ${report.platform}`,
    `Dawn: ${report.dawn}`,
    '',
    report.adapters.length === 0 ? 'No adapters.' : 'Adapters, best first:',
    ...report.adapters.flatMap((adapter) => [
      `  ${adapterText(adapter)}${adapter.info.description ? `: ${adapter.info.description}` : ''}`,
      `    features: ${adapter.features.join(', ') || 'none of those used'}`,
      `    limits: ${Object.entries(adapter.limits)
        .map(([name, value]) => `${name} ${value}`)
        .join(', ')}`,
    ]),
    '',
  ]
  if (engine) {
    lines.push(
      `In use: ${adapterText(engine.adapter)}, ${engine.slots} slots, opened in ${milliseconds(engine.openMilliseconds)}.`,
    )
  } else lines.push('No engine can be opened.')
  lines.push(`memcpy, one thread: ${rate(report.memcpy)}`)
  if (kernel) {
    lines.push(
      `kernel ${kernel.name}, ${kernel.dtype}: ${rate(kernel.bytesPerSecond)}, ${kernel.ofMemcpy.toFixed(2)} x memcpy`,
    )
  }
  if ('problem' in disk) lines.push(`disk of ${disk.folder}: not measured, ${disk.problem}`)
  else lines.push(`disk of ${disk.folder}: write + fsync ${rate(disk.write)}, read (cached) ${rate(disk.read)}`)
  if (report.advice.length > 0) lines.push('', ...report.advice.map((text) => `- ${text}`))
  return lines.join('\n')
}

export function benchText(report: BenchReport): string {
  return [
    `${adapterText(report.adapter)}, ${report.slots} slots; memcpy, one thread: ${rate(report.memcpy)}`,
    `${bytes(report.size)} an input, ${report.dtype}; median of ${report.runs} runs, bytes read + written`,
    '',
    table(
      ['kernel', 'inputs', 'rate', 'x memcpy', 'time'],
      report.kernels.map((row) => [
        row.kernel,
        String(row.inputs),
        rate(row.bytesPerSecond),
        (row.bytesPerSecond / report.memcpy).toFixed(2),
        milliseconds(row.milliseconds),
      ]),
    ),
  ].join('\n')
}
