/// <reference types="@webgpu/types" preserve="true" />
/**
 * The engine as callers see it: one device, a memory budget, and the kernels by name. It decides which driver Dawn
 * gets to see (the system's, else the bundled one) and opens a new device after the old one was lost; everything else
 * happens behind the native border.
 */

import type { NativeAddon, NativeDevice, NativeDeviceInfo, NativeOpenOptions } from '../native/border.js'
import { type BundledDriver, bundledCommand, bundledDriver } from '../native/driver.js'
import type { Host } from '../native/host.js'
import { dawnLibrary, kernelFolder, loadAddon } from '../native/load.js'
import { parseBytes } from '../util/bytes.js'
import { messageOf, WeightsmithError } from '../util/errors.js'
import { Kernel } from './kernel.js'

export interface EngineOptions {
  /**
   * `auto` (real GPU, else a software Vulkan driver of the system, else the bundled SwiftShader), a type (`discrete`,
   * `integrated`, `cpu`) or a part of the device's name. Defaults to the variable WEIGHTSMITH_DEVICE, else `auto`.
   */
  device?: string | undefined
  /** What the buffers of a run may take together: bytes, or text like `512MiB`. Defaults to `1GiB`. */
  memory?: string | number | undefined
  /** Whether kernels work in host memory (`mapped`) or on copies (`staging`). Defaults to what suits the device. */
  slots?: 'auto' | 'mapped' | 'staging' | undefined
  /** Upper bound put on the device's buffer sizes, for tests of tiling. */
  maxBufferBytes?: number | undefined
  /** Print Dawn's own warnings to stderr. */
  verbose?: boolean | undefined
}

/** A device in WebGPU's vocabulary, and where its driver comes from. */
export interface DeviceInfo {
  name: string
  vendor: string
  architecture: string
  /** The driver, with its version. */
  description: string
  type: NativeDeviceInfo['type']
  backend: string
  driver: 'system' | 'bundled'
  features: (GPUFeatureName | 'host-mapped-pointer')[]
  limits: Partial<Record<keyof GPUSupportedLimits, number>>
  /** Why nothing can be computed on it; absent where something can. */
  problem?: string
}

interface Opened {
  device: NativeDevice
  driver: DeviceInfo['driver']
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

  /** Opens a device. Rejects with ERR_WEIGHTSMITH_NO_DEVICE where no device fits. */
  static async open(options: EngineOptions = {}): Promise<Engine> {
    const memory = parseBytes(options.memory ?? '1GiB', 'memory')
    const addon = loadAddon()
    const opened = await openDevice(addon, options)
    return new Engine(addon, options, memory, Promise.resolve(opened), opened)
  }

  /** What the device in use is and offers. */
  get device(): DeviceInfo {
    return deviceInfo(this.last.device.info, this.last.driver)
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
    device: options.device || process.env.WEIGHTSMITH_DEVICE || 'auto',
    slots: options.slots ?? 'auto',
    ...(options.maxBufferBytes === undefined ? {} : { maxBufferBytes: options.maxBufferBytes }),
    ...kernelFolder(),
    toggles: (process.env.WEIGHTSMITH_DAWN_TOGGLES ?? '').split(',').filter((name) => name !== ''),
    verbose: options.verbose ?? false,
  }
}

/** The system's devices first; the bundled driver only where none of them fits, or where it is asked for by name. */
async function openDevice(addon: NativeAddon, options: EngineOptions): Promise<Opened> {
  const native = nativeOptions(options, undefined)
  const byName = /swiftshader/i.test(native.device)
  let cause: unknown
  if (!byName) {
    try {
      return { device: await addon.open(native), driver: 'system' }
    } catch (error) {
      if (!hasCode(error, 'ERR_WEIGHTSMITH_NO_DEVICE')) throw error
      cause = error
    }
  }
  const bundled = await bundledDriver()
  if (bundled !== undefined || byName) {
    try {
      return { device: await addon.open({ ...native, ...bundled }), driver: bundled ? 'bundled' : 'system' }
    } catch (error) {
      if (!hasCode(error, 'ERR_WEIGHTSMITH_NO_DEVICE')) throw error
      cause ??= error
    }
  }
  const remedy =
    bundled === undefined && (byName || /^(auto|cpu)$/i.test(native.device)) && bundledCommand !== undefined
      ? `, and the bundled driver is not installed; install it with: ${bundledCommand}`
      : '; run `weightsmith doctor` to see what there is and what to install.'
  throw new WeightsmithError('ERR_WEIGHTSMITH_NO_DEVICE', `${messageOf(cause)}${remedy}`, { cause })
}

export function deviceInfo(device: NativeDeviceInfo, driver: DeviceInfo['driver']): DeviceInfo {
  return {
    name: device.name,
    vendor: device.vendor,
    architecture: device.architecture,
    description: device.driver,
    type: device.type,
    backend: device.backend,
    driver,
    features: device.features as DeviceInfo['features'],
    limits: device.limits,
    ...(device.problem === '' ? {} : { problem: device.problem }),
  }
}
