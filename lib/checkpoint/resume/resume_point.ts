/**
 * Where an interrupted run goes on: a note of what the run is and what it has done so far, in JSON, and maybe tensors
 * in a file beside it. A note is written anew as a whole, after everything that it speaks of is on disk; at any moment
 * there is the old one or the new one.
 */

import { readFile, rm, stat } from 'node:fs/promises'
import type { NativeAddon } from '../../native/border.js'
import { version } from '../../native/version.js'
import { codeOf, messageOf, WeightsmithError } from '../../util/errors.js'
import { replaceFile } from './replace.js'
import { cannotContinue, type Run, refuseOther } from './run.js'
import { readTensors, type SavedTensors, writeTensors } from './tensors.js'

interface Note {
  format: 1
  /** That wrote it. */
  weightsmith: string
  run: Run
  /** What the run has done so far; null before it has done anything. */
  done: unknown
  /** Which of the two files of tensors belongs to it, where one does. */
  tensors?: 0 | 1
}

export interface ResumeOptions {
  /** Continue what an earlier run has left; where there is nothing, start from scratch. */
  resume: boolean
  /** Without `resume`, discard what an earlier run has left. */
  overwrite: boolean
  /** The file or folder that errors name. Defaults to the note. */
  place?: string
}

/** Bytes of a note; real ones have some thousands. */
const largestNote = 100e6

export class ResumePoint {
  /** Whether an earlier run has left it. */
  readonly resumed: boolean

  private constructor(
    private readonly path: string,
    private readonly place: string,
    private readonly run: Run,
    private note: Note | undefined,
  ) {
    this.resumed = note !== undefined
  }

  /**
   * The resume point of a run, whose note is or will be the file `path`: nothing is written before `save`. Throws
   * ERR_WEIGHTSMITH_OUTPUT_EXISTS for a note that is to be neither continued nor discarded; with `resume`
   * ERR_WEIGHTSMITH_INPUT_CHANGED or _RESUME for the note of another run, and _RESUME for one that is torn.
   */
  static async open(path: string, run: Run, { resume, overwrite, place = path }: ResumeOptions): Promise<ResumePoint> {
    const found = await stat(path).catch(() => undefined)
    if (found !== undefined && resume) {
      const note = await readNote(path, place)
      refuseOther(note.run, run, place)
      return new ResumePoint(path, place, run, note)
    }
    if (found !== undefined && !overwrite) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
        `There is an unfinished output in ${place}; continue it with resume (--resume), or discard it with overwrite ` +
          '(--overwrite).',
        { file: place },
      )
    }
    const fresh = new ResumePoint(path, place, run, undefined)
    if (found !== undefined) await fresh.remove()
    return fresh
  }

  /** What was done when the note was written last; null where nothing was. */
  get done(): unknown {
    return this.note?.done ?? null
  }

  /** The tensors that were saved with it. Throws ERR_WEIGHTSMITH_RESUME where their file is torn. */
  async tensors(addon: Pick<NativeAddon, 'readHeader'>): Promise<SavedTensors> {
    const which = this.note?.tensors
    if (which === undefined) return new Map()
    return readTensors(addon, tensorFile(this.path, which)).catch((cause: unknown) => {
      throw this.damaged(`${tensorFile(this.path, which)} is torn: ${messageOf(cause)}`)
    })
  }

  /** Notes what is done, as JSON, and the tensors that belong to it, instead of what was noted before. */
  async save(done: unknown, tensors?: SavedTensors): Promise<void> {
    const before = this.note?.tensors
    const which = before === 0 ? 1 : 0
    if (tensors !== undefined) await writeTensors(tensorFile(this.path, which), tensors)
    const about = { format: 1, weightsmith: version, run: this.run, done } as const
    const note: Note = tensors === undefined ? about : { ...about, tensors: which }
    await replaceFile(this.path, JSON.stringify(note, null, 2))
    this.note = note
    if (before !== undefined) await rm(tensorFile(this.path, before), { force: true })
  }

  /** Removes the note and its tensors, when the run has come to its end. */
  async remove(): Promise<void> {
    for (const file of resumeFiles(this.path)) await rm(file, { force: true })
    this.note = undefined
  }

  /** The error of a resume point whose content is not what its run has saved. */
  damaged(why: string): WeightsmithError {
    return cannotContinue(this.place, why)
  }
}

/** Every file that a resume point may have, the note first. */
export function resumeFiles(path: string): string[] {
  return [path, `${path}.new`, tensorFile(path, 0), tensorFile(path, 1)]
}

/** Two take turns, so that a note has its own tensors until the next note is there. */
function tensorFile(path: string, which: 0 | 1): string {
  return `${path}-${which}.safetensors`
}

async function readNote(path: string, place: string): Promise<Note> {
  try {
    const info = await stat(path)
    if (!info.isFile() || info.size > largestNote) throw new Error('it is no note')
    const note = JSON.parse(await readFile(path, 'utf8')) as Partial<Note> | null
    const { run, tensors } = note ?? {}
    const fits =
      note?.format === 1 &&
      typeof run?.verb === 'string' &&
      typeof run.facts === 'object' &&
      run.facts !== null &&
      Array.isArray(run.inputs) &&
      run.inputs.every((file) => typeof file === 'object' && file !== null) &&
      (tensors === undefined || tensors === 0 || tensors === 1)
    if (fits) return note as Note
    throw new Error('it is of another format')
  } catch (cause) {
    if (codeOf(cause) !== undefined) {
      const message = `${path} cannot be read: ${messageOf(cause)}.`
      throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', message, { cause, file: path })
    }
    throw cannotContinue(place, `its note ${path} is torn or of another version: ${messageOf(cause)}`)
  }
}
