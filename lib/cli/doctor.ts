/** `weightsmith doctor`. */

import type { Command } from 'commander'
import { type DoctorReport, doctor } from '../doctor/doctor.js'
import { milliseconds, rate } from './format.js'
import { device, json } from './options.js'
import { type Common, deviceText, print, verb } from './verb.js'

export function addDoctor(program: Command): void {
  verb(
    program,
    'doctor',
    'show devices, drivers, limits and bandwidths, and what to install',
    'weightsmith doctor --folder /data',
  )
    .option('--folder <path>', 'measure the disk of this folder', '.')
    .addOption(device())
    .addOption(json())
    .action(async ({ device, folder, ...flags }: Common & { folder: string }) =>
      print(await doctor({ device, folder }), text, flags),
    )
}

function text(report: DoctorReport): string {
  const { engine, kernel, disk } = report
  const lines = [
    `weightsmith ${report.version}, Node ${report.node}, ${report.platform}`,
    `Dawn: ${report.dawn}`,
    '',
    report.devices.length === 0 ? 'No devices.' : 'Devices, best first:',
    ...report.devices.flatMap((device) => [
      `  ${deviceText(device)}${device.description ? `: ${device.description}` : ''}`,
      ...(device.problem === undefined ? [] : [`    not used: ${device.problem}`]),
      `    features: ${device.features.join(', ') || 'none that Weightsmith uses'}`,
      `    limits: ${Object.entries(device.limits)
        .map(([name, value]) => `${name} ${value}`)
        .join(', ')}`,
    ]),
    '',
  ]
  if (engine) {
    lines.push(
      `In use: ${deviceText(engine.device)}, ${engine.slots} slots, opened in ${milliseconds(engine.openMilliseconds)}.`,
    )
    lines.push(`Models run on it with ${formsText(engine.forms)}.`)
  } else lines.push('No engine can be opened on this machine.')
  lines.push(`memcpy, one thread: ${rate(report.memcpy)}`)
  if (kernel) {
    lines.push(
      `kernel ${kernel.name}, ${kernel.dtype}: ${rate(kernel.bytesPerSecond)}, ${kernel.ofMemcpy.toFixed(2)} x memcpy`,
    )
  }
  if ('problem' in disk) lines.push(`disk of ${disk.folder}: not measured: ${disk.problem}`)
  else lines.push(`disk of ${disk.folder}: write + fsync ${rate(disk.write)}, read (cached) ${rate(disk.read)}`)
  if (report.advice.length > 0) lines.push('', ...report.advice.map((text) => `- ${text}`))
  return lines.join('\n')
}

function formsText({ lanes, f16, matrix }: NonNullable<DoctorReport['engine']>['forms']): string {
  if (lanes === 0) return 'kernels without subgroups'
  const more = [f16 ? ', native f16' : '', matrix > 0 ? `, ${matrix} x ${matrix} subgroup matrices` : '']
  return `subgroups of ${lanes}${more.join('')}`
}
