/**
 * What a step of training is for: how a micro-batch is learned from, and what is written in the end. By default a model
 * learns its targets, and maybe what a teacher says of them; a workflow may have it learn otherwise.
 */

import type { Host } from '../native/host.js'
import type { TrainableModel, TrainableOptions } from '../runtime/index.js'
import type { TrainingExample } from './batches.js'
import type { TrainingDetails } from './log.js'
import type { OutputOptions, Written } from './output.js'
import type { AdapterStart } from './start.js'

/** Which micro-batch it is, and what the gradient of a loss of one of its targets is multiplied by. */
export interface MicroBatchAt {
  /** From 1. */
  step: number
  /** Within the step, from 0. */
  microBatch: number
  scale: number
}

export interface Objective {
  /** Of the command, for resume points and recipes. */
  verb: string
  /** Options that decide about the result, beside those of training, for both. */
  facts: Record<string, unknown>
  /** What else decides about it, for resume points. */
  sets: Record<string, unknown>
  /** Experts of each adapter. Defaults to none: it is one adapter. */
  experts?: number | undefined
  /** What the model on the device has beside adapters. */
  trainable: Partial<TrainableOptions>
  /** As many passes through all layers as a micro-batch is about, for forecasts: in training, and held out. */
  passes: { learn: number; measure: number }
  /** Whether what has no gradient in a step is moved on by its moments. */
  dense: boolean
  /** First values of what is trained. */
  start(adapters: readonly AdapterStart[]): ReadonlyMap<string, Float32Array>
  /** Adds the gradient of a micro-batch; gives its loss, times `scale`, and what the log says beside it. */
  learn(
    model: TrainableModel,
    batch: readonly TrainingExample[],
    at: MicroBatchAt,
  ): Promise<{ loss: number; details: TrainingDetails[] }>
  /** The sum of the losses of a batch that is held out, in nats. */
  measure(model: TrainableModel, batch: readonly TrainingExample[]): Promise<number>
  write(
    host: Host,
    model: TrainableModel,
    adapters: readonly AdapterStart[],
    options: OutputOptions & { dtype: 'F32' | 'F16' | 'BF16' },
  ): Promise<Written>
}
