/** What a run is about: the model, what is searched, and the lines that it is measured on. */

import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Engine } from '../../engine/engine.js'
import { version } from '../../native/version.js'
import type { Model } from '../../runtime/index.js'
import { fitModel, type ModelFit } from '../../runtime/memory_fit.js'
import { checkpointOf, modelOf } from '../../runtime/open_model.js'
import { fingerprint } from '../../score/index.js'
import type { Strategy } from '../../subnets/index.js'
import { misuse, throwIfAborted, WeightsmithError } from '../../util/errors.js'
import type { DepthSearch } from './depth.js'
import { type AskedLines, readAsked, rightOnes } from './lines.js'
import { type AmoebaStrategyOptions, searchOf, widthsOf } from './options.js'

export class Task {
  private constructor(
    readonly engine: Engine,
    readonly path: string,
    private readonly options: AmoebaStrategyOptions,
    readonly search: DepthSearch,
    readonly widths: number[],
    /** What depths and what widths are measured on. */
    readonly data: AskedLines,
    readonly calibration: AskedLines,
    readonly model: Model,
    readonly fit: ModelFit,
    readonly origin: Pick<Strategy, 'model' | 'origin'>,
  ) {}

  /** Checks everything, and opens the model for as many tokens at a time as the memory has room for. */
  static async open(engine: Engine, path: string, options: AmoebaStrategyOptions): Promise<Task> {
    const { seed = 0, limit, images } = options
    await checkOut(options)
    const checkpoint = await checkpointOf(engine, path)
    const probe = modelOf(engine, checkpoint, { batchTokens: 1 })
    const search = searchOf(options, probe.spec.language.layers.length)
    const widths = widthsOf(options.widths)
    const read = (file: string, metric: DepthSearch['metric']) =>
      readAsked(engine, { model: probe, checkpoint }, { file, metric, limit, seed, images })
    const data = await read(options.data, search.metric)
    // Any text has heads and neurons at work.
    const calibration = options.calibration === undefined ? rightOnes(data) : await read(options.calibration, 'nll')
    const longest = [...data.items, ...calibration.items].reduce((most, { length }) => Math.max(most, length), 1)
    const total = Math.max(data.data.tokens, calibration.data.tokens)
    const { model, fit } = await fitModel(engine, checkpoint, { longest, total, cached: false })
    const origin = {
      model: { name: checkpoint.name, fingerprint: await fingerprint(checkpoint) },
      origin: {
        ...{ weightsmith: version, device: fit.device, seed },
        ...{ data: data.data, calibration: calibration.data },
      },
    }
    return new Task(engine, path, options, search, widths, data, calibration, model, fit, origin)
  }

  /** The file to write; a dry run writes none. */
  get out(): string | undefined {
    const { out, dryRun } = this.options
    return out === undefined || dryRun === true ? undefined : resolve(out)
  }

  /** All that decides about the result. */
  get facts(): Readonly<Record<string, unknown>> {
    const { model, origin } = this.origin
    return {
      ...{ 'version of Weightsmith': version, model, search: this.search, 'list of widths': this.widths },
      ...{ 'data set': origin.data, 'calibration set': origin.calibration, seed: origin.seed },
      ...{ 'number of tokens a pass': this.model.batchTokens, 'number of partitions': this.fit.partitions },
      device: origin.device,
    }
  }

  readonly check = (): void => throwIfAborted(this.options.signal, 'The search for a strategy')

  readonly progress = (phase: 'depth' | 'width', done: number, total: number): void =>
    this.options.onProgress?.({ phase, done, total, unit: 'layers' })
}

async function checkOut({ out, dryRun, overwrite }: AmoebaStrategyOptions): Promise<void> {
  if (dryRun === true) return
  if (out === undefined) throw misuse('Pass the strategy file to write as out.')
  if (overwrite === true || (await stat(out).catch(() => undefined)) === undefined) return
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
    `The output ${out} is there already; choose another name or ask to overwrite it.`,
    { file: out },
  )
}
