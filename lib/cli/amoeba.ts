/** `weightsmith amoeba`, a verb with verbs of its own. */

import type { Command } from 'commander'
import { addAmoebaCut } from './amoeba_cut.js'
import { addAmoebaImport } from './amoeba_import.js'

export function addAmoeba(program: Command): void {
  const amoeba = program.command('amoeba').description('AmoebaLLM: one model, and subnets of it of any depth and width')
  addAmoebaImport(amoeba)
  addAmoebaCut(amoeba)
}
