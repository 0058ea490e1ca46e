/** What a plan says of one tensor of the output. */

import type { Checkpoint, CheckpointTensor } from '../../checkpoint/index.js'
import type { NativeProgram } from '../../native/border.js'
import type { Effective } from './parameters.js'

/** One input of a tensor. */
export interface Origin {
  checkpoint: Checkpoint
  tensor: CheckpointTensor
  /** Bytes to leave out at the tensor's start. */
  skip?: number
  /** Elements of an input that every tile reads as a whole. */
  whole?: number
}

export interface PlannedTensor {
  name: string
  dtype: string
  shape: number[]
  elements: number
  bytes: number
  /** The tensors that are read, in the order the program takes them. */
  origins: Origin[]
  /** Absent: the bytes of the one origin are copied. */
  program?: NativeProgram
  coefficients: number[]
  /** Keys the random numbers, where that is not the name. */
  key?: string | undefined
  /** What the recipe comes to here. Absent: no method has a say, as for integers. */
  parameters?: Effective | undefined
}
