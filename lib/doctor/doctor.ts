/**
 * What this machine offers: devices, drivers and measured bandwidths, and what to install when something is missing.
 * The bandwidths are kept for the estimates of `explain`.
 */

import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { keepMeasurements, measureDevice, measureDisk } from '../engine/bandwidth.js'
import { type DeviceInfo, deviceInfo, Engine, type EngineOptions, nativeOptions } from '../engine/engine.js'
import type { NativeAddon } from '../native/border.js'
import { bundledCommand, bundledDriver } from '../native/driver.js'
import { dawnLibrary, loadAddon } from '../native/load.js'
import { version } from '../native/version.js'
import { type Forms, formsOf } from '../runtime/index.js'
import { messageOf } from '../util/errors.js'

export interface DoctorOptions extends EngineOptions {
  /** The folder whose disk is measured. Defaults to the current one. */
  folder?: string | undefined
  /** Bytes written and read there. Defaults to 256 MiB. */
  diskBytes?: number | undefined
}

export interface DoctorReport {
  version: string
  node: string
  platform: string
  /** The library that contains Dawn. */
  dawn: string
  /** What Dawn sees, best first. */
  devices: DeviceInfo[]
  /** The one in use, how kernels reach memory, and in which forms models run on it; absent where none fits. */
  engine?: { device: DeviceInfo; slots: 'mapped' | 'staging'; openMilliseconds: number; forms: Forms }
  /** Bytes read + written a second. */
  memcpy: number
  kernel?: { name: string; dtype: string; bytesPerSecond: number; ofMemcpy: number }
  disk: { folder: string; write: number; read: number } | { folder: string; problem: string }
  /** What is wrong, each with what to do about it. */
  advice: string[]
}

const mebi = 2 ** 20

/**
 * Looks at all devices and measures the one that fits, and a disk; the measurements are kept for `explain`. What is
 * missing is no error, but advice.
 */
export async function doctor(options: DoctorOptions = {}): Promise<DoctorReport> {
  const addon = loadAddon()
  const advice: string[] = []
  // The bundled driver stays visible to a process once it was shown, so the system's devices are listed first.
  const { devices: system, refused } = await addon.devices(nativeOptions({ ...options, device: 'auto' }, undefined))
  const memcpy = (await addon.memcpyBandwidth(128 * mebi)).bytesPerSecond
  const measured = await measureEngine(options, memcpy, advice)
  const devices = system.map((device) => deviceInfo(device, 'system'))
  devices.push(...(await bundledDevices(addon, options, devices, advice)))
  for (const { name, problem } of system) {
    if (problem !== '') advice.push(`${name} is passed over, because nothing can run on it: ${problem}`)
  }
  for (const reason of refused) {
    advice.push(`Dawn refuses a Vulkan driver of this system, which may be too old for it: ${reason}`)
  }
  const kind = measured.engine?.device.driver
  if (kind !== 'system') {
    const found = system.length === 0 ? 'Dawn sees no driver of this system that it can use. ' : ''
    const used = kind === 'bundled' ? 'The bundled software driver is in use; others are several times faster. ' : ''
    advice.push(`${found}${used}${await howToInstallMesa()}`)
  }
  const disk = await measureDisk(resolve(options.folder ?? '.'), options.diskBytes ?? 256 * mebi)
  if ('write' in disk) await keepMeasurements({ disk })
  return {
    version,
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    dawn: dawnLibrary(),
    devices,
    ...measured,
    memcpy,
    disk,
    advice,
  }
}

async function bundledDevices(
  addon: NativeAddon,
  options: EngineOptions,
  known: DeviceInfo[],
  advice: string[],
): Promise<DeviceInfo[]> {
  const bundled = await bundledDriver().catch((error: unknown) => {
    advice.push(messageOf(error))
    return undefined
  })
  if (bundled === undefined) {
    if (bundledCommand !== undefined && known.length === 0) {
      advice.push(`The bundled driver is not installed; run: ${bundledCommand}`)
    }
    return []
  }
  const { devices: seen } = await addon.devices(nativeOptions({ ...options, device: 'auto' }, bundled))
  return seen
    .filter(({ name }) => !known.some((device) => device.name === name))
    .map((device) => deviceInfo(device, 'bundled'))
}

async function measureEngine(
  options: EngineOptions,
  memcpy: number,
  advice: string[],
): Promise<Pick<DoctorReport, 'engine' | 'kernel'>> {
  const start = performance.now()
  let engine: Engine
  try {
    engine = await Engine.open(options)
  } catch (error) {
    advice.push(messageOf(error))
    return {}
  }
  try {
    const { device, slots } = engine
    const openMilliseconds = performance.now() - start
    const forms = await engine.use(async (host) => formsOf(host.device.info))
    const speed = await measureDevice(engine, ['linear'])
    await keepMeasurements({ device: speed })
    const bytesPerSecond = speed.kernels.linear ?? 0
    return {
      engine: { device, slots, openMilliseconds, forms },
      kernel: { name: 'linear', dtype: 'BF16', bytesPerSecond, ofMemcpy: bytesPerSecond / memcpy },
    }
  } finally {
    await engine.close()
  }
}

/** The exact command for this system; Debian 12's own Mesa is too old for Dawn, so it comes from backports there. */
async function howToInstallMesa(): Promise<string> {
  if (process.platform !== 'linux') return 'Install the driver of your GPU.'
  const release = await readFile('/etc/os-release', 'utf8').catch(() => '')
  const field = (name: string) => new RegExp(`^${name}="?([^"\\n]*)`, 'm').exec(release)?.[1] ?? ''
  const family = `${field('ID')} ${field('ID_LIKE')}`
  const codename = field('VERSION_CODENAME')
  if (field('ID') === 'debian' && Number(field('VERSION_ID')) === 12) {
    const site = `$(apt-get indextargets --format '$(SITE)' 'Codename: ${codename}' | head -1)`
    return (
      'For a software driver (Mesa 24 or later) run as root: apt-get update && ' +
      `echo "deb ${site} ${codename}-backports main" > /etc/apt/sources.list.d/mesa-backports.list && ` +
      `apt-get update && apt-get install -y libvulkan1 && apt-get install -y -t ${codename}-backports mesa-vulkan-drivers`
    )
  }
  const install = /debian|ubuntu/.test(family)
    ? 'apt-get update && apt-get install -y mesa-vulkan-drivers'
    : /fedora|rhel/.test(family)
      ? 'dnf install -y mesa-vulkan-drivers'
      : /arch/.test(family)
        ? 'pacman -S --needed vulkan-swrast'
        : /alpine/.test(family)
          ? 'apk add mesa-vulkan-swrast vulkan-loader'
          : undefined
  if (install === undefined) return "Install your distribution's Mesa Vulkan drivers, version 24 or later."
  return `For a software driver (Mesa 24 or later) run as root: ${install}`
}
