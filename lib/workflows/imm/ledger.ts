/**
 * What a run has finished: its resume point, `imm.json` in its folder, is written anew after every step. A step that is
 * in it is not done again, so a run goes on at the step it stopped in.
 */

import { mkdir, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type InputFile, ResumePoint, resumeFiles } from '../../checkpoint/resume/index.js'
import type { NativeAddon, NativeLock } from '../../native/border.js'
import { WeightsmithError, writeFailed } from '../../util/errors.js'

const lockName = '.weightsmith-imm'
const noteName = 'imm.json'

/** Results of steps, by their names. */
export type RoundNotes = Record<string, unknown>

interface Done {
  /** By number; 0 is the original model. */
  rounds: RoundNotes[]
  /** What the run came to. */
  result?: unknown
}

export interface LedgerOptions {
  /** As data: functions are only known to be there. */
  config: Record<string, unknown>
  /** Files of the original model. */
  inputs: readonly InputFile[]
  resume: boolean
  overwrite: boolean
}

export class Ledger {
  private constructor(
    readonly folder: string,
    private readonly lock: NativeLock,
    private readonly point: ResumePoint,
    private readonly done: Done,
  ) {}

  /**
   * Throws ERR_WEIGHTSMITH_OUTPUT_EXISTS for a folder that is in use and neither resumed nor overwritten,
   * ERR_WEIGHTSMITH_RESUME or _INPUT_CHANGED for a run that was begun with another config or original,
   * ERR_WEIGHTSMITH_BUSY while another run has it.
   */
  static async open(
    addon: Pick<NativeAddon, 'lockFile'>,
    folder: string,
    { config, inputs, resume, overwrite }: LedgerOptions,
  ): Promise<Ledger> {
    await mkdir(folder, { recursive: true }).catch((cause: unknown) => {
      throw writeFailed(folder, cause)
    })
    const lock = addon.lockFile(join(folder, lockName))
    try {
      // More rounds, or fewer, are the same run.
      const { rounds: _, ...same } = config
      const run = { verb: 'imm run', facts: { config: same }, inputs }
      const point = await ResumePoint.open(join(folder, noteName), run, { resume, overwrite, place: folder })
      const { rounds } = (point.done ?? { rounds: [] }) as Partial<Done>
      if (!Array.isArray(rounds)) throw point.damaged('its note has no rounds')
      const there = (await readdir(folder)).filter((name) => name !== lockName)
      if (!point.resumed && overwrite) {
        for (const name of there) if (isOurs(name)) await rm(join(folder, name), { recursive: true, force: true })
      } else if (!point.resumed && there.length > 0) {
        throw new WeightsmithError(
          'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
          `The folder ${folder} is there already and holds no run of IMM.`,
          { file: folder },
        )
      }
      const done = { rounds }
      if (!point.resumed) await point.save(done)
      return new Ledger(folder, lock, point, done)
    } catch (error) {
      lock.release()
      throw error
    }
  }

  /** The folder of a round. */
  async round(round: number): Promise<string> {
    const folder = join(this.folder, `round-${round}`)
    await mkdir(folder, { recursive: true }).catch((cause: unknown) => {
      throw writeFailed(folder, cause)
    })
    return folder
  }

  /** The result of a step: as it was noted, or of the work, which is noted then. */
  async step<T>(round: number, name: string, work: () => Promise<T>): Promise<T> {
    const notes = this.done.rounds[round] ?? {}
    this.done.rounds[round] = notes
    if (!(name in notes)) {
      notes[name] = await work()
      await this.point.save(this.done)
    }
    return notes[name] as T
  }

  async finish(result: unknown): Promise<void> {
    this.done.result = result
    await this.point.save(this.done)
  }

  close(): void {
    this.lock.release()
  }
}

function isOurs(name: string): boolean {
  return /^round-\d+$/.test(name) || resumeFiles(noteName).includes(name)
}
