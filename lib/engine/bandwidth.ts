/**
 * What was measured on this machine: bandwidths of its disks and kernels. Measurements are kept in the user's cache
 * folder, so that an estimate needs no device; a file that cannot be read or written only means that none are known.
 */

import { mkdir, open, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { layout } from '../native/layouts.js'
import { messageOf } from '../util/errors.js'
import type { Engine } from './engine.js'

const mebi = 2 ** 20

export interface DiskSpeed {
  /** Bytes a second, written and fsynced. */
  write: number
  /** Bytes a second, read back from the page cache. */
  read: number
}

export interface DeviceSpeed {
  name: string
  type: string
  slots: 'mapped' | 'staging'
  /** Bytes that one binding may have. */
  maxBinding: number
  /** By kernel: bytes of inputs and results a second. */
  kernels: Record<string, number>
}

export interface Measurements {
  /** By the device number of the file system. */
  disks: Record<string, DiskSpeed & { folder: string }>
  device?: DeviceSpeed
}

function fileOfMeasurements(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'weightsmith', 'measurements.json')
}

export async function readMeasurements(): Promise<Measurements> {
  try {
    const found = JSON.parse(await readFile(fileOfMeasurements(), 'utf8')) as Partial<Measurements>
    return { ...found, disks: found.disks ?? {} }
  } catch {
    return { disks: {} }
  }
}

/** Adds to what is known. Kernels of another device are forgotten: estimates are for the one measured last. */
export async function keepMeasurements(fresh: { device?: DeviceSpeed; disk?: DiskSpeed & { folder: string } }) {
  const known = await readMeasurements()
  if (fresh.disk !== undefined) known.disks[await diskOf(fresh.disk.folder)] = fresh.disk
  if (fresh.device !== undefined) {
    const same = known.device?.name === fresh.device.name ? known.device.kernels : {}
    known.device = { ...fresh.device, kernels: { ...same, ...fresh.device.kernels } }
  }
  const path = fileOfMeasurements()
  const draft = `${path}.${process.pid}`
  try {
    await mkdir(dirname(path), { recursive: true })
    await writeFile(draft, `${JSON.stringify(known, null, 2)}\n`)
    await rename(draft, path)
  } catch {
    await rm(draft, { force: true }).catch(() => undefined)
  }
  return known
}

/** What the disk of a folder is known by. */
export async function diskOf(folder: string): Promise<string> {
  return String((await stat(folder)).dev)
}

/** Kernels on bf16 inputs, results included; best of five runs each. */
export async function measureDevice(engine: Engine, names: Iterable<string>): Promise<DeviceSpeed> {
  const { device, slots } = engine
  const data = weights((64 * mebi) / 2)
  const rates: Record<string, number> = {}
  for (const name of names) rates[name] = await kernelSpeed(engine, name, data)
  return {
    name: device.name,
    type: device.type,
    slots,
    maxBinding: device.limits.maxStorageBufferBindingSize ?? 128 * mebi,
    kernels: rates,
  }
}

async function kernelSpeed(engine: Engine, name: string, data: Uint16Array): Promise<number> {
  const { spec } = engine.kernel(name)
  const count = Math.max(2, spec.inputs.min)
  const size = data.byteLength
  const inputs = Array.from({ length: count }, () => ({ dtype: 'BF16' as const, data }))
  const written = spec.writes === 'output' ? size : 4 * spec.writes(count) * Math.ceil(data.length / layout.block)
  let best = 0
  for (let run = 0; run < 5; run++) {
    const call = { inputs, outDtype: 'BF16' as const, coefficients: spec.example(count) }
    const { timings } = await engine.kernel(name).measure(call)
    best = Math.max(best, ((count * size + written) / timings.compute) * 1e3)
  }
  return best
}

/** bf16 values of either sign between 2^-7 and 2^-3, so that no kernel finds a short cut. */
function weights(elements: number): Uint16Array {
  const out = new Uint16Array(elements)
  let state = 1
  for (let i = 0; i < elements; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    out[i] = ((state >>> 31) << 15) | ((120 + ((state >>> 28) & 3)) << 7) | ((state >>> 8) & 0x7f)
  }
  return out
}

/** Writes a file, fsyncs it and reads it back (from the page cache, as a merge of fresh files would). */
export async function measureDisk(
  folder: string,
  bytes: number,
): Promise<(DiskSpeed & { folder: string }) | { folder: string; problem: string }> {
  const path = join(folder, `.weightsmith-doctor-${process.pid}`)
  try {
    const { bavail, bsize } = await statfs(folder)
    if (bavail * bsize < 2 * bytes) return { folder, problem: `less than ${2 * bytes} bytes are free` }
    const chunk = Buffer.alloc(8 * mebi, 0x5a)
    const pieces = Math.max(1, Math.floor(bytes / chunk.length))
    const file = await open(path, 'wx+')
    try {
      // Without a name nothing stays behind, whatever ends the process (Windows refuses; `finally` removes it there).
      await rm(path).catch(() => undefined)
      let start = performance.now()
      for (let i = 0; i < pieces; i++) await file.write(chunk, 0, chunk.length, i * chunk.length)
      await file.sync()
      const write = ((pieces * chunk.length) / (performance.now() - start)) * 1e3
      start = performance.now()
      for (let i = 0; i < pieces; i++) await file.read(chunk, 0, chunk.length, i * chunk.length)
      const read = ((pieces * chunk.length) / (performance.now() - start)) * 1e3
      return { folder, write, read }
    } finally {
      await file.close()
    }
  } catch (error) {
    return { folder, problem: messageOf(error) }
  } finally {
    await rm(path, { force: true }).catch(() => undefined)
  }
}
