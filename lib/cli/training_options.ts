/** Options that the verbs which train share, in the words of both. */

import { type Command, Option } from 'commander'
import type { TrainingFile } from '../training/index.js'
import {
  device,
  dryRun,
  json,
  list,
  memory,
  overwrite,
  realNumber,
  report,
  wholeNumber,
  wholeNumbers,
} from './options.js'

/** Files of examples. */
export function trainingData(): Option {
  const about = 'files of examples (.jsonl, .json, .parquet), each maybe with a share'
  return list('--data <file=share...>', about, (word) => [dataFile(word)]).makeOptionMandatory()
}

/** `file=0.7`; a word without a number behind the last `=` is a file. */
function dataFile(word: string): TrainingFile {
  const at = word.lastIndexOf('=')
  const share = Number(word.slice(at + 1))
  return at > 0 && word.slice(at + 1) !== '' && Number.isFinite(share)
    ? { file: word.slice(0, at), share }
    : { file: word }
}

/** Which modules get adapters. */
export function addTargets(command: Command): Command {
  const about = 'modules that get an adapter, or a regular expression (default: all-linear)'
  const layers = 'layers that are trained, such as 0-3 7 (default: all)'
  return command
    .addOption(list('--targets <name...>', about, (word) => [word]))
    .addOption(list('--layers <numbers...>', layers, wholeNumbers('layers')))
}

/** How long training is, and of what. */
export function addLengths(command: Command): Command {
  return command
    .addOption(wholeNumber('--steps', 'updates of what is trained'))
    .addOption(realNumber('--epochs', 'passes over the data (default: 1)'))
    .addOption(wholeNumber('--batch', 'sequences a step (default: 8)'))
    .addOption(wholeNumber('--tokens', 'most tokens that go through the model at a time (default: 2048)'))
    .addOption(wholeNumber('--max-length', "most tokens of an example (default: the model's context, or --tokens)"))
    .addOption(
      new Option('--loss <what>', 'what is predicted: the answer (default), or all').choices(['answer', 'all']),
    )
}

/** What is measured and kept on the way, and where it runs. */
export function addRun(command: Command, heldOut: string): Command {
  return command
    .option('--held-out <file>', heldOut)
    .addOption(wholeNumber('--held-out-every', 'steps between two measurements (default: a tenth of the run)'))
    .addOption(wholeNumber('--patience', 'end after so many measurements without a better loss'))
    .addOption(
      new Option('--keep <which>', 'the state that is written (default: best with --held-out, else last)').choices([
        'best',
        'last',
      ]),
    )
    .option('--log <file>', 'write a line of JSON a step')
    .addOption(report())
    .addOption(wholeNumber('--save-every', 'steps between two resume points (default: 100)'))
    .option('--resume', 'continue an interrupted run; start from scratch if there is none')
    .addOption(overwrite('replace an existing output, and discard an unfinished one'))
    .addOption(dryRun('check everything and say what it takes, but train nothing'))
    .addOption(memory())
    .addOption(device())
    .addOption(json())
}
