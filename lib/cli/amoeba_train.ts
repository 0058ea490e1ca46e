/** `weightsmith amoeba train`. */

import { type Command, Option } from 'commander'
import type { TrainingFile } from '../training/index.js'
import { type AmoebaTrainOptions, amoebaTrain } from '../workflows/amoeba/index.js'
import { list, realNumber, seed, share, wholeNumber } from './options.js'
import { runTraining, type TrainingFlags } from './train.js'
import { addLengths, addRun, addTargets, trainingData } from './training_options.js'
import { verb } from './verb.js'

export function addAmoebaTrain(amoeba: Command): void {
  const command = verb(
    amoeba,
    'train',
    'train one adapter for all subnets: one-for-all fine-tuning, with a shape-aware mixture of LoRAs',
    'weightsmith amoeba train ./base ./adapter --strategy base.strategy --data train.jsonl --steps 2000',
  )
    .argument('<model>', 'a folder with a model, or org/name from the local cache')
    .argument('<out>', 'the folder to write: the mixture as AmoebaLLM names it; with --experts 1 an adapter of PEFT')
    .requiredOption('--strategy <file>', 'the strategy of the model, from amoeba strategy')
    .addOption(trainingData())
    .addOption(wholeNumber('--experts', 'LoRA experts; 1: one adapter, no router (default: 5)'))
    .addOption(wholeNumber('--top', 'experts that a subnet has (default: 2)'))
    .addOption(wholeNumber('--rank', 'rank of each expert (default: 64)'))
    .addOption(realNumber('--alpha', 'each counts alpha / rank times (default: 16)'))
    .addOption(
      new Option('--mix <what>', 'mix the factors of experts (default), or their outputs').choices([
        'factor',
        'output',
      ]),
    )
    .option('--no-noise', 'choose experts without noise')
    .addOption(
      wholeNumber('--subnets', 'subnets a micro-batch: the largest, the smallest, others at random (default: 4)'),
    )
    .addOption(wholeNumber('--min-depth', "fewest blocks of a subnet (default: the strategy's)"))
    .addOption(list('--widths <shares...>', 'widths of the strategy to train (default: all)', share('widths')))
    .addOption(realNumber('--teacher-share', 'how much a subnet learns of the largest; 0: targets only (default: 1)'))
    .addOption(
      new Option('--teacher-mask <which>', 'tokens that predict a target (default), or that are one').choices([
        'shifted',
        'own-label',
      ]),
    )
    .option('--no-balance', 'do not make the losses of subnets equally large')
    .option('--no-bias', 'no biases in the place of what removed units gave')
    .option('--dense', 'move experts that no subnet of a step has by their moments')
  addTargets(command).option(
    '--dtype <type>',
    'how factors are stored: float32, float16 or bfloat16 (default: float32)',
  )
  addLengths(command)
    .addOption(realNumber('--rate', 'learning rate (default: 2e-4)'))
    .addOption(realNumber('--clip', 'largest norm of the gradient; 0: any (default: 0.3)'))
    .addOption(seed('seed of data, shapes, noise and first adapters'))
  addRun(command, 'examples whose loss is measured on the way, of the largest and the smallest subnet').action(run)
}

type Flags = TrainingFlags & Omit<AmoebaTrainOptions, 'out' | 'data' | 'targets'> & { data: TrainingFile[] }

/** Commander has `--no-x` as true where it was not given. */
async function run(model: string, out: string, flags: Flags): Promise<void> {
  await runTraining('amoeba train', model, out, flags, ({ engine, options }) =>
    amoebaTrain(engine, model, { ...flags, ...options }),
  )
}
