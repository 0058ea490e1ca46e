/** What verbs share: their declaration, engine, progress and output. */

import type { Command } from 'commander'
import { type DeviceInfo, Engine } from '../engine/engine.js'
import { checkPage, type Page, writePage } from '../report/index.js'
import type { DryRun } from '../util/dry_run.js'
import { printable } from './format.js'
import { beginWork } from './interrupt.js'
import { type Progress, showProgress } from './progress.js'

export interface Common {
  json?: boolean
  device?: string
  memory?: string
}

/** A verb with `--report`. */
export interface Reported {
  report?: string
}

/** A verb of `parent` whose help ends with an example. */
export function verb(parent: Command, name: string, about: string, example: string): Command {
  return parent.command(name).description(about).addHelpText('after', `\nExample:\n  ${example}`)
}

/** Opens an engine, runs `work` with it, closes it and clears the progress. */
export async function withEngine<T>(
  what: string,
  { json = false, device, memory, report }: Common & Reported,
  work: (engine: Engine, progress: Progress) => Promise<T>,
): Promise<T> {
  // Before the work whose result it is to show.
  if (report !== undefined) await checkPage(report)
  beginWork()
  const engine = await Engine.open({ device, memory })
  const progress = showProgress(what, json)
  try {
    if (!json && engine.device.type === 'cpu') {
      process.stderr.write(`Running without a GPU, on ${deviceText(engine.device)}.\n`)
    }
    return await work(engine, progress)
  } finally {
    progress.stop()
    await engine.close()
  }
}

export function deviceText({ name, type, backend, driver }: DeviceInfo): string {
  const origin = driver === 'bundled' ? 'bundled driver' : type === 'cpu' ? 'software driver' : type
  return `${name} (${[backend, origin].join(', ')})`
}

/** Prints a report, or what a dry run gives instead. */
export function printResult<Report extends object, Forecast>(
  result: Report | DryRun<Forecast>,
  text: { report: (report: Report) => string; forecast: (forecast: Forecast) => string },
  flags: Common,
): void {
  const shown = 'forecast' in result ? () => text.forecast(result.forecast) : () => text.report(result)
  print(result, shown, flags)
}

export function print<T>(report: T, text: (report: T) => string, { json }: Common): void {
  process.stdout.write(`${json ? JSON.stringify(report, null, 2) : printable(text(report))}\n`)
}

export async function writeReport({ report }: Reported, page: () => Page | Promise<Page>): Promise<void> {
  if (report !== undefined) await writePage(report, await page())
}
