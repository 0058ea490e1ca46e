/**
 * A model without some of its blocks, measured on lines. What comes into the first block that is left out is the same
 * as in the whole model, which is run once: its residual streams wait in memory or on disk, and every mask begins with
 * one of them.
 */

import { ActivationStore, type LayerwiseOptions, type Model } from '../../runtime/index.js'
import { Answers, type AskedBatch, type AskedLines, askedBatches } from './lines.js'
import type { DepthMetric } from './strategy.js'

export interface MaskedOptions {
  metric: DepthMetric
  /** Blocks that can be left out: the first ones. */
  decided: number
  /** Bytes of residual streams that wait in memory. */
  memory: number
  check: () => void
  /** Called with the blocks that all lines have been run through. */
  onBlocks: (blockPasses: number) => void
}

export class MaskedModel {
  private readonly batches: readonly AskedBatch[]
  private readonly before: ActivationStore
  /** Tokens that went through a block, over all blocks. */
  private tokenBlocks = 0
  private whole: Promise<number> | undefined

  constructor(
    private readonly model: Model,
    private readonly lines: AskedLines,
    private readonly options: MaskedOptions,
  ) {
    this.batches = askedBatches(model, lines.items)
    this.before = new ActivationStore(options.memory)
  }

  /** Blocks that the lines were run through: one for every block of a pass of all lines. */
  get blockPasses(): number {
    return this.tokenBlocks / this.lines.data.tokens
  }

  /** The metric of the whole model, which is run once. */
  runWhole(): Promise<number> {
    this.whole ??= this.measureWhole()
    return this.whole
  }

  private async measureWhole(): Promise<number> {
    const { metric, decided } = this.options
    const answers = new Answers(metric, this.lines.items)
    await this.pass({
      observers: [
        {
          residualStream: (batch, block, x) =>
            block < decided ? this.before.put(this.keyOf(batch, block), x) : undefined,
        },
      ],
      losses: (batch, nll, _, best) => answers.add(this.batch(batch), nll, best),
    })
    return answers.value()
  }

  /** The metric of each mask; all of them go through a part of the model before the next part is read. */
  async measure(masks: readonly (readonly boolean[])[]): Promise<number[]> {
    await this.runWhole()
    const answers = masks.map(() => new Answers(this.options.metric, this.lines.items))
    await this.pass({
      skips: masks.map((mask) => new Set(mask.flatMap((stays, block) => (stays ? [] : [block])))),
      before: (batch, block) => this.before.get(this.keyOf(batch, block)),
      losses: (batch, nll, mask = 0, best) => answers[mask]?.add(this.batch(batch), nll, best),
    })
    return answers.map((own) => own.value())
  }

  close(): Promise<void> {
    return this.before.close()
  }

  private async pass(options: LayerwiseOptions): Promise<void> {
    const { check, onBlocks } = this.options
    await this.model.layerwisePass(
      this.batches.map(({ tokens }) => tokens),
      {
        ...options,
        check,
        wanted: (batch) => ({ outputs: this.batch(batch).asked }),
        onLayer: (batch) => {
          this.tokenBlocks += this.batch(batch).tokens.length
        },
        onStep: () => onBlocks(this.blockPasses),
      },
    )
  }

  private batch(number: number): AskedBatch {
    return this.batches[number] as AskedBatch
  }

  /** Under which the residual stream before a block waits. */
  private keyOf(batch: number, block: number): number {
    return batch * this.options.decided + block
  }
}
