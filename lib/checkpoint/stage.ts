/**
 * Where an output comes into being: a sibling folder `<out>.partial`, renamed when everything in it is on disk. Until
 * then nothing has the final name, and one run at a time holds the folder's lock. A run that ends early leaves the
 * folder with what the next run needs to continue it, or removes it where nothing can be continued.
 */

import type { FileHandle } from 'node:fs/promises'
import { access, constants, lstat, mkdir, open, readdir, realpath, rename, rm, stat, statfs } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import type { NativeAddon, NativeJournal, NativeLock } from '../native/border.js'
import { codeOf, WeightsmithError, writeFailed } from '../util/errors.js'
import { contains } from './inside.js'
import type { Checkpoint } from './open.js'
import { ResumePoint, type Run, resumeFiles } from './resume/index.js'

/**
 * Marks a folder as ours and is its lock; its resume point; which jobs of a merge are finished (native/io/journal.h).
 */
const marker = '.weightsmith-partial'
const note = '.weightsmith-run.json'
const journalName = '.weightsmith-journal'
const notes: ReadonlySet<string> = new Set([marker, journalName, ...resumeFiles(note)])

/** After these the same call can succeed later, and goes on where this one ended. */
const resumable: ReadonlySet<string> = new Set([
  'ERR_WEIGHTSMITH_ABORTED',
  'ERR_WEIGHTSMITH_DISPOSED',
  'ERR_WEIGHTSMITH_DEVICE_LOST',
  'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
  'ERR_WEIGHTSMITH_IO_READ',
  'ERR_WEIGHTSMITH_IO_WRITE',
  'ERR_WEIGHTSMITH_DISK_FULL',
])

/** Refuses an output that would mix with an input, or destroy something. Returns the absolute path. */
export async function checkOutput(
  out: string,
  inputs: Checkpoint[],
  { overwrite = false, resume = false }: { overwrite?: boolean | undefined; resume?: boolean | undefined },
): Promise<string> {
  const target = await realTarget(resolve(out))
  for (const input of inputs) {
    // the files of an adapter lie elsewhere
    const sources = await Promise.all(
      [input.path, ...input.files.map(({ path }) => path)].map((path) => realpath(path)),
    )
    const [root = ''] = sources
    const inside = input.folder !== undefined && contains(root, target) ? root : undefined
    const source = inside ?? sources.find((path) => contains(target, path))
    if (source !== undefined) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT',
        `The output ${out} and the model ${input.name} (${source}) overlap; choose a folder outside of it.`,
        { file: target },
      )
    }
  }
  // What was published by a run that did not come to its end goes back to being unfinished.
  if (!resume || !(await exists(join(target, note)))) await refuseExisting(target, overwrite)
  await refuseUnwritable(target)
  return target
}

async function refuseUnwritable(target: string): Promise<void> {
  const folder = await nearestFolder(target)
  try {
    if (!(await stat(folder)).isDirectory()) throw new Error(`${folder} is a file`)
    await access(folder, constants.W_OK)
  } catch (cause) {
    throw writeFailed(target, cause)
  }
}

async function refuseExisting(target: string, overwrite: boolean): Promise<void> {
  const info = await stat(target).catch(() => undefined)
  if (info === undefined) return
  const kept = !info.isDirectory() ? 'a file' : (await readdir(target)).length > 0 ? 'a folder with files' : undefined
  if (kept !== undefined && (!overwrite || !info.isDirectory())) {
    const hint = info.isDirectory()
      ? 'choose another folder, or replace it with overwrite (--overwrite)'
      : 'choose another name'
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
      `The output ${target} already exists as ${kept}; ${hint}.`,
      {
        file: target,
      },
    )
  }
}

/**
 * Refuses before the first byte when the disk cannot hold the output, or all outputs of a run; unfinished ones make
 * room for it.
 */
export async function checkDisk(targets: string | readonly string[], bytes: number): Promise<void> {
  const all = [targets].flat()
  const [target = ''] = all
  const { bavail, bsize } = await statfs(await nearestFolder(target))
  let free = bavail * bsize
  for (const one of all) free += await allocated(partialOf(one))
  if (free >= bytes) return
  const what = all.length === 1 ? `The output ${target} needs` : `The ${all.length} outputs in ${dirname(target)} need`
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_DISK_FULL',
    `${what} ${bytes} bytes, but ${all.length === 1 ? 'its' : 'their'} disk has only ${free} bytes free.`,
    { file: target },
  )
}

export interface StageOptions {
  sync: boolean
  /** Continue an unfinished output, where there is one. */
  resume: boolean
  /** Discard an unfinished output, and replace a finished one. */
  overwrite: boolean
  /** What decides about the output; called where there is a note of it, or will be one. */
  run: () => Run
  /** Whether a note is kept, from which a later run can go on. */
  noted: boolean
  /**
   * Where the engine notes finished jobs: in the first of the outputs that share it. Without one, `point` is all there
   * is.
   */
  journal?: Pick<NativeJournal, 'path'> | undefined
}

export class Stage {
  /** Whether the files of an unfinished run are there to be continued. */
  resumed = false
  /** Of a run that keeps a note. */
  point: ResumePoint | undefined
  private published = false

  private constructor(
    private readonly target: string,
    readonly folder: string,
    private readonly lock: NativeLock,
    private readonly options: StageOptions,
  ) {}

  /** Takes the folder: new, or the one that an earlier run of the same kind has left. */
  static async create(addon: Pick<NativeAddon, 'lockFile'>, target: string, options: StageOptions): Promise<Stage> {
    const folder = partialOf(target)
    try {
      if (options.resume) await unpublish(addon, target)
      await mkdir(folder, { recursive: true })
      await refuseForeign(folder)
      const stage = new Stage(target, folder, takeLock(addon, target), options)
      try {
        // Another run may have published the output while this one waited for its turn.
        await refuseExisting(target, options.overwrite)
        await stage.begin()
      } catch (error) {
        // A folder that was made just now is of no use; one with an unfinished run is not ours to touch.
        if (!(await exists(join(folder, note)))) await remove(folder)
        stage.lock.release()
        throw error
      }
      return stage
    } catch (cause) {
      throw cause instanceof WeightsmithError ? cause : writeFailed(folder, cause)
    }
  }

  private async begin(): Promise<void> {
    const { run, noted, journal, resume, overwrite, sync } = this.options
    if (journal?.path === '') journal.path = join(this.folder, journalName)
    const path = join(this.folder, note)
    if (noted || (await exists(path))) {
      const point = await ResumePoint.open(path, run(), { resume, overwrite, place: this.folder })
      this.resumed = noted && point.resumed
      if (noted) this.point = point
    }
    // What is beside the weights is written again, from the files as they are now.
    const stays = (name: string) => notes.has(name) || name.endsWith('.safetensors')
    await this.clear(this.resumed ? stays : (name) => name === marker)
    if (this.resumed) return
    await this.point?.save(null)
    if (noted && sync) await syncFolder(this.folder)
  }

  private async clear(keep: (name: string) => boolean): Promise<void> {
    for (const name of await readdir(this.folder)) {
      if (!keep(name)) await rm(join(this.folder, name), { recursive: true, force: true })
    }
  }

  /** Writes a small file. */
  async write(name: string, data: string | Uint8Array): Promise<void> {
    const path = join(this.folder, name)
    let file: FileHandle | undefined
    try {
      file = await open(path, 'w')
      await file.writeFile(data)
      if (this.options.sync) await file.sync()
    } catch (cause) {
      throw writeFailed(path, cause)
    } finally {
      await file?.close()
    }
  }

  /** Gives the folder its final name. */
  async publish(): Promise<void> {
    const { sync, overwrite } = this.options
    const aside = `${this.target}.replaced-${process.pid}`
    let moved = false
    try {
      if (sync) await syncFolder(this.folder)
      if (overwrite && (await exists(this.target))) {
        await rename(this.target, aside)
        moved = true
      }
      await rename(this.folder, this.target)
      if (sync) await syncFolder(dirname(this.target))
    } catch (cause) {
      if (moved && !(await exists(this.target))) await rename(aside, this.target)
      throw writeFailed(this.target, cause)
    }
    this.published = true
    if (moved) await rm(aside, { recursive: true, force: true })
  }

  /** Ends the run, when all its outputs have their names: until then one that is killed can be continued. */
  async finish(): Promise<void> {
    for (const name of notes) await rm(join(this.target, name), { force: true })
    this.lock.release()
  }

  /** After a failure: keeps what can be continued and gives its folder, or removes what was written. */
  async fail(error: unknown): Promise<string | undefined> {
    const { journal } = this.options
    const some = journal === undefined ? (this.point?.done ?? null) !== null : await exists(journal.path)
    const kept = this.point !== undefined && resumable.has(codeOf(error) ?? '') && some
    if (this.published && !kept) return this.finish().then(() => undefined)
    if (!kept) await remove(this.folder)
    this.lock.release()
    return kept && !this.published ? this.folder : undefined
  }
}

/** Takes the final name away from an output whose run was killed before all of its outputs had theirs. */
async function unpublish(addon: Pick<NativeAddon, 'lockFile'>, target: string): Promise<void> {
  if ((await exists(partialOf(target))) || !(await exists(join(target, note)))) return
  const lock = takeLock(addon, target, target)
  try {
    await rename(target, partialOf(target))
  } finally {
    lock.release()
  }
}

/** What cannot be removed now is removed by the next run; the error that led here is what counts. */
async function remove(folder: string): Promise<void> {
  await rm(folder, { recursive: true, force: true }).catch(() => undefined)
}

function partialOf(target: string): string {
  return `${target}.partial`
}

function takeLock(
  addon: Pick<NativeAddon, 'lockFile'>,
  target: string,
  folder: string = partialOf(target),
): NativeLock {
  try {
    return addon.lockFile(join(folder, marker))
  } catch (cause) {
    if (codeOf(cause) !== 'ERR_WEIGHTSMITH_BUSY') throw cause
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_BUSY',
      `The output ${target} is being written by another process or job, which holds the lock of ${folder}; ` +
        'wait for it or choose another folder.',
      { cause, file: folder },
    )
  }
}

/** A folder of ours is empty or has the marker, and is no link. */
async function refuseForeign(folder: string): Promise<void> {
  const names = await readdir(folder)
  const linked = (await lstat(folder)).isSymbolicLink()
  if (!linked && (names.length === 0 || names.includes(marker))) return
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
    `The work folder ${folder} has files that do not belong to an unfinished output; move or delete it.`,
    { file: folder },
  )
}

/** Bytes that the files of a folder take on disk. */
async function allocated(folder: string): Promise<number> {
  let bytes = 0
  for (const name of await readdir(folder).catch(() => [])) {
    const info = await stat(join(folder, name)).catch(() => undefined)
    bytes += (info?.blocks ?? 0) * 512
  }
  return bytes
}

async function syncFolder(path: string): Promise<void> {
  // Windows neither opens nor needs to sync a folder
  if (process.platform === 'win32') return
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

async function nearestFolder(path: string): Promise<string> {
  let folder = dirname(path)
  while (!(await exists(folder)) && dirname(folder) !== folder) folder = dirname(folder)
  return folder
}

/** The path with the links of its existing part resolved. */
async function realTarget(path: string): Promise<string> {
  if (await exists(path)) return realpath(path)
  const parent = dirname(path)
  return parent === path ? path : join(await realTarget(parent), basename(path))
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}
