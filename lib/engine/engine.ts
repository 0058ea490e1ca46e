/// <reference types="@webgpu/types" preserve="true" />
/**
 * The engine as callers see it: one device, a memory budget, and the kernels by name. It decides which driver Dawn
 * gets to see (the system's, else the bundled one) and opens a new device after the old one was lost; everything else
 * happens behind the native border.
 */

import type { NativeAdapter, NativeAddon, NativeDevice, NativeOpenOptions } from '../native/border.js'
import { type BundledDriver, bundledCommand, bundledDriver } from '../native/driver.js'
import type { Host } from '../native/host.js'
import { dawnLibrary, loadAddon } from '../native/load.js'
import { parseBytes } from '../util/bytes.js'
import { messageOf, WeightsmithError } from '../util/errors.js'
import { Kernel } from './kernel.js'

export interface EngineOptions {
  /**
   * `auto` (real GPU, else a software Vulkan driver of the system, else the bundled SwiftShader), a type (`discrete`,
   * `integrated`, `cpu`) or a part of the adapter's name. Defaults to the variable WEIGHTSMITH_ADAPTER, else `auto`.
   */
  adapter?: string | undefined
  /** What the buffers of a run may take together: bytes, or text like `512MiB`. Defaults to `1GiB`. */
  memory?: string | number | undefined
  /** Whether kernels work in host memory (`mapped`) or on copies (`staging`). Defaults to what suits the adapter. */
  slots?: 'auto' | 'mapped' | 'staging' | undefined
  /** Upper bound put on the adapter's buffer sizes, for tests of tiling. */
  maxBufferBytes?: number | undefined
  /** Print Dawn's own warnings to stderr. */
  verbose?: boolean | undefined
}

/** The adapter in WebGPU's vocabulary, and where its driver comes from. */
export interface Adapter {
  info: Pick<GPUAdapterInfo, 'vendor' | 'architecture' | 'device' | 'description'>
  type: NativeAdapter['type']
  backend: string
  driver: 'system' | 'bundled'
  features: (GPUFeatureName | 'host-mapped-pointer')[]
  limits: Partial<Record<keyof GPUSupportedLimits, number>>
  /** Why nothing can be computed on it; absent where something can. */
  problem?: string
}

interface Opened {
  device: NativeDevice
  driver: Adapter['driver']
}

/** One device and what runs on it. `close` it when it is no longer needed, or declare it with `await using`. */
export class Engine {
  private closed = false
  private readonly running = new Set<Promise<unknown>>()

  private constructor(
    private readonly addon: NativeAddon,
    private readonly options: EngineOptions,
    /** Bytes that the buffers of a run may take together. */
    readonly memory: number,
    /** Undefined after a loss, until the next call. */
    private opened: Promise<Opened> | undefined,
    private last: Opened,
  ) {}

  /** Opens a device. Rejects with ERR_WEIGHTSMITH_NO_ADAPTER where no adapter fits. */
  static async open(options: EngineOptions = {}): Promise<Engine> {
    const memory = parseBytes(options.memory ?? '1GiB', 'memory')
    const addon = loadAddon()
    const opened = await openDevice(addon, options)
    return new Engine(addon, options, memory, Promise.resolve(opened), opened)
  }

  /** The adapter of the device in use. */
  get adapter(): Adapter {
    return publicAdapter(this.last.device.adapter, this.last.driver)
  }

  get slots(): 'mapped' | 'staging' {
    return this.last.device.slots
  }

  /** One kernel, to be called with typed arrays. */
  kernel(name: string): Kernel {
    return new Kernel(name, (work) => this.use(work))
  }

  /** Lends the device to `work`. After a loss the next call gets a new device. */
  use<T>(work: (host: Host) => Promise<T>): Promise<T> {
    const task = this.lend(work)
    const settled = task.catch(() => undefined).finally(() => this.running.delete(settled))
    this.running.add(settled)
    return task
  }

  /** Makes the device report its loss; for tests. */
  forceLoss(): void {
    this.last.device.forceLoss()
  }

  /** Ends the device. Running work rejects with ERR_WEIGHTSMITH_DISPOSED; a second call does nothing. */
  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    await this.last.device.close().catch(() => undefined)
    await Promise.all(this.running)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private async lend<T>(work: (host: Host) => Promise<T>): Promise<T> {
    if (this.closed) throw new WeightsmithError('ERR_WEIGHTSMITH_DISPOSED', 'The engine is closed.')
    this.opened ??= this.reopen()
    const current = this.opened
    try {
      const { device } = await current
      return await work({ addon: this.addon, device, memory: this.memory })
    } catch (error) {
      // Several runs may see the same loss; the first one drops the device.
      if (hasCode(error, 'ERR_WEIGHTSMITH_DEVICE_LOST') && this.opened === current) this.opened = undefined
      throw error
    }
  }

  private async reopen(): Promise<Opened> {
    await this.last.device.close().catch(() => undefined)
    try {
      this.last = await openDevice(this.addon, this.options)
    } catch (error) {
      this.opened = undefined
      throw error
    }
    if (this.closed) await this.last.device.close()
    return this.last
  }
}

function hasCode(error: unknown, code: string): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && error.code === code
}

/** The options that Dawn is opened with; `bundled` makes the embedded driver visible to it. */
export function nativeOptions(options: EngineOptions, bundled: BundledDriver | undefined): NativeOpenOptions {
  return {
    dawn: dawnLibrary(),
    ...(bundled ?? {}),
    adapter: options.adapter || process.env.WEIGHTSMITH_ADAPTER || 'auto',
    slots: options.slots ?? 'auto',
    ...(options.maxBufferBytes === undefined ? {} : { maxBufferBytes: options.maxBufferBytes }),
    verbose: options.verbose ?? false,
  }
}

/** The system's adapters first; the bundled driver only where none of them fits, or where it is asked for by name. */
async function openDevice(addon: NativeAddon, options: EngineOptions): Promise<Opened> {
  const native = nativeOptions(options, undefined)
  const byName = /swiftshader/i.test(native.adapter)
  let cause: unknown
  if (!byName) {
    try {
      return { device: await addon.open(native), driver: 'system' }
    } catch (error) {
      if (!hasCode(error, 'ERR_WEIGHTSMITH_NO_ADAPTER')) throw error
      cause = error
    }
  }
  const bundled = await bundledDriver()
  if (bundled !== undefined || byName) {
    try {
      return { device: await addon.open({ ...native, ...bundled }), driver: bundled ? 'bundled' : 'system' }
    } catch (error) {
      if (!hasCode(error, 'ERR_WEIGHTSMITH_NO_ADAPTER')) throw error
      cause ??= error
    }
  }
  const remedy =
    bundled === undefined && (byName || /^(auto|cpu)$/i.test(native.adapter)) && bundledCommand !== undefined
      ? `, and the bundled driver is not installed; install it with: ${bundledCommand}`
      : '; run `weightsmith doctor` to see what there is and what to install.'
  throw new WeightsmithError('ERR_WEIGHTSMITH_NO_ADAPTER', `${messageOf(cause)}${remedy}`, { cause })
}

export function publicAdapter(adapter: NativeAdapter, driver: Adapter['driver']): Adapter {
  return {
    info: {
      vendor: adapter.vendor,
      architecture: adapter.architecture,
      device: adapter.name,
      description: adapter.driver,
    },
    type: adapter.type,
    backend: adapter.backend,
    driver,
    features: adapter.features as Adapter['features'],
    limits: adapter.limits,
    ...(adapter.problem === '' ? {} : { problem: adapter.problem }),
  }
}
