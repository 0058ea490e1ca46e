/** What tests of training share: a model on the device that is trained, and how gradients are compared. */
import { expect } from '@jest/globals'
import type { Engine } from 'weightsmith'
import { openCheckpoint } from '../lib/checkpoint/index.js'
import type { TrainingSequence } from '../lib/runtime/gradients/teaching.js'
import { TrainableModel, type TrainableOptions } from '../lib/runtime/gradients/trainable_model.js'
import { math } from './math.js'

/** Opens a model that is trained. */
export async function openTrainable(
  engine: Engine,
  folder: string,
  options: TrainableOptions,
): Promise<TrainableModel> {
  const checkpoint = await engine.use(({ addon }) => openCheckpoint(addon, folder))
  return TrainableModel.open((work) => engine.use(work), checkpoint, options)
}

/** Every tensor of a model, as what is trained whole. */
export async function tensorsOf(engine: Engine, folder: string): Promise<string[]> {
  const checkpoint = await engine.use(({ addon }) => openCheckpoint(addon, folder))
  return [...checkpoint.tensors.keys()]
}

/** How many of the tokens of sequences have a loss. */
export const targetsOf = (sequences: readonly TrainingSequence[]) =>
  sequences.reduce((sum, { targets }) => sum + Array.from(targets).filter(Boolean).length, 0)

/** The mean loss of sequences, whose gradient is added. */
export async function meanLoss(model: TrainableModel, sequences: readonly TrainingSequence[]): Promise<number> {
  const count = targetsOf(sequences)
  const losses = await model.run(sequences, 1 / count)
  expect(losses.length).toBe(count)
  return losses.reduce((sum, loss) => sum + loss, 0) / count
}

export const norm = (x: ArrayLike<number>) => math.sqrt(Array.from(x).reduce((sum, value) => sum + value * value, 0))

/** |got - want| / |want|, over all elements. */
export function apart(got: ArrayLike<number>, want: ArrayLike<number>): number {
  expect(got.length).toBe(want.length)
  const off = norm(Array.from(want, (value, i) => got[i]! - value))
  return off === 0 ? 0 : off / norm(want)
}

/** Fails with what differs where a value is not within a share of what it is to be. */
export function near(got: number, want: number, share: number, what: string): void {
  if (!(math.abs(got - want) <= share * math.abs(want))) expect({ what, got, want }).toBe(`within ${share}`)
}

/** Fails with what it is of where a value is above a limit. */
export function within(value: number, limit: number, what: string): void {
  if (!(value <= limit)) expect({ what, value }).toBe(`within ${limit}`)
}
