/**
 * The adapter of a shape as adapters that `lora fold` knows: a LoRA is the same for every shape, a mixture of experts
 * has the gates of each.
 */

import { type FoldedTensors, openFolded } from '../../adapters/adapted_model.js'
import type { ModelSpec } from '../../architectures/index.js'
import { resolveModel } from '../../checkpoint/index.js'
import { type Adapter, isMixture } from '../../lora/index.js'
import type { Host } from '../../native/host.js'
import { type MixtureFile, mixedAdapter, readMixtureFor, type Shape, subnetOf } from '../../subnets/index.js'

/** What a shape is told by. */
export interface ShapeName {
  depth: number
  width: number
}

/** A folder of PEFT or mlx-lm, or an adapter in memory, and the factor of its change. */
export interface ShapeAdapter {
  adapter: string | Adapter
  weight: number
}

/** What is folded into a model for each of its shapes. */
export class ShapeAdapters {
  private readonly known = new Map<Shape, ShapeAdapter[]>()
  private readonly folded = new Map<string | Adapter, FoldedTensors>()

  private constructor(
    private readonly host: Host,
    private readonly model: string,
    private readonly spec: ModelSpec,
    private readonly adapter: string,
    private readonly mixture: MixtureFile | undefined,
  ) {}

  /** Throws what reading a mixture throws. */
  static async open(host: Host, model: string, spec: ModelSpec, adapter: string): Promise<ShapeAdapters> {
    const mixed = await isMixture(await resolveModel(adapter, process.cwd()))
    return new ShapeAdapters(host, model, spec, adapter, mixed ? await readMixtureFor(host, adapter, spec) : undefined)
  }

  /** Throws ERR_WEIGHTSMITH_ARGUMENT for a width that a mixture was not trained on. */
  async of(shape: Shape, signal?: AbortSignal): Promise<ShapeAdapter[]> {
    const known = this.known.get(shape)
    if (known !== undefined) return known
    let adapter: string | Adapter = this.adapter
    if (this.mixture !== undefined) {
      const { description = new Float32Array() } = subnetOf(this.spec, shape, true, this.mixture.widths)
      adapter = await mixedAdapter(this.host, this.mixture, description, signal)
    }
    const found = [{ adapter, weight: 1 }]
    this.known.set(shape, found)
    return found
  }

  /** The model with the adapters of a shape, opened once for shapes that have the same. */
  async foldedFor(shape: Shape, signal?: AbortSignal): Promise<FoldedTensors> {
    const adapters = await this.of(shape, signal)
    const key = adapters[0]?.adapter ?? ''
    const folded = this.folded.get(key) ?? (await openFolded(this.host, { model: this.model, adapters, resize: false }))
    this.folded.set(key, folded)
    return folded
  }
}
