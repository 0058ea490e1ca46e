/**
 * What a run has finished: `imm.json` in its folder, written anew after every step. A step that is in it is not done again, so
 * a run goes on at the step it stopped in.
 */

import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { replaceFile } from '../../checkpoint/index.js'
import type { NativeAddon, NativeLock } from '../../native/border.js'
import { messageOf, WeightsmithError, writeFailed } from '../../util/errors.js'

const ledgerName = 'imm.json'

/** Results of steps, by their names. */
export type RoundNotes = Record<string, unknown>

interface Notes {
  format: 1
  version: string
  config: Record<string, unknown>
  /** By number; 0 is the original model. */
  rounds: RoundNotes[]
  /** What the run came to. */
  result?: unknown
}

export interface LedgerOptions {
  version: string
  /** As data: functions are only known to be there. */
  config: Record<string, unknown>
  resume: boolean
  overwrite: boolean
}

export class Ledger {
  private constructor(
    readonly folder: string,
    private readonly lock: NativeLock,
    private readonly notes: Notes,
  ) {}

  /**
   * Throws ERR_WEIGHTSMITH_OUTPUT_EXISTS for a folder that is in use and neither resumed nor overwritten,
   * ERR_WEIGHTSMITH_RESUME for a run that was begun with another config, ERR_WEIGHTSMITH_BUSY while another run has it.
   */
  static async open(
    addon: Pick<NativeAddon, 'lockFile'>,
    folder: string,
    { version, config, resume, overwrite }: LedgerOptions,
  ): Promise<Ledger> {
    await mkdir(folder, { recursive: true }).catch((cause: unknown) => {
      throw writeFailed(folder, cause)
    })
    const lock = addon.lockFile(join(folder, '.weightsmith-imm'))
    try {
      const file = join(folder, ledgerName)
      const there = (await readdir(folder)).filter((name) => name !== '.weightsmith-imm')
      if (overwrite) {
        for (const name of there) if (isOurs(name)) await rm(join(folder, name), { recursive: true, force: true })
      } else if (existsSync(file)) {
        const before = await readNotes(file)
        if (!resume) throw exists(folder, 'holds a run of IMM; go on with resume, or begin again with overwrite')
        refuseOther(before.config, config, folder)
        return new Ledger(folder, lock, { ...before, config })
      } else if (there.length > 0) {
        throw exists(folder, 'is there already and holds no run of IMM')
      }
      return new Ledger(folder, lock, { format: 1, version, config, rounds: [] })
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
    const notes = this.notes.rounds[round] ?? {}
    this.notes.rounds[round] = notes
    if (!(name in notes)) {
      notes[name] = await work()
      await this.save()
    }
    return notes[name] as T
  }

  async finish(result: unknown): Promise<void> {
    this.notes.result = result
    await this.save()
  }

  close(): void {
    this.lock.release()
  }

  private async save(): Promise<void> {
    await replaceFile(join(this.folder, ledgerName), (file) =>
      file.writeFile(`${JSON.stringify(this.notes, null, 2)}\n`),
    )
  }
}

function isOurs(name: string): boolean {
  return /^(round-\d+|imm\.json(\.new)?)$/.test(name)
}

async function readNotes(file: string): Promise<Notes> {
  try {
    const notes = JSON.parse(await readFile(file, 'utf8')) as Notes
    if (notes.format === 1 && Array.isArray(notes.rounds)) return notes
    throw new Error('it is of another format')
  } catch (cause) {
    const message = `${file} cannot be used: ${messageOf(cause)}.`
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', message, { cause, file })
  }
}

/** More rounds, or fewer, are the same run. */
function refuseOther(before: Record<string, unknown>, now: Record<string, unknown>, folder: string): void {
  const names = [...new Set([...Object.keys(before), ...Object.keys(now)])].filter((name) => name !== 'rounds')
  const other = names.filter((name) => JSON.stringify(before[name]) !== JSON.stringify(now[name]))
  if (other.length === 0) return
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_RESUME',
    `The run in ${folder} was begun with another config: ${other.join(', ')} differ. Give the same, or begin again with overwrite.`,
    { file: folder },
  )
}

function exists(folder: string, why: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_OUTPUT_EXISTS', `The folder ${folder} ${why}.`, { file: folder })
}
