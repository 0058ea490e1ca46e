/** `weightsmith bench`. */

import type { Command } from 'commander'
import { type BenchReport, bench, kernelSource } from '../engine/bench.js'
import { wrongOption } from '../util/errors.js'
import { bytes, milliseconds, rate, table } from './format.js'
import { signal } from './interrupt.js'
import { device, json, memory } from './options.js'
import { type Common, deviceText, print, verb, withEngine } from './verb.js'

export function addBench(program: Command): void {
  verb(program, 'bench', 'time the kernels on this device', 'weightsmith bench linear --size 128MiB')
    .argument('[kernel]', 'the kernel to time (default: all)')
    .option('--dtype <type>', 'dtype of the inputs: float32, float16 or bfloat16', 'bfloat16')
    .option('--size <size>', 'size of each input', '16MiB')
    .option('--source', 'print the WGSL of the kernel, with its includes in place, and do not run it')
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(
  kernel: string | undefined,
  { dtype, size, source, ...flags }: Common & { dtype: string; size: string; source?: boolean },
): Promise<void> {
  if (source) {
    if (kernel === undefined) throw wrongOption('--source', 'a kernel before it, as in bench linear --source', 'none')
    return print({ kernel, source: kernelSource(kernel) }, ({ source }) => source.trimEnd(), flags)
  }
  const options = { kernel, dtype, size, signal }
  print(await withEngine('bench', flags, (engine) => bench(engine, options)), text, flags)
}

function text(report: BenchReport): string {
  return [
    `${deviceText(report.device)}, ${report.slots} slots; memcpy, one thread: ${rate(report.memcpy)}`,
    `${bytes(report.size)} per input, ${report.dtype}; median of ${report.runs} runs, bytes read + written`,
    '',
    table(
      ['kernel', 'inputs', 'rate', 'x memcpy', 'time'],
      report.kernels.map((row) => [
        row.kernel,
        String(row.inputs),
        rate(row.bytesPerSecond),
        (row.bytesPerSecond / report.memcpy).toFixed(2),
        milliseconds(row.milliseconds),
      ]),
    ),
  ].join('\n')
}
