/** `weightsmith imm`, a verb with verbs of its own. */

import type { Command } from 'commander'
import { addAnalyze } from './imm_analyze.js'
import { addRounds } from './imm_run.js'

export function addImm(program: Command): void {
  const imm = program
    .command('imm')
    .description('iterative model merging (IMM): self-improvement without losing other skills')
  addAnalyze(imm)
  addRounds(imm)
}
