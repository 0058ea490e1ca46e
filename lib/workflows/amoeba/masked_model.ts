/**
 * A model without some of its blocks, measured on lines. What comes into the first block that is left out is the same
 * as in the whole model, which is run once: its residual streams wait in memory or on disk, and every mask begins with
 * one of them.
 */

import { ActivationStore, type LayerwiseOptions, type Model } from '../../runtime/index.js'
import { Answers, type AskedBatch, type AskedLines, askedBatches } from './lines.js'

export interface MaskedOptions {
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
  private whole: Promise<Answers> | undefined
  /** Tokens that went through a block, over all blocks. */
  private tokenBlocks = 0

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

  /** What the whole model says, which is run once. */
  measureWhole(): Promise<Answers> {
    this.whole ??= this.runWhole()
    return this.whole
  }

  /** What is said with each mask; all of them go through a part of the model before the next part is read. */
  async measure(masks: readonly (readonly boolean[])[]): Promise<Answers[]> {
    await this.measureWhole()
    const answers = masks.map(() => new Answers(this.lines.items))
    await this.pass({
      skips: masks.map((mask) => new Set(mask.flatMap((stays, block) => (stays ? [] : [block])))),
      before: (batch, block) => this.before.get(this.keyOf(batch, block)),
      losses: (batch, nll, mask = 0, best) => answers[mask]?.add(this.batch(batch), nll, best),
    })
    return answers
  }

  close(): Promise<void> {
    return this.before.close()
  }

  private async runWhole(): Promise<Answers> {
    const answers = new Answers(this.lines.items)
    const residualStream = (batch: number, block: number, x: Float32Array<ArrayBuffer>) =>
      block < this.options.decided ? this.before.put(this.keyOf(batch, block), x) : undefined
    await this.pass({
      observers: [{ residualStream }],
      losses: (batch, nll, _, best) => answers.add(this.batch(batch), nll, best),
    })
    return answers
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
