/**
 * The adapter of a shape as adapters that `lora fold` knows. This is the one place where that is decided: a LoRA is the
 * same for every shape.
 */

import { type FoldedTensors, openFolded } from '../../adapters/adapted_model.js'
import type { Host } from '../../native/host.js'

/** What a shape is told by. */
export interface ShapeName {
  depth: number
  width: number
}

/** A folder of PEFT or mlx-lm, and the factor of its change. */
export interface ShapeAdapter {
  adapter: string
  weight: number
}

/** What is folded into the model for a shape. */
export function adaptersFor(adapter: string, _shape: ShapeName): ShapeAdapter[] {
  return [{ adapter, weight: 1 }]
}

/** Models with the adapters of shapes, each opened once. */
export class FoldedModels {
  private readonly known = new Map<string, FoldedTensors>()

  constructor(
    private readonly host: Host,
    private readonly model: string,
  ) {}

  async open(adapters: readonly ShapeAdapter[]): Promise<FoldedTensors> {
    const key = JSON.stringify(adapters)
    const adapted = { model: this.model, adapters: [...adapters], untie: false, resize: false }
    const folded = this.known.get(key) ?? (await openFolded(this.host, adapted))
    this.known.set(key, folded)
    return folded
  }
}
