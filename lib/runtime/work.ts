/** Writes and dispatches on the buffers of a model, in as few calls as what is read in between allows. */

import type { NativeDevice, NativeDispatch, NativeWork } from '../native/border.js'
import type { Buffers, Program } from './program.js'

/** The buffers of a model, and the device that they are on. */
export type OnDevice = { device: NativeDevice; resident: number; buffers: Buffers }

/** Writes and dispatches that come together until something is read. */
export class Work {
  private writes: NativeWork['writes'] = []
  private dispatches: NativeDispatch[] = []

  constructor(
    private readonly device: NativeDevice,
    private readonly resident: number,
  ) {}

  write(buffer: number, { buffer: memory }: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>): void {
    this.writes.push({ buffer, offset: 0, memory: new Uint8Array(memory) })
  }

  add(dispatches: NativeDispatch[]): void {
    this.dispatches.push(...dispatches)
  }

  /** Runs them, and gives the first words of some buffers. */
  async read(...wants: [buffer: number, words: number][]): Promise<ArrayBuffer[]> {
    const reads = wants.map(([buffer, count]) => ({ buffer, offset: 0, bytes: 4 * count }))
    const { writes, dispatches } = this
    this.writes = []
    this.dispatches = []
    const results = await this.device.dispatch(this.resident, { writes, dispatches, reads })
    return results.map(({ buffer }) => buffer as ArrayBuffer)
  }

  async activation(program: Program, name: string, rows: number): Promise<Float32Array<ArrayBuffer>> {
    const [bytes] = await this.read([program.activation(name), rows * (program.stack.activations[name] ?? 0)])
    return new Float32Array(bytes ?? [])
  }
}
