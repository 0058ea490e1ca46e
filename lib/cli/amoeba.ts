/** `weightsmith amoeba`, a verb with verbs of its own. */

import type { Command } from 'commander'
import { addAmoebaCut } from './amoeba_cut.js'
import { addAmoebaEval } from './amoeba_eval.js'
import { addAmoebaImport } from './amoeba_import.js'
import { addStrategy } from './amoeba_strategy.js'
import { addAmoebaTrain } from './amoeba_train.js'

export function addAmoeba(program: Command): void {
  const amoeba = program.command('amoeba').description('subnets of any depth and width from one model (AmoebaLLM)')
  addStrategy(amoeba)
  addAmoebaImport(amoeba)
  addAmoebaTrain(amoeba)
  addAmoebaEval(amoeba)
  addAmoebaCut(amoeba)
}
