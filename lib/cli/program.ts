/** All verbs of the command line. */

import { Command } from 'commander'
import { followLinksVariable } from '../checkpoint/inside.js'
import { version } from '../native/version.js'
import { addAmoeba } from './amoeba.js'
import { addBatch } from './batch.js'
import { addBench } from './bench.js'
import { addDiff } from './diff.js'
import { addDoctor } from './doctor.js'
import { addEval } from './eval.js'
import { addExplain } from './explain.js'
import { addGenerate } from './generate.js'
import { addImm } from './imm.js'
import { addInspect } from './inspect.js'
import { addLora } from './lora.js'
import { addManu } from './manu.js'
import { addMerge } from './merge.js'
import { addPrune } from './prune.js'
import { addSchema } from './schema.js'
import { addScore } from './score.js'
import { addTeach } from './teach.js'
import { addTrain } from './train.js'
import { addVerify } from './verify.js'

export function makeProgram(): Command {
  const program = new Command('weightsmith')
    .description('Merge, run, train, evaluate, score, prune and verify language-model checkpoints.')
    .version(version)
    .option(
      '--follow-links',
      'with any verb: open files that links in a folder lead to elsewhere; for folders you trust',
    )
    .hook('preAction', (command) => {
      if (command.opts<{ followLinks?: boolean }>().followLinks) process.env[followLinksVariable] = '1'
    })
    .exitOverride()
    .showHelpAfterError('(add --help for the options)')
    .addHelpText('after', '\nExit codes: 0 done, 1 failed, 2 misuse, 130 interrupted, 143 terminated.')
  addMerge(program)
  addBatch(program)
  addExplain(program)
  addInspect(program)
  addDiff(program)
  addLora(program)
  addTrain(program)
  addTeach(program)
  addGenerate(program)
  addEval(program)
  addScore(program)
  addImm(program)
  addPrune(program)
  addManu(program)
  addAmoeba(program)
  addVerify(program)
  addDoctor(program)
  addBench(program)
  addSchema(program)
  return program
}
