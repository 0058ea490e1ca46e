/** `weightsmith teach`. */

import { type Command, Option } from 'commander'
import { type TeachForecast, type TeachOptions, type TeachReport, teach } from '../training/teach.js'
import { bytes, count, milliseconds, plural } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, json, list, memory, overwrite, wholeNumber } from './options.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

export function addTeach(program: Command): void {
  verb(
    program,
    'teach',
    'write what a model says of training data, for train --teacher',
    'weightsmith teach ./large --data train.jsonl --out large.safetensors',
  )
    .argument('<model>', 'a folder with the teacher, or org/name from the local cache')
    .addOption(
      list('--data <files...>', 'files of examples, as the student is given them', (word) => [
        word,
      ]).makeOptionMandatory(),
    )
    .option('--out <file>', 'the file to write, which ends with .safetensors')
    .addOption(wholeNumber('--top', 'logits that are kept of a token (default: 64)'))
    .addOption(
      new Option('--loss <what>', 'what is predicted: the answer (default), or all').choices(['answer', 'all']),
    )
    .addOption(wholeNumber('--max-length', "most tokens of an example (default: the model's context, or --tokens)"))
    .addOption(
      new Option('--mask <where>', 'tokens that predict a target (default: shifted), or that are one').choices([
        'shifted',
        'own-label',
      ]),
    )
    .addOption(wholeNumber('--tokens', 'most tokens that go through the model at a time (default: 2048)'))
    .addOption(overwrite('replace an existing file'))
    .addOption(dryRun())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(model: string, flags: Common & TeachOptions): Promise<void> {
  const { json, device, memory, ...options } = flags
  const common = { ...(json && { json }), ...(device && { device }), ...(memory && { memory }) }
  const done = await withEngine('teach', common, (engine, progress) =>
    teach(engine, model, { ...options, signal, onProgress: progress.show }),
  )
  printResult(done, { report: text, forecast: forecastText }, common)
}

const said = ({ model, examples, tokens, rows, top }: TeachForecast) =>
  `${plural(top, 'logit')} of ${model} at each of ${plural(rows, 'token')} (${plural(examples, 'example')}, ` +
  `${count(tokens)} tokens)`

function forecastText(forecast: TeachForecast): string {
  const { bytesWritten, deviceBytes, device } = forecast
  return `Would write ${said(forecast)}: ${bytes(bytesWritten)}, with ${bytes(deviceBytes)} on ${device}.`
}

function text(report: TeachReport): string {
  const { out, bytesWritten, milliseconds: time, device } = report
  return `${out}: ${said(report)}, ${bytes(bytesWritten)}, in ${milliseconds(time)} on ${device}.`
}
